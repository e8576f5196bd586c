"""Why it failed: the cause and what mends it, from the settings, the machine, the server and its log. Reads only.

Run as `python3 doctor.py [--log FILE] [--from BYTE] [--json]` by doctor.sh, which gives the settings in the
environment. What is known are the entries of runbook/faults.toml that have a `pattern`: the causes (rank 0) go before
what follows from them. Without a known one the first error of the log is shown, and nothing is guessed.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import sys
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from machine import GIB, holder, leftovers, listener, ours, smi
from words import end_with_the_reader, text, tr

ROOT = Path(__file__).resolve().parents[2]
FAULTS: dict[str, dict[str, Any]] = tomllib.loads((ROOT / "runbook/faults.toml").read_text("utf-8"))
START = re.compile(r"^==> |^ +\$ \S*/?vllm serve |non-default args: ")
STOP = re.compile(r"shutdown triggered|received signal=SIG|KeyboardInterrupt")
MILD = re.compile(r"\b(INFO|WARNING|DEBUG)\b")
ERROR = re.compile(r"[A-Za-z_.]*(Error|Exception|Interrupt): .+|Value error, .+|error: .+|✗ .+")
CODE = re.compile(r"(^|[\])] )\s*raise ")  # of a traceback
FRAME = re.compile(r"validation errors? for|See root cause above")


@dataclass(frozen=True)
class Finding:
    """One fault: its code in faults.toml, what shows it, and the values that its texts name."""

    code: str
    evidence: str
    values: dict[str, str] = field(default_factory=dict)
    told: dict[str, str] = field(default_factory=dict)  # what and fix as a script has told them in the log

    def say(self, part: str) -> str:
        """The title, what or fix in the reader's language."""
        if part in self.told:
            return self.told[part]
        entry, values = FAULTS[self.code][part], {key.lower(): value for key, value in os.environ.items()}
        values |= {"folder": values["model_dir"], "model": values["model_id"], "revision": values["model_revision"]}
        values |= {
            "problem": self.evidence.rstrip("."),
            "reason": self.evidence,
            "log": f"{values['log_dir']}/vllm.log",
        }
        values |= holder(values["port"]) if self.code == "E07" else {}
        words = tr(entry["zh"], entry["en"])
        for name, value in (values | self.values).items():
            words = words.replace("{" + name + "}", value)
        env_file = os.environ.get("ENV_FILE", "")
        if env_file and env_file != str(ROOT / ".env"):  # the way on is this server's, not the first one's
            words = words.replace("./inv ", f"ENV_FILE={shlex.quote(env_file)} ./inv ")
        return words


def clean(line: str) -> str:
    """Without colours, progress bars that were overwritten, and the key."""
    line = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", line).split("\r")[-1].strip()
    key = os.environ.get("API_KEY")
    return (line.replace(key, "***") if key else line)[:300]


def read_log(path: Path, begin: int | None, whole: bool) -> list[str]:
    """The lines of the last start, or from a byte on, or of the whole file."""
    if not path.is_file():
        return []
    with path.open("rb") as file:
        file.seek(begin if begin is not None else 0 if whole else max(path.stat().st_size - 20_000_000, 0))
        lines = file.read().decode("utf-8", "replace").splitlines()
    if begin is None and not whole:
        starts = [number for number, line in enumerate(lines) if START.search(line)]
        marks = [number for number in starts if lines[number].startswith("==> ")]
        lines = lines[(marks or starts or [0])[-1] :]
    kept, stopping = [], False
    for line in lines:  # what is said while it is stopped means nothing
        stopping = not START.search(line) and (stopping or bool(STOP.search(line)))
        if not stopping:
            kept.append(clean(line))
    return kept


