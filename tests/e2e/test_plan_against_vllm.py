"""The plan's numbers against the real vLLM on this CPU: its own words on the KV cache, for several architectures."""

import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from runbook.machine.memory import GIB, Memory
from runbook.plan.estimate import cache_of, estimate
from runbook.plan.model import read_model
from runbook.plan.request import Request, the_request
from tests.conftest import Shell
from tests.e2e.conftest import Deployment

COMMON = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "vocab_size": 49152,
    "max_position_embeddings": 32768,
}
INT8 = "llama, weights of 8 bits"
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama, grouped heads, untied": ("llama", {"num_key_value_heads": 2, "tie_word_embeddings": False}),
    "llama, one head, tied": ("llama", {"num_key_value_heads": 1, "tie_word_embeddings": True}),
    "qwen3": ("qwen3", {"num_key_value_heads": 4, "head_dim": 64, "tie_word_embeddings": True}),
    "mistral, a window on every layer": ("mistral", {"num_key_value_heads": 2, "sliding_window": 1024}),
    "gemma3, a window on six of seven": (
        "gemma3_text",
        {"num_key_value_heads": 2, "head_dim": 64, "sliding_window": 512, "num_hidden_layers": 7},
    ),
    "qwen3-moe": (
        "qwen3_moe",
        {"num_key_value_heads": 2, "head_dim": 64, "num_experts": 4, "num_experts_per_tok": 2}
        | {"moe_intermediate_size": 128},
    ),
    "deepseek, latent attention": (
        "deepseek_v2",
        {"num_key_value_heads": 8, "q_lora_rank": None, "kv_lora_rank": 512, "qk_rope_head_dim": 64}
        | {"qk_nope_head_dim": 64, "v_head_dim": 64, "n_routed_experts": 4, "num_experts_per_tok": 2}
        | {"moe_intermediate_size": 128, "n_shared_experts": 1, "n_group": 1, "topk_group": 1},
    ),
    "qwen3-next, a state instead of a cache on three of four": (
        "qwen3_next",
        {"num_key_value_heads": 2, "head_dim": 64, "num_hidden_layers": 8, "num_experts": 4, "num_experts_per_tok": 2}
        | {"moe_intermediate_size": 128, "shared_expert_intermediate_size": 128, "linear_num_value_heads": 8}
        | {"linear_num_key_heads": 4, "linear_key_head_dim": 64, "linear_value_head_dim": 64},
    ),
    INT8: ("llama", {"num_key_value_heads": 2, "tie_word_embeddings": False}),
}
# In the serving environment: makes each model with random weights, then asks vLLM itself in a process forked off.
ASK = """
import json, os, shutil, sys
from pathlib import Path
os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM
from vllm import LLM
import vllm.v1.worker.cpu_worker
def quantize(folder):  # int8 for each output channel, as compressed-tensors has it
    path, tensors = folder / "model.safetensors", {}
    for key, tensor in load_file(path).items():
        if key.endswith("_proj.weight"):
            scale = tensor.float().abs().amax(1, keepdim=True) / 127
            tensors[key] = (tensor.float() / scale).round().to(torch.int8)
            tensors[key + "_scale"] = scale.to(torch.bfloat16)
        else:
            tensors[key] = tensor
    save_file(tensors, path, {"format": "pt"})
    bits = {"num_bits": 8, "type": "int", "symmetric": True}
    group = {"targets": ["Linear"], "weights": bits | {"strategy": "channel", "dynamic": False},
             "input_activations": bits | {"strategy": "token", "dynamic": True}}
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "compressed-tensors", "format": "int-quantized",
        "quantization_status": "compressed", "ignore": ["lm_head"], "config_groups": {"group_0": group}}
    (folder / "config.json").write_text(json.dumps(config))

work, tokens, cases, cache = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]), int(sys.argv[4])
for number, (name, (kind, config)) in enumerate(cases.items()):
    folder = work / str(number)
    if os.fork() == 0:
        made = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **config), dtype=torch.bfloat16)
        made.save_pretrained(folder)
        if name.endswith("8 bits"):
            quantize(folder)
        for path in tokens.glob("tokenizer*"):
            shutil.copy(path, folder)
        os._exit(0)
    os.wait()
    if os.fork() == 0:
        # As serve.sh and the OpenAI server have it. Some kernels of a CPU with bf16 instructions take nothing else.
        llm = LLM(model=str(folder), enforce_eager=True, dtype=sys.argv[5], max_model_len=-1,
                  kv_cache_memory_bytes=cache, max_num_batched_tokens=2048 if "sliding_window" in config else None)
        config = llm.llm_engine.vllm_config
        worker = llm.llm_engine.model_executor.driver_worker.worker
        loaded = sum(one.nbytes for one in worker.model_runner.model.parameters())
        tokens = config.cache_config.kv_cache_size_tokens
        print("SAID", json.dumps([name, tokens, config.model_config.max_model_len, loaded]))
        sys.stdout.flush()
        os._exit(0)
    os.wait()
"""


