"""A dry run changes nothing, however it is asked for, and says what the real run would do, a refusal included."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from invoke import Collection

from runbook.steps import Task
from tests.conftest import MACHINE, Shell, changes, copy_checkout, executable, snapshot
from tests.scripts.test_scripts import model

EVERY: dict[str, tuple[list[str], dict[str, Any]]] = {  # a way to ask for a dry run: words before the task, environment
    "-R": (["-R"], {}),
    "-eR": (["-eR"], {}),
    "--dry": (["--dry"], {}),
    "after the task": ([], {}),
    "INVOKE_RUN_DRY": ([], {"INVOKE_RUN_DRY": "1"}),
    "RUNBOOK_DRY": ([], {"RUNBOOK_DRY": "1"}),
    "invoke.yaml": ([], {}),
}
TASKS = [
    *(
        "mkdirs",
        "venv",
        "install",
        "download",
        "serve",
        "tmux-start",
        "boot-on",
        "boot-off",
        "curl-test",
        "chat",
        "bench",
    ),
    *("bench", "ragflow-check", "restart", "stop", "export", "--output", "deploy.sh"),
    *("test", "lint", "dev.lock", "dev.record", "dev.docs"),
]


@pytest.fixture
def machine(shell: Shell) -> Iterator[Shell]:
    """A checkout, a tmux server, a crontab in a file, and stand-ins for what the steps would have made."""
    root = copy_checkout(shell.home / "clone")
    (root / ".venv").symlink_to(shell.root / ".venv")
    own = Shell(shell.home, root, shell.settings)
    table = shell.home / "table"
    table.write_text("5 4 * * * backup\n")
    own.stand_in("systemctl", "exit 1")
    own.stand_in("crontab", f'if [[ $1 == -l ]]; then cat "{table}"; else cat >"{table}"; fi')
    yield own
    own.run("tmux", "kill-server")


@pytest.fixture
def installed(machine: Shell) -> Shell:
    machine.vllm("exit 0")
    (machine.home / "base/.venv/.runbook-venv").touch()
    executable(machine.home / "base/.venv/bin/ms-hub", "exit 0")
    model(machine.home / "base/models/SmolLM2-135M-Instruct")
    return machine


def changed(shell: Shell, *words: object, **more: Any) -> tuple[subprocess.CompletedProcess[str], set[str]]:
    """What ./inv WORDS has answered, and the paths that are not as before, but for bytecode of our own."""
    before = snapshot(shell.home)
    done = shell.inv(*words, **more)
    after = snapshot(shell.home)
    # tmux makes the empty directory of its socket when it is only asked.
    return done, {path for path in changes(before, after, shell.root) if f"/tmux-{os.getuid()}" not in path}


@pytest.mark.parametrize("way", EVERY)
def test_every_way_to_ask_for_a_dry_run(way: str, machine: Shell) -> None:
    words, environ = EVERY[way]
    machine.keep_settings()
    if way == "invoke.yaml":
        (machine.root / "invoke.yaml").write_text("run:\n  dry: true\n")
    after = ["--dry"] if way == "after the task" else []
    done, paths = changed(machine, *words, "mkdirs", *after, "boot-on", "export", "--output", "deploy.sh", **environ)
    assert done.returncode == 0, done.stderr
    assert paths == set()
    assert "$ mkdir -p" in done.stdout
    assert "$ crontab -" in done.stdout
    assert "nothing has been changed" in done.stderr


def test_every_task_reads_invokes_own_configuration() -> None:
    before = signal.getsignal(signal.SIGPIPE)
    import tasks

    # The import lets a closed pipe end the process: here that would be the worker, in the middle of another test.
    signal.signal(signal.SIGPIPE, before)

    def within(collection: Collection) -> Iterator[object]:
        yield from collection.tasks.values()
        for inner in collection.collections.values():
            yield from within(inner)

    found = list(within(tasks.namespace))
    assert len(found) > 30
    assert all(isinstance(task, Task) for task in found)


@pytest.mark.slow
def test_no_task_changes_anything(installed: Shell) -> None:
    """All that could: with a server to be started, a session to be ended, files to be written."""
    installed.settings["API_KEY"] = "k"
    installed.keep_settings()
    mark = f"{installed.home}/base/run/{MACHINE}/vllm-qwen3"
    session = ["tmux", "new-session", "-d", "-s", "vllm-qwen3", "sleep 60", ";", "set-option", "-t", "=vllm-qwen3:"]
    assert installed.run(*session, "@runbook", mark).returncode == 0
    for task in (TASKS[:9], TASKS[12:]):
        done, paths = changed(installed, *task, INVOKE_RUN_DRY=1)
        assert done.returncode == 0, done.stdout + done.stderr
        assert paths == set()
    for command in ("tmux kill-session", "pytest", "ruff check", "pip compile", "unshare", "zensical build", "write"):
        assert f"{command}" in done.stdout
    assert installed.run("tmux", "has-session", "-t", "=vllm-qwen3").returncode == 0
    assert (installed.home / "table").read_text() == "5 4 * * * backup\n"


@pytest.mark.parametrize("words", [["-R", "tmux-start"], ["deploy", "--dry", "--from", "tmux-start"]])
def test_a_session_of_somebody_else_is_refused_in_the_preview_too(words: list[str], installed: Shell) -> None:
    assert installed.run("tmux", "new-session", "-d", "-s", "vllm-qwen3", "sleep 60").returncode == 0
    done, paths = changed(installed, *words, API_KEY="k")
    assert "E08 " in done.stderr
    assert "kill-session" not in done.stdout
    assert paths == set()


@pytest.mark.parametrize(("task", "fault"), [("serve", "E21"), ("chat", "E21"), ("bench", "E21"), ("install", "E21")])
def test_a_task_alone_is_refused_where_an_earlier_step_is_missing(task: str, fault: str, machine: Shell) -> None:
    done, paths = changed(machine, "-R", task, API_KEY="k")
    assert done.returncode == 1
    assert f"{fault} " in done.stderr
    assert paths == set()


def test_a_directory_that_cannot_be_made_is_refused_in_the_preview_too(machine: Shell) -> None:
    (machine.home / "file").write_text("in the way")
    done, paths = changed(machine, "-R", "mkdirs", API_KEY="k", BASE_DIR=machine.home / "file/base")
    assert done.returncode == 1
    assert "E06 " in done.stderr
    assert paths == set()


@pytest.mark.slow
def test_all_the_steps_are_shown_though_none_has_run(machine: Shell) -> None:
    done, paths = changed(machine, "deploy", "--dry")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert paths == set()


@pytest.mark.parametrize("task", ["serve", "tmux-start", "stop", "restart"])
def test_a_taken_port_is_refused_in_the_preview_too(task: str, installed: Shell) -> None:
    with socket.create_server(("127.0.0.1", int(str(installed.settings["PORT"])))):
        done, paths = changed(installed, "-R", task, API_KEY="k")
    assert done.returncode == 1
    assert "E07 " in done.stderr
    assert paths == set()


def test_a_restart_with_changed_settings_shows_the_stop_and_the_start(installed: Shell) -> None:
    """The server that still runs in a preview is no reason to refuse what comes after its end."""
    mark = f"{installed.home}/base/run/{MACHINE}/vllm-qwen3"
    (installed.home / "base/run" / MACHINE).mkdir(parents=True)
    Path(f"{mark}.env").write_text("MAX_MODEL_LEN='1'\n")
    server = subprocess.Popen(["sleep", "60"], env=installed.environ(RUNBOOK_SUPERVISOR=mark, RUNBOOK_SERVER=mark))
    try:
        Path(f"{mark}.supervisord.pid").write_text(str(server.pid))
        done, paths = changed(installed, "-R", "restart", API_KEY="k")
        assert done.returncode == 0, done.stderr
        assert f"$ kill -TERM {server.pid}" in done.stdout
        assert "$ tmux new-session" in done.stdout
        assert paths == set()
        assert server.poll() is None
    finally:
        server.kill()
        server.wait()
