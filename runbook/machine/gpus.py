"""The GPUs, their memory and the processes that use it. All sizes are in bytes. Reads only.

`nvidia-smi` on the PATH is the only source of facts about GPUs.
"""

import os
import pwd
import subprocess
from collections import Counter
from pathlib import Path

from runbook.machine.memory import GIB, Memory, UnknownError
from runbook.messages import tr

# Not confirmed on a GPU: the CUDA context is taken before vLLM measures the free memory, and CUDA reports less memory
# than nvidia-smi does (A100: 39.4 of 40.0 GiB, A10: 22.0 of 22.5 GiB).
CUDA_CONTEXT = GIB // 2
CUDA_SEES = 0.985


def query(what: str) -> list[list[str]]:
    """Return the rows of `nvidia-smi WHAT --format=csv,noheader,nounits`; no rows if it fails."""
    try:
        done = subprocess.run(
            ["nvidia-smi", what, "--format=csv,noheader,nounits"], capture_output=True, errors="replace", timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [[part.strip() for part in line.split(",")] for line in done.stdout.splitlines()] * (not done.returncode)


def holders(skip: set[int]) -> dict[str, list[tuple[int, int]]]:
    """Return {index of a GPU: [(bytes, pid), …]} of the processes that use it, the largest first, without `skip`."""
    index = {row[1]: row[0] for row in query("--query-gpu=index,uuid") if len(row) == 2}
    found: dict[str, list[tuple[int, int]]] = {}
    for row in query("--query-compute-apps=gpu_uuid,pid,used_memory"):
        if len(row) == 3 and row[0] in index and row[1].isdigit() and row[2].isdigit() and int(row[1]) not in skip:
            found.setdefault(index[row[0]], []).append((int(row[2]) * 2**20, int(row[1])))
    return {gpu: sorted(rows, reverse=True) for gpu, rows in found.items()}


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


def read_gpus(own: set[int]) -> list[Memory]:
    """Return every GPU that vLLM can use, as CUDA reports it; the memory of the processes in `own` counts as free.

    Raises UnknownError if nvidia-smi gives no sizes.
    """
    rows = query("--query-gpu=index,memory.total,memory.free,mig.mode.current")
    split = [row[0] for row in rows if row[-1] == "Enabled"]
    held = Counter[str]()
    for gpu, found in (holders(set()) if own else {}).items():
        held[gpu] = sum(size for size, pid in found if pid in own)
    gpus = []
    for row in rows:
        if len(row) == 4 and row[1].isdigit() and row[2].isdigit() and row[0] not in split:
            total, free = int(int(row[1]) * 2**20 * CUDA_SEES), int(row[2]) * 2**20 + held[row[0]]
            gpus.append(Memory(row[0], total, max(min(free - CUDA_CONTEXT, total), 0)))
    if gpus:
        return gpus
    if split:
        zh = "GPU 已用 MIG 切分，nvidia-smi 不给出各个实例的空闲显存"
        raise UnknownError(
            tr(zh, "The GPUs are split by MIG, and nvidia-smi does not give the free memory of the parts")
        )
    seen = "; ".join(", ".join(row) for row in rows)[:200] or "-"
    raise UnknownError(
        tr(f"nvidia-smi 没有给出显存大小（{seen}）", f"nvidia-smi does not give the GPU memory ({seen})")
    )
