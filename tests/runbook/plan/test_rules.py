"""What cannot work: combinations of models, settings and GPUs, each with where the right answer is known from.

Sources: the source of vLLM 0.32 (file), a public report (owner/name#number), or arithmetic.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from runbook.machine.gpus import Gpu
from runbook.machine.memory import GIB, Memory, UnknownError
from runbook.model.kind import options
from runbook.plan import rules
from runbook.plan.estimate import cache_of, estimate
from runbook.plan.model import KNOWN, Model, build
from runbook.plan.planner import divided
from runbook.plan.request import Request, overridden
from runbook.plan.rules import problems, served, unusable

QWEN = KNOWN["Qwen/Qwen3-4B-Instruct-2507"]
HEADS = "config/model.py, verify_with_parallel_config"
KV = "models/qwen3.py, Qwen3Attention"
BLOCK = "quantization/utils/fp8_utils.py, validate_fp8_block_shape"
GROUP = "quantization/auto_awq.py"
ABLE = "platforms/cuda.py; quantization/*.py, get_min_capability"
FP8_KV = "v1/attention/backends/triton_attn.py"
FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128}
MXFP4 = {"quant_method": "mxfp4"}
PACKED = {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"group_size": 128}}}}


def model(heads: int = 32, kv: int = 8, wide: int = 9728, **more: Any) -> Model:
    config = {"num_attention_heads": heads, "num_key_value_heads": kv, "head_dim": 128, "intermediate_size": wide}
    return replace(QWEN, heads=kv, config=config | more)


def quantized(found: dict[str, Any], **more: Any) -> Model:
    return model(quantization_config=found, **more)


def gpus(*capabilities: float, mig: bool = False) -> list[Gpu]:
    names = (f"MIG-{index}" if mig else str(index) for index in range(len(capabilities)))
    return [Gpu(name, name, "x", capability=able) for name, able in zip(names, capabilities, strict=True)]


def request(text: str = "") -> Request:
    extra = options(text)
    return Request(None, None, 2, 2, "fp8" in extra.get("--quantization", ""), options=extra)


# model, options, compute capability of each GPU, what the problem says (nothing: none), known from
TABLE: list[tuple[Model, str, tuple[float, ...], str, str]] = [
    (model(32, 8), "", (8.6,), "", HEADS),
    (model(32, 8), "", (8.6,) * 2, "", HEADS),
    (model(32, 8), "", (8.6,) * 3, "attention heads (32)", "vllm-project/vllm#52435"),
    (model(32, 8), "", (8.6,) * 4, "", HEADS),
    (model(32, 8), "", (8.6,) * 5, "attention heads (32)", HEADS),
    (model(32, 8), "", (8.6,) * 6, "attention heads (32)", HEADS),
    (model(32, 8), "", (8.6,) * 8, "", HEADS),
    (model(9, 3), "", (8.6,) * 3, "", "seen: three nodes serve SmolLM2 together"),
    (model(9, 3), "", (8.6,) * 2, "attention heads (9)", HEADS),
    (model(40, 8), "", (8.6,) * 5, "8 KV heads", KV),
    (model(28, 4), "", (9.0,) * 4, "", KV),
    (model(28, 4), "", (9.0,) * 7, "4 KV heads", KV),
    (model(28, 4), "", (9.0,) * 2, "", KV),
    (model(64, 4), "", (9.0,) * 8, "", "the KV heads are repeated: models/qwen3.py"),
    (model(48, 6), "", (9.0,) * 4, "6 KV heads", KV),
    (model(32, 1), "", (9.0,) * 8, "", "one KV head is repeated on every GPU"),
    (quantized(FP8), "", (9.0,) * 2, "", BLOCK),
    (quantized(FP8), "", (9.0,) * 4, "", "9728 / 4 = 2432 = 19 * 128"),
    (quantized(FP8), "", (9.0,) * 8, "width 9728", BLOCK),
    (quantized(FP8, wide=11008), "", (9.0,) * 2, "", "11008 / 2 = 5504 = 43 * 128"),
    (quantized(FP8, wide=11008), "", (9.0,) * 4, "width 11008", BLOCK),
    (quantized(FP8, moe_intermediate_size=320), "", (8.9,) * 8, "width of an expert (320)", "vllm-project/vllm#54178"),
    (quantized(FP8, moe_intermediate_size=1536), "", (9.0,) * 8, "width of an expert (1536)", "1536 / 8 = 192"),
    (quantized(FP8, moe_intermediate_size=1536), "", (9.0,) * 4, "", "1536 / 4 = 384 = 3 * 128"),
    (quantized(FP8, moe_intermediate_size=1536), "--enable-expert-parallel", (9.0,) * 8, "", "quantization/fp8.py"),
    (quantized(AWQ), "", (8.6,) * 2, "", GROUP),
    (quantized(AWQ), "", (8.6,) * 8, "width 9728", GROUP),
    (quantized(AWQ, wide=29568), "", (8.6,) * 8, "width 29568", "vllm-project/vllm#5675"),
    (quantized(AWQ, wide=29696), "", (8.6,) * 8, "", "29696 / 8 = 3712 = 29 * 128"),
    (quantized(GPTQ, wide=13824), "", (8.6,) * 4, "", "13824 / 4 = 3456 = 27 * 128"),
    (quantized(GPTQ, wide=13824), "", (8.6,) * 8, "width 13824", GROUP),
    (quantized(PACKED), "", (9.0,) * 8, "width 9728", GROUP),
    (quantized(AWQ | {"group_size": -1}), "", (8.6,) * 8, "", "one group for a whole channel"),
    (model(wide=9728), "", (8.6,) * 8, "", "without a quantization nothing has blocks"),
    (model(), "", (7.5,), "", ABLE),
    (model(), "--dtype bfloat16", (7.5,), "bfloat16 needs compute capability 8.0", ABLE),
    (model(), "--dtype=bfloat16", (8.0,), "", ABLE),
    (model(), "--dtype half", (7.5,), "", ABLE),
    (quantized(AWQ), "", (7.5,), "", ABLE),
    (quantized(GPTQ), "", (7.5,), "", ABLE),
    (quantized(FP8), "", (7.5,), "", "weights of 8 bits are unpacked: quantization/fp8.py"),
    (quantized(FP8), "", (8.6,), "", "weights of 8 bits are unpacked: quantization/fp8.py"),
    (quantized(MXFP4), "", (7.5,), "mxfp4 needs compute capability 8.0", ABLE),
    (quantized(MXFP4), "", (8.0,), "", ABLE),
    (quantized({"quant_method": "fbgemm_fp8"}), "", (7.5,), "fbgemm_fp8 needs compute capability 8.0", ABLE),
    (quantized({"quant_method": "modelopt"}), "", (7.5,), "modelopt needs compute capability 8.0", ABLE),
    (model(), "--quantization bitsandbytes", (7.5,), "", ABLE),
    (model(), "--quantization fp8", (7.5,), "", ABLE),
    (model(), "--kv-cache-dtype fp8", (7.5,), "needs compute capability 8.9", "vllm-project/vllm#26431"),
    (model(), "--kv-cache-dtype fp8_e5m2", (7.5,), "needs compute capability 8.9", FP8_KV),
    (model(), "--kv-cache-dtype fp8", (8.6,), "needs compute capability 8.9", FP8_KV),
    (model(), "--kv-cache-dtype fp8", (8.9,), "", FP8_KV),
    (model(), "--kv-cache-dtype fp8", (12.0,), "", FP8_KV),
    (model(), "--kv-cache-dtype auto", (7.5,), "", FP8_KV),
    (model(), "", (8.6, 8.9), "", "both compute with bfloat16"),
    (model(), "", (7.5, 8.6), "cannot be mixed", ABLE),
    (model(), "--dtype half", (7.5, 8.6), "", ABLE),
    (quantized(FP8), "", (8.6, 8.9), "cannot be mixed", "other kernels below 8.9: quantization/fp8.py"),
    (quantized(FP8), "", (8.9, 9.0), "", "both compute with FP8"),
    (quantized(AWQ), "", (8.6, 9.0), "", "one kernel for both"),
    (model(), "--rope-scaling '{}'", (9.0,), "no --rope-scaling any more", "vllm-project/recipes#856"),
    (model(), "--rope_theta 1000000", (9.0,), "no --rope-theta any more", "engine/arg_utils.py"),
    (model(), "--hf-overrides '{}'", (9.0,), "", "engine/arg_utils.py"),
    (model(), "--kv-cache-dtype fp8", (0,), "", "an nvidia-smi that tells no capability refuses nothing"),
]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row[1]} {row[2]} {row[4]}")
def test_the_table(row: tuple[Model, str, tuple[float, ...], str, str], tmp_path: Path) -> None:
    which, text, capabilities, says, _ = row
    now = {"VENV_DIR": str(tmp_path), "RUNBOOK_LANG": "en", "PATH": str(tmp_path)}
    with patch.dict("os.environ", now), patch.object(rules, "NVCC", tmp_path / "none"):
        found = "; ".join(problem for problem, _ in problems(which, request(text), gpus(*capabilities)))
    assert bool(found) is bool(says), found
    assert says in found


def test_an_fp8_cache_on_a_gpu_of_8_6_needs_a_compiler(tmp_path: Path) -> None:
    (tmp_path / "nvcc").touch(0o755)
    with patch.dict("os.environ", {"VENV_DIR": str(tmp_path), "PATH": str(tmp_path)}):
        assert not problems(QWEN, request("--kv-cache-dtype fp8"), gpus(8.6))
        assert problems(QWEN, request("--kv-cache-dtype fp8"), gpus(7.5))


def test_what_avoids_a_problem_is_said_with_it() -> None:
    moe = quantized(FP8, moe_intermediate_size=320)
    with patch.dict("os.environ", {"VENV_DIR": "/nowhere"}):
        assert problems(moe, request(), gpus(*(8.9,) * 8))[0][1] == "VLLM_EXTRA_ARGS='--enable-expert-parallel'"


def test_parts_of_a_gpu_do_not_work_together() -> None:
    with patch.dict("os.environ", {"VENV_DIR": "/nowhere", "RUNBOOK_LANG": "en"}):
        assert "MIG" in problems(QWEN, request(), gpus(9.0, 9.0, mig=True))[0][0]
        assert not problems(QWEN, request(), gpus(9.0, mig=True))


@pytest.mark.parametrize(("capability", "able"), [(7.0, False), (6.1, False), (7.5, True), (12.0, True), (0, True)])
def test_a_gpu_that_is_too_old_for_vllm(capability: float, able: bool) -> None:
    assert bool(unusable(Gpu("0", "u", "x", capability=capability), set())) is not able


@pytest.mark.parametrize(
    ("name", "more", "known"),
    [
        ("Qwen3ForCausalLM", {}, True),
        ("BrandNewForCausalLM", {}, False),
        ("BrandNewForCausalLM", {"auto_map": {"AutoModel": "x.Y"}}, True),
        ("OnlyInTransformers", {}, True),
    ],
)
def test_an_architecture_that_the_installed_vllm_does_not_know(
    name: str, more: dict[str, Any], known: bool, tmp_path: Path
) -> None:
    site = tmp_path / "lib/python3.11/site-packages"
    for path, text in (
        ("vllm/model_executor/models/registry.py", '"Qwen3ForCausalLM": ("qwen3", "Qwen3ForCausalLM"),'),
        ("transformers/models/auto/modeling_auto.py", '("only", "OnlyInTransformers"),'),
    ):
        (site / path).parent.mkdir(parents=True)
        (site / path).write_text(text)
    with patch.dict("os.environ", {"VENV_DIR": str(tmp_path), "RUNBOOK_LANG": "en"}):
        found = served(model(architectures=[name], **more))
    assert bool(found) is not known
    assert known or name in found
    with patch.dict("os.environ", {"VENV_DIR": "/nowhere"}):
        assert not served(model(architectures=[name])), "before the installation nothing is known"


YARN = '{"rope_parameters":{"rope_type":"yarn","factor":4.0,"original_max_position_embeddings":32768}}'


@pytest.mark.parametrize(
    ("text", "allowed", "wanted", "longest"),
    [
        ("", "", None, 40960),
        (f"--hf-overrides '{YARN}'", "", 131072, 131072),
        (f"--hf-overrides='{YARN}'", "", None, 131072),
        ('--hf-overrides \'{"text_config": ' + YARN + "}'", "", None, 131072),
        ('--hf-overrides \'{"rope_scaling": {"factor": 2}}\'', "", None, 81920),
        ("--hf-overrides '{\"max_position_embeddings\": 65536}'", "", None, 65536),
        ("", "1", 100000, 100000),
        ("", "0", 100000, 40960),
    ],
)
def test_how_long_a_context_may_be(text: str, allowed: str, wanted: int | None, longest: int) -> None:
    with patch.dict("os.environ", {"VLLM_ALLOW_LONG_MAX_MODEL_LEN": allowed}):
        short = replace(QWEN, longest=40960)
        assert overridden(short, replace(request(text), context=wanted)).longest == longest


def test_overrides_that_are_no_json_are_said() -> None:
    with pytest.raises(UnknownError, match="--hf-overrides"):
        overridden(QWEN, request("--hf-overrides '{rope'"))


def hybrid(layers: int = 64, every: int = 4, **more: Any) -> Model:
    """A model of Qwen3-Next's kind: one layer of `every` has attention, the others a state."""
    kinds = ["full_attention" if (i + 1) % every == 0 else "linear_attention" for i in range(layers)]
    config: dict[str, Any] = {
        "num_hidden_layers": layers,
        "num_attention_heads": 24,
        "num_key_value_heads": 4,
        "head_dim": 256,
    }
    config |= {"layer_types": kinds, "linear_num_value_heads": 48, "linear_num_key_heads": 16}
    config |= {"linear_key_head_dim": 128, "linear_value_head_dim": 128, "linear_conv_kernel_dim": 4}
    config |= {"max_position_embeddings": 262144, "hidden_size": 5120, **more}
    return build("hybrid", config, [{"w": {"dtype": "BF16", "data_offsets": [0, 2**30]}}])


