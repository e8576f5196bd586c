"""Estimate the memory of a model in vLLM, and which context length fits. All sizes are in bytes.

The calculation follows vLLM 0.32 (v1/core/kv_cache_utils.py, v1/worker/gpu_worker.py, v1/worker/cpu_worker.py):
utilization × total, less the weights and vLLM's own memory, becomes blocks of KV cache.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import ceil, floor

from runbook.machine.memory import GIB, Memory, gib, together
from runbook.messages import tr
from runbook.plan.model import Model
from runbook.plan.request import Request

LEAST = 2048  # tokens: a shorter context is too small for a question about a document
MOST = 0.92  # vLLM's default utilization
CPU_KV = 2 * GIB  # set by serve.sh if the utilization is `auto`
# Not confirmed on a GPU: reported starts of 4B models on 24 to 141 GB GPUs imply 1.0 to 2.3 GiB for activations,
# CUDA graphs and libraries.
GPU_OVERHEAD = 2 * GIB
CPU_OVERHEAD = int(0.745 * GIB)  # a worker's memory besides the weights, measured with vLLM 0.32 on x86


@dataclass(frozen=True)
class Estimate:
    """The sizes for a request; `room` is the KV cache. `problem` says why it does not fit, or is empty."""

    share: float
    context: int
    weights: int
    room: int
    at_once: float
    problem: str = ""
    seqs: int = 0  # --max-num-seqs, if vLLM's default is more than the states that fit; else 0


@dataclass(frozen=True)
class Cache:
    """How vLLM divides the KV cache of one GPU: blocks of `block` tokens from one pool, for every group of layers."""

    block: int
    block_bytes: int
    groups: tuple[tuple[int, int], ...]  # (window in tokens or 0, number of groups)
    in_flight: int  # tokens of one batch, which a sliding window keeps as well
    states: int = 0  # blocks of one request for the layers that keep a state instead of a cache

    def blocks(self, context: int) -> int:
        """Return the most blocks that one request of `context` tokens needs."""
        kept = ((ceil(min(w - 1 + self.in_flight, context) / self.block) + 1) * count for w, count in self.groups if w)
        full = sum(count for window, count in self.groups if not window)
        return full * ceil(context / self.block) + sum(kept) + self.states

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
    if model.states[0]:
        return _hybrid(model, memory, request, split, in_flight)
    if len(kinds) == 1:
        elements, groups = sum(elements for elements, _ in model.layers), tuple((window, 1) for window in kinds)
    else:
        least, most = min(kinds.values()), max(kinds.values())
        size = most if most < least * 1.5 else least
        elements = size * max(elements for elements, _ in model.layers)
        groups = tuple((window, ceil(count / size)) for window, count in kinds.items())
    return Cache(block, block * elements * request.kv_width // split, groups, in_flight)


def _hybrid(model: Model, memory: Memory, request: Request, split: int, in_flight: int) -> Cache:
    """Return the cache of a model in which most layers keep one state for a request, and the others a KV cache.

    A state fills one block, so a block has as many tokens as need that many bytes (platforms/interface.py,
    _align_hybrid_block_size); with prefix caching a request has two states (kv_cache_interface.py, MambaSpec). The CPU
    build keeps the recurrent state in float32 (platforms/cpu.py).
    """
    count, convolution, recurrent, whole = model.states
    unit = 16 if memory.gpus else 128
    state = (convolution * request.width + recurrent * (4 if whole or not memory.gpus else request.width)) // split
    token = max(elements for elements, _ in model.layers) * request.kv_width // split
    block = unit * ceil(state / (unit * token))
    least, most = sorted((count, len(model.layers)))
    size = most if most < least * 1.5 else least
    groups = ((0, ceil(len(model.layers) / size)),)
    return Cache(block, block * token * size, groups, in_flight, 2 * ceil(count / size))


def max_num_seqs(model: Model, memory: Memory, cache: Cache, request: Request, room: int) -> int:
    """Return the --max-num-seqs that a hybrid model needs on a GPU, 0 if vLLM's default fits or the user has set it.

    vLLM refuses to start with more sequences than blocks (config/compilation.py). A tenth is left for the estimate.
    """
    if not memory.gpus or not model.states[0] or "--max-num-seqs" in request.options:
        return 0
    blocks = room // cache.block_bytes
    default = 1024 if memory.total >= 70 * GIB else 256  # engine/arg_utils.py
    return 0 if blocks > 1.1 * default else max(1, min(256, int(blocks * 0.9)))


def estimate(model: Model, memory: Memory, request: Request) -> Estimate:
    """Return the sizes for the request in this memory, and whether it fits."""
    cache, cpu = cache_of(model, memory, request), not memory.gpus
    inner = model.floats * (1 if request.fp8 else request.width)
    weights = (inner + model.embeddings * request.width + model.packed) // memory.count
    own = CPU_OVERHEAD + model.tied * model.embeddings * request.width if cpu else GPU_OVERHEAD
    fixed = weights + own
    length = request.context or min(request.enough, model.longest)
    wanted = ceil(max(length, request.enough) / length) * cache.blocks(length) + 1
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
    seqs = max_num_seqs(model, memory, cache, request, max(room, 0))
    values = Estimate(share, context, weights, max(room, 0), at_once, seqs=seqs)
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


def advice(
    model: Model,
    chosen: Memory,
    gpus: list[Memory],
    request: Request,
    possible: Callable[[Memory, Request], bool] = lambda memory, request: True,
) -> Iterator[str]:
    """Yield settings that would fit instead, the smallest change first. possible: whether the rules allow it."""
    eight_bits = replace(request, kv_width=1, options={**request.options, "--kv-cache-dtype": "fp8"})
    both = replace(eight_bits, fp8=True, options={**eight_bits.options, "--quantization": "fp8"})

    def fits(memory: Memory, changed: Request) -> bool:
        return not estimate(model, memory, changed).problem and possible(memory, changed)

    others = [gpu for gpu in gpus if gpu.gpus != chosen.gpus and fits(gpu, request)]
    if others:
        yield f"GPU={max(others, key=lambda gpu: gpu.free).gpus}"
    if request.share and fits(chosen, replace(request, share=None)):
        yield f"GPU_MEMORY_UTILIZATION={estimate(model, chosen, replace(request, share=None)).share:g}"
    if request.context and fits(chosen, replace(request, context=None)):
        yield f"MAX_MODEL_LEN={estimate(model, chosen, replace(request, context=None)).context}"
    if request.kv_width > 1 and chosen.gpus and fits(chosen, eight_bits):
        yield "VLLM_EXTRA_ARGS='--kv-cache-dtype fp8'"
    if chosen.gpus and not model.packed and not request.fp8 and fits(chosen, both):
        yield "VLLM_EXTRA_ARGS='--quantization fp8 --kv-cache-dtype fp8'"
    freest = sorted(gpus, key=lambda gpu: gpu.free, reverse=True)
    for count in range(2, len(gpus) + 1):
        some = together(sorted(freest[:count], key=lambda gpu: gpus.index(gpu)))
        if some.gpus != chosen.gpus and fits(some, request):
            yield f"GPU={some.gpus}"
            return
