"""The sizes of a model, from its config.json and the headers of its safetensors files. Reads only."""

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runbook.machine.memory import UnknownError
from runbook.messages import tr
from runbook.model.directory import header, weights
from runbook.model.source import Site


@dataclass(frozen=True)
class Model:
    """The sizes of a model. `layers`: for each layer with a KV cache (elements per token, window in tokens or 0)."""

    name: str
    floats: int  # parameters of a floating-point type, without embeddings
    embeddings: int  # parameters of the input and output embeddings, which are never quantized
    packed: int  # bytes of tensors of 8 bits or fewer, which keep their type
    layers: tuple[tuple[int, int], ...]
    heads: int  # KV heads, which several GPUs divide; 1 if every GPU needs the whole cache
    longest: int  # tokens
    latent: bool = False  # MLA: one vector for all heads
    tied: bool = False  # the output embedding is the input's; the CPU build keeps a second, repacked copy of it
    # Layers that keep a state for each request instead of a KV cache: their number, the elements of the state of their
    # convolution and of the recurrent one, and whether that one is float32.
    states: tuple[int, int, int, bool] = (0, 0, 0, False)
    config: Mapping[str, Any] = field(default_factory=dict)  # config.json, with its text part in front


# Known before the download, from the published configs.
KNOWN = {
    "Qwen/Qwen3-4B-Instruct-2507": Model(
        "Qwen3-4B-Instruct-2507",
        3_633_511_936,
        388_956_160,
        0,
        ((2048, 0),) * 36,
        8,
        262144,
        tied=True,
        config={"num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 9728},
    ),
    "demo": Model(
        "SmolLM2-135M-Instruct",
        106_203_456,
        28_311_552,
        0,
        ((384, 0),) * 30,
        3,
        8192,
        tied=True,
        config={"num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 64, "intermediate_size": 1536},
    ),
    "Qwen/Qwen3-Embedding-0.6B": Model(
        "Qwen3-Embedding-0.6B", 440_467_456, 155_309_056, 0, ((2048, 0),) * 28, 8, 32768, tied=True
    ),
    "BAAI/bge-reranker-v2-m3": Model("bge-reranker-v2-m3", 311_753_729, 256_002_048, 0, ((2048, 0),) * 24, 16, 8192),
    "demo-embedding": Model("all-MiniLM-L6-v2", 10_795_392, 11_917_824, 0, ((768, 0),) * 6, 12, 256),
}


def first(config: dict[str, Any], *names: str) -> Any:
    """Return the value of the first key that is present: model families use different names for the same thing."""
    return next((config[name] for name in names if config.get(name) is not None), None)


def kv_layers(config: dict[str, Any]) -> tuple[tuple[int, int], ...]:
    """Return (elements per token, K and V of all heads; window in tokens or 0) for every layer with a KV cache."""
    count = first(config, "num_hidden_layers", "n_layer", "num_layers")
    heads = first(config, "num_attention_heads", "n_head")
    kv_heads = 1 if config.get("multi_query") else first(config, "num_key_value_heads", "num_kv_heads", "n_head_kv")
    size = first(config, "head_dim") or first(config, "hidden_size", "n_embd") // heads
    elements = 2 * (kv_heads or heads) * size
    if config.get("kv_lora_rank"):
        elements = config["kv_lora_rank"] + config["qk_rope_head_dim"]
    window = config.get("sliding_window") or 0
    if config.get("use_sliding_window") is False:
        window = 0
    kinds = config.get("layer_types")
    if not kinds:  # every n-th layer of the pattern has full attention; without a pattern no layer has
        every = first(config, "sliding_window_pattern", "_sliding_window_pattern")
        kinds = ["full" if not window or (every and (i + 1) % every == 0) else "sliding" for i in range(count)]
    cached = [kind for kind in kinds if ("attention" in kind and "linear" not in kind) or kind in ("full", "sliding")]
    return tuple((elements, window if "sliding" in kind else 0) for kind in cached)


def state_of(config: Mapping[str, Any]) -> tuple[int, int, int, bool]:
    """Return `states` of a model with linear attention: of gated delta nets.

    Source: vLLM 0.32, model_executor/layers/mamba/mamba_utils.py, gated_delta_net_state_shape.
    """
    layers = sum("linear" in kind for kind in config.get("layer_types") or ())
    if not layers or not config.get("linear_num_value_heads"):
        return (0, 0, 0, False)
    keys = config["linear_num_key_heads"] * config["linear_key_head_dim"]
    values = config["linear_num_value_heads"] * config["linear_value_head_dim"]
    convolution = (2 * keys + values) * (config["linear_conv_kernel_dim"] - 1)
    recurrent = values * config["linear_key_head_dim"]
    return (layers, convolution, recurrent, config.get("mamba_ssm_dtype") == "float32")


def build(name: str, whole: dict[str, Any], headers: Iterable[Mapping[str, Any]], told: int | None = None) -> Model:
    """Return the sizes of a model.

    whole: its config.json; headers: of its safetensors files; told: the tokenizer's limit in tokens.
    Raises ValueError, KeyError, TypeError or AttributeError if the files are not as expected.
    """
    config = whole | (whole.get("text_config") or {})
    sizes = Counter[str]()
    for part in headers:
        for key, item in part.items():
            if key == "__metadata__" or (key == "lm_head.weight" and config.get("tie_word_embeddings")):
                continue
            begin, end = item["data_offsets"]
            width = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}.get(item["dtype"])
            outer = any(part in key for part in ("embed_tokens", "lm_head", "wte.", "word_embeddings"))
            kind = "packed" if width is None else "embeddings" if outer else "floats"
            sizes[kind] += (end - begin) // (width or 1)
    longest = first(config, "max_position_embeddings", "n_positions", "seq_length", "max_sequence_length") or 2048
    layers, latent = kv_layers(config), bool(config.get("kv_lora_rank"))
    heads = 1 if latent else first(config, "num_key_value_heads", "num_attention_heads", "n_head")
    if not sizes or not layers:
        raise ValueError("no weights or no attention")
    inner, outer_, packed = (sizes[kind] for kind in ("floats", "embeddings", "packed"))
    tied, longest = bool(config.get("tie_word_embeddings")), int(min(longest, told or longest))
    return Model(name, inner, outer_, packed, layers, heads, longest, latent, tied, state_of(config), config)


def read_model(directory: Path) -> Model:
    """Return the sizes of the model in a directory. Raises UnknownError if they cannot be read."""
    try:
        whole = json.loads((directory / "config.json").read_text("utf-8"))
        tokenizer = directory / "tokenizer_config.json"
        told = json.loads(tokenizer.read_text("utf-8")).get("model_max_length") if tokenizer.is_file() else None
        return build(directory.name, whole, map(header, weights(directory)), told)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        why = str(error) if isinstance(error, (OSError, ValueError)) else "config.json"
        zh = f"无法读取 {directory} 中的模型（{why}）"
        raise UnknownError(tr(zh, f"The model in {directory} cannot be read ({why})")) from error


def the_model(settings: Mapping[str, str] = os.environ) -> Model:
    """Return the model of the settings: from MODEL_DIR; before the download from KNOWN, or from the site.

    Raises UnknownError.
    """
    directory, name = Path(settings["MODEL_DIR"]), settings["MODEL_ID"]
    if (directory / "config.json").is_file():
        return read_model(directory)
    if name in KNOWN:
        return KNOWN[name]
    whole, headers = Site(name, settings.get("MODEL_REVISION") or "master").read()
    try:
        return build(name.split("/")[-1], whole, headers)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        zh = f"无法读取 {name} 的 config.json（{error}）"
        raise UnknownError(tr(zh, f"the config.json of {name} cannot be read ({error})")) from error
