"""What the settings ask of a plan: the share, the context, and the options in VLLM_EXTRA_ARGS that change the sizes."""

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from runbook.machine.memory import UnknownError
from runbook.messages import tr
from runbook.model.kind import CHAT, kind_of, options
from runbook.plan.model import Model

ENOUGH = 65536  # tokens of KV cache: two contexts of 32,768. `auto` takes no more, and the rest of the GPU stays free
BESIDE = 32768  # tokens if somebody else uses the GPU
OTHERS = 16384  # tokens for an embedding model or a reranker, which keeps nothing between requests
ROPE = ("rope_parameters", "rope_scaling")


@dataclass(frozen=True)
class Request:
    """What the settings request; None means auto. `width`, `kv_width`: bytes of a weight, of a KV element."""

    share: float | None
    context: int | None
    width: int
    kv_width: int
    fp8: bool = False
    enough: int = ENOUGH  # tokens of KV cache that `auto` takes
    options: dict[str, str] = field(default_factory=dict, hash=False)  # of VLLM_EXTRA_ARGS


def cpu_dtype() -> str:
    """Return the type for this CPU: without bf16 instructions float32 is more than twice as fast."""
    found = subprocess.run(["grep", "-qE", "avx512_bf16|amx_bf16", "/proc/cpuinfo"])
    return "float32" if found.returncode else "auto"


def the_request(settings: Mapping[str, str] = os.environ) -> Request:
    """Return what the settings request."""
    text = settings.get("VLLM_EXTRA_ARGS", "")
    extra = options(text)
    share, context = settings["GPU_MEMORY_UTILIZATION"], settings["MAX_MODEL_LEN"]
    dtype = extra.get("--dtype", cpu_dtype() if settings["PROFILE"] == "cpu" else "auto")
    width = 4 if dtype.startswith("float") and dtype != "float16" else 2
    kv_width = 1 if extra.get("--kv-cache-dtype", "").startswith(("fp8", "int8")) else width
    shares = None if share == "auto" else float(share), None if context == "auto" else int(context)
    enough = ENOUGH if kind_of(Path(settings["MODEL_DIR"]), text) == CHAT else OTHERS
    return Request(*shares, width, kv_width, "fp8" in (extra.get("--quantization"), extra.get("-q")), enough, extra)


def overridden(model: Model, request: Request) -> Model:
    """Return the model with the longest context that the options allow.

    --hf-overrides may contain rope parameters (YaRN: factor × the original length) or max_position_embeddings.
    VLLM_ALLOW_LONG_MAX_MODEL_LEN=1 makes vLLM accept any MAX_MODEL_LEN. Raises UnknownError if the overrides are not
    JSON.
    """
    text = request.options.get("--hf-overrides", "")
    try:
        found = json.loads(text or "{}")
        inner = {**found, **(found.get("text_config") or {})}
    except (ValueError, TypeError, AttributeError) as error:
        zh = f"--hf-overrides 不是 JSON：{text[:80]}（{error}）"
        raise UnknownError(tr(zh, f"--hf-overrides is not JSON: {text[:80]} ({error})")) from None
    longest = int(inner.get("max_position_embeddings") or model.longest)
    rope: dict[str, float] = next((inner[key] for key in ROPE if isinstance(inner.get(key), dict)), {})
    if rope.get("factor"):
        longest = max(longest, int(rope["factor"] * (rope.get("original_max_position_embeddings") or model.longest)))
    if os.environ.get("VLLM_ALLOW_LONG_MAX_MODEL_LEN") == "1" and request.context:
        longest = max(longest, request.context)
    return replace(model, longest=longest)
