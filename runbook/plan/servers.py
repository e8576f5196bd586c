"""The servers of ours on this machine, running or not, so that they fit on a GPU together. Reads only."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

Settings = Mapping[str, str]


@dataclass(frozen=True)
class Server:
    """A server: its settings, and the pids of its processes."""

    settings: Settings
    pids: frozenset[int]

    @property
    def name(self) -> str:
        """Its tmux session, which is its name on this machine."""
        return self.settings["TMUX_SESSION"]


def read(path: Path) -> Settings:
    """Return the settings in a file that the scripts have written: KEY='value', with \\\\ and \\' in the value."""
    try:
        text = path.read_text("utf-8")
    except OSError:
        return {}
    found = re.findall(r"^(\w+)='((?:[^\\']|\\.)*)'$", text, re.MULTILINE)
    return {key: re.sub(r"\\(.)", r"\1", value) for key, value in found}


def marks() -> dict[str, set[int]]:
    """Return {the mark of a server in its environment: pids}, of the processes that this user may read."""
    found: dict[str, set[int]] = {}
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            pairs = path.read_bytes().split(b"\0")
        except OSError:
            continue
        mark = next((pair[15:] for pair in pairs if pair.startswith(b"RUNBOOK_SERVER=")), b"")
        if mark:
            found.setdefault(mark.decode("utf-8", "replace"), set()).add(int(path.parent.name))
    return found


def servers(settings: Settings = os.environ) -> Iterator[Server]:
    """Yield the other servers of ours: those started on this machine under BASE_DIR, and those of `deploy --rag`."""
    run = Path(settings["BASE_DIR"]) / "run" / settings.get("MACHINE", "-")
    named = Path(settings.get("ENV_FILE") or ".env")
    stem, pids, seen = named.name.removesuffix(".env") or "rag", marks(), {settings["TMUX_SESSION"]}
    members = (named.with_name(f"{stem}-{kind}.env") for kind in ("embed", "rerank"))
    for path in [*sorted(run.glob("*.env")), *members]:
        found = dict(settings) | dict(read(path))
        if not path.is_file() or found["TMUX_SESSION"] in seen:
            continue
        seen.add(found["TMUX_SESSION"])
        yield Server(found, frozenset(pids.get(str(run / found["TMUX_SESSION"]), ())))
