"""What fits: which card, which share of its memory, which context; or why not, and what would fit instead. Reads only.

Run as `python3 plan.py [--json | --choose]` by plan.sh and serve.sh, which put the settings into the environment.
The accounting follows vLLM 0.32 (v1/core/kv_cache_utils.py, v1/worker/gpu_worker.py, v1/worker/cpu_worker.py): of
utilisation × total, what the weights and vLLM's own needs leave becomes blocks of KV cache. All sizes are in bytes.
"""

import itertools
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil, floor
from pathlib import Path
from typing import Any

from machine import GIB, Memory, UnknownError, gib, holders, ours, owner, read_cards, read_ram, together
from model_folder import header, weights
from words import end_with_the_reader, text

ENOUGH = 65536  # tokens of KV cache: `auto` takes no more, and leaves the rest of the card to others
LEAST = 2048  # tokens: a shorter context has no room for a question about a document
MOST = 0.92  # vLLM's own default utilisation
CPU_KV = 2 * GIB  # what serve.sh asks for where the utilisation is `auto`
# No card has confirmed it: reported starts of 4B models on 24 to 141 GB cards imply 1.0 to 2.3 GiB for activations,
# CUDA graphs and libraries.
CARD_OVERHEAD = 2 * GIB
CPU_OVERHEAD = int(0.745 * GIB)  # a worker's memory besides the weights, measured with vLLM 0.32 on x86


@dataclass(frozen=True)
class Model:
    """What of a model takes memory. `layers`: of each with a KV cache the elements a token and the window (0: none)."""

    name: str
    floats: int  # parameters of a floating-point type, embeddings aside
    embeddings: int  # parameters of the input and output embeddings, which no quantisation touches
    packed: int  # bytes of tensors that keep their type: 8 bits and fewer
    layers: tuple[tuple[int, int], ...]
    heads: int  # KV heads, among which several cards share the cache; 1 where every card holds all of it
    longest: int  # tokens
    latent: bool = False  # MLA: one vector for all heads
    tied: bool = False  # the output embedding is the input's; the CPU keeps a second, repacked copy of it


# Known before the download, from the configs that their authors publish.
KNOWN = {
    "Qwen/Qwen3-4B-Instruct-2507": Model(
        "Qwen3-4B-Instruct-2507", 3_633_511_936, 388_956_160, 0, ((2048, 0),) * 36, 8, 262144, tied=True
    ),
    "demo": Model("SmolLM2-135M-Instruct", 106_203_456, 28_311_552, 0, ((384, 0),) * 30, 3, 8192, tied=True),
}


def first(config: dict[str, Any], *names: str) -> Any:
    """The value of the first of these keys that is there: families name the same thing differently."""
    return next((config[name] for name in names if config.get(name) is not None), None)


def kv_layers(config: dict[str, Any]) -> tuple[tuple[int, int], ...]:
    """Of every layer with a KV cache: elements a token (K and V of all heads), and the window in tokens or 0."""
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
    if not kinds:  # every n-th layer of the pattern looks at everything; without a pattern none does
        every = first(config, "sliding_window_pattern", "_sliding_window_pattern")
        kinds = ["full" if not window or (every and (i + 1) % every == 0) else "sliding" for i in range(count)]
    cached = [kind for kind in kinds if ("attention" in kind and "linear" not in kind) or kind in ("full", "sliding")]
    return tuple((elements, window if "sliding" in kind else 0) for kind in cached)


