"""What cannot work whatever the sizes: rules of vLLM 0.32 on models, settings and GPUs.

Each names the file of vllm/ that it comes from.
"""

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from runbook.machine.gpus import Gpu, held, owner
from runbook.messages import tr
from runbook.plan.model import Model
from runbook.plan.request import Request

LEAST = 7.5  # compute capability: the kernels of the wheel are built from 7.5 on (CMakeLists.txt, CUDA_SUPPORTED_ARCHS)
# model_executor/layers/quantization/*: get_min_capability
QUANTIZATIONS = {
    "awq": 7.5, "gptq": 7.5, "fp8": 7.5, "compressed-tensors": 7.5, "torchao": 7.5, "bitsandbytes": 7.0, "mxfp4": 8.0,
    "fbgemm_fp8": 8.0, "experts_int8": 8.0, "modelopt": 8.0, "modelopt_fp4": 7.5, "fp_quant": 10.0, "humming": 7.5,
}  # fmt: skip
FP8_KV, FP8_KV_COMPILED = 8.9, 8.0  # v1/attention/backends/triton_attn.py; flashinfer.py, which compiles with nvcc
FP8_NATIVE = 8.9  # below, FP8 weights are unpacked by other kernels (fp8.py, Marlin)
NVCC = Path("/usr/local/cuda/bin/nvcc")
REMOVED = {  # options that were in earlier versions (engine/arg_utils.py)
    "--rope-scaling": '--hf-overrides \'{"rope_parameters": {"rope_type": "yarn", "factor": 4.0, '
    '"original_max_position_embeddings": 32768}}\'',
    "--rope-theta": '--hf-overrides \'{"rope_parameters": {"rope_theta": 1000000}}\'',
}


def unusable(gpu: Gpu, own: set[int]) -> str:
    """Return why vLLM cannot use a GPU at all, or an empty text. own: the pids of this server."""
    if gpu.mode == "Prohibited":
        return tr("计算模式是 Prohibited：sudo nvidia-smi -c 0", "its compute mode is Prohibited: sudo nvidia-smi -c 0")
    if gpu.mode.startswith("Exclusive") and (others := held(gpu, own, ours=False)):
        pid = others[0][1]
        return tr(
            f"计算模式是 {gpu.mode}，已被进程 {pid}（{owner(pid)}）独占：结束该进程，"
            f"或 sudo nvidia-smi -i {gpu.index} -c 0",
            f"its compute mode is {gpu.mode}, and another process, pid {pid} ({owner(pid)}), has it: end that one, or "
            f"sudo nvidia-smi -i {gpu.index} -c 0",
        )
    if 0 < gpu.capability < LEAST:
        return tr(
            f"计算能力 {gpu.capability} 低于 vLLM 需要的 {LEAST}",
            f"its compute capability is {gpu.capability}, and vLLM needs {LEAST}",
        )
    return ""


def quantization(model: Model, request: Request) -> dict[str, Any]:
    """Return the quantization of the model's config or of the options: at least {"quant_method": name}, or nothing."""
    chosen = request.options.get("--quantization") or request.options.get("-q")
    found = model.config.get("quantization_config") or {}
    return {**found, "quant_method": chosen} if chosen else dict(found)


def divides(model: Model, request: Request, count: int) -> Iterator[tuple[str, str]]:
    """Yield (what does not divide by `count` GPUs, the option that avoids it or nothing).

    Sources: config/model.py, verify_with_parallel_config; models/qwen3.py, Qwen3Attention; quantization/utils/
    fp8_utils.py, validate_fp8_block_shape; quantization/fp8.py for experts; auto_awq.py and auto_gptq.py for groups.
    """
    config: Mapping[str, Any] = model.config
    heads = config.get("num_attention_heads") or config.get("n_head") or 0
    if heads % count:
        en = f"the attention heads ({heads}) do not divide by {count} GPUs"
        yield tr(f"{heads} 个注意力头不能由 {count} 张 GPU 平分", en), ""
        return
    kv = model.heads
    if kv > 1 and (kv % count if kv >= count else count % kv):
        yield tr(f"{kv} 个 KV 头不能由 {count} 张 GPU 平分", f"the {kv} KV heads do not divide by {count} GPUs"), ""
        return
    found = quantization(model, request)
    block, group = found.get("weight_block_size"), found.get("group_size")
    for groups in (found.get("config_groups") or {}).values():
        group = ((groups or {}).get("weights") or {}).get("group_size") or group
    unit = max(block) if block else group if isinstance(group, int) and group > 0 else 0
    if not unit or count == 1:
        return
    name = tr(f"量化的块（{unit}）", f"the {unit} of a block of its quantization")
    parallel = "--enable-expert-parallel"
    expert = config.get("moe_intermediate_size") or 0
    if expert % (count * unit) and parallel not in request.options:
        zh = f"专家的宽度 {expert} 由 {count} 张 GPU 平分后不是{name}的整数倍"
        en = f"the width of an expert ({expert}) split over {count} GPUs is no multiple of {name}"
        yield tr(zh, en), f"VLLM_EXTRA_ARGS='{parallel}'"
    head = config.get("head_dim") or (config.get("hidden_size") or 0) // (heads or 1)
    wide = 0 if expert else config.get("intermediate_size") or 0
    for width in (wide, heads * head):
        if width % (count * unit):
            zh = f"宽度 {width} 由 {count} 张 GPU 平分后不是{name}的整数倍"
            yield tr(zh, f"the width {width} split over {count} GPUs is no multiple of {name}"), ""
            return


