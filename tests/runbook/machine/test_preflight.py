"""preflight: every check with its three answers; the machine is stood in for where it cannot be changed."""

import os
import shutil
import subprocess
import sys
import threading
import time
from collections import namedtuple
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from runbook import ROOT
from runbook.machine import preflight
from runbook.machine.table import Row
from tests.conftest import BUSY, MACHINE, Shell, findings

Usage = namedtuple("Usage", "total used free")


@contextmanager
def machine(shell: Shell, **more: object) -> Iterator[None]:
    """This process with the settings of a test as preflight.sh gives them."""
    given = {
        "MODEL_ID": "demo",
        "MODEL_REVISION": "master",
        "MODEL_DIR": shell.home / "base/models/M",
        "VENV_DIR": shell.home / "base/.venv",
    }
    given |= {"GPU": "auto", "GPU_MEMORY_UTILIZATION": "auto", "MAX_MODEL_LEN": "auto", "TMUX_SESSION": "vllm-qwen3"}
    given |= {"RUNBOOK_LANG": "en", "MODELSCOPE_ENDPOINT": ""}
    given |= findings(shell)
    clean = {key: "" for key in os.environ if key.lower().endswith("_proxy")}
    with patch.dict(os.environ, shell.environ(**{**clean, **given, **more}), clear=True):
        yield


def states(rows: list[Row]) -> dict[str, str]:
    return {one.name: one.state for one in rows}


