"""A model's sizes from the site: a real request to a loopback hub, by ranges, and what the site may do instead."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from runbook.machine.memory import UnknownError
from runbook.model import source
from runbook.model.source import Site, unservable
from runbook.plan.model import the_model
from runbook.plan.smaller import smaller
from tests.hub import Hub, hub
from tests.runbook.plan.test_plan import PLAIN, folder

NAME = "acme/Tiny"
CLEAN = {"MODELSCOPE_API_TOKEN": "", "RUNBOOK_LANG": "en", "no_proxy": "*"}


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Hub]:
    """A model of two files whose weights are a header and a hole."""
    place = folder(tmp_path / "served", {}, PLAIN)
    with hub(place, NAME) as there, patch.dict(os.environ, {"MODELSCOPE_ENDPOINT": there.endpoint, **CLEAN}):
        yield there


def settings(**more: str) -> dict[str, str]:
    return {"MODEL_DIR": "/nowhere/x", "MODEL_ID": NAME, "MODEL_REVISION": "master", **more}


def test_the_sizes_are_those_of_the_files_and_only_headers_are_read(served: Hub, tmp_path: Path) -> None:
    found = the_model(settings())
    here = the_model(settings(MODEL_DIR=str(tmp_path / "served")))
    assert (found.floats, found.embeddings, found.layers) == (here.floats, here.embeddings, here.layers)
    assert found.name == "Tiny"
    size = (tmp_path / "served/model.safetensors").stat().st_size
    assert served.sent["model.safetensors"] <= source.HEADER < size


def test_a_header_longer_than_the_first_range(served: Hub) -> None:
    with patch.object(source, "HEADER", 16):
        assert the_model(settings()).floats == 1024 * 1024
    assert served.requests["model.safetensors"] == 2


def test_a_site_that_answers_a_range_with_200(served: Hub) -> None:
    served.status_200 = True
    with patch.object(source, "HEADER", 16):
        assert the_model(settings()).floats == 1024 * 1024


def test_a_token_goes_along(served: Hub) -> None:
    served.token = "s3cret"
    with pytest.raises(UnknownError, match="Unauthorized"):
        the_model(settings())
    with patch.dict(os.environ, {"MODELSCOPE_API_TOKEN": "s3cret"}):
        served.trouble = lambda path, size: None
        assert [*Site(NAME, "master").sizes()]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"MODEL_ID": "acme/Other"}, "the site has no such model"),
        ({"MODEL_REVISION": "v9"}, "the site has no such model"),
    ],
)
def test_what_the_site_does_not_have(more: dict[str, str], words: str, served: Hub) -> None:
    with pytest.raises(UnknownError, match=words):
        the_model(settings(**more))


def test_broken_answers_are_a_plan_without_sizes(served: Hub) -> None:
    for trouble in (("status", 500), ("cut", 10)):
        served.trouble = lambda path, size, trouble=trouble: trouble  # type: ignore[misc]
        with pytest.raises(UnknownError, match="planned after"):
            the_model(settings())
    served.trouble = lambda path, size: None
    served.listing = lambda files: {}
    with pytest.raises(UnknownError, match="planned after"):
        the_model(settings())
    served.down = True
    with pytest.raises(UnknownError, match="planned after"):
        the_model(settings())


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["config.json", "model.safetensors"], ""),
        (["config.json", "model.safetensors", "model-q4.gguf"], ""),
        (["README.md", "qwen-q8_0.gguf"], "GGUF"),
        (["config.json", "qwen-q8_0.GGUF"], "GGUF"),
        (["adapter_config.json", "adapter_model.safetensors"], "LoRA"),
        (["config.json", "pytorch_model.bin"], ".bin"),
        (["config.json", "onnx/model.onnx"], ".onnx"),
        (["README.md", "x.safetensors"], "config.json"),
        ([], "config.json"),
    ],
)
def test_formats_that_cannot_be_served(names: list[str], words: str) -> None:
    with patch.dict(os.environ, {"RUNBOOK_LANG": "en"}):
        found = unservable(names)
    assert bool(found) is bool(words)
    assert words in found


def test_smaller_weights_of_the_same_model(tmp_path: Path) -> None:
    more: dict[str, Any] = {"quantization_config": {"quant_method": "fp8"}}
    place = folder(tmp_path / "served", more, {"w": ("F8_E4M3", [1024, 1024])})
    with hub(place, f"{NAME}-FP8") as there, patch.dict(os.environ, {"MODELSCOPE_ENDPOINT": there.endpoint, **CLEAN}):
        found = dict(smaller(NAME))
        assert not dict(smaller(f"{NAME}-FP8")), "it is small already"
        assert not dict(smaller("demo"))
    assert list(found) == [f"{NAME}-FP8"]
    assert found[f"{NAME}-FP8"].packed == 1024 * 1024
    assert found[f"{NAME}-FP8"].config["quantization_config"] == {"quant_method": "fp8"}


def test_the_smaller_versions_of_the_default_model_are_known() -> None:
    with patch.dict(os.environ, {"MODELSCOPE_ENDPOINT": "http://127.0.0.1:9"}):
        found = dict(smaller("Qwen/Qwen3-4B-Instruct-2507"))
    assert next(iter(found)) == "Qwen/Qwen3-4B-Instruct-2507-FP8"
    sizes = [one.packed for one in found.values()]
    assert sizes[0] == 3_633_511_936, "one byte for each weight that is not an embedding"
    assert json.dumps([dict(one.config) for one in found.values()])
