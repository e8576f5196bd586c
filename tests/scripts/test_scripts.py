"""The other scripts, each by itself: what it does, that it may run twice, and what it says when it cannot."""

import json
import os
import re
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import BUSY, MACHINE, Shell, copy_checkout, executable

TOOLS = [
    *("bash", "env", "dirname", "realpath", "grep", "sed", "awk", "id", "cut", "python3", "cat", "mkdir", "basename"),
    *("uname", "getconf", "sort", "tr", "paste", "find", "ldconfig"),
]


@pytest.fixture
def taken(shell: Shell) -> Iterator[int]:
    """Somebody else listens on PORT."""
    with socket.create_server(("127.0.0.1", int(str(shell.settings["PORT"])))):
        yield int(str(shell.settings["PORT"]))


@pytest.fixture
def tmux(shell: Shell) -> Iterator[Shell]:
    """A tmux server of the test's own."""
    yield shell
    shell.run("tmux", "kill-server")


def only(shell: Shell, *tools: str) -> str:
    """A PATH with these tools and nothing else."""
    folder = shell.home / "only"
    folder.mkdir()
    folders = [*os.environ["PATH"].split(":"), "/sbin", "/usr/sbin"]
    for tool in tools:
        found = next(Path(path) / tool for path in folders if (Path(path) / tool).exists())
        (folder / tool).symlink_to(Path(sys.executable).resolve() if tool == "python3" else found)
    return str(folder)


def test_preflight_is_content_here(shell: Shell) -> None:
    done = shell.script("preflight")
    assert done.returncode == 0, done.stderr
    assert not (shell.home / "base").exists(), "it only looks"


@pytest.mark.parametrize(
    ("manager", "command"),
    [
        ("apt-get", "apt-get install -y tmux iproute2 curl"),
        ("dnf", "dnf install -y tmux iproute curl"),
        ("pacman", "pacman -S --noconfirm tmux iproute2 curl"),
    ],
)
def test_missing_tools_get_one_line_with_the_command(manager: str, command: str, shell: Shell) -> None:
    path = only(shell, *TOOLS)
    executable(Path(path) / manager, "exit 0")
    done = shell.run("env", f"PATH={path}", "bash", shell.root / "scripts/preflight.sh")
    assert done.returncode == 1
    assert "does not have: tmux ss curl" in done.stderr
    assert command in done.stderr
    assert "E04 docs/en/troubleshooting.md#e04" in done.stderr


def test_no_python_is_said(shell: Shell) -> None:
    path = only(shell, *(tool for tool in TOOLS if tool != "python3"), "tmux", "ss", "curl")
    executable(Path(path) / "python3", "[[ $1 == --version ]] && echo Python 3.8.10; exit 1")
    done = shell.run("env", f"PATH={path}", "bash", shell.root / "scripts/preflight.sh")
    assert done.returncode == 1
    assert "this machine has: Python 3.8.10" in done.stderr
    assert "E05 " in done.stderr


@pytest.mark.parametrize("name", ["preflight", "mkdirs"])
def test_a_base_dir_that_cannot_be_written(name: str, shell: Shell) -> None:
    (shell.home / "file").write_text("in the way")
    done = shell.script(name, BASE_DIR=shell.home / "file" / "base")
    assert done.returncode == 1
    assert f"{shell.home}/file/base" in done.stderr
    assert "E06 " in done.stderr
    assert "E99" not in done.stderr


def test_mkdirs_twice(shell: Shell) -> None:
    for _ in range(2):
        assert shell.script("mkdirs", BASE_DIR=shell.home / "a b" / "目录").returncode == 0
    assert {path.name for path in (shell.home / "a b" / "目录").iterdir()} == {
        "models",
        "modelscope_cache",
        "logs",
        "run",
    }


def test_venv_refuses_a_python_that_vllm_does_not_support(shell: Shell) -> None:
    executable(shell.home / "base/.venv/bin/python", "exit 1")
    (shell.home / "base/.venv/.runbook-lock").touch()
    done = shell.script("venv")
    assert done.returncode == 1
    assert "E10 " in done.stderr


def test_venv_that_was_interrupted_is_completed(shell: Shell) -> None:
    assert shell.run("python3", "-m", "venv", "--without-pip", shell.home / "base/.venv").returncode == 0
    (shell.home / "base/.venv/.runbook-venv").touch()
    assert shell.script("venv").returncode == 0
    assert shell.run(shell.home / "base/.venv/bin/python", "-m", "pip", "--version").returncode == 0
    done = shell.script("venv")
    assert "already done: " in done.stdout


