"""The GPUs as a plan sees them: who is on each, and what of it may be taken. All sizes are in bytes. Reads only."""

from dataclasses import dataclass, replace

from runbook.machine.gpus import Gpu, given, held, is_named, look
from runbook.machine.memory import GIB, Memory, UnknownError, gib
from runbook.messages import tr
from runbook.plan.rules import unusable
from runbook.plan.servers import Settings

KEEP = 2 * GIB  # stays free where somebody else uses the GPU
NOBODY = 3 * GIB // 2  # less than this in use by no named process is no other program: the driver's own, a display
BAR = 40  # characters


@dataclass(frozen=True)
class Card:
    """A GPU as this plan sees it. All sizes are in bytes."""

    gpu: Gpu
    memory: Memory  # its free memory includes what this server holds
    others: int  # in use by other programs
    keep: int  # to stay free
    problem: str  # why vLLM cannot use it

    @property
    def available(self) -> Memory:
        """The memory that `auto` may take."""
        return replace(self.memory, free=max(self.memory.free - self.keep, 0))


def keep_free(setting: str, shared: bool) -> int:
    """Return the bytes of a GPU that stay free by GPU_KEEP_FREE_GIB; auto: KEEP where somebody else uses it."""
    return (KEEP if shared else 0) if setting == "auto" else int(float(setting) * GIB)


def card(gpu: Gpu, own: set[int], ours: set[int], keep: str) -> Card:
    """Return a GPU with who is on it. own: pids of this server; ours: of all our servers; keep: GPU_KEEP_FREE_GIB."""
    mine = sum(size for size, _ in held(gpu, own, ours=True))
    free = min(gpu.free + mine, gpu.total)
    others = [(size, pid) for size, pid in held(gpu, own, ours=False) if pid not in ours]
    used = max(gpu.total - free - sum(size for size, _ in held(gpu, ours - own, ours=True)), 0)
    shared = not gpu.unified and bool(others or (used > NOBODY and not own))  # in a container no process is named
    return Card(
        gpu, Memory(gpu.index, gpu.total, free), used if shared else 0, keep_free(keep, shared), unusable(gpu, own)
    )


def cards(settings: Settings, own: set[int], ours: set[int]) -> list[Card]:
    """Return the GPUs that this user has, and whose sizes are known. Raises UnknownError if there is none."""
    seen, visible = look(), given()
    if not seen.gpus:
        why = seen.trouble or tr("nvidia-smi 没有列出任何 GPU", "nvidia-smi lists no GPU")
        raise UnknownError(tr(f"{why}；{seen.todo}", f"{why}; {seen.todo}"))
    keep = settings.get("GPU_KEEP_FREE_GIB", "auto")
    found = [card(gpu, own, ours, keep) for gpu in seen.gpus if gpu.total]
    if not found:
        zh = f"nvidia-smi 没有给出显存大小（{seen.trouble or '[N/A]'}）。{seen.todo}"
        raise UnknownError(tr(zh, f"nvidia-smi does not give the GPU memory ({seen.trouble or '[N/A]'}). {seen.todo}"))
    if settings["GPU"] == "auto" and visible is not None:
        found = [one for name in visible for one in found if is_named(one.gpu, name)]
        if not found:
            text = f"CUDA_VISIBLE_DEVICES={','.join(visible)}"
            raise UnknownError(tr(f"{text} 中没有可用的 GPU", f"{text} gives no usable GPU"))
    return found


def chosen(wanted: str, found: list[Card]) -> list[Card]:
    """Return the GPUs of the setting GPU; auto: the usable one with the most available memory. Raises UnknownError."""
    if wanted != "auto":
        some = [one for name in wanted.split(",") for one in found if is_named(one.gpu, name)]
        if len(some) < len(wanted.split(",")):
            there = " ".join(one.gpu.index for one in found)
            raise UnknownError(
                tr(f"GPU={wanted}：可用的 GPU 只有 {there}", f"GPU={wanted}: the usable GPUs are {there}")
            )
        return some
    usable = [one for one in found if not one.problem] or found
    return [max(usable, key=lambda one: one.available.free)]


def bar(one: Card, ours: int) -> str:
    """Return a GPU's memory as a bar: other programs, this server, what is kept free, the rest."""
    total = one.memory.total
    parts = ((one.others, "▓"), (ours, "█"), (min(one.keep, total), "░"))
    drawn = "".join(sign * round(size / total * BAR) for size, sign in parts)[:BAR].ljust(BAR, "·")
    words = tr(
        f"其他程序 {gib(one.others)} ▓  本服务 {gib(ours)} █  保持空闲 {gib(one.keep)} ░",
        f"others {gib(one.others)} ▓  ours {gib(ours)} █  kept free {gib(one.keep)} ░",
    )
    return f"GPU {one.gpu.index} {drawn} {words}"
