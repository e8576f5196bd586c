"""plan: what fits, by stand-in cards and by models that are nothing but a config and the headers of their weights.

That its numbers are those of vLLM is tested on the CPU in tests/e2e; no GPU has confirmed those for GPUs.
"""

import json
import os
import subprocess
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runbook import ROOT
from runbook.machine import gpus
from runbook.machine.memory import GIB, Memory, together
from runbook.plan.estimate import advice, estimate
from runbook.plan.model import KNOWN
from runbook.plan.planner import make_plan
from runbook.plan.request import Request
from tests.conftest import MACHINE, Shell, findings

QWEN = "Qwen/Qwen3-4B-Instruct-2507"
NOWHERE = "http://127.0.0.1:9"
KEYS = ["profile", "gpu_index", "gpu_memory_utilization", "max_model_len"]
KEYS += ["weights_gib", "kv_cache_gib", "fits", "reason"]
SIZE = {"BF16": 2, "F16": 2, "F32": 4, "I8": 1, "F8_E4M3": 1, "I32": 4}
BASE = {"hidden_size": 1024, "num_attention_heads": 16, "num_hidden_layers": 4, "max_position_embeddings": 32768}


def folder(path: Path, config: dict[str, Any], tensors: dict[str, tuple[str, list[int]]]) -> Path:
    """A model folder whose weights are a header and a hole."""
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(BASE | config))
    (path / "tokenizer.json").write_text("{}")
    header, end = {}, 0
    for name, (dtype, shape) in tensors.items():
        begin, end = end, end + SIZE[dtype] * prod(shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with (path / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return path


def nothing_remembered() -> None:
    for remembered in (gpus.ask, gpus.look, gpus.holders):
        remembered.cache_clear()


def ask(shell: Shell, **more: object) -> tuple[dict[str, Any], list[str]]:
    """The plan's record and lines, in this process: the settings as plan.sh gives them."""
    given = {"PROFILE": "gpu", "MODEL_ID": QWEN, "MODEL_DIR": shell.home / "none", "TMUX_SESSION": "vllm-qwen3"}
    given |= {"GPU": "auto", "GPU_MEMORY_UTILIZATION": "auto", "MAX_MODEL_LEN": "auto", "RUNBOOK_LANG": "en"}
    given |= {"BASE_DIR": shell.home / "base", "VENV_DIR": shell.home / "base/.venv", "MODELSCOPE_ENDPOINT": NOWHERE}
    environ = shell.environ(**{**given, **more})
    nothing_remembered()
    with patch.dict(os.environ, environ, clear=True):
        return make_plan()


def plan(shell: Shell, **more: object) -> dict[str, Any]:
    return ask(shell, **more)[0]


@pytest.mark.parametrize(("free", "code"), [(40000, 0), (400, 1)])
def test_the_keys_and_the_exit_code(free: int, code: int, shell: Shell) -> None:
    shell.cards((free, 40960))
    done = shell.script("plan", "--json", PROFILE="gpu")
    assert done.returncode == code, done.stderr
    assert list(json.loads(done.stdout)) == KEYS


# card: MiB by nvidia-smi; free; what auto takes; the context in thousands; the same with the runbook's 0.3
CARDS = [
    ("16 GB idle", 16384, 15900, 0.92, 35, None),
    ("16 GB half", 16384, 8192, None, 0, None),
    ("24 GB idle", 24576, 24100, 0.79, 65, None),
    ("24 GB half", 24576, 12288, None, 0, None),
    ("24 GB nearly full", 24576, 1200, None, 0, None),
    ("40 GB idle", 40960, 40500, 0.47, 65, (16, 24)),
    ("40 GB half", 40960, 20480, 0.36, 33, (16, 24)),
    ("40 GB nearly full", 40960, 2000, None, 0, None),
    ("48 GB idle", 49140, 48600, 0.4, 65, (27, 41)),
    ("80 GB idle", 81559, 81000, 0.24, 65, (100, 111)),
    ("80 GB half", 81559, 40000, 0.18, 33, (100, 111)),
    ("80 GB nearly full", 81559, 4000, None, 0, None),
    ("141 GB idle", 143771, 143000, 0.14, 65, (230, 243)),
]


@pytest.mark.parametrize(("name", "total", "free", "share", "context", "runbook"), CARDS, ids=lambda row: str(row))
def test_a_card(
    name: str, total: int, free: int, share: float | None, context: int, runbook: tuple[int, int] | None, shell: Shell
) -> None:
    """The runbook's 0.3 against the arithmetic of its page: too little for the weights below 40 GB."""
    shell.cards((free, total))
    found = plan(shell)
    assert found["fits"] is (share is not None), found["reason"]
    if share is not None:
        assert found["gpu_memory_utilization"] == share
        assert found["gpu_memory_utilization"] * total <= free
        assert context <= found["max_model_len"] / 1000 < context + 8
    by_hand = plan(shell, GPU_MEMORY_UTILIZATION="0.3")
    assert by_hand["fits"] is (runbook is not None)
    if runbook:
        assert runbook[0] <= by_hand["max_model_len"] / 1000 <= runbook[1]


def test_a_shared_card_keeps_what_is_not_needed(shell: Shell) -> None:
    shell.cards((81000, 81559))
    assert plan(shell, MAX_MODEL_LEN=131072)["gpu_memory_utilization"] > plan(shell)["gpu_memory_utilization"]
    found = plan(shell)
    assert found["kv_cache_gib"] == pytest.approx(9.0, abs=0.8), "65536 tokens of 144 KiB"
    assert found["weights_gib"] == 7.49


def test_the_card_with_the_most_free_memory_is_chosen(shell: Shell) -> None:
    shell.cards((1000, 81920), (24000, 24576), (30000, 81920))
    assert plan(shell)["gpu_index"] == 2
    assert plan(shell, GPU=1)["gpu_index"] == 1


def test_two_cards_share_weights_and_heads(shell: Shell) -> None:
    shell.cards((9000, 24576), (9000, 24576))
    alone, both = plan(shell, GPU=0), plan(shell, GPU="0,1")
    assert alone["fits"] is False
    assert "GPU=0,1" in alone["reason"]
    assert both["fits"] is True
    assert both["gpu_index"] == [0, 1]
    assert both["weights_gib"] == pytest.approx(alone["weights_gib"] / 2, abs=0.01)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("echo 'Failed to initialize NVML: Insufficient Permissions'; exit 4", "This user may not use the GPU"),
        ("echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18", "reboot"),
        ("echo 'Some other vendor 1.0'", "Some other vendor"),
        ("exit 9", "lists no GPU"),
    ],
)
def test_what_nvidia_smi_does_not_tell_is_said(body: str, words: str, shell: Shell) -> None:
    shell.stand_in("nvidia-smi", body)
    found = plan(shell)
    assert found["fits"] is None
    assert words in found["reason"]


