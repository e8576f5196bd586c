"""The real server stays up, keeps strangers out, and really stops, whatever is killed, stopped, full or stolen."""

import asyncio
import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pexpect
import psutil
import pytest

from tests.conftest import BUSY, MACHINE, Shell
from tests.e2e.conftest import Deployment, listening

NAME = "SmolLM2-135M-Instruct"


def status(server: Deployment, **more: object) -> dict[str, Any]:
    done = server.shell.script("status", "--json", timeout=60, **more)
    found: dict[str, Any] = json.loads(done.stdout)
    assert (done.returncode == 0) == (found["state"] == "ready")
    return found


def wait_for(what: Callable[[], bool], seconds: float, words: str) -> float:
    """Seconds that it took."""
    began = time.monotonic()
    while not what():
        assert time.monotonic() - began < seconds * BUSY, words
        time.sleep(0.5)
    return time.monotonic() - began


def ready_again(server: Deployment, old: int) -> float:
    """Until another API server than the old one is ready, without a hand; there is one, and no orphan."""
    took = wait_for(lambda: (now := status(server))["state"] == "ready" and now["pid"] != old, 240, "not ready again")
    assert list(server.server("/vllm serve ")) == [status(server)["pid"]]
    return took


def supervisor(server: Deployment) -> int:
    return int((server.base / "run" / MACHINE / "vllm-qwen3.supervisord.pid").read_text())


@pytest.mark.parametrize("victim", ["/vllm serve ", "VLLM::EngineCore", "VLLM::Worker", "supervisor"])
def test_kill_9_of_each_process(victim: str, running: Deployment, measured: Callable[[str], None]) -> None:
    before, old = running.server(), status(running)["pid"]
    pid = supervisor(running) if victim == "supervisor" else min(running.server(victim))
    os.kill(pid, signal.SIGKILL)
    took = ready_again(running, old)
    assert not before & running.server()
    assert status(running)["restarts"] >= 1
    measured(f"kill -9 of {victim.strip()}: ready again after {took:.0f} s")


def test_kill_9_of_the_tmux_server_changes_nothing_but_the_session(
    running: Deployment, measured: Callable[[str], None]
) -> None:
    before = running.server()
    pid = int(running.shell.run("tmux", "display-message", "-p", "#{pid}").stdout)
    os.kill(pid, signal.SIGKILL)
    took = wait_for(lambda: "vllm-qwen3" in running.shell.run("tmux", "ls").stdout, 20, "no session")
    assert running.server() == before
    assert status(running)["state"] == "ready"
    wait_for(lambda: "INFO" in running.shell.run("tmux", "capture-pane", "-p", "-t", "vllm-qwen3").stdout, 10, "no log")
    measured(f"kill -9 of the tmux server: a session again after {took:.0f} s")


def test_attach_shows_the_log_and_detaching_changes_nothing(running: Deployment) -> None:
    before = running.server()
    child = pexpect.spawn(
        str(running.shell.root / "inv"), ["tmux-attach"], env=running.shell.environ(TERM="xterm"), encoding="utf-8"
    )
    child.expect("INFO", timeout=20 * BUSY)
    child.send("\x02d")
    child.expect(pexpect.EOF, timeout=20 * BUSY)
    assert running.server() == before
    assert status(running)["state"] == "ready"


def test_closing_the_session_ends_everything(running: Deployment, measured: Callable[[str], None]) -> None:
    running.shell.run("tmux", "kill-session", "-t", "vllm-qwen3")
    took = wait_for(lambda: not running.processes(), 60, "something is left")
    assert not listening(running.port)
    assert status(running)["state"] == "stopped"
    measured(f"kill-session: all gone after {took:.0f} s")


def test_ctrl_c_in_the_session_stops_it_for_good(running: Deployment) -> None:
    running.shell.run("tmux", "send-keys", "-t", "vllm-qwen3", "C-c")
    wait_for(lambda: not running.processes(), 60, "something is left")
    time.sleep(3)
    assert not running.processes()
    assert not listening(running.port)


