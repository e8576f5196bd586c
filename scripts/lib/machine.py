"""What this machine has for a model: its cards, its memory, who holds them, what is this server's. Reads only.

Facts about cards come from `nvidia-smi` on the PATH and from nowhere else. All sizes are in bytes.
"""

import os
import pwd
import re
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from shutil import which

from words import text

GIB = 2**30
# No card has confirmed these two: CUDA's own context is gone before vLLM measures, and CUDA reports less than
# nvidia-smi does (A100: 39.4 of 40.0 GiB, A10: 22.0 of 22.5 GiB).
CUDA_CONTEXT = GIB // 2
CUDA_SEES = 0.985


class UnknownError(Exception):
    """There is no plan, and this is why: one sentence for the reader."""


@dataclass(frozen=True)
class Memory:
    """Where the model may go, as vLLM sees it: one card, several (of the fullest one the numbers), or the RAM ('')."""

    cards: str
    total: int
    free: int

    @property
    def count(self) -> int:
        return len(self.cards.split(","))

    def __str__(self) -> str:
        return text("plan.card", cards=self.cards) if self.cards else text("plan.ram")


def together(cards: list[Memory]) -> Memory:
    """Several cards as one place; the fullest sets the limit."""
    return Memory(",".join(card.cards for card in cards), min(c.total for c in cards), min(c.free for c in cards))


def gib(size: float) -> str:
    return f"{size / GIB:.2f} GiB" if size < 10 * GIB else f"{size / GIB:.1f} GiB"


def smi(query: str) -> list[list[str]]:
    """Rows of `nvidia-smi --query-…=… --format=csv,noheader,nounits`; none where it does not answer."""
    try:
        done = subprocess.run(
            ["nvidia-smi", query, "--format=csv,noheader,nounits"], capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [[part.strip() for part in line.split(",")] for line in done.stdout.splitlines()] * (not done.returncode)


def holders(skip: set[int]) -> dict[str, list[tuple[int, int]]]:
    """Who holds memory on which card: {card: [(bytes, pid), …]}, most first; nothing of the processes to skip."""
    index = {row[1]: row[0] for row in smi("--query-gpu=index,uuid") if len(row) == 2}
    found: dict[str, list[tuple[int, int]]] = {}
    for row in smi("--query-compute-apps=gpu_uuid,pid,used_memory"):
        if len(row) == 3 and row[0] in index and row[1].isdigit() and row[2].isdigit() and int(row[1]) not in skip:
            found.setdefault(index[row[0]], []).append((int(row[2]) * 2**20, int(row[1])))
    return {card: sorted(rows, reverse=True) for card, rows in found.items()}


def owner(pid: int) -> str:
    """Whose process and which, as far as this user may know."""
    try:
        user = pwd.getpwuid(Path(f"/proc/{pid}").stat().st_uid).pw_name
        return f"{user}, {Path(f'/proc/{pid}/comm').read_text().strip()}"
    except (OSError, KeyError):
        return "?"


def ours() -> set[int]:
    """The processes of this very server: what they hold is free when it starts anew."""
    mark, found = f"RUNBOOK_SERVER={os.environ['BASE_DIR']}/run/{os.environ['TMUX_SESSION']}".encode(), set()
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in path.read_bytes().split(b"\0"):
                found.add(int(path.parent.name))
        except OSError:
            continue
    return found


def read_cards(own: set[int]) -> list[Memory]:
    """Every card that vLLM could use, as CUDA will see it; what this server holds counts as free."""
    rows = smi("--query-gpu=index,memory.total,memory.free,mig.mode.current")
    split = [row[0] for row in rows if row[-1] == "Enabled"]
    held = Counter[str]()
    for card, found in (holders(set()) if own else {}).items():
        held[card] = sum(size for size, pid in found if pid in own)
    cards = []
    for row in rows:
        if len(row) == 4 and row[1].isdigit() and row[2].isdigit() and row[0] not in split:
            total, free = int(int(row[1]) * 2**20 * CUDA_SEES), int(row[2]) * 2**20 + held[row[0]]
            cards.append(Memory(row[0], total, max(min(free - CUDA_CONTEXT, total), 0)))
    if cards:
        return cards
    if split:
        raise UnknownError(text("plan.mig"))
    raise UnknownError(text("plan.no-memory", seen="; ".join(", ".join(row) for row in rows)[:200] or "-"))


def read_ram(own: set[int]) -> Memory:
    """The memory that vLLM's CPU build goes by: that of NUMA node 0, or the container's limit where that is less."""
    node = Path("/sys/devices/system/node/node0/meminfo")
    lines = (node if node.exists() else Path("/proc/meminfo")).read_text().replace("Node 0 ", "").splitlines()
    value = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
    total = value["MemTotal"]
    free = sum(value[key] for key in ("MemFree", "Active(file)", "Inactive(file)", "SReclaimable"))
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        path = Path("/sys/fs/cgroup") / limit
        if path.exists() and path.read_text().strip().isdigit() and int(path.read_text()) < total:
            total = int(path.read_text())
            free = min(free, total - int((path.parent / Path(used).name).read_text()))
    for pid in own:
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            continue
        free += sum(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon"))
    return Memory("", total, min(free, total))


def leftovers(own: set[int]) -> bool:
    """Whether these processes of the server have no API server among them: a crash has left them."""

    def words(pid: int) -> bytes:
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return b""

    return bool(own) and not any(b"serve" in words(pid) for pid in own)


def listener(port: str) -> str:
    """Who listens on the port, as far as this user may see it; empty for nobody."""
    if not which("ss"):
        return ""
    done = subprocess.run(["ss", "-Hlntp", f"sport = :{port}"], capture_output=True, text=True)
    owners = re.findall(r'"([^"]+)",pid=(\d+)', done.stdout)
    if done.stdout.strip() and not owners:
        return text("machine.stranger")
    return ", ".join(f"{name} (pid {pid})" for name, pid in dict.fromkeys(owners))


def holder(port: str) -> dict[str, str]:
    """What the port's fault names: who holds it, and the next port that nobody holds."""
    other = next(str(free) for free in range(int(port) + 1, 65536) if not listener(str(free)))
    return {"owner": listener(port) or text("machine.nobody"), "other": other}