def test_install_without_venv_names_the_step(shell: Shell) -> None:
    done = shell.script("install")
    assert done.returncode == 1
    assert "E21 " in done.stderr
    assert "inv venv" in done.stderr


@pytest.mark.slow
def test_install_without_network_says_so_and_leaves_no_stamp(shell: Shell) -> None:
    """Neither the mirror nor pip's own index answers; both really are asked."""
    assert shell.script("venv").returncode == 0
    nowhere = "http://127.0.0.1:9/simple/"
    (shell.home / "pip.conf").write_text(f"[global]\nindex-url = {nowhere}\nextra-index-url =\nfind-links =\n")
    offline: dict[str, Any] = {
        "PIP_CONFIG_FILE": shell.home / "pip.conf",
        "PIP_RETRIES": 0,
        "PIP_FIND_LINKS": "",
        "XDG_CONFIG_HOME": "/x",
    }
    offline |= {"HOME": shell.home, "UV_CACHE_DIR": shell.home / "cache", "PIP_EXTRA_INDEX_URL": ""}
    for uv in (True, False):
        root = shell.root if uv else copy_checkout(shell.home / "no-uv")
        done = Shell(shell.home, root, shell.settings).script("install", PIP_INDEX_URL=nowhere, **offline)
        assert done.returncode == 1
        assert f"The mirror {nowhere} does not answer" in done.stdout
        assert "E09 " in done.stderr
        assert ("pip is used instead" in done.stdout) == uv
    assert not (shell.home / "base/.venv/.runbook-lock").exists()


def model(folder: Path, **change: object) -> Path:
    """A model folder with one tiny shard; a change replaces (text) or removes (None) a file."""
    header = json.dumps({"__metadata__": {}, "w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    shard = len(header).to_bytes(8, "little") + header + b"\0" * 8
    files: dict[str, object] = {"config.json": "{}", "model.safetensors": shard, "tokenizer.json": "{}"}
    folder.mkdir(parents=True)
    for name, content in (files | {key.replace("__", "."): value for key, value in change.items()}).items():
        if content is not None:
            (folder / name).write_bytes(content if isinstance(content, bytes) else str(content).encode())
    return folder


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({}, None),
        ({"config__json": None}, "config.json is missing"),
        ({"config__json": "{"}, "cannot be read"),
        ({"model__safetensors": None}, "no *.safetensors"),
        ({"model__safetensors": b"<html>"}, "not a safetensors file"),
        ({"model__safetensors": (99).to_bytes(8, "little") + b"x" * 200}, "damaged header"),
        ({"model__safetensors": (2).to_bytes(8, "little") + b"{}" + b"tail"}, "14 bytes instead of 10"),
        ({"tokenizer__json": None}, "the tokenizer is missing"),
        ({"model__safetensors__index__json": '{"weight_map": {"w": "a.safetensors"}}'}, "a.safetensors is missing"),
        ({"model__safetensors__index__json": "[]"}, "cannot be read"),
    ],
)
def test_model_folder(change: dict[str, object], problem: str | None, shell: Shell) -> None:
    folder = model(shell.home / "m", **change)
    words = ("-m", "runbook.model.directory", "check", folder, "a/b", "master")
    done = shell.run("python3", *words, PYTHONPATH=shell.root)
    assert done.returncode == (1 if problem else 0)
    assert (problem or "1 safetensors") in done.stdout
    assert not done.stderr


def test_a_truncated_shard_is_seen_at_every_length(tmp_path: Path) -> None:
    from runbook.model.directory import check

    shard = (model(tmp_path / "m") / "model.safetensors").read_bytes()
    assert check(tmp_path / "m", "a/b", "master")[0] == 0
    for length in range(len(shard)):
        (tmp_path / "m/model.safetensors").write_bytes(shard[:length])
        assert check(tmp_path / "m", "a/b", "master")[0] == 1, length


