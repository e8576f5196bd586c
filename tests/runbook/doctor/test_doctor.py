"""doctor: the cause of a failed start from its log. tests/data/logs holds what the real vLLM printed."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runbook import ROOT
from runbook.doctor import __main__ as doctor
from runbook.doctor.log import first_error, read_text
from runbook.messages import faults
from tests.conftest import MACHINE, Shell

LOGS = sorted((ROOT / "tests/data/logs").glob("*.log"))
BEGIN = """\
==> 2026-01-02 03:04:05 serve.sh
    $ /srv/.venv/bin/vllm serve /srv/models/M --port 20000
(APIServer pid=10) INFO 01-02 03:04:09 [api_utils.py:286] non-default args: {'model_tag': '/srv/models/M'}
(APIServer pid=10) INFO 01-02 03:04:09 [model.py:733] Resolved architecture: Qwen3ForCausalLM
"""
READY = "(APIServer pid=10) INFO:     Application startup complete.\n"
END = """\
(EngineCore pid=11) ERROR 01-02 03:05:00 [core.py:1] EngineCore failed to start.
(APIServer pid=10) Traceback (most recent call last):
(APIServer pid=10) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
"""


def told(shell: Shell, text: str, **more: object) -> list[dict[str, Any]]:
    """The doctor's findings in a file with this text."""
    log = shell.home / "a.log"
    log.write_text(text, "utf-8")
    done = shell.script("doctor", "--json", "--log", log, timeout=60, **more)
    assert done.stdout, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    assert done.returncode == (1 if found else 0)
    return found


SETTINGS = {"BASE_DIR": "/none", "TMUX_SESSION": "none", "API_KEY": ""}


def codes(text: str) -> list[str]:
    with patch.dict(os.environ, SETTINGS):
        return [one.code for one in doctor.of_log(read_text(text), True, False)]