def test_a_card_that_is_not_there(shell: Shell) -> None:
    shell.cards((40000, 40960))
    assert "the usable GPUs are 0" in plan(shell, GPU=5)["reason"]


def test_before_the_download_only_known_models_have_a_plan(shell: Shell) -> None:
    shell.cards((40000, 40960))
    found = plan(shell, MODEL_ID="acme/unknown")
    assert found["fits"] is None
    assert "./inv download" in found["reason"]
    assert plan(shell, PROFILE="cpu", MODEL_ID="demo")["max_model_len"] == 8192


def test_who_holds_the_memory_is_named(shell: Shell) -> None:
    shell.cards((1000, 24576), apps=f"GPU-0, {os.getpid()}, 23000")
    reason = plan(shell)["reason"]
    assert f"pid {os.getpid()} (" in reason
    assert "python" in reason
    assert "holds 22.5 GiB" in reason
    assert "the GPU is large enough, but its memory is in use" in reason
    nothing_remembered()
    shell.cards((8000, 8192))
    assert "the GPU itself is too small" in plan(shell)["reason"]


def test_what_this_server_holds_counts_as_free(shell: Shell) -> None:
    """Else a second deploy beside the running server would say that nothing fits."""
    mark = shell.environ(RUNBOOK_SERVER=shell.home / "base/run" / MACHINE / "vllm-qwen3")
    with subprocess.Popen(["sleep", "60"], env=mark) as server:
        shell.cards((1000, 24576), apps=f"GPU-0, {server.pid}, 22000")
        found = plan(shell, **findings(shell))
        server.kill()
    assert found["fits"] is True
    assert plan(shell)["fits"] is False


