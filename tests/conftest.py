"""What the tests share: scripts run in a clean environment, stand-ins for tools on the PATH, free ports."""

import os
import pwd
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import hypothesis
import pexpect
import pytest
from xdist.scheduler import LoadScopeScheduling

from runbook import ROOT
from runbook.settings import rules

Done = subprocess.CompletedProcess[str]
# What of the environment is let in: who and where we are, and the way to the package index.
KEPT = (
    r"PATH|HOME|USER|LOGNAME|TMPDIR|PYTEST_.*|RUNBOOK_TEST_.*|CHROMIUM|(PIP|UV|SSL)_.*|.*_CA_BUNDLE|.*_proxy|.*_PROXY"
)

# Limits end what hangs. They are what a quiet machine needs with room to spare, times this for a busy one.
BUSY = 3


hypothesis.settings.register_profile("ours", deadline=None)  # a busy machine is slow, not wrong
hypothesis.settings.load_profile("ours")


def settle_here() -> None:
    """Make this process's environment the same on every machine; pip's own configuration stays what it is."""
    kept = {key: value for key, value in os.environ.items() if re.fullmatch(KEPT, key) and key not in rules()}
    kept |= {"LANG": "C.UTF-8", "TERM": "xterm", "HOME": kept.get("HOME") or pwd.getpwuid(os.getuid()).pw_dir}
    if any(key.lower().endswith("_proxy") for key in kept):  # what the tests start listens on loopback
        around = ",".join(filter(None, [kept.get("NO_PROXY") or kept.get("no_proxy"), "localhost,127.0.0.1,::1"]))
        kept |= {"NO_PROXY": around, "no_proxy": around}
    # The Python of the tests and no launcher of another: `python3` may be too old here, or a slow script.
    python = Path(sys.executable).resolve().parent
    if Path(shutil.which("python3") or "/").resolve().parent != python and (python / "python3").exists():
        kept["PATH"] = f"{python}{os.pathsep}{kept['PATH']}"
    os.environ.clear()
    os.environ.update(kept)
    os.umask(0o022)


settle_here()
# What belongs to one machine lies in a directory of this name; the scripts compute it, programs get it from them.
MACHINE = subprocess.run(
    ["bash", "-c", 'source "$0/scripts/lib/settings.sh" && echo "$MACHINE"', str(ROOT)],
    capture_output=True, text=True, check=True, env={**os.environ, "PROFILE": "cpu"},
).stdout.strip()  # fmt: skip
os.environ["MACHINE"] = MACHINE


def pytest_configure() -> None:
    """A server's own settings would be read by every script that is run from here."""
    if (ROOT / ".env").exists():
        raise pytest.UsageError("the checkout has a .env; ./inv test runs the tests in a copy without it")


# What shares one server stays with one worker. The three lanes take about as long; the first deployment is made for the
# first, where its log is looked at, and the others get a copy.
LANES = dict.fromkeys(("test_deploy", "test_staying_up"), "1")
LANES |= dict.fromkeys(("test_commands_of_the_docs", "test_ragflow_models", "test_exported_script"), "2")
LANES |= dict.fromkeys(("test_fresh_machine", "test_plan_against_vllm", "test_real_failures"), "3")
LANES |= dict.fromkeys(("test_deploy_step", "test_chat", "test_locks", "test_home_unchanged", "test_two_hosts"), "3")
LANES |= {"test_site": "4"}


class Lanes(LoadScopeScheduling):  # type: ignore[misc]
    """xdist's own way of giving tests to workers, but for these files of tests/e2e."""

    def _split_scope(self, nodeid: str) -> str:
        file = Path(nodeid.partition("::")[0])
        return LANES.get(file.stem, nodeid) if file.parent.name == "e2e" else nodeid


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Lanes:
    """For -n, in the order of collection."""
    config.option.loadscopereorder = False
    return Lanes(config, log)


