"""The doctor reads a log by its structure: whatever else is in the log, the first cause is the same."""

import os
import random
import re
import time
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runbook import ROOT
from runbook.doctor import __main__ as doctor
from runbook.doctor.lines import parse
from runbook.doctor.log import read_text

LOGS = {path.stem: path.read_text("utf-8") for path in sorted((ROOT / "tests/data/logs").glob("*.log"))}
FAILED = sorted(name for name in LOGS if not name.startswith(("healthy", "E50", "E69")))
SETTINGS = {"BASE_DIR": "/none", "TMUX_SESSION": "none", "API_KEY": ""}
ERROR = "(EngineCore pid=11) ERROR 01-02 03:05:00 [core.py:1374] "
WORKER = "(Worker_TP1 pid=12) ERROR 01-02 03:05:00 [multiproc_executor.py:990] "
DIED = "(APIServer pid=10) RuntimeError: Engine core initialization failed. See root cause above.\n"
READY = "(APIServer pid=10) INFO:     Application startup complete.\n"
OK = '(APIServer pid=10) INFO:     10.0.0.2:5 - "POST /v1/chat/completions HTTP/1.1" 200 OK\n'


def findings(text: str) -> list[doctor.Finding]:
    with patch.dict(os.environ, SETTINGS):
        return doctor.of_log(read_text(text), True, False)


def codes(text: str) -> list[str]:
    return [one.code for one in findings(text)]


def traceback(head: str, *errors: str, link: str = "direct", file: str = "vllm/v1/worker/x.py") -> str:
    """A traceback with a chain, innermost first, each line with this head."""
    words = {
        "direct": "The above exception was the direct cause of the following exception:",
        "during": "During handling of the above exception, another exception occurred:",
    }[link]
    lines: list[str] = []
    for number, error in enumerate(errors):
        lines += ["", words, ""] if number else []
        lines += ["Traceback (most recent call last):", f'  File "/srv/lib/site-packages/{file}", line 7, in run']
        lines += ["    self.step()", "    ^^^^^^^^^^^", *error.splitlines()]
    return "".join(f"{head}{line}\n" for line in lines)


@pytest.mark.parametrize(
    ("raw", "process", "level", "text"),
    [
        ("(EngineCore_DP0 pid=7) ERROR 01-02 03:04:05 [core.py:1]   File", "EngineCore_DP0", "ERROR", "  File"),
        ("(VllmWorker rank=3 pid=7) INFO 06-10 03:43:31 [a.py:35] x", "VllmWorker", "INFO", "x"),
        ("\x1b[1;36m(Worker_TP0 pid=7)\x1b[0;0m ValueError: x", "Worker_TP0", "", "ValueError: x"),
        ("(RayWorkerWrapper pid=7, ip=10.0.0.1) ERROR 08-01 08:13:10 a.py:4] x", "RayWorkerWrapper", "ERROR", "x"),
        ("vllm-1  | INFO 01-01 03:04:05 [a.py:1] x", "vllm-1", "INFO", "x"),
        ("2025-05-06T08:55:26.123456789Z stderr F ERROR 05-06 01:55:26 [a.py:3] x", "", "ERROR", "x"),
        ("Aug 17 18:42:10 host vllm[80]: (EngineCore pid=8) x", "EngineCore", "", "x"),
        ("[rank1]:[E1009 09:39:55.1 ProcessGroupNCCL.cpp:1900] x", "rank1", "ERROR", "x"),
        ("2025-02-15 11:02:17,361 ERROR    14 x", "", "ERROR", "x"),
        ("2025-11-20 10:00:01,456 - modelscope - ERROR - x", "", "ERROR", "x"),
        ("[2025-08-11 10:45:40] h:1:2 [1] transport/shm.cc:590 NCCL WARN x", "NCCL", "WARNING", "x"),
        (
            'time="2026-01-29T14:55:54Z" level=info msg="  File \\"a\\", line 1" component=vllm',
            "",
            "",
            '  File "a", line 1',
        ),
        ("ERROR:    Exception in ASGI application", "", "ERROR", "Exception in ASGI application"),
        ("error: Failed to fetch", "", "ERROR", "Failed to fetch"),
        ("Loading: 10%\rLoading: 100%", "", "", "Loading: 100%"),
        ("plain words", "", "", "plain words"),
    ],
)
def test_the_head_of_a_line(raw: str, process: str, level: str, text: str) -> None:
    line = parse(1, raw)
    assert (line.process, line.level, line.text) == (process, level, text)