def width() -> int:
    """Bytes of a weight and of a KV element on this CPU."""
    wanted = {
        "GPU_MEMORY_UTILIZATION": "auto",
        "MAX_MODEL_LEN": "auto",
        "PROFILE": "cpu",
        "VLLM_EXTRA_ARGS": "",
        "MODEL_DIR": "/none",
    }
    with patch.dict(os.environ, wanted):
        return the_request().width


@pytest.fixture(scope="module")
def asked(deployed: Deployment, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[int]]]:
    """The folder of the models, and what vLLM says: tokens of KV cache in a quarter of a GiB, context, bytes loaded."""
    work = tmp_path_factory.mktemp("models")
    cases = json.dumps({name: (kind, COMMON | more) for name, (kind, more) in MODELS.items()})
    dtype = {2: "bfloat16", 4: "float32"}[width()]
    done = deployed.shell.run(
        *(deployed.base / ".venv/bin/python", "-c", ASK, work, deployed.model, cases, GIB // 4, dtype), timeout=400
    )
    said = [json.loads(line[5:]) for line in done.stdout.splitlines() if line.startswith("SAID ")]
    assert len(said) == len(MODELS), done.stdout[-2000:] + done.stderr[-3000:]
    return work, {name: sizes for name, *sizes in said}


@pytest.mark.parametrize("name", MODELS)
def test_the_kv_cache_is_counted_as_vllm_counts_it(
    name: str, asked: tuple[Path, dict[str, list[int]]], measured: Callable[[str], None]
) -> None:
    work, said = asked
    model = read_model(work / str(list(MODELS).index(name)))
    wish = Request(None, None, width(), width())
    memory = Memory("", 16 * GIB, 16 * GIB)
    cache = cache_of(model, memory, wish)
    context = cache.longest(GIB // 4, model.longest)
    tokens = cache.at_once(GIB // 4, context) * context
    loaded = estimate(model, memory, wish).weights
    measured(f"{name}: plan {tokens:.0f} tokens, context {context}, {loaded} bytes; vLLM {said[name]}")
    assert context == said[name][1]
    assert tokens == pytest.approx(said[name][0], rel=0.01)
    if name == INT8:  # the CPU build repacks other weights into buffers of its own
        assert loaded == pytest.approx(said[name][2], rel=0.05)


@pytest.mark.parametrize("share", ["auto", "0.3"])
def test_the_plan_agrees_with_the_server_that_then_runs(
    share: str, deployed: Deployment, measured: Callable[[str], None]
) -> None:
    """Tokens of KV cache within 5 % of what the log of the real server says."""
    own = Shell(deployed.shell.home, deployed.shell.root, {**deployed.shell.settings, "GPU_MEMORY_UTILIZATION": share})
    assert own.inv("stop", timeout=120).returncode == 0
    done = own.inv("plan", "--json")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    log = deployed.base / "logs/vllm.log"
    before = log.stat().st_size if log.exists() else 0
    done = own.inv("tmux-start", timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    text = log.read_bytes()[before:].decode("utf-8", "replace")
    found = re.findall(r"CPU KV cache size: ([\d,]+) tokens, Maximum concurrency for ([\d,]+) tokens", text)
    tokens, context = (int(word.replace(",", "")) for word in found[0])
    # bfloat16 where the CPU computes with it, else float32: by the server's own words.
    size = {"bfloat16": 2, "float32": 4}[re.findall(r"\bdtype=torch\.(\w+)", text)[0]]
    planned = plan["kv_cache_gib"] * GIB / (2 * 30 * 3 * 64 * size)  # SmolLM2: K and V, layers, heads, size, bytes
    measured(f"utilisation {share}: plan {planned:.0f} tokens, vLLM {tokens}")
    assert planned == pytest.approx(tokens, rel=0.05)
    assert plan["max_model_len"] == context
    during = json.loads(own.inv("plan", "--json").stdout)
    assert during["fits"] is True, "what this server holds counts as free"
    assert own.inv("tmux-start", timeout=60).returncode == 0, "auto is not taken for a changed setting"


def test_a_share_that_is_not_free_is_foreseen(deployed: Deployment) -> None:
    """vLLM says it after half a minute, the plan at once."""
    own = Shell(deployed.shell.home, deployed.shell.root, {**deployed.shell.settings, "GPU_MEMORY_UTILIZATION": "1"})
    assert own.inv("stop", timeout=120).returncode == 0
    began = time.monotonic()
    done = own.inv("plan")
    assert done.returncode == 1
    assert "is not free" in done.stdout
    assert "GPU_MEMORY_UTILIZATION=0." in done.stdout
    assert time.monotonic() - began < 15, "vLLM would take half a minute"
    assert not deployed.processes()