# As vLLM, PyTorch, ModelScope and RAGFlow say it.
TEXTS = [
    ("E55", "RuntimeError: The NVIDIA driver on your system is too old (found version 12020)."),
    ("E57", "ImportError: libcudart.so.13: cannot open shared object file: No such file or directory"),
    ("E57", "ImportError: /srv/.venv/lib/python3.12/site-packages/vllm/_C.abi3.so: undefined symbol: _ZN3c104cuda"),
    ("E57", "AttributeError: Qwen2Tokenizer has no attribute all_special_tokens_extended"),
    ("E57", "ModuleNotFoundError: No module named 'vllm'"),
    ("E57", "RuntimeError: operator torchvision::nms does not exist"),
    ("E57", "importlib.metadata.PackageNotFoundError: No package metadata was found for vllm"),
    ("E58", "RuntimeError: Could not find nvcc and default cuda_home='/usr/local/cuda' doesn't exist"),
    ("E58", "/tmp/x/main.c:3:10: fatal error: Python.h: No such file or directory"),
    ("E58", "RuntimeError: Failed to find C compiler. Please specify via CC environment variable."),
    ("E59", "RuntimeError: NCCL error: unhandled system error (run with NCCL_DEBUG=INFO for details)"),
    ("E54", "RuntimeError: CUDA out of memory occurred when warming up sampler with 256 dummy requests."),
    (
        "E54",
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 22 GiB",
    ),
    (
        "E51",
        "ValueError: Free memory on device cuda:0 (3.1/23.5 GiB) on startup is less than desired GPU memory "
        "utilization (0.3, 7.05 GiB). Decrease GPU memory utilization or reduce GPU memory used by other processes.",
    ),
    (
        "E51",
        "ValueError: Free memory on device (3.1/23.5 GiB) on startup is less than desired GPU memory utilization (0.9)",
    ),
    (
        "E52",
        "ValueError: To serve at least one request with the model's max seq len (262144), (36.0 GiB KV cache is "
        "needed, which is larger than the available KV cache memory (2.3 GiB). Based on the available memory, the "
        "estimated maximum model length is 16752.",
    ),
    ("E52", "ValueError: To serve at least one request with the models's max seq len (262144), (36.00 GiB KV cache is"),
    (
        "E51",
        "ValueError: Available memory on node 0 (3.5/23.5 GiB) on startup is less than desired CPU memory utilization "
        "(0.9, 21.2 GiB). On the CPU backend, the `--gpu-memory-utilization` flag controls the fraction of CPU memory",
    ),
    (
        "E53",
        "ValueError: Available memory on node 0 (20.1/20.59 GiB) on kv cache allocation is less than requested memory "
        "for kv (-0.31/1.03 GiB). Reduce CPU memory used by other processes.",
    ),
    (
        "E52",
        "Value error, User-specified max_model_len (999999) is greater than the derived max_model_len "
        "(max_position_embeddings=8192.0 or model_max_length=None in model's config.json).",
    ),
    (
        "E64",
        "AssertionError: Not enough allowed NUMA nodes to bind threads of 2 CPUWorkers. Allowed NUMA nodes are [0].",
    ),
    ("E53", "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when"),
    ("E53", "ValueError: Cannot auto-fit max_model_len: not enough GPU memory available to serve even a single token."),
    ("E07", "OSError: [Errno 98] Address already in use"),
    (
        "E24",
        "RuntimeError: Failed to infer device type, please set the environment variable `VLLM_LOGGING_LEVEL=DEBUG`",
    ),
    ("E24", "ImportError: libcuda.so.1: cannot open shared object file: No such file or directory"),
    (
        "E61",
        "ValueError: Bfloat16 is only supported on GPUs with compute capability of at least 8.0. Your Tesla T4 GPU has",
    ),
    ("E62", "OSError: [Errno 28] No space left on device: '/srv/models/M/model-00001-of-00003.safetensors'"),
    ("E60", "RuntimeError: [enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory"),
    ("E60", "MemoryError"),
    (
        "E13",
        "safetensors._safetensors_rust.SafetensorError: Error while deserializing header: incomplete metadata, file "
        "not fully covered",
    ),
    (
        "E65",
        "ValueError: Model architectures ['FooForCausalLM'] are not supported for now. Supported architectures: []",
    ),
    ("E64", "vllm: error: unrecognized arguments: /srv/models/M"),
    ("E12", "modelscope_hub.errors.NetworkError: Request to https://www.modelscope.cn/api failed after 5 retries"),
    ("E12", "requests.exceptions.HTTPError: caused by NotExistError: 404"),
    ("E13", "modelscope_hub.errors.FileIntegrityError: model-00001-of-00003.safetensors: sha256 differs"),
    ("E66", "(EngineCore pid=11) ERROR 01-02 03:05:00 [core.py:1] EngineCore encountered a fatal error."),
]


@pytest.mark.parametrize(("code", "line"), TEXTS, ids=lambda value: str(value)[:50])
def test_an_exact_text_is_known_among_what_follows_from_it(code: str, line: str) -> None:
    assert codes(BEGIN + f"(EngineCore pid=11) {line}\n" + END) == [code]


CLIENTS = [
    ("E69", '(APIServer pid=10) INFO:     10.0.0.2:5 - "POST /v1/chat/completions HTTP/1.1" 401 Unauthorized'),
    ("E69", '(APIServer pid=10) INFO:     10.0.0.2:5 - "POST /chat/completions HTTP/1.1" 404 Not Found'),
    ("E69", "Error code: 404 - {'error': {'message': 'The model `qwen` does not exist.', 'type': 'NotFoundError'}}"),
    ("E69", "openai.OpenAIError: Missing credentials. Please pass an `api_key`"),
    ("E69", "Model(qwen3) not authorized"),
    ("E69", "Add LLM failed: instance already exist"),
    ("E68", "ERROR: This model's maximum context length is 16384 tokens. However, you requested 20000 tokens"),
    ("E63", "Fail to access model(VLLM/qwen3).No valid response received. Connection error."),
    ("E63", "httpx.ConnectError: [Errno 111] Connection refused"),
    ("E63", "Timeout accessing model(VLLM/qwen3)"),
]


