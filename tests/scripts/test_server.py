"""What the scripts know of a server that runs: the settings of its start, its log, other machines, free ports."""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MACHINE, Shell, findings

OTHER = "gpu02-0badcafe"


def shown(shell: Shell, words: str, **more: object) -> str:
    """What a line of shell prints, with the settings and the server's functions there."""
    sources = f'source "{shell.root}/scripts/lib/settings.sh"; source "{shell.root}/scripts/lib/server.sh"; '
    done = shell.run("bash", "-euc", sources + words, **more)  # type: ignore[arg-type]
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def running(shell: Shell, **settings: object) -> Iterator[None]:
    """A process with the marks of this server, which was started with these settings."""
    mark = shell.home / "base/run" / MACHINE / "vllm-qwen3"
    mark.parent.mkdir(parents=True, exist_ok=True)
    lines = shown(shell, "settings_of_now", **settings)
    mark.with_suffix(".env").write_text(lines, "utf-8")
    with subprocess.Popen(["sleep", "60"], env=shell.environ(RUNBOOK_SUPERVISOR=mark, RUNBOOK_SERVER=mark)) as server:
        try:
            yield
        finally:
            server.kill()


@pytest.mark.parametrize("name", ["curl-test", "ragflow-notes", "status"])
def test_the_running_server_is_asked_where_it_was_started(name: str, shell: Shell, free_port: object) -> None:
    """PORT was changed in the settings file since."""
    file = shell.home / "server.env"
    file.write_text("PORT=23457\nAPI_KEY=k\n")
    given: dict[str, Any] = {"ENV_FILE": file} | ({"RUNBOOK_DRY": 1} if name == "curl-test" else {})
    with running(shell, PORT=23456, API_KEY="k"):
        del shell.settings["PORT"]
        done = shell.script(name, **given)
        typed = shell.script(name, **given, PORT=23458)
    said = done.stdout + done.stderr
    assert ":23456" in said, said
    assert ":23457" not in said
    if name != "status":
        assert "changed since: PORT (./inv restart applies them)" in said
    if name == "curl-test":  # without a server the settings of now count
        assert ":23458" in typed.stdout, "what was typed for this command goes before"
        done = shell.script(name, **given)
        assert ":23457" in done.stdout
        assert "changed since" not in done.stdout


def test_every_setting_of_the_running_server_counts_as_it_was_at_its_start(shell: Shell) -> None:
    """With what a shell might misread in its values; what does not concern the server is that of now."""
    names = ["SERVED_MODEL_NAME", "VLLM_EXTRA_ARGS", "RAGFLOW_URL"]
    began = {"SERVED_MODEL_NAME": r"it's\\a'name", "VLLM_EXTRA_ARGS": "", "RAGFLOW_URL": "http://old:1"}
    since = {"SERVED_MODEL_NAME": "new", "VLLM_EXTRA_ARGS": "--seed 1", "RAGFLOW_URL": "http://new:1"}
    file = shell.home / "server.env"
    file.write_text("".join(f"{key}={value}\n" for key, value in since.items()))
    with running(shell, **began):
        said = shown(shell, "as_started tell; env", ENV_FILE=file)
        typed = shown(shell, "as_started tell; env", **since)
    assert "changed since: SERVED_MODEL_NAME VLLM_EXTRA_ARGS (" in said
    values = dict(line.split("=", 1) for line in said.splitlines() if line.split("=")[0] in names)
    assert values == {**began, "RAGFLOW_URL": "http://new:1"}
    assert "SERVED_MODEL_NAME=new" in typed.splitlines(), "what was typed for this command goes before"


def test_logs_are_those_of_the_running_server(shell: Shell) -> None:
    log = shell.home / "before" / MACHINE / "vllm.log"
    log.parent.mkdir(parents=True)
    log.write_text("a line of the running server\n")
    with running(shell, LOG_DIR=shell.home / "before"):
        assert shell.script("logs", LOG_DIR=shell.home / "since").stdout == log.read_text()
        assert str(log) in shell.script("status", LOG_DIR=shell.home / "since").stdout
    assert "E36 " in shell.script("logs", LOG_DIR=shell.home / "since").stderr


def test_a_server_of_an_earlier_version_is_known_and_stopped(shell: Shell) -> None:
    """It had one directory for all machines."""
    mark = shell.home / "base/run/vllm-qwen3"
    mark.parent.mkdir(parents=True)
    mark.with_suffix(".env").write_text("PORT='23456'\nAPI_KEY='k'\nRAGFLOW_API_KEY='secret'\n", "utf-8")
    (shell.home / "base/logs").mkdir()
    (shell.home / "base/logs/vllm.log").write_text("its log\n")
    words = ["bash", "-c", "exec -a /venv/bin/vllm python3 -c 'import time; time.sleep(60)' /vllm serve x"]
    with subprocess.Popen(words, env=shell.environ(RUNBOOK_SUPERVISOR=mark, RUNBOOK_SERVER=mark)) as server:
        try:
            found = json.loads(shell.script("status", "--json").stdout)
            assert (found["pid"], found["port"]) == (server.pid, 23456)
            assert shell.script("logs").stdout == "its log\n"
            assert findings(shell)["SERVER_PIDS"] == str(server.pid)
            done = shell.script("stop")
            assert done.returncode == 0, done.stdout + done.stderr
        finally:
            server.kill()
    assert not list(mark.parent.glob("vllm-qwen3.*"))
    assert json.loads(shell.script("status", "--json").stdout)["port"] == shell.settings["PORT"]


