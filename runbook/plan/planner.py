"""The plan for a start now: which GPU, which share of its memory, which context length, and why. Reads only."""

import itertools
import os
import subprocess
from typing import Any

from runbook.machine.gpus import holders, owner, query, read_gpus, server_pids
from runbook.machine.memory import GIB, Memory, UnknownError, gib, read_ram, together
from runbook.messages import tr
from runbook.plan.estimate import CPU_KV, MOST, Request, advice, cache_of, estimate
from runbook.plan.model import the_model

KEYS = ("gpu_index", "gpu_memory_utilization", "max_model_len", "weights_gib", "kv_cache_gib", "fits")


def cpu_dtype() -> str:
    """Return the type for this CPU: without bf16 instructions float32 is more than twice as fast."""
    found = subprocess.run(["grep", "-qE", "avx512_bf16|amx_bf16", "/proc/cpuinfo"])
    return "float32" if found.returncode else "auto"


def the_request() -> Request:
    """Return what the settings request, with the options in VLLM_EXTRA_ARGS that change the sizes."""
    extra = dict(itertools.pairwise(os.environ.get("VLLM_EXTRA_ARGS", "").replace("=", " ").split()))
    share, context = os.environ["GPU_MEMORY_UTILIZATION"], os.environ["MAX_MODEL_LEN"]
    dtype = extra.get("--dtype", cpu_dtype() if os.environ["PROFILE"] == "cpu" else "auto")
    width = 4 if dtype.startswith("float") and dtype != "float16" else 2
    kv_width = 1 if extra.get("--kv-cache-dtype", "").startswith(("fp8", "int8")) else width
    shares = None if share == "auto" else float(share), None if context == "auto" else int(context)
    return Request(*shares, width, kv_width, "fp8" in (extra.get("--quantization"), extra.get("-q")))


def where(own: set[int]) -> tuple[Memory, list[Memory]]:
    """Return (the memory that the settings choose, all GPUs). own: pids of this server. Raises UnknownError."""
    if os.environ["PROFILE"] == "cpu":
        return read_ram(own), []
    wanted, gpus = os.environ["GPU"], read_gpus(own)
    if wanted == "auto":
        return max(gpus, key=lambda gpu: gpu.free), gpus
    chosen = [gpu for gpu in gpus if gpu.gpus in wanted.split(",")]
    if len(chosen) < len(wanted.split(",")):
        there = " ".join(gpu.gpus for gpu in gpus)
        raise UnknownError(tr(f"GPU={wanted}：可用的 GPU 只有 {there}", f"GPU={wanted}: the usable GPUs are {there}"))
    return together(chosen), gpus


def make_plan() -> tuple[dict[str, Any], list[str]]:
    """Return the plan by its keys, with `fits` None if it is unknown, and the lines that explain it."""
    record: dict[str, Any] = {"profile": os.environ["PROFILE"], **dict.fromkeys(KEYS)}
    own = server_pids()
    try:
        model, request = the_model(), the_request()
        memory, gpus = where(own)
    except UnknownError as why:
        return record | {"reason": str(why)}, []
    found, cache = estimate(model, memory, request), cache_of(model, memory, request)
    weights, token = gib(found.weights), f"{cache.block_bytes / cache.block / 1024:.1f} KiB"
    lines = [
        tr(
            f"{model.name}：权重 {weights}，每个 token 的 KV 缓存 {token}，上下文最长 {model.longest}",
            f"{model.name}: {weights} of weights, {token} of KV cache a token, up to {model.longest} tokens",
        )
    ]
    for one in gpus or [memory]:
        free, total = gib(one.free), gib(one.total)
        lines.append(tr(f"{one}：空闲 {free} / {total}", f"{one}: {free} free of {total}"))
    budget = found.share * memory.total
    own_size, room = gib(budget - found.weights - found.room), gib(found.room)
    reason = found.problem or tr(
        f"{gib(budget)} = 权重 {weights} + vLLM 自身约 {own_size} + KV 缓存 {room}；"
        f"上下文 {found.context} 个 token，可同时 {found.at_once:.1f} 个",
        f"{gib(budget)} = {weights} of weights + about {own_size} for vLLM itself + {room} of KV cache; "
        f"{found.context} tokens of context, {found.at_once:.1f} of them at once",
    )
    if found.problem:
        for size, pid in holders(own).get(memory.gpus, [])[:3]:
            zh = f"；进程 {pid}（{owner(pid)}）占用 {gib(size)}"
            reason += tr(zh, f"; pid {pid} ({owner(pid)}) holds {gib(size)}")
        ways = tr("，或 ", ", or ").join(list(advice(model, memory, gpus, request))[:3])
        ways = ways or tr("更多空闲内存，或更小的模型", "more free memory, or a smaller model")
        reason += tr(f"。可行的改法：{ways}", f". What would fit: {ways}")
    index = [int(gpu) for gpu in memory.gpus.split(",") if gpu]
    place = index[0] if len(index) == 1 else index or None
    sizes = (round(size / GIB, 2) for size in (found.weights, found.room))
    values = (place, found.share, found.context, *sizes, not found.problem)
    return record | dict(zip(KEYS, values, strict=True)) | {"reason": reason}, lines


def gpu_setting(record: dict[str, Any]) -> str:
    """Return the GPU of a plan in the format of the setting GPU; the setting itself if the plan has none."""
    index = record["gpu_index"]
    return os.environ["GPU"] if index is None else ",".join(map(str, index if isinstance(index, list) else [index]))


def choose() -> tuple[str, str, str, str, str]:
    """Return, for serve.sh, (fits: yes, no or unknown; GPU; GPU_MEMORY_UTILIZATION; dtype for a CPU; reason).

    If the sizes are unknown, it takes the GPU with the most free memory, and its free memory less a margin.
    """
    record, _ = make_plan()
    gpu, share = gpu_setting(record), os.environ["GPU_MEMORY_UTILIZATION"]
    if os.environ["PROFILE"] == "cpu":
        if share == "auto" and record["fits"] is not None and record["kv_cache_gib"] != CPU_KV / GIB:
            share = f"{record['gpu_memory_utilization']:g}"
    elif record["fits"] is not None:
        share = f"{record['gpu_memory_utilization']:g}" if share == "auto" else share
    else:
        rows = query("--query-gpu=index,memory.free,memory.total")
        sizes = {row[0]: (int(row[1]), int(row[2])) for row in rows if len(row) == 3 and (row[1] + row[2]).isdigit()}
        if gpu == "auto":
            gpu = max(sizes, key=lambda index: sizes[index][0], default=rows[0][0] if rows else "0")
        free = min((sizes[one][0] / sizes[one][1] - 0.03 for one in gpu.split(",") if one in sizes), default=MOST)
        share = f"{max(min(free, MOST), 0.01):.2f}" if share == "auto" else share
    fits = {True: "yes", False: "no", None: "unknown"}[record["fits"]]
    return fits, gpu, share, cpu_dtype(), record["reason"]