@pytest.mark.parametrize(("code", "line"), CLIENTS, ids=lambda value: str(value)[:50])
def test_what_clients_are_refused_for_is_said_of_a_healthy_server(code: str, line: str) -> None:
    """In the server's own log, or in RAGFlow's, which is no vLLM log at all."""
    for text in (BEGIN + READY + line + "\n", line + "\n"):
        assert codes(text) == [code]


def test_a_start_that_hangs_is_told_from_one_that_compiles() -> None:
    line = (
        "(EngineCore pid=2) INFO 01-01 03:04:05 [shm_broadcast.py:1] No available shared memory broadcast block found\n"
    )
    assert codes(BEGIN + line * 3) == ["E102"], "it may be compiling: the log only has not got to its end"
    with patch.dict(os.environ, SETTINGS):
        (found,) = doctor.of_log(read_text(BEGIN + line * 6), True, False)
    assert (found.code, found.values["seconds"]) == ("E15", "360")
    assert codes(BEGIN + line * 6 + READY + line * 9) == []


HARMLESS = [
    "(APIServer pid=1) WARNING 01-01 03:04:05 [x.py:1] ModuleNotFoundError: No module named 'pynvml', ignored",
    "(EngineCore pid=2) INFO 01-01 03:04:05 [shm_broadcast.py:1] No available shared memory broadcast block found",
    "(Worker pid=3) WARNING 01-01 03:04:05 [cpu.py:1] libtcmalloc is not found in LD_PRELOAD",
    '(APIServer pid=1) INFO:     127.0.0.1:4 - "POST /v1/chat/completions HTTP/1.1" 200 OK',
    '(APIServer pid=1) INFO:     127.0.0.1:4 - "GET /favicon.ico HTTP/1.1" 404 Not Found',
    '(APIServer pid=1) INFO:     127.0.0.1:4 - "POST /tokenize HTTP/1.1" 401 Unauthorized',
    "Triton is installed, but doesn't include CPU backend. Disabling Triton.",
]


@pytest.mark.parametrize("line", HARMLESS, ids=lambda line: line[:40])
def test_harmless_lines_are_no_finding(line: str) -> None:
    assert codes(BEGIN + line + "\n" + READY + line + "\n") == []


@given(st.lists(st.sampled_from([line for _, line in TEXTS]), min_size=1, max_size=3))
def test_what_a_start_survived_was_no_fault(lines: list[str]) -> None:
    assert codes(BEGIN + "\n".join(lines) + "\n" + READY) == []


@pytest.mark.parametrize("path", LOGS, ids=lambda path: path.stem)
def test_a_real_log(path: Path) -> None:
    """The name of the file begins with the codes that it must give, or with healthy."""
    codes = [] if path.stem.startswith("healthy") else path.stem.split("-")[0].split("+")
    with patch.dict(os.environ, SETTINGS):
        found = doctor.diagnose(path, False, True)
    assert [one.code for one in found] == codes, found
    for one in found:
        assert one.evidence in path.read_text("utf-8")


def test_only_the_last_start_counts(shell: Shell) -> None:
    log = shell.home / "base/logs" / MACHINE / "vllm.log"
    log.parent.mkdir(parents=True)
    log.write_text(BEGIN + "OSError: [Errno 28] No space left on device\n" + END + BEGIN + READY)
    assert shell.script("doctor").returncode == 0
    with log.open("a") as file:
        file.write(BEGIN + "(EngineCore pid=11) torch.OutOfMemoryError: CUDA out of memory.\n" + END)
    done = shell.script("doctor")
    assert done.returncode == 1
    assert "The GPU ran out of memory" in done.stdout
    assert "The disk is full" not in done.stdout
    assert "VLLM_EXTRA_ARGS='--max-num-seqs 64'" in done.stdout
    assert "E54 docs/en/troubleshooting.md#e54" in done.stdout


