"""The GPUs of this machine as nvidia-smi reports them, and why there is none. All sizes are in bytes. Reads only.

Usage: python -m runbook.machine.gpus profile|listed. `profile` prints gpu or cpu; `listed` has exit code 1 if
nvidia-smi lists no GPU.
"""

import os
import pwd
import re
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from runbook.machine.memory import GIB
from runbook.messages import run, tr

LIMIT = 60  # seconds: with many GPUs and without persistence mode nvidia-smi takes half a minute
WSL = "/usr/lib/wsl/lib/nvidia-smi"  # not on the PATH of every shell
# A CUDA context takes its memory before vLLM measures what is free: 526 MiB on an H200 with driver 580.
CONTEXT = GIB // 2
# CUDA reports the total less what is reserved, to the MiB on that H200; without that value (A100: 39.4 of 40.0 GiB).
CUDA_SEES = 0.985
FIELDS = (
    "index,uuid,name,driver_version,memory.total,memory.free,memory.reserved,compute_cap,mig.mode.current,compute_mode"
)
OLD_FIELDS = "index,uuid,name,driver_version,memory.total,memory.free"  # of drivers before 470
PROC, DEV, PCI = Path("/proc/driver/nvidia"), Path("/dev"), Path("/sys/bus/pci/devices")


@dataclass(frozen=True)
class Gpu:
    """A GPU, or an instance of a GPU that MIG divides. total, free: 0 if they are unknown; capability too."""

    index: str  # as in CUDA_VISIBLE_DEVICES: the index in nvidia-smi, or the UUID of a MIG instance
    uuid: str
    name: str
    driver: str = ""
    capability: float = 0
    total: int = 0
    free: int = 0
    mode: str = "Default"  # the compute mode
    unified: bool = False  # it uses the RAM


@dataclass(frozen=True)
class Seen:
    """What nvidia-smi lists. trouble: what is wrong, with what to do; empty if nothing is."""

    gpus: tuple[Gpu, ...] = ()
    trouble: str = ""
    todo: str = ""