@contextmanager
def site(seconds_off: float = 0, silent: bool = False) -> Iterator[str]:
    """A web site on loopback with a clock of its own, or one that takes connections and says nothing."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            if silent:
                time.sleep(60)
            self.send_response_only(404)
            self.send_header("Date", self.date_time_string(time.time() + seconds_off))
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


@pytest.mark.parametrize("lang", ["zh", "en"])
def test_the_table_within_two_seconds(lang: str, shell: Shell) -> None:
    began = time.monotonic()
    done = shell.script("preflight", RUNBOOK_LANG=lang)
    assert done.returncode == 0, done.stdout + done.stderr
    assert time.monotonic() - began < 6 * BUSY, "two seconds where nothing else runs"
    lines = [line.split()[:2] for line in done.stdout.splitlines() if line[4:5] in "✓!✗"]
    assert {name for _, name in lines} >= {"python", "glibc", "tmux", "shm", "ram", "disk", "port", "memory"}
    assert "✗" not in done.stdout


def test_a_failure_has_what_to_do_and_ends_the_step(shell: Shell) -> None:
    shell.cards((20000, 24576), driver="535.54.03")
    done = shell.script("preflight", PROFILE="gpu", MODEL_ID="a/b", MODELSCOPE_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 1
    assert "✗ driver     535.54.03" in done.stdout
    assert "the older vLLM that this driver runs: 0.19.x" in done.stdout
    assert "E56 docs/en/troubleshooting.md#e56" in done.stderr


@pytest.mark.parametrize(
    ("driver", "environ", "state"),
    [
        ("580.65.06", {}, "ok"),
        ("595.1", {}, "ok"),
        ("535.54.03", {}, "fail"),
        ("535.54.03", {"VLLM_ENABLE_CUDA_COMPATIBILITY": "1"}, "warn"),
        ("[N/A]", {}, "warn"),
    ],
)
def test_the_driver(driver: str, environ: dict[str, str], state: str, shell: Shell) -> None:
    shell.cards((20000, 24576), driver=driver)
    with machine(shell, PROFILE="gpu", **environ):
        assert states(list(preflight.gpus()))["driver"] == state


def test_the_environment_that_would_hurt_the_server(shell: Shell) -> None:
    for name, file in (("cuda", "libcudart.so.12"), ("conda", "libstdc++.so.6")):
        (shell.home / name).mkdir()
        (shell.home / name / file).touch()
    long = shell.home / ("t" * 60)
    long.mkdir()
    paths = f"{shell.home}/cuda:{shell.home}/conda:{shell.home}"
    shell.cards((20000, 24576))
    environ: dict[str, Any] = {"PYTHONPATH": "/foreign", "VLLM_PORT": "tcp://10.0.0.1:8000", "VLLM_HOST_IP": "10.0.0.1"}
    environ |= {"TMPDIR": long, "LD_LIBRARY_PATH": paths}
    environ |= {"PROFILE": "gpu", "MODEL_ID": "a/b", "MODELSCOPE_ENDPOINT": "http://127.0.0.1:9"}
    done = shell.script("preflight", **environ)
    rows = [line.strip().split(maxsplit=2) for line in done.stdout.splitlines() if " environ " in line]
    assert [(state, words.split(" ")[0]) for state, _, words in rows] == [
        ("✓", "PYTHONPATH"),
        ("!", f"TMPDIR={long}"),
        ("!", f"{shell.home}/cuda"),
        ("!", f"{shell.home}/conda"),
        ("!", "VLLM_HOST_IP=10.0.0.1"),
    ]
    assert rows[0][2] == "PYTHONPATH VLLM_PORT is set; the server does not inherit it"
    assert "export TMPDIR=/var/tmp" in done.stdout


def test_a_cache_on_a_file_system_mounted_noexec(shell: Shell) -> None:
    flags = os.statvfs_result((1, 1, 1, 1, 1, 1, 1, 1, os.ST_NOEXEC, 255))
    for profile, count in (("gpu", 2), ("cpu", 0)):
        with machine(shell, PROFILE=profile), patch("os.statvfs", return_value=flags):
            rows = list(preflight.inherited())
        assert [one.state for one in rows] == ["warn"] * count
    with machine(shell, PROFILE="gpu"):
        assert not list(preflight.inherited())


@pytest.mark.parametrize(("capability", "state"), [("9.0", "ok"), ("8.0", "ok"), ("7.5", "warn"), ("7.0", "fail")])
def test_the_compute_capability(capability: str, state: str, shell: Shell) -> None:
    shell.cards((20000, 24576), capability=capability)
    with machine(shell, PROFILE="gpu"):
        found = states(list(preflight.gpus()))
    assert found["usable" if state == "fail" else "capability"] == state


def test_no_card(shell: Shell) -> None:
    shell.stand_in("nvidia-smi", "exit 9")
    with machine(shell, PROFILE="gpu"):
        assert states(list(preflight.gpus())) == {"gpu": "fail"}
        assert "memory" not in states(list(preflight.server()))


def test_memory_is_the_plans_word(shell: Shell) -> None:
    shell.cards((3000, 24576))
    with machine(shell, PROFILE="gpu", MODEL_ID="Qwen/Qwen3-4B-Instruct-2507"):
        rows = list(preflight.server())
    assert states(rows)["memory"] == "fail"
    assert "do not fit" in rows[-1].found


def test_a_running_server_is_not_failed_for_the_memory_that_it_holds(shell: Shell) -> None:
    """In a container nvidia-smi does not tell that it is the holder."""
    shell.cards((3000, 24576))
    mark = shell.environ(RUNBOOK_SERVER=shell.home / "base/run" / MACHINE / "vllm-qwen3")
    with subprocess.Popen(["bash", "-c", "sleep 60; : /vllm serve x"], env=mark) as running:
        with machine(shell, PROFILE="gpu", MODEL_ID="Qwen/Qwen3-4B-Instruct-2507"):
            rows = list(preflight.server())
        running.kill()
    assert states(rows) == {"port": "ok", "memory": "warn"}


@pytest.mark.parametrize(("version", "state"), [("2.28", "ok"), ("2.41", "ok"), ("2.17", "fail"), ("", "fail")])
def test_glibc(version: str, state: str, shell: Shell) -> None:
    with machine(shell), patch("platform.libc_ver", return_value=("glibc", version)):
        assert states(list(preflight.system()))["glibc"] == state


@pytest.mark.parametrize(("free", "state"), [(100, "ok"), (4.9, "warn"), (3, "fail")])
def test_disk(free: float, state: str, shell: Shell) -> None:
    """4 GiB of packages and 0.6 of model on one disk are added up; what is there already needs no room."""
    with machine(shell), patch("shutil.disk_usage", return_value=Usage(0, 0, int(free * 2**30))):
        (row,) = preflight.disks()
        assert row.state == state
        assert "VENV_DIR MODEL_DIR still needs 4.6 GiB" in row.found
        (shell.home / "base/.venv").mkdir(parents=True)
        (shell.home / "base/.venv/.runbook-lock").touch()
        assert "MODEL_DIR still needs 0.6 GiB" in next(preflight.disks()).found


@pytest.mark.parametrize(("gpu", "size", "state"), [("0", 64, "ok"), ("0", 16, "warn"), ("0,1", 64, "warn")])
def test_shared_memory(gpu: str, size: int, state: str, shell: Shell) -> None:
    with machine(shell, GPU=gpu), patch("shutil.disk_usage", return_value=Usage(0, 0, size * 2**20)):
        assert states(list(preflight.system()))["shm"] == state


@pytest.mark.parametrize(
    ("environ", "state"),
    [
        ({"http_proxy": "http://p:1"}, "warn"),
        ({"http_proxy": "http://p:1", "no_proxy": "localhost,127.0.0.1"}, "ok"),
        ({"ALL_PROXY": "socks5://p:1", "NO_PROXY": "*"}, "ok"),
        ({}, None),
    ],
)
def test_a_proxy_that_would_break_loopback(environ: dict[str, str], state: str | None, shell: Shell) -> None:
    with machine(shell, **environ):
        assert states(list(preflight.system())).get("proxy") == state


def test_sites_that_answer_and_a_clock_that_is_right(shell: Shell) -> None:
    with site() as url, machine(shell, PIP_INDEX_URL=url, MODEL_ID="a/b", MODELSCOPE_ENDPOINT=url):
        rows = [one for one in preflight.network() if one]
    assert states(rows) == {"mirror": "ok", "site": "ok", "clock": "ok"}


def test_a_wrong_clock(shell: Shell) -> None:
    with site(-86400) as url, machine(shell, PIP_INDEX_URL=url):
        rows = [one for one in preflight.network() if one]
    assert states(rows)["clock"] == "warn"
    assert 86390 < int(rows[-1].found.split()[0]) < 86410


def test_sites_that_do_not_answer_are_a_warning_and_cost_little_time(shell: Shell) -> None:
    began = time.monotonic()
    with site(silent=True) as url, machine(shell, PIP_INDEX_URL=url, MODEL_ID="a/b", MODELSCOPE_ENDPOINT=f"{url}9"):
        rows = [one for one in preflight.network() if one]
    assert states(rows) == {"mirror": "warn", "site": "warn"}
    assert time.monotonic() - began < 6 * BUSY, "two seconds where nothing else runs"


def test_what_is_there_already_is_not_asked_for(shell: Shell) -> None:
    (shell.home / "base/.venv").mkdir(parents=True)
    (shell.home / "base/.venv/.runbook-lock").touch()
    from tests.runbook.plan.test_plan import PLAIN, folder

    folder(shell.home / "base/models/M", {}, PLAIN)
    with machine(shell, PIP_INDEX_URL="http://127.0.0.1:9", MODEL_ID="a/b"):
        assert [one for one in preflight.network() if one] == []
        assert list(preflight.disks()) == []


def test_the_port_of_somebody_else_and_leftovers(shell: Shell) -> None:
    port = shell.settings["PORT"]
    with subprocess.Popen([sys.executable, "-m", "http.server", str(port)], stderr=subprocess.DEVNULL) as other:
        try:
            while not shell.run("ss", "-Hlnt", f"sport = :{port}").stdout:
                pass
            with machine(shell):
                taken = list(preflight.server())
        finally:
            other.kill()
    assert taken[0].state == "fail"
    assert f"pid {other.pid}" in taken[0].found
    assert "PORT=" in taken[0].todo
    mark = shell.environ(RUNBOOK_SERVER=shell.home / "base/run" / MACHINE / "vllm-qwen3")
    with subprocess.Popen(["sleep", "60"], env=mark) as left, machine(shell):
        rows = list(preflight.server())
        left.kill()
    assert states(rows)["leftovers"] == "warn"


def test_it_needs_nothing_installed(shell: Shell, tmp_path: Path) -> None:
    """No .venv, no runner: the scripts folder, the settings and the faults are enough."""
    for name in ("scripts", "runbook"):
        shutil.copytree(ROOT / name, tmp_path / "clone" / name)
    shutil.copy(ROOT / ".env.example", tmp_path / "clone")
    done = Shell(tmp_path, tmp_path / "clone", shell.settings).script("preflight")
    assert done.returncode == 0, done.stdout + done.stderr