def read_model(folder: Path) -> Model:
    """The model of a folder, by its config and the headers of its safetensors files. Raises UnknownError."""
    try:
        whole = json.loads((folder / "config.json").read_text("utf-8"))
        config = whole | (whole.get("text_config") or {})
        sizes = Counter[str]()
        for shard in weights(folder):
            for name, item in header(shard).items():
                if name == "__metadata__" or (name == "lm_head.weight" and config.get("tie_word_embeddings")):
                    continue
                begin, end = item["data_offsets"]
                width = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}.get(item["dtype"])
                outer = any(part in name for part in ("embed_tokens", "lm_head", "wte.", "word_embeddings"))
                kind = "packed" if width is None else "embeddings" if outer else "floats"
                sizes[kind] += (end - begin) // (width or 1)
        longest = first(config, "max_position_embeddings", "n_positions", "seq_length", "max_sequence_length") or 2048
        tokenizer = folder / "tokenizer_config.json"
        told = json.loads(tokenizer.read_text("utf-8")).get("model_max_length") if tokenizer.is_file() else None
        layers, latent = kv_layers(config), bool(config.get("kv_lora_rank"))
        heads = 1 if latent else first(config, "num_key_value_heads", "num_attention_heads", "n_head")
        if not sizes or not layers:
            raise ValueError("no weights or no attention")
        longest = int(min(longest, told or longest))
        inner, outer_, packed = (sizes[kind] for kind in ("floats", "embeddings", "packed"))
        tied = bool(config.get("tie_word_embeddings"))
        return Model(folder.name, inner, outer_, packed, layers, heads, longest, latent, tied)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        words = str(error) if isinstance(error, (OSError, ValueError)) else "config.json"
        raise UnknownError(text("plan.unreadable", folder=folder, words=words)) from error


def the_model() -> Model:
    """The model of the settings: its folder, or what is known of it before the download. Raises UnknownError."""
    folder, name = Path(os.environ["MODEL_DIR"]), os.environ["MODEL_ID"]
    if (folder / "config.json").is_file():
        return read_model(folder)
    if name in KNOWN:
        return KNOWN[name]
    raise UnknownError(text("plan.later", name=name))


