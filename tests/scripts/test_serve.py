"""serve: settings → the exact command line and environment of `vllm serve`.

No card has confirmed the command lines for cards; tests/e2e/test_parser.py has vLLM's own parser accept them.
"""

import re
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from tests.conftest import MACHINE, Shell, executable

M = "/models/M"
MIDDLEWARE = [
    "--middleware",
    "runbook.server.middleware.ApiKeyMiddleware",
    "--disable-fastapi-docs",
    "--shutdown-timeout",
    "30",
]
MIDDLEWARE += ["--disable-access-log-for-endpoints", "/health,/metrics"]
HEAD = [M, "--served-model-name", "M", M, "--host", "0.0.0.0", "--port", "20000", "--max-model-len"]
AUTO = [*HEAD, "auto", *MIDDLEWARE]
ONE = [(20000, 24576)]
TWO = [(1000, 40960), (38000, 40960)]
FOUR = [(81000, 81920), (70000, 81920), (81000, 81920), (5, 81920)]


@dataclass
class Row:
    name: str
    settings: dict[str, str]
    cards: list[tuple[int, int]]
    argv: list[str]
    environ: dict[str, str] = field(default_factory=dict)


ROWS = [
    Row(
        "one card, auto",
        {},
        ONE,
        [*AUTO, "--gpu-memory-utilization", "0.78"],
        {"CUDA_VISIBLE_DEVICES": "0"},
    ),
    Row(
        "the runbook's share",
        {"GPU_MEMORY_UTILIZATION": "0.3"},
        ONE,
        [*AUTO, "--gpu-memory-utilization", "0.3"],
        {"CUDA_VISIBLE_DEVICES": "0", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"},
    ),
    Row(
        "two cards, auto",
        {},
        TWO,
        [*AUTO, "--gpu-memory-utilization", "0.90"],
        {"CUDA_VISIBLE_DEVICES": "1"},
    ),
    Row(
        "a chosen card",
        {"GPU": "0", "GPU_MEMORY_UTILIZATION": "0.5"},
        TWO,
        [*AUTO, "--gpu-memory-utilization", "0.5"],
        {"CUDA_VISIBLE_DEVICES": "0"},
    ),
    Row(
        "a busy chosen card, auto share",
        {"GPU": "0"},
        TWO,
        [*AUTO, "--gpu-memory-utilization", "0.01"],
        {"CUDA_VISIBLE_DEVICES": "0"},
    ),
    Row(
        "four cards, auto",
        {},
        FOUR,
        [*AUTO, "--gpu-memory-utilization", "0.92"],
        {"CUDA_VISIBLE_DEVICES": "0"},
    ),
    Row(
        "two of four cards",
        {"GPU": "1,2"},
        FOUR,
        [*AUTO, "--tensor-parallel-size", "2", "--gpu-memory-utilization", "0.83"],
        {"CUDA_VISIBLE_DEVICES": "1,2"},
    ),
    Row(
        "all four cards",
        {"GPU": "0,1,2,3", "GPU_MEMORY_UTILIZATION": "0.3", "MAX_MODEL_LEN": "32768"},
        FOUR,
        [*HEAD, "32768", *MIDDLEWARE, "--tensor-parallel-size", "4", "--gpu-memory-utilization", "0.3"],
        {"CUDA_VISIBLE_DEVICES": "0,1,2,3"},
    ),
    Row(
        "names, address, trusted code and more words",
        {
            "SERVED_MODEL_NAME": "qwen3",
            "HOST": "127.0.0.1",
            "PORT": "20001",
            "TRUST_REMOTE_CODE": "true",
            "GPU_MEMORY_UTILIZATION": "0.3",
            "VLLM_EXTRA_ARGS": "--max-num-seqs 8 --override-generation-config '{\"temperature\": 0}'",
        },
        ONE,
        [
            *(
                M,
                "--served-model-name",
                "qwen3",
                M,
                "--host",
                "127.0.0.1",
                "--port",
                "20001",
                "--max-model-len",
                "auto",
            ),
            *MIDDLEWARE,
            *("--trust-remote-code", "--gpu-memory-utilization", "0.3", "--max-num-seqs", "8"),
            *("--override-generation-config", '{"temperature": 0}'),
        ],
    ),
    Row(
        "a CPU with bf16",
        {"PROFILE": "cpu", "FLAGS": "avx512_bf16"},
        [],
        [*AUTO, "--enforce-eager", "--kv-cache-memory-bytes", "2G"],
    ),
    Row(
        "a CPU without bf16, a share of its RAM",
        {"PROFILE": "cpu", "FLAGS": "avx2", "GPU_MEMORY_UTILIZATION": "0.4"},
        [],
        [*AUTO, "--enforce-eager", "--dtype", "float32", "--gpu-memory-utilization", "0.4"],
    ),
]


def served(shell: Shell, row: Row, config: str | None = "{}") -> tuple[list[str], dict[str, str]]:
    """The argv and the environment that vllm gets; with the empty config there is no plan, and the shell chooses."""
    out = shell.home / "seen"
    executable(shell.home / "venv/bin/vllm", f'printf "%s\\0" "$@" >"{out}.argv"; env -0 >"{out}.env"')
    model = shell.home / "M"
    model.mkdir(exist_ok=True)
    if config is not None:
        (model / "config.json").write_text(config)
    if row.cards:
        shell.cards(*row.cards)
    else:
        shell.stand_in("nvidia-smi", "exit 9")
    settings: dict[str, Any] = {"PROFILE": "gpu", "PORT": "20000", **row.settings}
    flags = settings.pop("FLAGS", "")
    # The kernel's word on the CPU, for a machine of either kind.
    shell.stand_in("grep", f'[[ $* != *cpuinfo ]] || exec /usr/bin/env grep -qE "$2" <<<"{flags}"; exec /bin/grep "$@"')
    shell.stand_in("ss", "exit 0")
    done = shell.script("serve", MODEL_DIR=model, VENV_DIR=shell.home / "venv", API_KEY="s3cret", **settings)
    assert done.returncode == 0, done.stderr
    argv = (shell.home / "seen.argv").read_text().replace(str(model), M).split("\0")[:-1]
    environ = dict(pair.split("=", 1) for pair in (shell.home / "seen.env").read_text().split("\0")[:-1])
    assert "s3cret" not in done.stdout + done.stderr
    return argv, environ


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_command_line(row: Row, shell: Shell) -> None:
    argv, environ = served(shell, row)
    assert argv == ["serve", *row.argv]
    assert {key: environ.get(key) for key in row.environ} == row.environ


def test_the_key_is_in_the_environment_only(shell: Shell) -> None:
    argv, environ = served(shell, ROWS[0])
    assert "s3cret" not in " ".join(argv)
    assert environ["VLLM_API_KEY"] == "s3cret"
    assert "API_KEY" not in environ


def test_environment_of_every_server(shell: Shell) -> None:
    _, environ = served(shell, ROWS[0])
    assert environ["RUNBOOK_SERVER"] == str(shell.home / "base/run" / MACHINE / "vllm-qwen3")
    assert environ["SPT_NOENV"] == environ["HF_HUB_OFFLINE"] == environ["VLLM_NO_USAGE_STATS"] == "1"
    assert "PYTHONDONTWRITEBYTECODE" not in environ
    assert environ["VLLM_HTTP_TIMEOUT_KEEP_ALIVE"] == "180"
    own = replace(ROWS[0], settings={**ROWS[0].settings, "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "9"})
    assert served(shell, own)[1]["VLLM_HTTP_TIMEOUT_KEEP_ALIVE"] == "9"
    # vLLM reads these names itself, for something else.
    assert not {"VLLM_PORT", "VLLM_HOST_IP"} & set(environ)


def test_dry_shows_the_same_command_and_runs_nothing(shell: Shell) -> None:
    shell.cards(*TWO)
    done = shell.script("serve", PROFILE="gpu", MODEL_DIR=M, GPU="1", RUNBOOK_DRY="1", API_KEY="s3cret")
    assert done.returncode == 0
    assert f"vllm serve {' '.join(HEAD[:-3])}" in done.stdout
    assert re.search(r"\$ export CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA_VISIBLE_DEVICES=1\n", done.stdout)
    assert "s3cret" not in done.stdout + done.stderr
    assert not (shell.home / "base").exists()


@pytest.mark.parametrize(("missing", "step"), [("vllm", "install"), ("config.json", "download")])
def test_an_earlier_step_missing_is_named(missing: str, step: str, shell: Shell) -> None:
    if missing == "config.json":
        executable(shell.home / "venv/bin/vllm", "exit 0")
    done = shell.script("serve", VENV_DIR=shell.home / "venv", API_KEY="k")
    assert done.returncode == 1
    assert f"the step {step} is not complete" in done.stderr
    assert f"inv {step}" in done.stderr


def test_unbalanced_extra_words_are_refused(shell: Shell) -> None:
    executable(shell.home / "venv/bin/vllm", "exit 0")
    (shell.home / "M").mkdir()
    (shell.home / "M/config.json").write_text("{}")
    done = shell.script(
        "serve", MODEL_DIR=shell.home / "M", VENV_DIR=shell.home / "venv", API_KEY="k", VLLM_EXTRA_ARGS="--a 'b"
    )
    assert done.returncode == 1
    assert "VLLM_EXTRA_ARGS" in done.stderr