def test_a_whole_log_of_several_starts(shell: Shell) -> None:
    """One that served and was stopped, then one that failed: the failure counts, the stopping does not."""
    stop = "(APIServer pid=10) INFO 01-02 03:05:00 [launcher.py:254] [shutdown] API server: shutdown triggered\n"
    text = BEGIN + READY + stop + END
    assert told(shell, text) == []
    (found,) = told(shell, text + BEGIN + "OSError: [Errno 28] No space left on device\n" + END)
    assert found["code"] == "E62"
    assert told(shell, text + BEGIN + "OSError: [Errno 28] No space left on device\n" + END + BEGIN + READY) == []


def test_what_is_not_known_is_said_with_its_first_error(shell: Shell) -> None:
    text = (
        BEGIN
        + "(EngineCore pid=11) FooError: the moon is in the wrong place\n"
        + "(APIServer pid=10) BarError: so what\n"
    )
    (found,) = told(shell, text)
    assert (found["code"], found["known"], found["process"], found["line"]) == ("E100", False, "EngineCore", 5)
    assert found["evidence"] == "FooError: the moon is in the wrong place"


def refused(reason: str) -> str:
    """A refused request, as uvicorn and then the middleware log it."""
    what = "POST /v1/chat/completions HTTP"
    said = f'(APIServer pid=10) INFO 01-02 03:05:00 [middleware.py:9] refused "{what}" 400: {reason}\n'
    return f'(APIServer pid=10) INFO:     10.0.0.2:5 - "{what}/1.1" 400 Bad Request\n' + said


def test_a_refused_request_is_told_by_its_reason(shell: Shell) -> None:
    template, context = "System message must be at the beginning.", "The moon is too far away."
    found = told(shell, BEGIN + READY + refused(template) + refused(context) + refused(context))
    assert [(one["code"], one["known"]) for one in found] == [("E119", True), ("E101", False)]
    assert context in found[1]["evidence"]
    assert "curl" not in found[1]["fix"], "HTTP in a request is no error of the network"


def test_the_phase_of_a_start_that_a_script_refused_is_what_the_script_said() -> None:
    text = (
        BEGIN
        + READY
        + "==> serve.sh\n✗ /m/config.json does not exist.\n  → Run ./inv download\n  E21 docs/en/x.md#e21\n"
    )
    assert first_error(read_text(text)) == "/m/config.json does not exist."


def test_the_key_is_not_in_what_is_shown(shell: Shell) -> None:
    (found,) = told(shell, BEGIN + "ValueError: s3cret-key is wrong\n", API_KEY="s3cret-key")
    assert found["evidence"] == "ValueError: *** is wrong"


@pytest.mark.parametrize("lang", ["zh", "en"])
def test_every_known_fault_says_its_words_in_full(lang: str, shell: Shell) -> None:
    """No {name} is left open, whatever the fault; both in Chinese and in English."""
    environ = shell.environ(RUNBOOK_LANG=lang, MODEL_DIR="/m", MODEL_ID="a/b", MODEL_REVISION="master", VENV_DIR="/v")
    environ |= {"LOG_DIR": "/l", "SERVED_MODEL_NAME": "n", "BASE_DIR": "/b", "PORT": "20000"} | {"SERVER_LOG": "/l"}
    with patch.dict(os.environ, environ, clear=True):
        for code, entry in faults().items():
            if not set(entry) & {"pattern", "at", "request", "hang"} and code not in doctor.UNKNOWN:
                continue
            values = dict.fromkeys(("pids", "seconds", "error", "place", "line", "advice"), "1")
            finding = doctor.Finding(code, "x", values)
            for part in ("title", "what", "fix"):
                assert not re.search(r"\{\w+\}", finding.text(part)), (code, part)


def test_a_port_that_somebody_else_holds(shell: Shell, free_port: Any) -> None:
    port = free_port()
    with subprocess.Popen([sys.executable, "-m", "http.server", str(port)], stderr=subprocess.DEVNULL) as other:
        try:
            while not subprocess.run(["ss", "-Hlnt", f"sport = :{port}"], capture_output=True).stdout:
                pass
            done = shell.script("doctor", PORT=port)
        finally:
            other.kill()
    assert done.returncode == 1
    assert f"Port {port} is already in use by python" in done.stdout
    assert f"(pid {other.pid}, " in done.stdout
    assert re.search(r"PORT=\d+", done.stdout)