def clean_environ(home: Path, **more: object) -> dict[str, str]:
    """This process's environment, and a tmux of the test's own."""
    return {**os.environ, "PIP_INDEX_URL": "", "TMUX_TMPDIR": str(home)} | {k: str(v) for k, v in more.items()}


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
        done = subprocess.run(
            [str(word) for word in words],
            env=self.environ(**more),
            cwd=self.home,
            capture_output=True,
            timeout=timeout * BUSY,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        # Decoded here: UTF-8 whatever the locale of the tests, and carriage returns stay what they are.
        out, err = (text.decode("utf-8", "replace") for text in (done.stdout, done.stderr))
        return subprocess.CompletedProcess(done.args, done.returncode, out, err)

    def keep_settings(self) -> None:
        """Move the settings from the environment into a file, where the start at boot finds them."""
        file = self.home / "server.env"
        file.write_text(
            "".join(f"{key}='{value}'\n" for key, value in self.settings.items() if key in rules()), "utf-8"
        )
        self.settings = {key: value for key, value in self.settings.items() if key not in rules()} | {"ENV_FILE": file}

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

        apps: lines of `gpu_uuid, pid, used MiB`; more: driver, capability, mig, mode of every card.
        """
        headers = self.home / "stand-ins"  # what Triton compiles with: a minimal machine has neither
        self.stand_in("cc", "exit 1")
        (headers / "Python.h").touch()
        self.settings["CPATH"] = headers
        known = {"driver": "580.95.05", "capability": "8.0", "mig": "Disabled", "mode": "Default", **more}
        names = "index memory_free memory_total uuid name driver_version compute_cap mig_mode_current compute_mode"
        rows = "\n".join(
            f"{index}|{free}|{total}|GPU-{index}|Stand-In|{known['driver']}|{known['capability']}|{known['mig']}|{known['mode']}"
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
                  value = "[N/A]"
                  for (n in name) if (name[n] == field[i]) value = $n
                  line = line (i > 1 ? ", " : "") value
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
        timeout=20 * BUSY,
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


def checkout_files() -> list[str]:
    """What git would clone, the work in progress included; without git, all but what .gitignore names."""
    words = ["git", "ls-files", "-coz", "--exclude-standard"]
    with suppress(FileNotFoundError):
        done = subprocess.run(words, cwd=ROOT, capture_output=True, encoding="utf-8", check=False)
        if done.returncode == 0:
            return [name for name in done.stdout.split("\0") if name]
    ignored = [".venv", ".git", "__pycache__", ".*_cache", ".hypothesis", "site", ".env", "*.env"]
    found = (path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file())
    return [str(path) for path in found if not any(fnmatch(part, one) for part in path.parts for one in ignored)]


def copy_checkout(target: Path) -> Path:
    """The checkout's own files and nothing else."""
    for name in checkout_files():
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    return target


def snapshot(folder: Path) -> Mapping[str, tuple[int, int]]:
    """Every path below a folder with its size and time of change, to prove that nothing changed."""
    found = {}
    for path in sorted(folder.rglob("*")):
        with suppress(FileNotFoundError):  # a running server removes files of its own
            seen = path.lstat()
            found[str(path)] = (seen.st_size, seen.st_mtime_ns)
    return found


def changes(before: Mapping[str, Any], after: Mapping[str, Any], root: Path) -> set[str]:
    """The paths that differ, but for the bytecode of runbook/ and the directories that it lies in."""
    paths = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    ours = {str(root), *(str(path) for path in [root / "runbook", *(root / "runbook").glob("*")] if path.is_dir())}
    return {path for path in paths - ours if "__pycache__" not in path}


def findings(shell: Shell) -> dict[str, str]:
    """What the scripts find out for the modules of runbook/: see export_findings in scripts/lib/port.sh."""
    lib = ROOT / "scripts/lib"
    code = f'source "{lib}/settings.sh"; source "{lib}/server.sh"; export_findings; '
    code += 'printf "%s\\n" "$SERVER_PIDS" "$LEFTOVERS" "$PORT_OWNER" "$NEXT_PORT"'
    lines = shell.run("bash", "-c", code, RUNBOOK_TASK="test").stdout.split("\n")
    return dict(zip(("SERVER_PIDS", "LEFTOVERS", "PORT_OWNER", "NEXT_PORT"), lines, strict=False))


def at_rest(folder: Path) -> Mapping[str, tuple[int, int]]:
    """snapshot() without what a running server writes by itself: its logs, and what its watch keeps (watch.py)."""
    of_the_watch = {".alive", ".crashes", ".pauses", ".log"}
    return {
        path: (0, 0) if Path(path).is_dir() else seen  # a directory's time changes with the files in it
        for path, seen in snapshot(folder).items()
        if Path(path).suffix not in of_the_watch and "/logs/" not in path
    }
