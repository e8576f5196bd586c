"""logs: which lines of the server's log are shown. The log is written by hand; tests/e2e has a real one."""

import os
import signal
import subprocess
import threading
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from tests.conftest import BUSY, MACHINE, Shell


def line(minutes_ago: float, words: str, level: str = "INFO") -> str:
    at = datetime.now() - timedelta(minutes=minutes_ago)
    return f"(APIServer pid=1) {level} {at:%m-%d %H:%M:%S} [x.py:1] {words}\n"


@pytest.fixture
def log(shell: Shell) -> Path:
    file = shell.home / "base/logs" / MACHINE / "vllm.log"
    file.parent.mkdir(parents=True)
    file.with_name("vllm.log.1").write_text(line(300, "rotated"))
    trace = "(EngineCore pid=2) Traceback (most recent call last):\n(EngineCore pid=2) ValueError: 内存 not enough\n"
    text = line(60, "an hour ago") + line(30, "bad", "ERROR") + trace + line(20, "OSError: harmless", "WARNING")
    file.write_text(text + line(1, "just now") + "✗ Port 1 is taken\n")
    return file


def test_all_of_it_and_what_was_rotated(shell: Shell, log: Path) -> None:
    done = shell.script("logs")
    assert done.stdout == log.with_name("vllm.log.1").read_text() + log.read_text()


def test_only_the_errors(shell: Shell, log: Path) -> None:
    lines = shell.script("logs", "--errors").stdout.splitlines()
    assert [words.split("] ")[-1].split(") ")[-1] for words in lines] == [
        "bad",
        "Traceback (most recent call last):",
        "ValueError: 内存 not enough",
        "✗ Port 1 is taken",
    ]


@pytest.mark.parametrize(
    ("since", "first"), [("45m", "bad"), ("1500s", "OSError"), ("2h", "an hour"), ("10d", "rotated")]
)
def test_since(since: str, first: str, shell: Shell, log: Path) -> None:
    assert first in shell.script("logs", "--since", since).stdout.splitlines()[0]


@pytest.mark.parametrize("words", [["--since"], ["--since", "soon"], ["--no-such"]])
def test_words_that_it_does_not_know(words: list[str], shell: Shell, log: Path) -> None:
    done = shell.script("logs", *words)
    assert done.returncode == 1
    assert "E35 " in done.stderr


def test_no_log_yet(shell: Shell) -> None:
    done = shell.script("logs")
    assert done.returncode == 1
    assert "E36 " in done.stderr


def test_follow_shows_what_comes(shell: Shell, log: Path) -> None:
    words = ["bash", str(shell.root / "scripts/logs.sh"), "--follow", "--errors"]
    child = subprocess.Popen(
        words, env=shell.environ(), stdout=subprocess.PIPE, encoding="utf-8", start_new_session=True
    )
    assert child.stdout
    limit = threading.Timer(20, os.killpg, (child.pid, signal.SIGKILL))
    limit.start()
    before = [next(child.stdout, "") for _ in range(4)]
    assert "ValueError" in before[2], "what was there before comes first"
    with log.open("a", encoding="utf-8") as file:
        file.write(line(0, "new and fine") + line(0, "new and bad", "ERROR"))
    assert "new and bad" in next(child.stdout, ""), "and nothing between"
    limit.cancel()
    os.killpg(child.pid, signal.SIGTERM)
    child.communicate(timeout=10 * BUSY)


def test_dry_shows_the_command_and_not_the_log(shell: Shell) -> None:
    """explain runs every script like this: a log of 50 MB must not follow the page."""
    (shell.home / "base/logs" / MACHINE).mkdir(parents=True)
    (shell.home / "base/logs" / MACHINE / "vllm.log").write_text("a line of the log\n")
    done = shell.script("logs", RUNBOOK_DRY=1)
    assert done.stdout == f"    $ cat {shell.home}/base/logs/{MACHINE}/vllm.log\n"