@dataclass(frozen=True)
class Cache:
    """How vLLM cuts the KV cache of one card: blocks of `block` tokens from one pool, for every group of layers."""

    block: int
    block_bytes: int
    groups: tuple[tuple[int, int], ...]  # (window or 0, how many groups)
    flying: int  # tokens that may be on their way through the model; a window keeps them as well

    def blocks(self, context: int) -> int:
        """Blocks that one request of this many tokens holds at most."""
        windows = (count * (ceil(min(w - 1 + self.flying, context) / self.block) + 1) for w, count in self.groups if w)
        full = sum(count for window, count in self.groups if not window)
        return full * ceil(context / self.block) + sum(windows)

    def at_once(self, room: int, context: int) -> float:
        """How many contexts of this length fit into room."""
        return (room // self.block_bytes) / self.blocks(context)

    def longest(self, room: int, limit: int) -> int:
        """The longest context that fits, 0 for none; vLLM keeps one block back."""
        low, high = 0, limit
        while low < high:
            middle = (low + high + 1) // 2
            fits = self.blocks(middle) <= room // self.block_bytes - 1
            low, high = (middle, high) if fits else (low, middle - 1)
        return low


@dataclass(frozen=True)
class Wish:
    """What the settings ask for; None where they say auto. `width`, `kv_width`: bytes of a weight, of a KV element."""

    share: float | None
    context: int | None
    width: int
    kv_width: int
    fp8: bool = False


@dataclass(frozen=True)
class Fit:
    """What comes of it. `problem` says why not, or is empty."""

    share: float
    context: int
    weights: int
    room: int
    at_once: float
    problem: str = ""


def cache_of(model: Model, memory: Memory, wish: Wish) -> Cache:
    """The groups as vLLM makes them: one for layers of one kind, else groups as large as the rarer kind."""
    block = (16 if model.latent else 128) if not memory.cards else 16
    split = 1 if model.latent else min(memory.count, model.heads)
    flying = 2048 * memory.count if not memory.cards else 2 * (2048 if memory.total < 70 * GIB else 8192)
    kinds = Counter(window for _, window in model.layers)
    if len(kinds) == 1:
        elements, groups = sum(elements for elements, _ in model.layers), tuple((window, 1) for window in kinds)
    else:
        least, most = min(kinds.values()), max(kinds.values())
        size = most if most < least * 1.5 else least
        elements = size * max(elements for elements, _ in model.layers)
        groups = tuple((window, ceil(count / size)) for window, count in kinds.items())
    return Cache(block, block * elements * wish.kv_width // split, groups, flying)


def fit(model: Model, memory: Memory, wish: Wish) -> Fit:
    """Whether the wish comes true in this memory."""
    cache, cpu = cache_of(model, memory, wish), not memory.cards
    inner = model.floats * (1 if wish.fp8 else wish.width)
    weights = (inner + model.embeddings * wish.width + model.packed) // memory.count
    own = CPU_OVERHEAD + model.tied * model.embeddings * wish.width if cpu else CARD_OVERHEAD
    fixed = weights + own
    length = wish.context or min(ENOUGH, model.longest)
    wanted = ceil(max(length, ENOUGH) / length) * cache.blocks(length) + 1
    if wish.share:
        share, room = wish.share, int(wish.share * memory.total) - fixed
    else:
        most = min(memory.free, int((1 if cpu else MOST) * memory.total)) - fixed
        room = min(CPU_KV if cpu else wanted * cache.block_bytes, most)
        share = ceil((fixed + room) / memory.total * 100) / 100
        if share * memory.total > memory.free or (share > MOST and not cpu):  # rounded up, it would be too much
            share = max(floor(min(memory.free / memory.total, MOST) * 100) / 100, 0.01)
        if not cpu:
            room = int(share * memory.total) - fixed
    context = wish.context or cache.longest(room, model.longest)
    budget = gib(share * memory.total)
    place = text("plan.share-of" if wish.share else "plan.can-give", memory=memory, share=share, budget=budget)
    needed = cache.blocks(length) * cache.block_bytes
    at_once, problem = cache.at_once(room, context) if context and room > 0 else 0, ""
    if length > model.longest:
        problem = text("plan.too-long", context=length, longest=model.longest)
    elif wish.share and share * memory.total > memory.free:
        problem = text("plan.not-free", place=place, free=gib(memory.free))
    elif room < cache.block_bytes * 2:
        problem = text("plan.no-room", weights=gib(weights), own=gib(own), place=place)
    elif wish.context and cache.longest(room, context) < context:
        problem = text("plan.no-context", context=context, needed=gib(needed), place=place, room=gib(room))
    elif context < min(LEAST, model.longest):
        problem = text("plan.short", found=context, place=place)
    return Fit(share, context, weights, max(room, 0), at_once, problem)


def advice(model: Model, chosen: Memory, cards: list[Memory], wish: Wish) -> Iterator[str]:
    """What would fit instead, the smallest change first."""
    eight = replace(wish, kv_width=1)
    others = [card for card in cards if card != chosen and not fit(model, card, wish).problem]
    if others:
        yield f"GPU={max(others, key=lambda card: card.free).cards}"
    if wish.share and not (other := fit(model, chosen, replace(wish, share=None))).problem:
        yield f"GPU_MEMORY_UTILIZATION={other.share:g}"
    if wish.context and not (other := fit(model, chosen, replace(wish, context=None))).problem:
        yield f"MAX_MODEL_LEN={other.context}"
    if wish.kv_width > 1 and chosen.cards and not fit(model, chosen, eight).problem:
        yield "VLLM_EXTRA_ARGS='--kv-cache-dtype fp8'"
    if chosen.cards and not model.packed and not wish.fp8 and not fit(model, chosen, replace(eight, fp8=True)).problem:
        yield "VLLM_EXTRA_ARGS='--quantization fp8 --kv-cache-dtype fp8'"
    several = len(cards) > 1 and chosen.count == 1 and model.heads % len(cards) == 0
    if several and not fit(model, together(cards), wish).problem:
        yield f"GPU={together(cards).cards}"


def the_wish() -> Wish:
    """What the settings ask for, the options in VLLM_EXTRA_ARGS that change the sizes included."""
    extra = dict(itertools.pairwise(os.environ.get("VLLM_EXTRA_ARGS", "").replace("=", " ").split()))
    share, context = os.environ["GPU_MEMORY_UTILIZATION"], os.environ["MAX_MODEL_LEN"]
    # As serve.sh chooses: float32 where the CPU has no bf16 instructions.
    cpu = os.environ["PROFILE"] == "cpu"
    fast = not cpu or any(flag in Path("/proc/cpuinfo").read_text() for flag in ("avx512_bf16", "amx_bf16"))
    dtype = extra.get("--dtype", "auto" if fast else "float32")
    width = 4 if dtype.startswith("float") and dtype != "float16" else 2
    kv_width = 1 if extra.get("--kv-cache-dtype", "").startswith(("fp8", "int8")) else width
    shares = None if share == "auto" else float(share), None if context == "auto" else int(context)
    return Wish(*shares, width, kv_width, "fp8" in (extra.get("--quantization"), extra.get("-q")))


def where(settings: str, own: set[int]) -> tuple[list[Memory], list[Memory]]:
    """(the memory that the settings choose, the cards that there are). Raises UnknownError."""
    if os.environ["PROFILE"] == "cpu":
        return [read_ram(own)], []
    cards = read_cards(own)
    if settings == "auto":
        return [max(cards, key=lambda card: card.free)], cards
    some = [card for card in cards if card.cards in settings.split(",")]
    if len(some) < len(settings.split(",")):
        raise UnknownError(text("plan.no-card", gpu=settings, there=" ".join(card.cards for card in cards)))
    return [together(some)], cards


def make_plan() -> tuple[dict[str, Any], list[str]]:
    """The answer for a start now, `fits` being None where there is no telling, and the lines that it was found from."""
    keys = ("gpu_index", "gpu_memory_utilization", "max_model_len", "weights_gib", "kv_cache_gib", "fits")
    record: dict[str, Any] = {"profile": os.environ["PROFILE"], **dict.fromkeys(keys)}
    try:
        model, own, wish = the_model(), ours(), the_wish()
        (memory,), cards = where(os.environ["GPU"], own)
    except UnknownError as why:
        return record | {"reason": str(why)}, []
    found, cache = fit(model, memory, wish), cache_of(model, memory, wish)
    token = f"{cache.block_bytes / cache.block / 1024:.1f} KiB"
    lines = [text("plan.model", name=model.name, weights=gib(found.weights), token=token, longest=model.longest)]
    lines += [text("plan.free", place=one, free=gib(one.free), total=gib(one.total)) for one in cards or [memory]]
    budget = found.share * memory.total
    sizes = {"budget": budget, "weights": found.weights, "room": found.room}
    shown = {key: gib(size) for key, size in (sizes | {"own": budget - found.weights - found.room}).items()}
    reason = found.problem or text("plan.fits", **shown, context=found.context, at_once=found.at_once)
    if found.problem:
        for size, pid in holders(own).get(memory.cards, [])[:3]:
            reason += text("plan.holds", pid=pid, owner=owner(pid), size=gib(size))
        ways = text("plan.or").join(list(advice(model, memory, cards, wish))[:3]) or text("plan.nothing")
        reason += text("plan.instead", ways=ways)
    index = [int(card) for card in memory.cards.split(",") if card]
    place = index[0] if len(index) == 1 else index or None
    weights, room = (round(size / GIB, 2) for size in (found.weights, found.room))
    values = (place, found.share, found.context, weights, room, not found.problem)
    return record | dict(zip(keys, values, strict=True)) | {"reason": reason}, lines


def main(mode: str) -> int:
    """Print the plan; exit code 1 where nothing fits. --choose, for serve.sh: yes|no|unknown GPU SHARE REASON."""
    record, lines = make_plan()
    index, share, context = (record[key] for key in ("gpu_index", "gpu_memory_utilization", "max_model_len"))
    gpu = os.environ["GPU"] if index is None else ",".join(map(str, index if isinstance(index, list) else [index]))
    if mode == "--json":
        print(json.dumps(record, ensure_ascii=False))
    elif mode == "--choose":  # on a CPU `auto` stays where its 2 GiB fit
        share = "auto" if index is None and record["kv_cache_gib"] == CPU_KV / GIB else share
        print({True: "yes", False: "no", None: "unknown"}[record["fits"]], gpu, share, *record["reason"].split())
        return 0
    else:
        mark = {True: "✓", False: "✗", None: "?"}[record["fits"]]
        if record["fits"]:
            card = f"GPU={gpu} " if index is not None else ""
            lines.append(f"{card}GPU_MEMORY_UTILIZATION={share:g} MAX_MODEL_LEN={context}")
        print("\n".join([*(f"    {line}" for line in lines), f"{mark} {record['reason']}"]))
    return 1 if record["fits"] is False else 0


if __name__ == "__main__":
    end_with_the_reader()
    sys.exit(main("".join(sys.argv[1:])))