def test_a_hybrid_model_needs_room_for_a_state_of_every_request() -> None:
    """vllm-project/vllm#49064: with 0.92 of an H100 a model of this kind has 969 blocks, and vLLM wants 1024."""
    card, which = Memory("0", 80 * GIB, 79 * GIB), hybrid()
    conv, recurrent = (2 * 16 * 128 + 48 * 128) * 3, 48 * 128 * 128
    assert which.states == (48, conv, recurrent, False)
    assert hybrid(mamba_ssm_dtype="float32").states == (48, conv, recurrent, True)
    cache = cache_of(which, card, request())
    assert cache.block % 16 == 0
    assert cache.block * 2 * 4 * 256 * 2 >= (conv + recurrent) * 2, "a block holds a state"
    found = estimate(which, card, request())
    assert 0 < found.seqs <= 256
    assert found.seqs <= found.room // cache.block_bytes
    assert estimate(which, card, request("--max-num-seqs 64")).seqs == 0, "the user's own number is left alone"
    assert estimate(QWEN, card, request()).seqs == 0
    assert estimate(which, Memory("", 80 * GIB, 79 * GIB), request()).seqs == 0, "the CPU captures no graphs"


@pytest.mark.parametrize(
    ("own", "others", "free", "kept"),
    [
        ((5, 10), [], 8, []),
        ((5, 10), [(2, 4)], 20, [4]),
        ((5, 10), [(2, 4)], 14, [4]),
        ((4, 10), [(2, 4)], 10, [3]),
        ((5, 10), [(2, 4)], 5, [2]),
        ((5, 5), [(2, 2), (0, 0)], 3, [2, 0]),
    ],
)
def test_several_servers_divide_a_gpu(
    own: tuple[int, int], others: list[tuple[int, int]], free: int, kept: list[int]
) -> None:
    assert divided(own, others, free) == kept


def test_the_order_of_starting_does_not_matter() -> None:
    """Each takes what the others leave: together they never take more than there is, if the least of all fits."""
    sizes = [(40, 90), (20, 30), (15, 20)]
    for free in range(75, 200):
        shares = []
        for i, own in enumerate(sizes):
            rest = sizes[:i] + sizes[i + 1 :]
            shares.append(min(own[1], free - sum(divided(own, rest, free))))
        assert sum(shares) <= free + len(sizes), "but for rounding"
        assert all(share >= least - 2 for share, (least, _) in zip(shares, sizes, strict=True))