PLAIN = {"model.embed_tokens.weight": ("BF16", [1000, 1024]), "model.layers.0.x": ("BF16", [1024, 1024])}
# config, tensors, KV elements a token, weights in MiB on a card
ARCHITECTURES: dict[str, tuple[dict[str, Any], dict[str, tuple[str, list[int]]], int, float]] = {
    "multi-head": ({}, PLAIN, 4 * 2 * 1024, 3.95),
    "gqa": ({"num_key_value_heads": 4, "head_dim": 128}, PLAIN, 4 * 2 * 4 * 128, 3.95),
    "mqa": ({"multi_query": True}, PLAIN, 4 * 2 * 64, 3.95),
    "tied, the copy is not loaded": (
        {"tie_word_embeddings": True},
        {**PLAIN, "lm_head.weight": ("BF16", [1000, 1024])},
        4 * 2 * 1024,
        3.95,
    ),
    "untied": ({}, {**PLAIN, "lm_head.weight": ("BF16", [1000, 1024])}, 4 * 2 * 1024, 5.91),
    "float32 becomes 16 bits": ({}, {"w": ("F32", [1024, 1024])}, 4 * 2 * 1024, 2.0),
    "int8": (
        {"quantization_config": {}},
        {"w": ("I8", [1024, 1024]), "w_scale": ("F32", [1024, 1])},
        4 * 2 * 1024,
        1.0,
    ),
    "fp8": ({}, {"w": ("F8_E4M3", [1024, 1024])}, 4 * 2 * 1024, 1.0),
    "4 bits in words of 32": ({}, {"qweight": ("I32", [128, 1024])}, 4 * 2 * 1024, 0.5),
    "experts": (
        {"num_key_value_heads": 2, "num_experts": 8},
        {f"model.layers.0.mlp.experts.{i}.up_proj.weight": ("BF16", [512, 1024]) for i in range(8)},
        4 * 2 * 2 * 64,
        8.0,
    ),
    "mla": ({"kv_lora_rank": 512, "qk_rope_head_dim": 64}, PLAIN, 4 * 576, 3.95),
    "linear attention has no cache": (
        {"layer_types": ["linear_attention"] * 3 + ["full_attention"]},
        PLAIN,
        2 * 1024,
        3.95,
    ),
    "text part of a larger model": ({"text_config": {"num_key_value_heads": 4}}, PLAIN, 4 * 2 * 4 * 64, 3.95),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_architecture(name: str, shell: Shell) -> None:
    config, tensors, elements, mib = ARCHITECTURES[name]
    shell.cards((15000, 16384))
    path = folder(shell.home / "M", config, tensors)
    found, lines = ask(shell, MODEL_DIR=path)
    assert f"{elements * 2 / 1024:.1f} KiB of KV cache a token" in lines[0]
    assert found["weights_gib"] == round(mib / 1024, 2)
    assert found["max_model_len"] == 32768


def test_a_sliding_window_needs_less_and_says_so(shell: Shell) -> None:
    """Only what a layer can look back to is kept: many more contexts at once."""
    shell.cards((15000, 16384))
    full = folder(shell.home / "full", {}, PLAIN)
    window = folder(shell.home / "window", {"sliding_window": 1024}, PLAIN)
    off = folder(shell.home / "off", {"sliding_window": 1024, "use_sliding_window": False}, PLAIN)
    one, other, third = (
        float(plan(shell, MODEL_DIR=path, GPU_MEMORY_UTILIZATION=0.5)["reason"].split(" of them")[0].split()[-1])
        for path in (full, window, off)
    )
    assert other > 4 * one
    assert third == one


@pytest.mark.parametrize("text", ["{", "[]", '{"num_hidden_layers": "x"}', "{}"])
def test_a_config_that_cannot_be_read_is_no_plan_and_no_crash(text: str, shell: Shell) -> None:
    shell.cards((15000, 16384))
    path = folder(shell.home / "M", {}, PLAIN)
    (path / "config.json").write_text(text)
    found = plan(shell, MODEL_DIR=path)
    assert found["fits"] is None
    assert str(path) in found["reason"]


def test_a_damaged_shard_is_no_plan(shell: Shell) -> None:
    shell.cards((15000, 16384))
    path = folder(shell.home / "M", {}, PLAIN)
    os.truncate(path / "model.safetensors", 3000)
    assert "model.safetensors has 3000 bytes instead of" in plan(shell, MODEL_DIR=path)["reason"]


@given(
    cards=st.lists(st.tuples(st.integers(4, 141), st.floats(0.01, 1)), min_size=1, max_size=4),
    share=st.sampled_from([None, 0.3, 0.6, 0.9]),
    context=st.sampled_from([None, 4096, 32768, 262144, 300000]),
)
def test_what_is_said_to_fit_instead_fits(
    cards: list[tuple[int, float]], share: float | None, context: int | None
) -> None:
    """Whatever the cards: advice that is taken makes a plan that fits, and what fits is within what is free."""
    memories = [Memory(str(i), gib * GIB, int(gib * part * GIB)) for i, (gib, part) in enumerate(cards)]
    wish, model = Request(share, context, 2, 2), KNOWN[QWEN]
    found = estimate(model, memories[0], wish)
    if not found.problem:
        assert found.share * memories[0].total <= memories[0].free
        assert 2048 <= found.context <= model.longest
        assert found.at_once >= 1
        return
    for way in advice(model, memories[0], memories, wish):
        key, value = way.split("=", 1)
        place, other = memories[0], wish
        if key == "GPU":
            place = together([memories[int(index)] for index in value.split(",")])
        elif key == "GPU_MEMORY_UTILIZATION":
            other = replace(wish, share=float(value))
        elif key == "MAX_MODEL_LEN":
            other = replace(wish, context=int(value))
        else:
            other = replace(wish, kv_width=1, fp8="--quantization" in value)
        assert not estimate(model, place, other).problem, way


def test_the_server_starts_with_what_the_plan_says(shell: Shell) -> None:
    from tests.scripts.test_serve import Row, served

    row = Row("plan", {}, [(1000, 24576), (40000, 81559)], [])
    folder(shell.home / "M", {"num_key_value_heads": 8, "head_dim": 128, "num_hidden_layers": 36}, PLAIN)
    argv, environ = served(shell, row, config=None)
    found = plan(shell, MODEL_DIR=shell.home / "M")
    assert argv[-2:] == ["--gpu-memory-utilization", str(found["gpu_memory_utilization"])]
    assert environ["CUDA_VISIBLE_DEVICES"] == str(found["gpu_index"]) == "1"
    assert found["gpu_memory_utilization"] < 0.3


def test_what_does_not_fit_is_not_started(shell: Shell) -> None:
    (shell.home / "venv/bin").mkdir(parents=True)
    vllm = shell.home / "venv/bin/vllm"
    vllm.write_text("#!/bin/sh\necho started\n")
    vllm.chmod(0o755)
    path = folder(shell.home / "M", {}, {"w": ("BF16", [30, 2**28])})
    shell.cards((9000, 16384))
    done = shell.script("serve", PROFILE="gpu", MODEL_DIR=path, VENV_DIR=shell.home / "venv", API_KEY="k")
    assert done.returncode == 1
    assert "The model does not fit into the memory that is free now: the weights (15.0 GiB)" in done.stderr
    assert "E50 " in done.stderr
    assert "started" not in done.stdout


@pytest.mark.parametrize("lang", ["zh", "en"])
def test_for_people_in_both_languages(lang: str, shell: Shell) -> None:
    shell.cards((40000, 40960))
    done = shell.script("plan", PROFILE="gpu", RUNBOOK_LANG=lang)
    assert done.returncode == 0, done.stderr
    assert "GPU=0 GPU_MEMORY_UTILIZATION=0.47 MAX_MODEL_LEN=" in done.stdout
    assert ("权重 7.49 GiB" in done.stdout) == (lang == "zh")
    assert (ROOT / "scripts/plan.sh").exists()