def test_leftovers_of_a_crash(shell: Shell) -> None:
    mark = shell.environ(RUNBOOK_SERVER=shell.home / "base/run" / MACHINE / "vllm-qwen3")
    with subprocess.Popen(["sleep", "60"], env=mark) as left:
        done = shell.script("doctor", "--json")
        left.kill()
    (found,) = json.loads(done.stdout)
    assert found["code"] == "E67"
    assert str(left.pid) in found["evidence"]
    assert found["fix"] == "Run ./inv stop"


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system without room, where this user may mount one."""
    folder = tmp_path / "full"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    with pytest.raises(OSError, match="No space left"):
        (folder / "x").write_bytes(b"x" * 2**20)
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk(full_disk: Path, shell: Shell) -> None:
    """Seen before anything is written, by the preflight as well; and told by what really fails on it."""
    done = shell.script("doctor", BASE_DIR=full_disk / "base")
    assert done.returncode == 1
    assert f"0 MiB are left on the disk of {full_disk}" in done.stdout
    assert "E62 " in done.stdout
    assert "✗ disk" in shell.script("preflight", BASE_DIR=full_disk / "base").stdout
    copied = shell.run("cp", sys.executable, full_disk / "y")
    (found,) = told(shell, BEGIN + copied.stderr)
    assert found["code"] == "E62"


def test_nothing_wrong(shell: Shell) -> None:
    done = shell.script("doctor")
    assert done.returncode == 0, done.stdout
    assert "Nothing wrong was found" in done.stdout
    assert json.loads(shell.script("doctor", "--json").stdout) == []
    assert shell.script("doctor", "--log", "missing.log").returncode == 1


@pytest.mark.parametrize("words", [["--log", "none.log"], ["--log=none.log"]])
def test_a_log_that_is_not_there_is_a_known_fault(shell: Shell, words: list[str]) -> None:
    done = shell.script("doctor", *words)
    assert done.returncode == 1
    assert "none.log does not exist" in done.stderr
    assert "E36 docs/en/troubleshooting.md#e36" in done.stderr


def test_a_start_that_writes_nothing_more_hangs(shell: Shell) -> None:
    log = shell.home / "base/logs" / MACHINE / "vllm.log"
    log.parent.mkdir(parents=True)
    log.write_text(BEGIN + "(Worker_TP1 pid=12) INFO 01-02 03:04:05 [pynccl.py:111] vLLM is using nccl==2.29.7\n")
    with patch.dict(os.environ, SETTINGS | {"SERVER_PIDS": "1", "PORT": "1", "PROFILE": "cpu"}):
        assert doctor.diagnose(log, False, False) == [], "it may be compiling"
        os.utime(log, (1, 1))
        (found,) = doctor.diagnose(log, False, False)
    assert found.code == "E130"
    assert int(found.values["seconds"]) > 600


def test_the_machine_is_looked_at_where_the_log_has_no_cause(shell: Shell) -> None:
    log = shell.home / "base/logs" / MACHINE / "vllm.log"
    log.parent.mkdir(parents=True)
    shell.stand_in("dmesg", "echo '[1.0] Out of memory: Killed process 42 (VLLM::EngineCor) anon-rss:6000kB'")
    log.write_text(BEGIN + END)
    done = shell.script("doctor", LD_LIBRARY_PATH="/usr/local/cuda/lib64")
    assert "E66 " in done.stdout
    assert "on this machine: kernel log: [1.0] Out of memory: Killed process 42" in done.stdout
    assert "on this machine: LD_LIBRARY_PATH=/usr/local/cuda/lib64" in done.stdout
    log.write_text(BEGIN + "torch.OutOfMemoryError: CUDA out of memory\n" + END)
    assert "on this machine" not in shell.script("doctor").stdout, "the log has told the cause"