@given(st.text(max_size=200))
def test_any_text_can_be_read(text: str) -> None:
    assert isinstance(findings(text), list)


@given(name=st.sampled_from(FAILED), seed=st.integers(0, 10**6))
def test_a_real_log_changed_as_another_machine_would_write_it_has_the_same_cause(name: str, seed: int) -> None:
    chance, text = random.Random(seed), LOGS[name]
    text = text.replace("/srv/", chance.choice(["/home/用户/my env/", "/opt/conda/envs/x/", "/x/"]))
    text = re.sub(r"\b0\.32\.\d+", f"0.{chance.randrange(20, 40)}.{chance.randrange(3)}", text)
    text = re.sub(r"pid=(\d+)", lambda found: f"pid={int(found[1]) + 70000}", text)
    prefix = chance.choice(["", "vllm-1  | ", "2025-05-06T08:55:26.123Z stderr F ", "Aug 17 18:42:10 host vllm[80]: "])
    if prefix and "==> " not in text:
        text = "".join(prefix + line for line in text.splitlines(keepends=True))
    assert codes(text) == codes(LOGS[name]) == name.split("-")[0].split("+")


@given(name=st.sampled_from(FAILED), data=st.data())
def test_a_log_that_begins_too_late_has_the_same_cause(name: str, data: st.DataObject) -> None:
    text = LOGS[name]
    cause = findings(text)[0].cause
    assert cause
    lines = text.splitlines(keepends=True)
    ready = max((number for number, line in enumerate(lines) if "startup complete" in line), default=10**6)
    first = data.draw(st.integers(0, min(cause.line.number - 2, ready)))
    assert codes("".join(lines[max(first, 0) :])) == codes(text)


@given(name=st.sampled_from(FAILED), seed=st.integers(0, 10**6))
def test_lines_of_other_processes_in_between_change_nothing(name: str, seed: int) -> None:
    chance = random.Random(seed)
    noise = [
        "(Worker_TP7 pid=99) INFO 01-02 03:04:05 [a.py:1] Loading weights took 1 s\n",
        "(ApiServer_3 pid=98) WARNING 01-02 03:04:05 [b.py:1] Using default MoE config. Performance is low\n",
    ]
    lines = [chance.choice(noise) + line if chance.random() < 0.3 else line for line in LOGS[name].splitlines(True)]
    assert codes("".join(lines)) == codes(LOGS[name])


def test_workers_that_write_at_the_same_time_are_kept_apart() -> None:
    one = traceback(WORKER, "ValueError: a cause that nobody knows").splitlines(True)
    two = traceback(ERROR, "RuntimeError: Executor failed.").splitlines(True)
    text = "".join(line for pair in zip(one, two, strict=True) for line in pair) + DIED
    (found,) = findings(text)
    assert (found.code, found.evidence) == ("E100", "ValueError: a cause that nobody knows")
    assert found.cause
    assert (found.cause.process, found.cause.place) == ("Worker_TP1", "vllm/v1/worker/x.py:7 in run")