def capable(model: Model, request: Request, gpus: list[Gpu]) -> Iterator[str]:
    """Yield what these GPUs are too old for. Sources: platforms/cuda.py, supported_dtypes; as at the constants."""
    known = [gpu.capability for gpu in gpus if gpu.capability]
    if not known:
        return
    least, most = min(known), max(known)

    def needs(what: str, capability: float) -> str:
        return tr(
            f"{what} 需要计算能力 {capability}，这张 GPU 是 {least}",
            f"{what} needs compute capability {capability}, and this GPU has {least}",
        )

    method = quantization(model, request).get("quant_method") or ""
    if least < (needed := QUANTIZATIONS.get(method.replace("_marlin", ""), 0)):
        yield needs(method, needed)
    if request.options.get("--dtype") == "bfloat16" and least < 8:
        yield needs("bfloat16", 8.0)
    if request.options.get("--kv-cache-dtype", "").startswith("fp8") and least < FP8_KV:
        compiles = shutil.which("nvcc") or NVCC.exists()
        if not (compiles and least >= FP8_KV_COMPILED):
            yield needs(tr("--kv-cache-dtype fp8（没有 nvcc 时）", "--kv-cache-dtype fp8 (without nvcc)"), FP8_KV)
    if "fp8" in method and least < FP8_NATIVE <= most:
        yield tr(
            f"这些 GPU 不能混用：FP8 权重在 {FP8_NATIVE} 上下用不同的内核",
            f"these GPUs cannot be mixed: FP8 weights have other kernels below {FP8_NATIVE}",
        )
    elif least < 8 <= most and request.options.get("--dtype", "auto") == "auto":
        yield tr(
            "这些 GPU 不能混用：低于 8.0 的没有 bfloat16",
            "these GPUs cannot be mixed: those below 8.0 have no bfloat16",
        )


def served(model: Model) -> str:
    """Return why vLLM cannot serve the model's architecture, by the registry in the serving environment; or nothing.

    An architecture that vLLM does not list may be run by Transformers, or by code in the model's directory.
    """
    names = model.config.get("architectures") or []
    places = Path(os.environ["VENV_DIR"]).glob("lib/python3*/site-packages")
    place = next(places, None)
    if place is None or not names or model.config.get("auto_map"):
        return ""
    files = place / "vllm/model_executor/models/registry.py", place / "transformers/models/auto/modeling_auto.py"
    try:
        known = "".join(path.read_text("utf-8") for path in files)
    except OSError:
        return ""
    if any(f'"{name}"' in known for name in names):
        return ""
    shown = ", ".join(map(str, names))
    return tr(
        f"安装的 vLLM 不支持这个模型的架构：{shown}",
        f"the installed vLLM does not support the model's architecture: {shown}",
    )


def options(request: Request) -> str:
    """Return which option in VLLM_EXTRA_ARGS was removed, with its replacement; or nothing."""
    for name, instead in REMOVED.items():
        if name in request.options:
            return tr(f"vLLM 已没有 {name}，改用：{instead}", f"vLLM has no {name} any more; instead: {instead}")
    return ""


def problems(model: Model, request: Request, gpus: list[Gpu]) -> list[tuple[str, str]]:
    """Return (why it cannot work on these GPUs together, the setting that avoids it or nothing), the worst first.

    gpus: those that share the model; empty for the CPU.
    """
    found = [(text, "") for text in (served(model), options(request)) if text]
    if len(gpus) > 1 and any(re.match("MIG-", gpu.index) for gpu in gpus):
        found.append((tr("MIG 实例不能合用", "MIG instances cannot share a model"), ""))
    found += divides(model, request, max(len(gpus), 1)) if gpus else ()
    return found + [(text, "") for text in capable(model, request, gpus)]
