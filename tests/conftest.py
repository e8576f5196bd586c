"""What the tests share: scripts run in a clean environment, stand-ins for tools on the PATH, free ports."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pexpect
import pytest

from runbook import ROOT
from runbook.settings import rules

Done = subprocess.CompletedProcess[str]
OURS = {
    *rules(),
    "ENV_FILE",
    "RUNBOOK_TASK",
    "RUNBOOK_DRY",
    "RUNBOOK_BIN",
    "TMUX",
    "TMUX_PANE",
    "LC_ALL",
    "LC_MESSAGES",
}


def clean_environ(home: Path, **more: object) -> dict[str, str]:
    """This process's environment without any setting of ours; pip's own configuration stays what it is."""
    environ = {key: value for key, value in os.environ.items() if key not in OURS}
    environ |= {"PIP_INDEX_URL": "", "LANG": "C.UTF-8", "TMUX_TMPDIR": str(home)}
    return environ | {key: str(value) for key, value in more.items()}


@dataclass
class Shell:
    """Runs bash and the scripts of a checkout, each test with its own folder, port range and tmux server."""

    home: Path
    root: Path = ROOT
    settings: dict[str, object] = field(default_factory=dict)
    path: list[Path] = field(default_factory=list)

    def environ(self, **more: object) -> dict[str, str]:
        environ = clean_environ(self.home, **{**self.settings, **more})
        environ["PATH"] = os.pathsep.join([*map(str, self.path), environ["PATH"]])
        return environ

    def run(self, *words: object, timeout: float = 60, **more: Any) -> Done:
        """Any command; never raises on its exit code."""
        return subprocess.run(
            [str(word) for word in words],
            env=self.environ(**more),
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            check=False,
        )

    def script(
        self, name: str, *words: object, timeout: float = 60, **more: object
    ) -> subprocess.CompletedProcess[str]:
        return self.run("bash", self.root / "scripts" / f"{name}.sh", *words, timeout=timeout, **more)

    def inv(self, *words: object, timeout: float = 60, **more: Any) -> Done:
        return self.run(self.root / "inv", *words, timeout=timeout, **more)

    def stand_in(self, name: str, body: str) -> Path:
        """A tool of this name that goes before the real one on the PATH."""
        folder = self.home / "stand-ins"
        folder.mkdir(exist_ok=True)
        if folder not in self.path:
            self.path.append(folder)
        return executable(folder / name, body)

    def cards(self, *cards: tuple[object, object], apps: str = "", **more: str) -> None:
        """Stand in for nvidia-smi with these cards: (free, total) MiB each, or the words it gives instead.

        apps: lines of `gpu_uuid, pid, used MiB`; more: driver, capability, mig of every card.
        """
        known = {"driver": "580.95.05", "capability": "8.0", "mig": "Disabled", **more}
        names = "index memory_free memory_total uuid name driver_version compute_cap mig_mode_current"
        rows = "\n".join(
            f"{index}|{free}|{total}|GPU-{index}|Stand-In|{known['driver']}|{known['capability']}|{known['mig']}"
            for index, (free, total) in enumerate(cards)
        )
        self.stand_in(
            "nvidia-smi",
            f"""rows='{rows}'
            if [[ $1 == -L ]]; then sed 's/|.*//; s/.*/GPU &: Stand-In (UUID: GPU-&)/' <<<"$rows"; exit; fi
            [[ $1 != --query-compute-apps* ]] || {{ printf '%s\n' '{apps}'; exit; }}
            [[ $1 != -i ]] || {{ rows=$(awk -F'|' -v chosen=",$2," 'index(chosen, "," $1 ",")' <<<"$rows"); shift 2; }}
            awk -F'|' -v names='{names}' -v asked="${{1#*=}}" '
              BEGIN {{ split(names, name, " "); count = split(asked, field, ",") }}
              {{ line = ""
                for (i = 1; i <= count; i++) {{
                  gsub(/[.]/, "_", field[i])
                  for (n in name) if (name[n] == field[i]) line = line (i > 1 ? ", " : "") $n
                }}
                print line }}' <<<"$rows" """,
        )

    def vllm(self, body: str) -> None:
        """Stand in for vllm in the serving environment; the supervisor beside it is the real one."""
        folder = self.home / "base/.venv/bin"
        executable(folder / "vllm", body)
        for name in ("python", "supervisord"):
            executable(folder / name, f'exec "{Path(sys.executable).parent / name}" "$@"')


@contextmanager
def terminal(shell: Shell, *words: str, **more: object) -> Iterator["pexpect.spawn[str]"]:
    """./inv WORDS in a terminal of 24 lines and 80 columns; at the end it is waited for, and its exit code is known."""
    person = pexpect.spawn(
        str(shell.root / "inv"),
        list(words),
        env=shell.environ(**more),
        cwd=str(shell.home),
        dimensions=(24, 80),
        encoding="utf-8",
        codec_errors="replace",
        timeout=20,
    )
    try:
        yield person
        person.expect(pexpect.EOF)
    finally:
        person.close()


def executable(path: Path, body: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/usr/bin/env bash\n{body}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def measured(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """measured(WORDS): what was measured, for the end of the run's output, whichever worker ran the test."""
    return lambda words: record_property("measured", words)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """All that was measured, after the tests."""
    reports = [report for found in terminalreporter.stats.values() for report in found]
    calls = [report for report in reports if getattr(report, "when", "") == "call"]
    properties = [pair for report in calls for pair in report.user_properties]
    if rows := [words for name, words in properties if name == "measured"]:
        terminalreporter.section("measured")
        terminalreporter.write_line("\n".join(map(str, rows)))


@pytest.fixture
def shell(tmp_path: Path, free_port: Callable[[], int]) -> Shell:
    return Shell(tmp_path, settings={"BASE_DIR": tmp_path / "base", "PORT": free_port(), "PROFILE": "cpu"})


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    def one() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
            return port

    return one


def copy_checkout(target: Path) -> Path:
    """What git would clone, the work in progress included, and nothing else."""
    names = subprocess.run(
        ["git", "ls-files", "-coz", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    return target


def snapshot(folder: Path) -> Mapping[str, tuple[int, int]]:
    """Every path below a folder with its size and time of change, to prove that nothing changed."""
    return {str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in sorted(folder.rglob("*"))}
