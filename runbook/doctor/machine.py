"""Look at the machine for what a log does not tell: port, processes, disks, limits, GPU, kernel log, variables."""

import os
import re
import resource
import shutil
import subprocess
from pathlib import Path

from runbook.machine.gpus import look
from runbook.machine.memory import GIB
from runbook.messages import tr

KILLED = re.compile(
    r"Out of memory: Killed process|Memory cgroup out of memory|NVRM: Xid|traps: python|VLLM.* segfault at"
)
SERVER = re.compile(r"(?i)vllm|python|Xid")
# Variables that reach the server and change what it loads or where it writes.
LOADING = ("LD_LIBRARY_PATH", "LD_PRELOAD", "PYTHONHOME", "CUDA_VISIBLE_DEVICES", "CUDA_HOME")
LEAST = 1024  # threads or open files; fewer are not enough for vLLM's processes


def on_this_machine() -> list[tuple[str, str, dict[str, str]]]:
    """Return (code, evidence, values) of the machine's faults: a port, leftovers of a crash, a full disk, no GPU."""
    found: list[tuple[str, str, dict[str, str]]] = []
    port, own, owner = os.environ["PORT"], os.environ.get("SERVER_PIDS", ""), os.environ.get("PORT_OWNER")
    if not own and owner:
        zh = f"端口 {port} 由 {owner} 监听，而本服务没有运行"
        found.append(("E07", tr(zh, f"port {port} is held by {owner}, and this server is not running"), {}))
    if os.environ.get("LEFTOVERS"):
        zh = f"进程 {own} 带有本服务的标记，其中没有 vllm serve"
        en = f"processes {own} carry this server's mark, and none of them is vllm serve"
        found.append(("E67", tr(zh, en), {"pids": own}))
    for directory in (Path(os.environ["BASE_DIR"]), Path(os.environ.get("TMPDIR", "/tmp")), Path("/dev/shm")):
        there = next(one for one in (directory, *directory.parents) if one.exists())
        if (free := shutil.disk_usage(there).free) < GIB / 10:
            zh = f"{there} 所在磁盘只剩 {free // 2**20} MiB"
            found.append(("E62", tr(zh, f"{free // 2**20} MiB are left on the disk of {there}"), {}))
            break
    if os.environ["PROFILE"] == "gpu" and not look().gpus:
        found.append(("E24", tr("nvidia-smi 没有列出任何 GPU", "nvidia-smi lists no GPU"), {}))
    return found


def kernel_line() -> str:
    """Return the newest line of the kernel's log that tells of the end of a process of the server; else empty."""
    try:
        done = subprocess.run(["dmesg"], capture_output=True, text=True, errors="replace", timeout=5, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    lines = [line for line in done.stdout.splitlines()[-5000:] if KILLED.search(line) and SERVER.search(line)]
    return lines[-1] if lines else ""


def circumstances() -> list[str]:
    """Return what may explain an end that the log does not: the kernel, limits, shared memory, variables."""
    found = []
    if line := kernel_line():
        found.append(tr("内核日志：", "kernel log: ") + line[:200])
    for what, limit in (("ulimit -u", resource.RLIMIT_NPROC), ("ulimit -n", resource.RLIMIT_NOFILE)):
        soft = resource.getrlimit(limit)[0]
        if soft != resource.RLIM_INFINITY and soft < LEAST:
            found.append(f"{what}: {soft}")
    if Path("/dev/shm").is_dir() and (size := shutil.disk_usage("/dev/shm").total) < GIB:
        found.append(f"/dev/shm: {size // 2**20} MiB")
    found += [f"{name}={os.environ[name]}"[:200] for name in LOADING if os.environ.get(name)]
    return found
