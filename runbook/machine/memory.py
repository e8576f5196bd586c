"""Memory for a model: a GPU's, several GPUs', or the RAM. All sizes are in bytes. Reads only."""

from dataclasses import dataclass
from pathlib import Path

from runbook.messages import tr

GIB = 2**30


class UnknownError(Exception):
    """A value that the plan needs is not available; the message is one sentence for the reader."""


@dataclass(frozen=True)
class Memory:
    """Memory for a model, as vLLM sees it. `gpus`: an index, several joined by commas, or '' for the RAM."""

    gpus: str
    total: int
    free: int

    @property
    def count(self) -> int:
        """The number of GPUs; 1 for the RAM."""
        return len(self.gpus.split(","))

    def __str__(self) -> str:
        return f"GPU {self.gpus}" if self.gpus else tr("内存", "the RAM")


def together(gpus: list[Memory]) -> Memory:
    """Return several GPUs as one Memory; the GPU with the least memory sets the limit."""
    return Memory(",".join(gpu.gpus for gpu in gpus), min(gpu.total for gpu in gpus), min(gpu.free for gpu in gpus))


def gib(size: float) -> str:
    """Return a size in bytes as text in GiB."""
    return f"{size / GIB:.2f} GiB" if size < 10 * GIB else f"{size / GIB:.1f} GiB"


def read_ram(own: set[int]) -> Memory:
    """Return the RAM that vLLM's CPU build counts: NUMA node 0, or the container's limit if that is less.

    own: the pids of this server, whose memory counts as free.
    """
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