def test_download_accepts_a_folder_that_somebody_copied_in(shell: Shell) -> None:
    folder = model(shell.home / "copied")
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    done = shell.script("download", MODEL_DIR=folder, MODEL_ID="a/b", MODELSCOPE_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 0, done.stderr
    assert "already done: " in done.stdout
    assert "no manifest, hashes not compared" in done.stdout
    assert before == {path: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_port_check(shell: Shell, free_port: object) -> None:
    done = shell.script("port-check")
    assert done.returncode == 0
    assert "is free" in done.stdout


@pytest.mark.parametrize("name", ["port-check", "tmux-start", "serve", "stop"])
def test_a_port_taken_by_somebody_else(name: str, tmux: Shell, taken: int) -> None:
    model(tmux.home / "base/models/SmolLM2-135M-Instruct")
    executable(tmux.home / "base/.venv/bin/vllm", "exit 0")
    tmux.stand_in("ps", "exit 127")  # a minimal system has none
    done = tmux.script(name, API_KEY="k")
    assert done.returncode == 1
    assert f"Port {taken} is already in use by p" in done.stderr  # python, or pytest
    assert f"pid {os.getpid()}" in done.stderr
    assert re.search(r"PORT=\d+", done.stderr)
    assert "E07 docs/en/troubleshooting.md#e07" in done.stderr
    assert tmux.run("tmux", "ls").returncode != 0, "no session was made"


def test_status_and_the_ports_owner_need_no_ps(tmux: Shell, taken: int) -> None:
    """A minimal Debian or Rocky has no procps."""
    tmux.stand_in("ps", "echo ps was called >&2; exit 127")
    done = tmux.script("port-check")
    assert f"pid {os.getpid()}" in done.stderr
    with subprocess.Popen(["bash", "-c", "exec -a '/x/vllm serve ' sleep 600"], env=tmux.environ(**mark(tmux))) as one:
        age = tmux.run("bash", "-c", f"cd {tmux.root}/scripts; source lib/settings.sh; source lib/server.sh; "
                       f"parent_of {one.pid}; age_of {one.pid}; age_of 4194305")  # fmt: skip
        found = json.loads(tmux.script("status", "--json").stdout)
        one.kill()
    parent, seconds = age.stdout.split()[-2:]
    assert (int(parent), found["pid"]) == (os.getpid(), one.pid)
    assert 0 <= int(seconds) <= found["uptime_s"] < 60 * BUSY
    assert "ps was called" not in done.stderr + age.stderr


def mark(shell: Shell) -> dict[str, str]:
    """What every process of this shell's server has in its environment."""
    done = shell.run(
        "bash", "-c", f"cd {shell.root}/scripts; source lib/settings.sh; source lib/server.sh; echo $SERVER_ID"
    )
    return {"RUNBOOK_SERVER": done.stdout.split()[-1]}


def test_a_session_of_somebody_else_is_left_alone(tmux: Shell) -> None:
    assert tmux.run("tmux", "new-session", "-d", "-s", "vllm-qwen3", "sleep 60").returncode == 0
    done = tmux.script("tmux-start", API_KEY="k")
    assert done.returncode == 1
    assert "E08 " in done.stderr
    done = tmux.script("stop")
    assert done.returncode == 0
    assert "vllm-qwen3" in tmux.run("tmux", "ls").stdout


def test_a_server_that_dies_is_told_at_once_with_its_error(tmux: Shell) -> None:
    tmux.vllm(
        "echo '(APIServer pid=1) INFO fine'; echo '(EngineCore pid=2) ERROR x] ValueError: not enough 内存'; exit 1"
    )
    model(tmux.home / "base/models/SmolLM2-135M-Instruct")
    done = tmux.script("tmux-start", API_KEY="k", timeout=20)
    assert done.returncode == 1
    assert "vLLM exited during startup: ValueError: not enough 内存" in done.stderr
    assert "E14 " in done.stderr
    assert tmux.run("tmux", "ls").returncode != 0


def test_the_reason_is_the_error_and_not_its_frame(tmux: Shell) -> None:
    lines = [
        "(APIServer pid=1) WARNING 01-01 [x.py:1] OSError: [Errno 24] Too many open files",
        "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig",
        "  Value error, User-specified max_model_len (999999) is greater than the derived max_model_len",
        "RuntimeError: Engine core initialization failed. See root cause above.",
    ]
    said = "\n".join(f"echo '{line}'" for line in lines)
    tmux.vllm(f"{said}\nexit 1")
    model(tmux.home / "base/models/SmolLM2-135M-Instruct")
    done = tmux.script("tmux-start", API_KEY="k", timeout=20)
    assert done.returncode == 1
    assert "exited during startup: Value error, User-specified max_model_len (999999) is" in done.stderr
    assert "Broken pipe" not in done.stderr


def test_tmux_without_a_session(tmux: Shell) -> None:
    done = tmux.script("tmux-ls")
    assert done.returncode == 0
    assert "no tmux session" in done.stdout
    done = tmux.script("tmux-attach")
    assert done.returncode == 1
    assert "E22 " in done.stderr


def test_how_long_a_process_runs_whatever_its_name(shell: Shell) -> None:
    odd = executable(shell.home / "a) 7 b", "read -r")
    with subprocess.Popen([odd], stdin=subprocess.PIPE) as oddly_named:
        sources = f"source {shell.root}/scripts/lib/settings.sh; source {shell.root}/scripts/lib/server.sh"
        for process in (psutil.Process(oddly_named.pid), psutil.Process()):
            least = time.time() - process.create_time()
            done = shell.run("bash", "-c", f"{sources}; age_of {process.pid}")
            most = time.time() - process.create_time()
            assert least - 2 < int(done.stdout.splitlines()[-1]) < most + 2, process.name()
        oddly_named.kill()


def test_stop_with_nothing_running(tmux: Shell) -> None:
    done = tmux.script("stop")
    assert done.returncode == 0
    assert "not running" in done.stdout


@pytest.mark.slow
def test_stop_ends_what_ignores_gentle_signals_and_nothing_else(tmux: Shell) -> None:
    """A process with this server's mark that swallows INT and TERM; its neighbour has another server's mark."""
    stubborn = 'trap "" INT TERM; echo on; sleep 300 & wait; sleep 300'
    base = tmux.home / "base"
    (base / "run" / MACHINE).mkdir(parents=True)
    ours = tmux.environ(RUNBOOK_SERVER=base / "run" / MACHINE / "vllm-qwen3")
    other = tmux.environ(RUNBOOK_SERVER=base / "run" / MACHINE / "vllm-qwen3-b")
    one = subprocess.Popen(["bash", "-c", stubborn], env=ours, stdout=subprocess.DEVNULL)
    two = subprocess.Popen(["sleep", "300"], env=other)
    try:
        done = tmux.script("stop", timeout=90)
        assert done.returncode == 0, done.stderr
        assert "kill -KILL" in done.stdout
        assert one.wait(5 * BUSY) == -9
        assert two.poll() is None
    finally:
        one.kill()
        two.kill()


def test_curl_test_without_a_server(shell: Shell) -> None:
    done = shell.script("curl-test", API_KEY="k3y")
    assert done.returncode == 1
    assert "E16 " in done.stderr
    assert "curl -sS" in done.stdout, "the command is shown first"
    assert "k3y" not in done.stdout + done.stderr


def test_env_file_is_made_once_with_a_key_that_only_its_owner_reads(shell: Shell) -> None:
    root = copy_checkout(shell.home / "clone")
    own = Shell(shell.home, root, shell.settings)
    assert own.script("support/env-file").returncode == 0
    text = (root / ".env").read_text("utf-8")
    assert stat.S_IMODE((root / ".env").stat().st_mode) == 0o600
    key = re.search(r"^API_KEY=([0-9a-f]{48})$", text, re.MULTILINE)
    assert key
    example = (root / ".env.example").read_text("utf-8")
    assert text.replace(key[1], "") == example, "nothing else is changed"
    done = own.script("support/env-file")
    assert (root / ".env").read_text("utf-8") == text, "the second time changes nothing"
    assert key[1] not in done.stdout + done.stderr


@pytest.mark.parametrize("line", ["API_KEY=", "export API_KEY=''", "API_KEY= # made by the runbook", ""])
def test_a_key_goes_into_the_users_own_file(line: str, shell: Shell) -> None:
    target = shell.home / "real.env"
    target.write_text(f"PORT=20009\n{line}\n# 注释 stays\nGPU=1")
    (shell.home / "link.env").symlink_to(target)
    assert shell.script("support/env-file", ENV_FILE="link.env").returncode == 0
    text = target.read_text("utf-8")
    assert (shell.home / "link.env").is_symlink()
    assert re.search(r"^API_KEY=[0-9a-f]{48}$", text, re.MULTILINE)
    assert "PORT=20009\n" in text
    assert "# 注释 stays\nGPU=1" in text


def test_an_unexpected_failure_is_told_once_with_its_command(shell: Shell) -> None:
    shell.stand_in("realpath", "exit 7")
    done = shell.script("mkdirs")
    assert done.returncode == 1
    assert done.stderr.count("E99 ") == 1
    assert "exit code 7" in done.stderr