@pytest.mark.parametrize(
    ("errors", "link", "evidence"),
    [
        (["OSError: inner", "RuntimeError: outer"], "direct", "OSError: inner"),
        (["KeyError: 'x'", "ValueError: what it means"], "during", "KeyError: 'x'"),
        (["ValueError: inner", "RuntimeError: Engine core initialization failed."], "direct", "ValueError: inner"),
        (
            ["ValidationError: 1 validation error for C\n  Value error, it is wrong"],
            "direct",
            "Value error, it is wrong",
        ),
        (
            ["RuntimeError: Ninja build failed. Ninja output:\n[1/2] nvcc x\na.cu(3): error: no y"],
            "direct",
            "a.cu(3): error: no y",
        ),
    ],
)
def test_of_a_chain_the_innermost_error_is_the_cause(errors: list[str], link: str, evidence: str) -> None:
    (found,) = findings(traceback(ERROR, *errors, link=link) + DIED)
    assert (found.code, found.evidence) == ("E100", evidence)


def test_the_outer_error_is_told_where_the_inner_one_says_little() -> None:
    (found,) = findings(traceback(ERROR, "KeyError: 'x'", "ValueError: what it means", link="during") + DIED)
    assert "KeyError: 'x' → ValueError: what it means" in found.values["error"]


def test_a_symptom_never_answers() -> None:
    """Only its echo is in the log: the cause is said not to be known, and no memory is blamed."""
    (found,) = findings(DIED)
    assert found.code == "E66"
    assert found.code in doctor.UNKNOWN


def test_a_known_text_below_the_cause_does_not_answer() -> None:
    text = traceback(WORKER, "FooError: not seen before") + traceback(
        ERROR, "torch.OutOfMemoryError: CUDA out of memory"
    )
    assert codes(text + DIED) == ["E100"]


def test_the_end_of_a_peer_is_no_cause() -> None:
    lost = "(Worker_TP0 pid=9) RuntimeError: Connection closed by peer [10.0.0.1]:29501\n"
    assert codes(lost + traceback(WORKER, "torch.OutOfMemoryError: CUDA out of memory. Tried") + DIED) == ["E54"]


def test_a_warning_that_becomes_fatal_is_the_cause() -> None:
    warned = (
        "WARNING 01-02 03:04:05 [cpu.py:14] Failed to import from vllm._C: ImportError('libnuma.so.1: cannot open')\n"
    )
    late = traceback(WORKER, "AttributeError: '_OpNamespace' '_C' object has no attribute 'init_cpu_memory_env'")
    assert codes(warned + late + DIED) == ["E170"]
    assert codes(warned + READY + OK) == []


def test_a_failed_start_is_told_while_the_next_one_goes_on() -> None:
    start = "==> 2026-01-02 03:04:05 serve.sh\n(APIServer pid=10) INFO 01-02 03:04:09 [a.py:2] non-default args: {}\n"
    text = start + traceback(ERROR, "torch.OutOfMemoryError: CUDA out of memory") + DIED + start
    assert codes(text) == ["E54"]
    assert codes(text + READY) == []


def test_an_unfinished_start_is_not_called_healthy() -> None:
    assert codes("(APIServer pid=10) INFO 01-02 03:04:09 [a.py:2] non-default args: {}\n") == ["E102"]


def test_a_cut_traceback_gives_its_place() -> None:
    (found,) = findings("".join(traceback(ERROR, "X: y").splitlines(True)[:3]))
    assert found.code == "E100"
    assert found.values["place"] == " (EngineCore, vllm/v1/worker/x.py:7 in run)"


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("E178", "./start.sh: line 12:   101 Killed                  vllm serve /models/x\n"),
        ("E129", "./start.sh: line 12:   101 Illegal instruction     (core dumped) vllm serve /models/x\n"),
        ("E60", "[98765.4] Out of memory: Killed process 4242 (VLLM::EngineCor) total-vm:9000kB\n"),
        ("E100", "Segmentation fault (core dumped)\n"),
        (
            "E139",
            "error: Failed to fetch: `https://a/b`\n  Caused by: dns error\n  Caused by: failed to lookup address\n",
        ),
        (
            "E137",
            "  × Failed to download `torch`\n  ├─▶ error sending\n  ╰─▶ invalid peer certificate: UnknownIssuer\n",
        ),
        (
            "E144",
            "ERROR: Could not find a version that satisfies the requirement x\nERROR: No matching distribution found\n",
        ),
        ("E120", READY + '(APIServer pid=1) INFO:     1.1.1.1:5 - "POST /v1/rerank HTTP/1.1" 404 Not Found\n'),
        (
            "E101",
            READY
            + '(APIServer pid=1) INFO:     1.1.1.1:5 - "POST /v1/completions HTTP/1.1" 500 Internal Server Error\n',
        ),
        ("E69", READY + '(APIServer pid=1) INFO:     1.1.1.1:5 - "POST /api/chat HTTP/1.1" 404 Not Found\n'),
    ],
)
def test_signals_other_programs_and_refused_requests(code: str, text: str) -> None:
    assert codes(text) == [code]


