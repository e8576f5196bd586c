"""Smaller weights of the same model, for a GPU on which the model itself does not fit. Reads only."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from runbook.machine.memory import UnknownError
from runbook.model.source import Site
from runbook.plan.model import KNOWN, Model, build

# The order of preference: 8 bits lose little, 4 bits more.
SUFFIXES = ("-FP8", "-GPTQ-Int8", "-Int8", "-AWQ", "-GPTQ-Int4", "-Int4")
QWEN = "Qwen/Qwen3-4B-Instruct-2507"
FP8: dict[str, Any] = {"quant_method": "fp8", "weight_block_size": [128, 128]}
FOUR_BITS = 0.53  # bytes of a weight of 4 bits, with the scales of its group of 128
LISTED = {  # of the default model, known without asking; computed from its sizes
    f"{QWEN}-FP8": (1.0, FP8),
    "JunHowie/Qwen3-4B-Instruct-2507-GPTQ-Int8": (1.02, {"quant_method": "gptq", "bits": 8, "group_size": 128}),
    "Eslzzyl/Qwen3-4B-Instruct-2507-AWQ": (FOUR_BITS, {"quant_method": "awq", "bits": 4, "group_size": 128}),
}


def listed() -> Iterator[tuple[str, Model]]:
    """Yield the smaller versions of the default model."""
    whole = KNOWN[QWEN]
    for name, (width, found) in LISTED.items():
        packed = int(whole.floats * width)
        yield (
            name,
            replace(
                whole,
                name=name.split("/")[1],
                floats=0,
                packed=packed,
                config={**whole.config, "quantization_config": found},
            ),
        )


def on_the_site(model_id: str) -> Iterator[tuple[str, Model]]:
    """Yield the versions of a model that the site has under the usual names."""

    def ask(name: str) -> Model | None:
        try:
            return build(name.split("/")[1], *Site(name, "master").read())
        except (UnknownError, ValueError, KeyError, TypeError, AttributeError):
            return None

    names = [model_id + suffix for suffix in SUFFIXES]
    with ThreadPoolExecutor(len(names)) as pool:
        yield from ((name, found) for name, found in zip(names, pool.map(ask, names), strict=True) if found)


def smaller(model_id: str) -> Iterator[tuple[str, Model]]:
    """Yield (MODEL_ID, its sizes) of smaller weights of the same model, the best first."""
    if model_id == QWEN:
        yield from listed()
    elif "/" in model_id and not model_id.upper().endswith(tuple(suffix.upper() for suffix in SUFFIXES)):
        yield from on_the_site(model_id)
