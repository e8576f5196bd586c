"""Check that this machine can run RAGFlow v0.27, which is installed by its own instructions. Reads only.

Usage: python -m runbook.ragflow.preflight, with the settings in the environment. The requirements are those of the
documentation and the compose files of RAGFlow.
"""

import json
import os
import platform
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from runbook.machine.memory import GIB
from runbook.machine.table import Row, State, show
from runbook.messages import end_with_the_reader, run
from runbook.ragflow.client import send

CORES, RAM, DISK = 4, 16, 50  # RAM and disk in GiB
DOCKER, COMPOSE = (24, 0), (2, 26, 1)
MAP_COUNT = 262144  # memory maps of a process that Elasticsearch needs
PORTS = {80: "RAGFlow 的页面|RAGFlow's page", 9380: "RAGFlow 的接口|RAGFlow's API"}


def at_least(value: float, good: float, poor: float) -> State:
    """Return ok from `good` up, warn from `poor` up, else fail."""
    return "ok" if value >= good else "warn" if value >= poor else "fail"


def hardware(root: str) -> Iterator[Row]:
    """Check the processor, the RAM, and the disk of `root`, where Docker keeps its images."""
    arch, cores = platform.machine(), len(os.sched_getaffinity(0))
    x86 = arch in ("x86_64", "AMD64")
    yield Row(
        "cpu",
        at_least(cores, CORES, 2) if x86 else "fail",
        f"{arch}，{cores} 核（需要 x86_64，{CORES} 核以上）",
        f"{arch}, {cores} cores (x86_64 and {CORES} or more are needed)",
        "RAGFlow 的镜像只有 x86_64 版；核太少时解析文档很慢",
        "RAGFlow's images are for x86_64 only; with fewer cores, parsing is slow",
    )
    found = re.search(r"MemTotal: +(\d+)", Path("/proc/meminfo").read_text())
    ram = int(found[1]) / 2**20 if found else 0
    yield Row(
        "ram",
        at_least(ram, RAM * 0.95, RAM / 2),
        f"内存 {ram:.1f} GiB（需要 {RAM} GiB）",
        f"{ram:.1f} GiB of RAM ({RAM} are needed)",
        "内存不足时 Elasticsearch 会被系统结束；请换一台机器运行 RAGFlow",
        "With less, the system kills Elasticsearch: run RAGFlow on another machine",
    )
    free = shutil.disk_usage(root).free / GIB
    yield Row(
        "disk",
        at_least(free, DISK, DISK / 2),
        f"{root} 空闲 {free:.0f} GiB（需要 {DISK} GiB）",
        f"{free:.0f} GiB free in {root} ({DISK} are needed)",
        "请清理磁盘，或把 Docker 的数据目录移到别处（/etc/docker/daemon.json 的 data-root）",
        "Free some, or move Docker's directory (data-root in /etc/docker/daemon.json)",
    )


