"""Estimate the memory of a model in vLLM, and which context length fits. All sizes are in bytes.

The calculation follows vLLM 0.32 (v1/core/kv_cache_utils.py, v1/worker/gpu_worker.py, v1/worker/cpu_worker.py):
utilization × total, less the weights and vLLM's own memory, becomes blocks of KV cache.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil, floor

from runbook.machine.memory import GIB, Memory, gib, together
from runbook.messages import tr
from runbook.plan.model import Model

ENOUGH = 65536  # tokens of KV cache: `auto` takes no more, and the rest of the GPU stays free
LEAST = 2048  # tokens: a shorter context is too small for a question about a document
MOST = 0.92  # vLLM's default utilization
CPU_KV = 2 * GIB  # set by serve.sh if the utilization is `auto`
# Not confirmed on a GPU: reported starts of 4B models on 24 to 141 GB GPUs imply 1.0 to 2.3 GiB for activations,
# CUDA graphs and libraries.
GPU_OVERHEAD = 2 * GIB
CPU_OVERHEAD = int(0.745 * GIB)  # a worker's memory besides the weights, measured with vLLM 0.32 on x86


@dataclass(frozen=True)
class Request:
    """What the settings request; None means auto. `width`, `kv_width`: bytes of a weight, of a KV element."""

    share: float | None
    context: int | None
    width: int
    kv_width: int
    fp8: bool = False


@dataclass(frozen=True)
class Estimate:
    """The sizes for a request; `room` is the KV cache. `problem` says why it does not fit, or is empty."""

    share: float
    context: int
    weights: int
    room: int
    at_once: float
    problem: str = ""


@dataclass(frozen=True)
class Cache:
    """How vLLM divides the KV cache of one GPU: blocks of `block` tokens from one pool, for every group of layers."""

    block: int
    block_bytes: int
    groups: tuple[tuple[int, int], ...]  # (window in tokens or 0, number of groups)
    in_flight: int  # tokens of one batch, which a sliding window keeps as well

    def blocks(self, context: int) -> int:
        """Return the most blocks that one request of `context` tokens needs."""
        kept = ((ceil(min(w - 1 + self.in_flight, context) / self.block) + 1) * count for w, count in self.groups if w)
        full = sum(count for window, count in self.groups if not window)
        return full * ceil(context / self.block) + sum(kept)

    def at_once(self, room: int, context: int) -> float:
        """Return how many contexts of `context` tokens fit into `room` bytes."""
        return (room // self.block_bytes) / self.blocks(context)

    def longest(self, room: int, limit: int) -> int:
        """Return the longest context in tokens that fits into `room` bytes, 0 for none; vLLM reserves one block."""
        low, high = 0, limit
        while low < high:
            middle = (low + high + 1) // 2
            fits = self.blocks(middle) <= room // self.block_bytes - 1
            low, high = (middle, high) if fits else (low, middle - 1)
        return low


def cache_of(model: Model, memory: Memory, request: Request) -> Cache:
    """Return vLLM's cache: one group if all layers are of one kind, else groups as large as the rarer kind."""
    block = (16 if model.latent else 128) if not memory.gpus else 16
    split = 1 if model.latent else min(memory.count, model.heads)
    in_flight = 2048 * memory.count if not memory.gpus else 2 * (2048 if memory.total < 70 * GIB else 8192)
    kinds = Counter(window for _, window in model.layers)
    if len(kinds) == 1:
        elements, groups = sum(elements for elements, _ in model.layers), tuple((window, 1) for window in kinds)
    else:
        least, most = min(kinds.values()), max(kinds.values())
        size = most if most < least * 1.5 else least
        elements = size * max(elements for elements, _ in model.layers)
        groups = tuple((window, ceil(count / size)) for window, count in kinds.items())
    return Cache(block, block * elements * request.kv_width // split, groups, in_flight)


def estimate(model: Model, memory: Memory, request: Request) -> Estimate:
    """Return the sizes for the request in this memory, and whether it fits."""
    cache, cpu = cache_of(model, memory, request), not memory.gpus
    inner = model.floats * (1 if request.fp8 else request.width)
    weights = (inner + model.embeddings * request.width + model.packed) // memory.count
    own = CPU_OVERHEAD + model.tied * model.embeddings * request.width if cpu else GPU_OVERHEAD
    fixed = weights + own
    length = request.context or min(ENOUGH, model.longest)
    wanted = ceil(max(length, ENOUGH) / length) * cache.blocks(length) + 1
    if request.share:
        share, room = request.share, int(request.share * memory.total) - fixed
    else:
        most = min(memory.free, int((1 if cpu else MOST) * memory.total)) - fixed
        room = min(CPU_KV if cpu else wanted * cache.block_bytes, most)
        share = ceil((fixed + room) / memory.total * 100) / 100
        if share * memory.total > memory.free or (share > MOST and not cpu):  # rounded up, it is too much
            share = max(floor(min(memory.free / memory.total, MOST) * 100) / 100, 0.01)
        if not cpu:
            room = int(share * memory.total) - fixed
    context = request.context or cache.longest(room, model.longest)
    at_once = cache.at_once(room, context) if context and room > 0 else 0
    values = Estimate(share, context, weights, max(room, 0), at_once)
    if length > model.longest:
        problem = tr(
            f"MAX_MODEL_LEN={length} 超过模型自身的上限 {model.longest}",
            f"MAX_MODEL_LEN={length} exceeds the model's maximum of {model.longest}",
        )
    else:
        problem = _problem(cache, model, memory, request, values, own, room)
    return replace(values, problem=problem)


def _problem(cache: Cache, model: Model, memory: Memory, request: Request, found: Estimate, own: int, room: int) -> str:
    """Return why the sizes do not fit into the memory; empty if they fit."""
    budget, needed = gib(found.share * memory.total), gib(cache.blocks(request.context or 1) * cache.block_bytes)
    name = tr(f"{memory} " if memory.gpus else str(memory), str(memory))  # in Chinese, a space only after a number
    if request.share:
        place = tr(f"{name}的 {found.share:g}（{budget}）", f"{found.share:g} of {name} ({budget})")
    else:
        place = tr(f"{name}可用的 {budget}", f"the {budget} available in {name}")
    if request.share and found.share * memory.total > memory.free:
        free = gib(memory.free)
        return tr(f"{place}并不都空闲：只有 {free}", f"{place} is not free: only {free} is")
    if room < cache.block_bytes * 2:
        zh = f"权重 {gib(found.weights)} 加上 vLLM 自身约 {gib(own)}，放不进{place}"
        return tr(
            zh, f"the weights ({gib(found.weights)}) and about {gib(own)} for vLLM itself do not fit into {place}"
        )
    if request.context and cache.longest(room, request.context) < request.context:
        zh = f"{request.context} 个 token 需要 {needed} 的 KV 缓存，而{place}除去权重等只剩 {gib(room)}"
        en = f"{request.context} tokens need {needed} of KV cache, but only {gib(room)} of {place} is left for it"
        return tr(zh, en)
    if found.context < min(LEAST, model.longest):
        zh = f"{place}只放得下 {found.context} 个 token 的上下文"
        return tr(zh, f"only {found.context} tokens of context fit into {place}")
    return ""


def advice(model: Model, chosen: Memory, gpus: list[Memory], request: Request) -> Iterator[str]:
    """Yield settings that would fit instead, the smallest change first."""
    eight_bits = replace(request, kv_width=1)

    def fits(memory: Memory, changed: Request) -> bool:
        return not estimate(model, memory, changed).problem

    others = [gpu for gpu in gpus if gpu != chosen and fits(gpu, request)]
    if others:
        yield f"GPU={max(others, key=lambda gpu: gpu.free).gpus}"
    if request.share and not (other := estimate(model, chosen, replace(request, share=None))).problem:
        yield f"GPU_MEMORY_UTILIZATION={other.share:g}"
    if request.context and not (other := estimate(model, chosen, replace(request, context=None))).problem:
        yield f"MAX_MODEL_LEN={other.context}"
    if request.kv_width > 1 and chosen.gpus and fits(chosen, eight_bits):
        yield "VLLM_EXTRA_ARGS='--kv-cache-dtype fp8'"
    if chosen.gpus and not model.packed and not request.fp8 and fits(chosen, replace(eight_bits, fp8=True)):
        yield "VLLM_EXTRA_ARGS='--quantization fp8 --kv-cache-dtype fp8'"
    if len(gpus) > 1 and chosen.count == 1 and model.heads % len(gpus) == 0 and fits(together(gpus), request):
        yield f"GPU={together(gpus).gpus}"