HARMLESS = """\
(APIServer pid=1) WARNING 11-20 08:10:05 [a.py:3036] We must use the `spawn` multiprocessing start method. …
(EngineCore_DP0 pid=2) WARNING 11-20 08:10:12 [a.py:66] FlashInfer is not available. Falling back to PyTorch.
(EngineCore_DP0 pid=2) [W1120 08:10:14.123 ProcessGroupNCCL.cpp:1538] Warning: destroy_process_group() was not called
(EngineCore_DP0 pid=2) WARNING 11-20 08:10:15 [a.py:144] Custom allreduce is disabled because of no P2P
(APIServer pid=1) WARNING 11-20 08:10:15 [a.py:1] Failed to import Triton: ModuleNotFoundError("No module named 'x'")
[Gloo] Rank 0 is connected to 0 peer ranks. Expected number of connected peer ranks is : 0
/srv/lib/x.py:138: FutureWarning: `a.b` is deprecated, please use `c.d` instead
`torch_dtype` is deprecated! Use `dtype` instead!
"""


@pytest.mark.parametrize("line", HARMLESS.splitlines(keepends=True), ids=lambda line: line[:60])
def test_what_healthy_servers_warn_of_is_no_finding(line: str) -> None:
    assert codes(line + READY + line + OK) == []


def test_many_requests_before_the_cause_change_nothing_and_take_no_time() -> None:
    text = (
        READY
        + OK * 10_000
        + traceback(WORKER, "torch.AcceleratorError: CUDA error: an illegal memory access was encountered")
    )
    text += ERROR + "EngineCore encountered a fatal error.\n"
    assert codes(text) == ["E151"]
    began = time.monotonic()
    assert codes(READY + OK * 300_000 + text) == ["E151"]
    assert time.monotonic() - began < 60, "25 MB take a second on a quiet machine"


@pytest.mark.parametrize(
    ("log", "code"),
    [
        (
            "2026-01-02 03:04:05 ERROR 77 [engine.py:64]     return self.call(*words)\r\n"
            "2026-01-02 03:04:05 ERROR 77 [engine.py:64] "
            "RuntimeError: CUDA error: an illegal memory access was encountered",
            "E151",
        ),
        (
            "[812] [rank1]:[E102 03:04:05.1 P.cpp:6] [Rank 1] Watchdog caught collective operation timeout: Work(1)",
            "E185",
        ),
        (
            "  | ERROR 01-02 03:04:05 u.py:1] Worker VllmWorkerProcess pid 9 died, exit code: -6\n"
            "  | [rank0]:[E P.cpp:5] [Rank 0] Watchdog caught collective operation timeout: Work(2)",
            "E185",
        ),
        ("ERROR 01-02 03:04:05 client.py:2] RuntimeError('Engine process (pid 7) died.')", "E66"),
        ("some program: it timed out", "E100"),
        ("some program: OddlyNamedError", "E100"),
    ],
)
def test_heads_of_other_programs_and_ends_that_are_echoes(log: str, code: str) -> None:
    """A process that aborts itself has told why; a line whose head is not known is read for words of an error."""
    assert codes(log) == [code]