def test_a_hung_engine_and_a_start_that_hangs_are_ended(running: Deployment, measured: Callable[[str], None]) -> None:
    """SIGSTOP of the engine, then SIGTERM to the next instance while it warms up, which vLLM answers by hanging."""
    shell = running.shell
    assert shell.inv("stop", timeout=120).returncode == 0
    short = {"RUNBOOK_HANG_SECONDS": 15, "RUNBOOK_SILENT_SECONDS": 15}
    assert shell.inv("tmux-start", timeout=300, **short).returncode == 0
    old = status(running)["pid"]
    os.kill(min(running.server("VLLM::EngineCore")), signal.SIGSTOP)
    began = time.monotonic()
    threading.Thread(target=running.complete, args=(1,), daemon=True).start()
    wait_for(lambda: status(running)["pid"] not in (old, None), 120, "the hung server was left alone")
    measured(f"SIGSTOP of the engine: ended and started anew after {time.monotonic() - began:.0f} s")
    wait_for(lambda: status(running)["phase"] == "checking the model", 60, "it does not start")
    old = status(running)["pid"]
    os.kill(old, signal.SIGTERM)
    took = ready_again(running, old)
    measured(f"SIGTERM while it warms up: ready after {took:.0f} s")
    log = (running.base / "logs/vllm.log").read_text("utf-8")
    assert "==== requests are open, and not one token came for 15 s" in log


def test_stop_lets_requests_end_and_gives_the_memory_back(running: Deployment) -> None:
    with running.in_flight() as answers:
        done = running.shell.inv("stop", timeout=120)
    assert done.returncode == 0, done.stderr
    assert answers == [200], "a request in flight gets its time"
    freed = re.search(r"(\d+\.\d) GiB of RAM are free again", done.stdout)
    assert freed
    assert float(freed[1]) > 2
    wait_for(lambda: not running.processes(), 5, "something is left")
    assert not listening(running.port)