def asked(*words: str) -> tuple[bool, str]:
    """Return (whether a command succeeded, its first line of output or error)."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=20, errors="replace")
    except (OSError, subprocess.TimeoutExpired) as error:
        return False, str(error)
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    return done.returncode == 0, lines[0].strip() if lines else "-"


def version(text: str) -> tuple[int, ...]:
    """Return the version in a text as numbers; empty if it has none."""
    found = re.search(r"\d+(\.\d+)+", text)
    return tuple(map(int, found[0].split("."))) if found else ()


def docker() -> Iterator[Row]:
    """Check Docker, Compose, and where images come from."""
    if not shutil.which("docker"):
        zh, en = "没有安装", "it is not installed"
        todo_zh, todo_en = (
            "安装 Docker：https://docs.docker.com/engine/install/",
            "Install Docker: https://docs.docker.com/engine/install/",
        )
        yield Row("docker", "fail", zh, en, todo_zh, todo_en)
        return
    works, said = asked("docker", "version", "--format", "{{.Server.Version}}")
    todo_zh, todo_en = "启动或升级 Docker：", "Start or upgrade Docker: "
    command = "sudo systemctl enable --now docker"
    if "permission denied" in said:
        todo_zh, todo_en, command = (
            "把自己加入 docker 组后重新登录：",
            "Join the group docker: ",
            "sudo usermod -aG docker $USER",
        )
    yield Row(
        "docker",
        "ok" if works and version(said) >= DOCKER else "fail",
        f"{said}（需要 24 以上）",
        f"{said} (24 or newer is needed)",
        todo_zh + command,
        todo_en + command,
    )
    works, said = asked("docker", "compose", "version", "--short")
    yield Row(
        "compose",
        "ok" if works and version(said) >= COMPOSE else "fail",
        f"{said if works else '没有'}（需要 2.26.1 以上）",
        f"{said if works else 'none'} (2.26.1 or newer is needed)",
        "安装 Docker Compose 插件（软件包 docker-compose-plugin）",
        "Install the Compose plugin (package docker-compose-plugin)",
    )
    mirrors: list[str] = []
    with suppress(OSError, ValueError, AttributeError):
        mirrors = json.loads(Path("/etc/docker/daemon.json").read_text("utf-8")).get("registry-mirrors") or []
    yield Row(
        "images",
        "ok" if mirrors else "warn",
        f"Docker Hub 的镜像加速：{' '.join(mirrors) or '没有设置'}",
        f"mirrors of Docker Hub: {' '.join(mirrors) or 'none'}",
        "RAGFlow 自己的镜像有国内来源，Elasticsearch、MySQL、Redis、MinIO 仍来自 Docker Hub：在中国大陆请设置镜像加速",
        "RAGFlow's own image has mirrors in China; Elasticsearch, MySQL, Redis and MinIO come from Docker Hub: set "
        "registry-mirrors there",
    )


def kernel() -> Iterator[Row]:
    """Check the limit of memory maps."""
    found = int(Path("/proc/sys/vm/max_map_count").read_text())
    yield Row(
        "maps",
        "ok" if found >= MAP_COUNT else "fail",
        f"vm.max_map_count={found}（需要 {MAP_COUNT}）",
        f"vm.max_map_count={found} ({MAP_COUNT} is needed)",
        f"sudo sysctl -w vm.max_map_count={MAP_COUNT} ；并写入 /etc/sysctl.conf，否则重启后失效",
        f"sudo sysctl -w vm.max_map_count={MAP_COUNT} ; and put it into /etc/sysctl.conf for the next boot",
    )


def answers(url: str) -> bool:
    """Return whether RAGFlow answers at this address."""
    try:
        return send("GET", f"{url}/api/v1/system/ping", "-", timeout=5)[1].strip().strip(b'"') == b"pong"
    except Exception:  # whatever it is, it is not RAGFlow
        return False


def ports() -> Iterator[Row]:
    """Check the ports of RAGFlow's page and API."""
    running = answers("http://127.0.0.1:9380")
    for port, words in PORTS.items():
        zh, en = words.split("|")
        with socket.socket() as probe:
            probe.settimeout(2)
            taken = probe.connect_ex(("127.0.0.1", port)) == 0
        yield Row(
            f"port {port}",
            "fail" if taken and not running else "ok",
            f"{zh}：" + ("RAGFlow 正在使用" if running and taken else "已被别的程序占用" if taken else "空闲"),
            f"{en}: " + ("used by RAGFlow" if running and taken else "taken by another program" if taken else "free"),
            "在 RAGFlow 的 docker/.env 中换一个端口（SVR_WEB_HTTP_PORT、SVR_HTTP_PORT）",
            "Choose another port in RAGFlow's docker/.env (SVR_WEB_HTTP_PORT, SVR_HTTP_PORT)",
        )


def reach() -> Iterator[Row]:
    """Check that a container can reach this server."""
    host, port = os.environ["HOST"], os.environ["PORT"]
    closed = host.startswith("127.") or host in ("localhost", "::1")
    yield Row(
        "reach",
        "warn" if closed else "ok",
        f"HOST={host}" + ("：容器无法访问本服务" if closed else f"：容器用 http://host.docker.internal:{port}/v1 访问"),
        f"HOST={host}"
        + (
            ": a container cannot reach this server"
            if closed
            else f": a container uses http://host.docker.internal:{port}/v1"
        ),
        "让它只监听 Docker 网桥：HOST=172.17.0.1 ，然后 ./inv restart ；在登记时用 --base-url http://172.17.0.1:"
        + f"{port}/v1",
        f"Let it listen on Docker's bridge only: HOST=172.17.0.1 , then ./inv restart ; register with --base-url http://172.17.0.1:{port}/v1",
    )


def main() -> int:
    """Print the table. Return the exit code."""
    works, root = asked("docker", "info", "--format", "{{.DockerRootDir}}") if shutil.which("docker") else (False, "")
    place = root if works and Path(root).is_dir() else "/"
    rows = [*hardware(place), *kernel(), *docker(), *ports(), *reach()]
    end_with_the_reader()
    return show(rows)


if __name__ == "__main__":
    run(main)