def test_after_the_last_port_comes_another_one(shell: Shell) -> None:
    port = int(shown(shell, "next_free_port", PORT=65535))
    assert 20000 <= port < 65535


@pytest.mark.parametrize("moved", [0, 1, 2])
def test_what_a_log_has_gained_is_found_though_it_was_rotated(moved: int, shell: Shell) -> None:
    log = shell.home / "base/logs" / MACHINE / "vllm.log"
    log.parent.mkdir(parents=True)
    log.write_text("before\n")
    position = shown(shell, "log_position").strip()
    with log.open("a") as file:
        file.write("gained\n")
    wanted = "gained\n"
    for number in range(moved):
        for old in (2, 1):
            if log.with_name(f"vllm.log.{old}").exists():
                log.with_name(f"vllm.log.{old}").rename(log.with_name(f"vllm.log.{old + 1}"))
        log.rename(log.with_name("vllm.log.1"))
        log.write_text(f"new {number}\n")
        wanted += f"new {number}\n"
    assert shown(shell, f"logged {position}") == wanted


def test_a_log_that_was_cut_or_replaced_is_shown_whole(shell: Shell) -> None:
    log = shell.home / "base/logs" / MACHINE / "vllm.log"
    log.parent.mkdir(parents=True)
    log.write_text("a long line of before\n")
    position = shown(shell, "log_position").strip()
    with log.open("w") as file:
        file.write("cut\n")
    assert shown(shell, f"logged {position}") == "cut\n"
    log.with_name("other").write_text("another file\n")
    log.with_name("other").replace(log)
    assert shown(shell, f"logged {position}") == "another file\n"
    log.unlink()
    assert shown(shell, f"logged {position}") == ""
    assert shown(shell, "logged 0:0") == ""


@pytest.mark.parametrize(("age", "words"), [(3, "it runs on"), (7200, "last seen on")])
def test_status_and_stop_tell_of_another_machine_and_leave_its_state_alone(age: int, words: str, shell: Shell) -> None:
    theirs = shell.home / "base/run" / OTHER
    theirs.mkdir(parents=True)
    for name in ("alive", "env", "supervisord.pid", "starts"):
        (theirs / f"vllm-qwen3.{name}").write_text("http://gpu02:20000/v1")
    now = (theirs / "vllm-qwen3.alive").stat().st_mtime
    os.utime(theirs / "vllm-qwen3.alive", (now - age, now - age))
    before = {path: path.stat().st_mtime_ns for path in [theirs, *theirs.iterdir()]}
    done = shell.script("status")
    assert done.returncode == 1
    assert f"{words} {OTHER}" in done.stdout
    stopped = shell.script("stop")
    assert stopped.returncode == 0
    assert OTHER in stopped.stdout
    assert {path: path.stat().st_mtime_ns for path in [theirs, *theirs.iterdir()]} == before


def test_a_sign_of_life_without_an_address_is_one(shell: Shell) -> None:
    """A full disk may leave it empty."""
    alive = shell.home / "base/run" / OTHER / "vllm-qwen3.alive"
    alive.parent.mkdir(parents=True)
    alive.touch()
    (found,) = json.loads(shell.script("status", "--json").stdout)["other_machines"]
    assert (found["machine"], found["base_url"]) == (OTHER, None)
    assert f"it runs on {OTHER}: ?" in shell.script("status").stdout


def test_a_log_of_an_earlier_version_is_kept(shell: Shell) -> None:
    """It had one for all machines."""
    (shell.home / "base/logs").mkdir(parents=True)
    for name in ("vllm.log", "vllm.log.1"):
        (shell.home / "base/logs" / name).write_text(f"{name} of before\n")
    shell.vllm("exit 1")
    model = shell.home / "base/models/SmolLM2-135M-Instruct"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    shell.stand_in("tmux", "exit 1")
    shell.script("tmux-start", API_KEY="k")
    ours = shell.home / "base/logs" / MACHINE
    assert (ours / "vllm.log").read_text() == "vllm.log of before\n"
    assert (ours / "vllm.log.1").read_text() == "vllm.log.1 of before\n"
    assert (shell.home / "base/logs/vllm.log").resolve() == (ours / "vllm.log").resolve()


def test_the_state_of_a_machine_has_its_name(shell: Shell) -> None:
    assert MACHINE.startswith("".join(char if char.isalnum() or char in "._-" else "_" for char in os.uname().nodename))
    assert Path(shown(shell, 'echo "$SERVER_ID"').strip()) == shell.home / "base/run" / MACHINE / "vllm-qwen3"