def test_stop_after_the_supervisor_was_killed(running: Deployment) -> None:
    os.kill(supervisor(running), signal.SIGKILL)
    done = running.shell.inv("stop", timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    time.sleep(3)
    wait_for(lambda: not running.processes(), 5, "something is left")
    assert not listening(running.port)


def test_a_server_that_can_no_longer_start_ends_as_failed_with_the_reason(
    running: Deployment, measured: Callable[[str], None]
) -> None:
    config, aside = running.model / "config.json", running.model / "config.json.aside"
    before = status(running)
    config.rename(aside)
    try:
        os.kill(before["pid"], signal.SIGKILL)
        took = wait_for(lambda: status(running)["state"] == "failed", 180, "it goes on trying")
    finally:
        aside.rename(config)
    found = status(running)
    assert found["restarts"] == before["restarts"] + 3
    assert "config.json" in found["phase"], found
    wait_for(lambda: not running.processes(), 30, "something is left")
    assert not listening(running.port)
    measured(f"three starts in vain: failed after {took:.0f} s")


def test_a_port_thief_between_check_and_start(running: Deployment, measured: Callable[[str], None]) -> None:
    """The port is free when it is looked at, and taken before vLLM binds it, some ten seconds later."""
    assert running.shell.inv("stop", timeout=120).returncode == 0
    start = subprocess.Popen(
        [running.shell.root / "inv", "tmux-start"],
        env=running.shell.environ(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_for(lambda: bool(running.server("/vllm serve ")), 60, "it does not start")
    with socket.create_server(("0.0.0.0", running.port)):
        began = time.monotonic()
        output = start.communicate(timeout=120 * BUSY)[0]
        took = time.monotonic() - began
        assert start.returncode == 1
        assert "E14 " in output, output
        assert "Address already in use" in output
        found = status(running)
        assert found["state"] == "failed"
        assert "Address already in use" in found["phase"]
        assert not running.server()
    measured(f"a port thief: told after {took:.0f} s")


def test_a_full_log_disk_stops_nothing(running: Deployment, tmp_path: Path) -> None:
    shell = running.shell
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", disk], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount")
    try:
        assert shell.inv("stop", timeout=120).returncode == 0
        with contextlib.suppress(OSError), (disk / "ballast").open("wb", buffering=0) as file:
            while file.write(b"x" * 512):
                pass
        done = shell.inv("tmux-start", timeout=300, LOG_DIR=disk)
        assert done.returncode == 0, done.stdout + done.stderr
        assert running.complete(2) == 200
        assert shell.inv("stop", timeout=120, LOG_DIR=disk).returncode == 0
        assert not running.processes()
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_two_servers_side_by_side(running: Deployment, free_port: Callable[[], int], tmp_path: Path) -> None:
    env = tmp_path / "second.env"
    port = free_port()
    env.write_text(f"BASE_DIR='{running.base}'\nPORT={port}\nTMUX_SESSION=second\nAPI_KEY=second-key\n")
    settings = {key: value for key, value in running.shell.settings.items() if key not in ("BASE_DIR", "PORT")}
    second = Shell(running.shell.home, running.shell.root, {**settings, "ENV_FILE": env})
    shared = second.inv("tmux-start", timeout=60)
    assert shared.returncode == 1
    assert "E39 " in shared.stderr, shared.stdout + shared.stderr
    env.write_text(env.read_text() + f"LOG_DIR='{running.base}/logs/second'\n")
    before = running.server()
    try:
        done = second.inv("tmux-start", timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        first = running.server("/vllm serve ")
        assert len(first) == 2, "both are up"
        assert running.shell.inv("stop", timeout=120).returncode == 0
        assert not before & running.server()
        answer = httpx.get(
            f"http://127.0.0.1:{port}/v1/models", headers={"Authorization": "Bearer second-key"}, trust_env=False
        )
        assert answer.status_code == 200, "the second knows nothing of it"
    finally:
        assert second.inv("stop", timeout=120).returncode == 0
    assert not running.processes()


def routes(server: Deployment) -> Iterator[tuple[str, str]]:
    """(method, path) of every route that the running server has said it has."""
    log = (server.base / "logs/vllm.log").read_text("utf-8")
    for path, methods in re.findall(r"Route: (\S+), Methods: ([A-Z, ]+)", log):
        for method in methods.split(", "):
            yield method.strip(), path.replace("{", "x").replace("}", "x").replace(":path", "")


def raw(port: int, method: str, path: str, headers: dict[str, str]) -> int:
    """The status of a request whose path goes out exactly as it is."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20 * BUSY)
    connection.putrequest(method, path, skip_accept_encoding=True)
    for key, value in headers.items():
        connection.putheader(key, value)
    connection.endheaders()
    code = connection.getresponse().status
    connection.close()
    return code


def test_every_route_asks_for_the_key(running: Deployment, measured: Callable[[str], None]) -> None:
    known = set(routes(running))
    assert len({path for _, path in known}) > 15, known
    tricks = ["//v1/models", "/V1/Models", "/v1/models/", "/v1/%6dodels", "/health/", "//health", "/health/../metrics"]
    tricks += ["/health%2f..%2fmetrics", "/health;x", "/Health", "/./metrics", "/%2e/metrics", "/nothing", "/docs", "*"]
    tricks += ["/redoc", "/openapi.json", "/metrics?x=/health", "/invocations#/health", f"/v1/models?key={running.key}"]
    calls = known | {(method, path) for path in tricks for method in ("GET", "POST", "PUT", "OPTIONS", "DELETE")}
    wrong = {"Authorization": "Bearer wrong"}
    spoofed = {"X-Forwarded-For": "127.0.0.1", "X-Original-URL": "/health", "Authorization": f"Basic {running.key}"}
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    upgrade |= {"Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="}
    for headers in ({}, wrong, spoofed):
        found = {(method, path): raw(running.port, method, path, headers) for method, path in calls}
        closed = {call: code for call, code in found.items() if code != 401}
        assert set(closed) <= {("GET", "/health"), ("HEAD", "/health")}, closed
    for path in ("/v1/realtime", "/health", "/nothing"):
        assert raw(running.port, "GET", path, upgrade) in (401, 403)
    assert raw(running.port, "GET", "/health", {}) == 200
    key = {"Authorization": f"Bearer {running.key}"}
    assert raw(running.port, "GET", "/v1/models", key) == 200
    assert raw(running.port, "GET", "/metrics", key) == 200
    assert raw(running.port, "GET", "/docs", key) == 404
    measured(f"{len(calls)} calls, each without a key, with a wrong one and with tricks")


def resources(server: Deployment) -> Counter[str]:
    """Processes and open files of the server."""
    found: Counter[str] = Counter()
    for pid in server.server():
        with contextlib.suppress(psutil.Error):
            found["processes"] += 1
            found["files"] += psutil.Process(pid).num_fds()
    return found


def test_an_idle_connection_outlives_the_clients_patience(running: Deployment) -> None:
    """OpenAI's client keeps one for 5 seconds: the server, which would close it after 5 as well, keeps it longer."""
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=20)
    connection.request("GET", "/health")
    assert connection.getresponse().read() == b""
    used = connection.sock
    time.sleep(8)
    connection.request("GET", "/health")
    assert connection.getresponse().status == 200
    assert connection.sock is used, "closed by the server, and opened again"
    connection.close()


def test_two_thousand_requests_of_all_kinds(running: Deployment, measured: Callable[[str], None]) -> None:
    """Valid, cut off by the client, malformed, oversized, without a key: no valid one is lost, nothing grows."""
    url, key = f"http://127.0.0.1:{running.port}", {"Authorization": f"Bearer {running.key}"}
    for _ in range(3):
        assert running.complete(2) == 200
    before, seen = resources(running), Counter[str]()

    async def one(client: httpx.AsyncClient, number: int, gate: asyncio.Semaphore) -> None:
        body = {"model": NAME, "prompt": f"Number {number}", "max_tokens": 2, "ignore_eos": True}
        kind = ["valid", "valid", "valid", "valid", "cut", "malformed", "oversized", "keyless"][number % 8]
        async with gate:
            if kind == "valid":
                reply = await client.post("/v1/completions", json=body, headers=key)
                seen[f"{kind} {reply.status_code}"] += 1
            elif kind == "cut":
                with contextlib.suppress(httpx.TimeoutException):
                    body |= {"max_tokens": 500, "stream": True}
                    await client.post("/v1/completions", json=body, headers=key, timeout=0.05)
                seen["cut"] += 1
            elif kind == "malformed":
                content = [b"{", b"", b'{"model": 1}', b"\xff\xfe", b"[" * 10000][number // 8 % 5]
                json_type = {**key, "Content-Type": "application/json"}
                reply = await client.post("/v1/completions", content=content, headers=json_type)
                seen[f"{kind} {reply.status_code // 100}xx"] += 1
            elif kind == "oversized":
                announced = {**key, "Content-Length": str(40 << 20)}
                code = await asyncio.to_thread(raw, running.port, "POST", "/v1/completions", announced)
                seen[f"{kind} {code}"] += 1
            else:
                reply = await client.post("/v1/completions", json=body)
                seen[f"{kind} {reply.status_code}"] += 1

    async def everything() -> None:
        gate = asyncio.Semaphore(24)
        async with httpx.AsyncClient(base_url=url, timeout=300, trust_env=False) as client:
            await asyncio.gather(*(one(client, number, gate) for number in range(2000)))

    began = time.monotonic()
    asyncio.run(everything())
    took = time.monotonic() - began
    assert seen["valid 200"] == 1000, seen
    assert seen["keyless 401"] == 250, seen
    assert seen["oversized 413"] == 250, seen
    assert seen["malformed 4xx"] == 250, seen
    wait_for(lambda: resources(running)["files"] <= before["files"] + 20, 60, f"{before} → {resources(running)}")
    assert resources(running)["processes"] == before["processes"]
    assert running.complete(2) == 200
    measured(f"2000 requests in {took:.0f} s: {dict(seen)}; {dict(before)} → {dict(resources(running))}")


@pytest.mark.smoke
def test_logs_and_status_tell_of_it(running: Deployment) -> None:
    found = status(running)
    assert list(found) == [
        "state",
        "phase",
        "pid",
        "port",
        "base_url",
        "models",
        "profile",
        "restarts",
        "uptime_s",
        "log",
        "other_machines",
    ]
    assert found["models"] == [NAME, str(running.model)]
    assert found["base_url"] == f"http://127.0.0.1:{running.port}/v1"
    assert found["log"] == str(running.base / "logs" / MACHINE / "vllm.log")
    assert "就绪" in running.shell.inv("status", RUNBOOK_LANG="zh").stdout
    assert "Application startup complete" in running.shell.inv("logs").stdout
    assert "Application startup complete" not in running.shell.inv("logs", "--errors").stdout
    assert not running.shell.inv("logs", "--since", "1s").stdout.count("\n") > 200