def known(lines: list[str]) -> list[Finding]:
    """What the log shows of the known faults: the first of the deepest causes, and what clients were refused for."""
    ready = max((number for number, line in enumerate(lines) if "Application startup complete" in line), default=-1)
    seen: list[tuple[int, int, bool, Finding]] = []
    for code, entry in FAULTS.items():
        if not entry.get("pattern"):
            continue
        search = re.compile("|".join(f"(?:{one})" for one in entry["pattern"])).search
        level, least = entry.get("level"), entry.get("least", 1)
        hits = [number for number, line in enumerate(lines) if search(line) and not CODE.search(line)]
        # What a start survived was no fault; nor is what vLLM itself calls INFO or a WARNING.
        hits = [one for one in hits if (level == "any" or one > ready) and (level or not MILD.search(lines[one][:60]))]
        if len(hits) >= least and not (level == "start" and ready >= 0):
            finding = Finding(code, lines[hits[0]], {"seconds": str(60 * len(hits))})
            seen.append((entry.get("rank", 0), hits[0], level == "any", finding))
    causes = sorted((row for row in seen if not row[2]), key=lambda row: row[:2])[:1]
    clients = [row for row in seen if row[2] and (ready >= 0 or not causes)]
    return [row[3] for row in [*causes, *sorted(clients, key=lambda row: row[1])]]


def refused(lines: list[str]) -> list[Finding]:
    """What serve.sh itself has refused to start for: its three lines ✗, → and code."""
    found = re.search(r"✗ (.+)\n→ (.+)\n(E\d\d) docs/", "\n".join(lines))
    return [Finding(found[3], f"✗ {found[1]}", told={"what": found[1], "fix": found[2]})] if found else []


def first_error(lines: list[str]) -> str | None:
    """The first error of a log in which nothing known is found."""
    for line in lines:
        if not MILD.search(line[:60]) and not FRAME.search(line) and (match := ERROR.search(line)):
            return match[0]
    return None


def on_this_machine(own: set[int]) -> list[Finding]:
    """What is wrong whatever the log says: a port or memory that is not free, a full disk, a card that is gone."""
    found = []
    port, base = os.environ["PORT"], Path(os.environ["BASE_DIR"])
    if not own and (owner := listener(port)):
        found.append(Finding("E07", text("doctor.listens", port=port, owner=owner)))
    if leftovers(own):
        pids = " ".join(map(str, sorted(own)))
        found.append(Finding("E67", text("doctor.left", pids=pids), {"pids": pids}))
    for folder in (base, Path(os.environ.get("TMPDIR", "/tmp")), Path("/dev/shm")):
        there = next(one for one in (folder, *folder.parents) if one.exists())
        if (free := shutil.disk_usage(there).free) < GIB / 10:
            found.append(Finding("E62", text("doctor.full", folder=there, free=free // 2**20)))
            break
    if os.environ["PROFILE"] == "gpu" and not smi("--query-gpu=index,name"):
        found.append(Finding("E24", text("doctor.no-card")))
    return found


def diagnose(log: Path, begin: int | None, whole: bool) -> list[Finding]:
    """Everything that is found, the log's cause first; each code once."""
    lines, own = read_log(log, begin, whole), ours()
    found = refused(lines) or known(lines)
    ready = any("Application startup complete" in line for line in lines)
    if not found and not ready and begin is None and (whole or not own) and (error := first_error(lines)):
        found = [Finding("E14", error)]
    told, machine = {one.code for one in found}, [] if whole else on_this_machine(own)
    # After a failure the step itself has told of ports and cards; a full disk it may not know.
    return found + [one for one in machine if one.code not in told and (begin is None or one.code == "E62")]


def main() -> int:
    """Print what is found; exit code 1 where something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--log", type=Path)
    parser.add_argument("--from", type=int, dest="begin", help="only what the log holds from this byte on")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    log = asked.log or Path(os.environ["LOG_DIR"]) / "vllm.log"
    found = diagnose(log, asked.begin, bool(asked.log))
    if asked.json:
        rows = [
            {"code": one.code, "title": one.say("title"), "evidence": one.evidence, "fix": one.say("fix")}
            for one in found
        ]
        print(json.dumps(rows, ensure_ascii=False))
    for one in [] if asked.json else found:
        page = f"{one.code} docs/{tr('zh', 'en')}/troubleshooting.md#{one.code.lower()}"
        print(f"✗ {one.say('title')}\n  {one.say('what')}\n    {one.evidence}\n  → {one.say('fix')}\n  {page}")
    if not found and not asked.json and asked.begin is None:
        print(text("doctor.healthy", log=log))
    return 1 if found else 0


if __name__ == "__main__":
    end_with_the_reader()
    sys.exit(main())