@cache
def ask(*words: str) -> tuple[int, str]:
    """Return nvidia-smi's exit code and output, with progress after two seconds; 127: not found, 124: after LIMIT."""
    program, waiting = "nvidia-smi", 0
    path = os.environ.get("PATH", os.defpath).split(os.pathsep)
    if not any(os.access(os.path.join(place, program), os.X_OK) for place in path) and os.access(WSL, os.X_OK):
        program = WSL
    try:
        asked = subprocess.Popen([program, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    except OSError:
        return 127, ""
    until = time.monotonic() + LIMIT
    while time.monotonic() < until:
        try:
            output, _ = asked.communicate(timeout=2)
            return asked.returncode, output.decode(errors="replace")
        except subprocess.TimeoutExpired:
            waiting += 2
            if waiting in (2, 10, 30):
                text = tr(f"    等待 nvidia-smi：{waiting} s", f"    waiting for nvidia-smi: {waiting} s")
                print(text, file=sys.stderr, flush=True)
    asked.kill()
    asked.communicate()
    return 124, ""


def rows(output: str, fields: str) -> dict[str, dict[str, str]]:
    """Return {uuid: {field: value}} of the output of --query-gpu; other lines, as about a lost GPU, are not rows."""
    names, found = fields.split(","), {}
    for line in output.splitlines():
        values = [value.strip() for value in line.split(",")]
        if len(values) == len(names) and values[0].isdigit():
            found[values[1]] = dict(zip(names, values, strict=True))
    return found


def query(*which: str) -> tuple[int, str, dict[str, dict[str, str]]]:
    """Return (exit code, output, rows) of a query for every field that this nvidia-smi knows."""
    code, output, found = 1, "", dict[str, dict[str, str]]()
    for fields in (FIELDS, OLD_FIELDS):
        code, output = ask(*which, f"--query-gpu={fields}", "--format=csv,noheader,nounits")
        if (found := rows(output, fields)) or "valid field" not in output:
            break
    return code, output, found


def mib(text: str) -> int:
    """Return the bytes of a number of MiB; 0 if it is none, such as [N/A]."""
    return int(text) * 2**20 if text.isdigit() else 0


def sizes(row: dict[str, str]) -> tuple[int, int, bool]:
    """Return (total, free, whether it is the RAM) of a row, as CUDA reports them; 0, 0 if they are unknown."""
    total, free = mib(row["memory.total"]), mib(row["memory.free"])
    if not total and row["memory.total"].strip("[]") in ("N/A", "Not Supported"):  # GB10, Thor: vLLM counts the RAM
        pairs = (line.split()[:2] for line in Path("/proc/meminfo").read_text().splitlines())
        ram = {key.rstrip(":"): int(size) * 1024 for key, size in pairs}
        return ram["MemTotal"], max(ram["MemAvailable"] - CONTEXT, 0), True
    reserved = row.get("memory.reserved", "")
    seen = total - mib(reserved) if reserved.isdigit() and int(reserved) else int(total * CUDA_SEES)
    return seen, max(min(free - CONTEXT, seen), 0), False


def instances(gpu: Gpu, listing: str) -> list[Gpu]:
    """Return the MIG instances of a GPU: their UUIDs from the listing, their memory from nvidia-smi's table.

    Without a row in the table, the name gives the size: 2g.20gb; what is free of it is unknown, so all of it.
    """
    table = {
        (row[1], row[2]): (mib(row[3]), mib(row[4]))
        for row in re.finditer(r"\|\s*(\d+)\s+\d+\s+\d+\s+(\d+)\s*\|\s*(\d+)MiB\s*/\s*(\d+)MiB", ask()[1])
    }
    found, owner = [], ""
    for line in listing.splitlines():
        if whole := re.match(r"GPU (\d+): ", line):
            owner = whole[1]
        part = re.match(r"\s+MIG (\S+)\s+Device\s+(\d+): \(UUID: (\S+)\)", line)
        if part and owner == gpu.index:
            size = re.search(r"(\d+)gb", part[1])
            used, total = table.get((owner, part[2]), (0, int(size[1]) * GIB if size else 0))
            free = max(total - used - CONTEXT, 0)
            name = f"{gpu.name} MIG {part[1]}"
            found.append(replace(gpu, index=part[3], uuid=part[3], name=name, total=total, free=free))
    return found


def words_of(output: str) -> str:
    """Return what nvidia-smi says besides its list: its first line that is no GPU."""
    lines = (line.strip() for line in output.splitlines() if not re.match(r"GPU \d+:|\s+MIG ", line))
    return next((line for line in lines if line and not re.match(r"\d+, ", line)), "")


def remedy(words: str) -> str:
    """Return what to do about an error of nvidia-smi."""
    for pattern, zh, en in (
        (
            "mismatch",
            "驱动已更新而内核模块还是旧的：重启机器，或在没有程序使用 GPU 时重新加载：sudo rmmod nvidia_uvm nvidia_drm "
            "nvidia_modeset nvidia && sudo modprobe nvidia",
            "The driver was updated, but the kernel still runs the old one: reboot, or reload it while no program uses "
            "the GPU: sudo rmmod nvidia_uvm nvidia_drm nvidia_modeset nvidia && sudo modprobe nvidia",
        ),
        (
            "device handle|lost|fallen off|Unknown Error",
            "这张 GPU 没有响应：查看 sudo dmesg | grep -i xid，通常需要重启机器",
            "That GPU does not answer: see sudo dmesg | grep -i xid; most often only a reboot helps",
        ),
        (
            "communicate with the NVIDIA driver|Driver Not Loaded",
            "驱动没有加载：执行 sudo modprobe nvidia；内核升级后请重新安装驱动；在容器中请用 --gpus all 启动",
            "The driver is not loaded: sudo modprobe nvidia; after a kernel update install the driver again; start a "
            "container with --gpus all",
        ),
        (
            "Permission",
            "当前用户无权使用 GPU：ls -l /dev/nvidia* 会显示需要的组",
            "This user may not use the GPU: ls -l /dev/nvidia* shows the group that may",
        ),
    ):
        if re.search(pattern, words, re.IGNORECASE):
            return tr(zh, en)
    return tr("请运行 nvidia-smi 检查驱动", "Run nvidia-smi to check the driver")


def signs() -> str:
    """Return the first sign of an NVIDIA GPU besides nvidia-smi: its device, driver or PCI entry; else nothing."""
    for path in (*sorted(DEV.glob("nvidia[0-9]*")), *sorted(PROC.glob("gpus/*")), Path(WSL)):
        if path.exists():
            return str(path)
    for path in sorted(PCI.glob("*")):
        try:
            vendor, kind = ((path / name).read_text().strip() for name in ("vendor", "class"))
        except OSError:
            continue
        if vendor == "0x10de" and kind.startswith("0x03"):  # NVIDIA; display and 3D controllers
            return f"PCI {path.name}"
    return ""


@cache
def look() -> Seen:
    """Return the GPUs that nvidia-smi lists, and what is wrong with it."""
    code, output, found = query()
    if code == 127:
        sign = signs()
        return (
            Seen()
            if not sign
            else Seen(
                (),
                tr(f"找到了 {sign}，但没有 nvidia-smi", f"{sign} is there, but nvidia-smi is not"),
                tr(
                    "安装 NVIDIA 驱动（580 以上，含 nvidia-smi）或把它所在的目录加入 PATH；"
                    "在容器中请用 --gpus all 启动；不用 GPU 时设置 PROFILE=cpu",
                    "Install the NVIDIA driver (580 or newer, with nvidia-smi) or add its directory to PATH; start a "
                    "container with --gpus all; to leave the GPU unused set PROFILE=cpu",
                ),
            )
        )
    if code == 124:
        return Seen(
            (),
            tr(f"nvidia-smi 在 {LIMIT} 秒内没有回答", f"nvidia-smi did not answer within {LIMIT} s"),
            tr(
                "请打开持久模式（sudo nvidia-smi -pm 1）后重试；如果仍然没有回答，重启机器",
                "Switch persistence mode on (sudo nvidia-smi -pm 1) and try again; if it still hangs, reboot",
            ),
        )
    whole, listing = ask("-L")
    said = words_of(output) if code or not found else words_of(listing) if whole else ""
    gpus = []
    for index, name, uuid in re.findall(r"^GPU (\d+): (.+) \(UUID: (\S+)\)", listing, re.MULTILINE):
        row = found.get(uuid)
        if row is None and code:  # a lost GPU spoils the query for all
            row = query("-i", uuid)[2].get(uuid)
        gpu = Gpu(index, uuid, name)
        if row is None:
            gpus.append(gpu)
            continue
        able = row.get("compute_cap", "")
        capability = float(able) if re.fullmatch(r"\d+\.\d+", able) else 0
        total, free, unified = sizes(row)
        mode = row.get("compute_mode", "Default")
        gpu = Gpu(index, uuid, name, row["driver_version"], capability, total, free, mode, unified)
        gpus += instances(gpu, listing) if row.get("mig.mode.current") == "Enabled" else [gpu]
    if not gpus and not said:
        said = words_of(listing) or tr("没有列出任何 GPU", "it lists no GPU")
    if not said:
        return Seen(tuple(gpus))
    return Seen(tuple(gpus), f"nvidia-smi: {said[:200]}", remedy(said))


def given() -> list[str] | None:
    """Return the GPUs that CUDA_VISIBLE_DEVICES gives to this user, as a scheduler does; None if it is not set."""
    value = os.environ.get("CUDA_VISIBLE_DEVICES")
    return None if value is None else [one.strip() for one in value.split(",") if one.strip()]


def is_named(gpu: Gpu, name: str) -> bool:
    """Return whether the name in CUDA_VISIBLE_DEVICES or GPU means this GPU: an index, or the beginning of a UUID."""
    return name == gpu.index or (len(name) > 4 and gpu.uuid.startswith(name))


@cache
def holders() -> tuple[tuple[str, int, int], ...]:
    """Return (UUID, pid, bytes) of every process that uses a GPU; 0 bytes if nvidia-smi does not say how many."""
    _, output = ask("--query-compute-apps=gpu_uuid,pid,used_memory", "--format=csv,noheader,nounits")
    parts = ([value.strip() for value in line.split(",")] for line in output.splitlines())
    return tuple((row[0], int(row[1]), mib(row[2])) for row in parts if len(row) == 3 and row[1].isdigit())


def held(gpu: Gpu, own: set[int], ours: bool) -> list[tuple[int, int]]:
    """Return (bytes, pid) of the processes on a GPU, the largest first: those in `own`, or all others."""
    return sorted(
        ((size, pid) for uuid, pid, size in holders() if uuid == gpu.uuid and (pid in own) is ours), reverse=True
    )


def owner(pid: int) -> str:
    """Return the user and the name of a process, or "?" if this user may not read them."""
    try:
        user = pwd.getpwuid(Path(f"/proc/{pid}").stat().st_uid).pw_name
        return f"{user}, {Path(f'/proc/{pid}/comm').read_text(errors='replace').strip()}"
    except (OSError, KeyError):
        return "?"


def server_pids() -> set[int]:
    """Return the pids of this server, found by the calling script: their memory is free at the next start."""
    return set(map(int, os.environ.get("SERVER_PIDS", "").split()))


def listed() -> bool:
    """Return whether nvidia-smi lists a GPU: one question, because every command asks it where PROFILE is auto."""
    return bool(re.search(r"^GPU \d+: ", ask("-L")[1], re.MULTILINE))


def profile() -> str:
    """Return `gpu` if nvidia-smi lists a GPU or there is any sign of one, else `cpu`.

    With signs but no usable GPU it is `gpu` too: the steps then say what is wrong, instead of serving on the CPU.
    """
    return "gpu" if listed() or look().trouble else "cpu"


def main() -> int:
    """Print the profile, or tell by the exit code whether a GPU is listed."""
    if sys.argv[1] == "listed":
        return 0 if listed() else 1
    print(profile())
    return 0


if __name__ == "__main__":
    run(main)
