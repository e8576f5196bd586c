"""What the server inherits and what keeps it: its exact environment, and paths of any kind with the real supervisor."""

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pexpect
import psutil
import pytest

from runbook import ROOT
from tests.conftest import BUSY, MACHINE, Shell, copy_checkout, executable, terminal

# What serve.sh gives every server on a CPU, besides what it inherits.
GIVEN = {"HF_HUB_OFFLINE", "VLLM_NO_USAGE_STATS", "RUNBOOK_SERVER", "SPT_NOENV", "PATH", "PYTHONPATH", "VLLM_API_KEY"}
GIVEN |= {"VLLM_HTTP_TIMEOUT_KEEP_ALIVE", "VLLM_CPU_NUM_OF_RESERVED_CPU", "LD_LIBRARY_PATH", "LD_PRELOAD"}
CACHES = re.findall(
    r"^([A-Z_]+_(?:HOME|DIR|ROOT|BASE|PATH)|MPLCONFIGDIR)\b", (ROOT / "scripts/lib/caches.sh").read_text(), re.M
)
GIVEN |= set(CACHES)
SUPERVISED = {
    "RUNBOOK_SUPERVISOR",
    "RUNBOOK_SUPPORT",
    "RUNBOOK_LOG_ESCAPED",
    "RUNBOOK_WATCHDOG_LOG_ESCAPED",
    "SERVER_ID",
}
SUPERVISED |= {"SERVER_LOG", "SERVER_LOG_MAX", "SUPERVISOR_ENABLED", "SUPERVISOR_PROCESS_NAME", "SUPERVISOR_GROUP_NAME"}
BASH = {"_", "PWD", "SHLVL", "OLDPWD"}
FOREIGN = {
    "PYTHONPATH": "/foreign/python",
    "PYTHONHOME": "",
    "PYTHONSTARTUP": "/foreign/startup.py",
    "LD_PRELOAD": "",
    "PIP_TARGET": "/foreign/pip",
    "VIRTUAL_ENV": "/foreign/venv",
    "CONDA_PREFIX": "/foreign/conda",
    "SSH_CONNECTION": "1 2 3 4",
    "HF_TOKEN": "hf-secret",
    "NCCL_PASSWORD": "nccl-secret",
    "OPENAI_API_KEY": "sk-secret",
    "VLLM_PORT": "tcp://10.0.0.1:8000",
    "VLLM_USE_RUST_FRONTEND": "1",
    "BASH_FUNC_ls%%": "() { echo foreign; }",
}
WANTED = {
    "NCCL_DEBUG": "INFO",
    "https_proxy": "http://proxy:3128",
    "VLLM_LOGGING_LEVEL": "DEBUG",
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "2",
    "HF_HOME": "/a b/100%/$x;'\"\n中文",
}


@pytest.fixture
def tmux(shell: Shell) -> Iterator[Shell]:
    """A tmux server of the test's own; at the end nothing of the test runs."""
    yield shell
    end(shell)


def end(shell: Shell) -> None:
    shell.run("tmux", "kill-server")
    wait_for(lambda: not any(kill(one) for one in psutil.process_iter() if of(one, shell.home)))


def of(process: psutil.Process, home: Path) -> bool:
    """Whether it belongs to a server with its directory there."""
    with contextlib.suppress(psutil.Error):
        marks = ("RUNBOOK_SUPERVISOR", "RUNBOOK_SERVER")
        return any(process.environ().get(key, "").startswith(str(home)) for key in marks)
    return False


def kill(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        process.kill()
    return True


def wait_for(what: Callable[[], object], words: str = "") -> None:
    end = time.monotonic() + 30 * BUSY
    while not what():
        assert time.monotonic() < end, words
        time.sleep(0.02)


def model(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")


@contextlib.contextmanager
def starting(shell: Shell, name: str, **environ: object) -> Iterator[None]:
    """scripts/NAME.sh in the background; the server that it starts never answers."""
    words = ["bash", str(shell.root / "scripts" / f"{name}.sh")]
    with subprocess.Popen(words, env=shell.environ(**environ), cwd=shell.home, stdout=-3, stderr=-3) as one:
        try:
            yield
        finally:
            one.kill()


def started(shell: Shell, name: str = "tmux-start", **environ: object) -> dict[str, str]:
    """The environment of the vllm that NAME has started from these variables."""
    seen = shell.home / "seen"
    seen.unlink(missing_ok=True)
    shell.vllm(f"env -0 >'{seen}.new'; mv '{seen}.new' '{seen}'; exec sleep 60")
    model(shell.home / "base/models/SmolLM2-135M-Instruct")
    with starting(shell, name, API_KEY="k3y", **environ):
        wait_for(seen.is_file, "vllm was not started")
    return dict(pair.split("=", 1) for pair in seen.read_text("utf-8").split("\0")[:-1])


def test_a_tmux_server_that_runs_already_gives_the_server_nothing(tmux: Shell) -> None:
    """It was started weeks ago by another shell; what is exported now arrives, and nothing else."""
    old: dict[str, Any] = {
        "NCCL_DEBUG": "OLD",
        "NCCL_OLD": "1",
        "no_proxy": "old",
        "PORT": 1,
        "PATH": f"/old:{os.environ['PATH']}",
    }
    assert tmux.run("tmux", "new-session", "-d", "sleep 99", **{**FOREIGN, **old}).returncode == 0
    environ = started(tmux, **WANTED)
    assert {key: environ.get(key) for key in WANTED} == WANTED
    assert "NCCL_OLD" not in environ
    assert "no_proxy" not in environ
    assert "/old" not in environ["PATH"]
    assert "foreign" not in str(environ)
    assert environ["PATH"].startswith(f"{tmux.home}/base/.venv/bin:")


@pytest.mark.parametrize("name", ["tmux-start", "serve"])
def test_exactly_what_is_listed_arrives(name: str, tmux: Shell) -> None:
    """Neither Python's variables nor secrets, settings or functions; the same in the session and in the foreground."""
    environ = started(tmux, name, **FOREIGN, **WANTED, LD_LIBRARY_PATH=f"{tmux.home}/own")
    assert {key: environ.get(key) for key in WANTED} == WANTED
    base = {"HOME", "USER", "LOGNAME", "SHELL", "TERM", "TZ", "LANG", "PATH", "TMPDIR"}
    families = ("LC_", "XDG_C", "XDG_D", "CUDA_", "NVIDIA_", "SSL_CERT_", "CURL_CA_", "REQUESTS_CA_")
    rest = {key for key in environ if not key.startswith(families)} - base - set(WANTED) - GIVEN - BASH
    assert rest <= (SUPERVISED if name == "tmux-start" else set()), rest
    assert environ["PYTHONPATH"] == str(tmux.root)
    assert environ["LD_LIBRARY_PATH"].split(":") in (
        [f"{tmux.home}/own"],
        [f"{tmux.home}/base/.venv/lib", f"{tmux.home}/own"],
    )
    assert environ["VLLM_API_KEY"] == "k3y"
    kept = next(tmux.home.glob("base/run/**/*.environment"), None)
    assert "secret" not in str(environ) + (kept.read_text() if kept else "")
    if kept:
        assert kept.stat().st_mode & 0o777 == 0o600


def test_at_boot_the_server_gets_the_environment_of_the_last_start(tmux: Shell) -> None:
    started(tmux, **WANTED)
    end(tmux)
    bare = {key: "" for key in os.environ if key not in ("HOME", "PATH")} | {"TMUX_TMPDIR": str(tmux.home)}
    assert started(tmux, **bare, RUNBOOK_BOOTING=1)["HF_HOME"] == WANTED["HF_HOME"]


def test_directories_with_cuda_libraries_are_left_out(shell: Shell) -> None:
    for name, file in (("cuda", "libcublas.so.12"), ("driver", "libcuda.so.1"), ("nccl [x]", "libnccl.so.2")):
        (shell.home / name).mkdir()
        (shell.home / name / file).touch()
    path = f"{shell.home}/cuda:{shell.home}/driver::{shell.home}/nccl [x]:relative:/not-there"
    environ = started(shell, "serve", LD_LIBRARY_PATH=path)
    kept = [part for part in environ["LD_LIBRARY_PATH"].split(":") if "/.venv/" not in part]
    assert kept == [f"{shell.home}/driver", "/not-there"]


@pytest.mark.parametrize("name", ["long" * 20, "missing", "locked", "fine"])
def test_a_tmpdir_that_cannot_be_used_is_left_out(
    name: str, shell: Shell, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = Path("/tmp") / f"rb-{os.getpid()}-{name}"
    if name != "missing":
        folder.write_text("") if name == "locked" else folder.mkdir()
    try:
        assert started(shell, "serve", TMPDIR=folder).get("TMPDIR") == (str(folder) if name == "fine" else None)
    finally:
        if name != "missing":
            folder.unlink() if name == "locked" else folder.rmdir()


ODD = 'a b/100%/%(x)s/%%/it\'s/"q"/;x/ ;y #z/$HOME/`id`/\\n/模型'


@pytest.mark.parametrize("name", [ODD, "/".join(["long" * 50] * 4)], ids=["odd", "long"])
def test_a_path_of_any_kind(name: str, tmux: Shell, tmp_path: Path) -> None:
    """The real supervisor writes the log of a vllm below it, with all directories and the checkout itself there."""
    base = tmp_path / name / "base"
    tmux.root = tmp_path / name / "checkout"
    copy_checkout(tmux.root)
    for tool in ("python", "supervisord"):
        executable(base / "venv/bin" / tool, f'exec "{Path(sys.executable).parent / tool}" "$@"')
    executable(base / "venv/bin/vllm", 'echo "given $2"; exec sleep 60')
    model(base / "M")
    env = tmp_path / "env"
    quoted = str(base).replace("\\", "\\\\").replace("'", "\\'")
    env.write_text(
        f"BASE_DIR='{quoted}'\nVENV_DIR='{quoted}/venv'\nLOG_DIR='{quoted}/l og'\nMODEL_DIR='{quoted}/M'\nAPI_KEY=k\n"
    )
    tmux.settings = {"ENV_FILE": env, "PORT": tmux.settings["PORT"], "PROFILE": "cpu"}
    with starting(tmux, "tmux-start"):
        log = base / "l og"
        wait_for(
            lambda: any(f"given {base}/M\n" in one.read_text("utf-8") for one in log.glob(f"{MACHINE}/vllm.log")),
            "no log",
        )
        assert " start 1\n" in (log / MACHINE / "vllm.log").read_text("utf-8")


@pytest.mark.parametrize("how", ["missing", "refuses", "crashes", pytest.param("dies", marks=pytest.mark.slow)])
def test_a_supervisor_that_does_not_start_is_told_at_once(how: str, tmux: Shell) -> None:
    tmux.vllm("exit 1")
    supervisord = tmux.home / "base/.venv/bin/supervisord"
    model(tmux.home / "base/models/SmolLM2-135M-Instruct")
    said, more = "'much'", {"SERVER_LOG_MAX": "much"}
    if how == "missing":
        supervisord.unlink()
        said, more = "supervisord", {}
    elif how == "crashes":
        executable(supervisord, "echo 'Traceback'; echo 'ImportError: no module'; exit 1")
        said, more = "ImportError: no module", {}
    elif how == "dies":  # each time anew, and its pid file stays
        executable(supervisord, 'echo $$ >"${@: -1}"; echo "ValueError: broken"; exit 1')
        said, more = "ValueError: broken", {}
    done = tmux.script("tmux-start", API_KEY="k", timeout=20, **more)
    assert done.returncode == 1
    assert "E82 " in done.stderr, done.stdout + done.stderr
    told = next(line for line in done.stderr.splitlines() if line.startswith("✗"))
    assert said in told
    assert tmux.run("tmux", "ls").returncode != 0


DRAINING = """
import os, signal, subprocess, sys, time
worker = subprocess.Popen(["sleep", "60"])
def drain(*_):
    print("draining", flush=True)
    time.sleep(float(os.environ["OMP_DRAIN"]))
    print("request", "kept" if worker.poll() is None else "lost", flush=True)
    worker.kill()
    os._exit(0)
signal.signal(signal.SIGINT, drain)
print("==> up", flush=True)
worker.wait()
time.sleep(60)
"""


def test_ctrl_c_in_serve_gives_a_request_its_time_and_a_second_one_ends_at_once(tmux: Shell) -> None:
    """The worker of the stand-in, like vLLM's, ends at once at a signal that reaches it, and the request with it."""
    (tmux.home / "vllm.py").write_text(DRAINING)
    tmux.vllm(f'exec "{sys.executable}" "{tmux.home}/vllm.py"')
    model(tmux.home / "base/models/SmolLM2-135M-Instruct")
    for drain, presses, ends in ((1, 1, "request (kept|lost)"), (300, 2, "Ended")):
        with terminal(tmux, "serve", API_KEY="k", OMP_DRAIN=drain) as person:
            person.expect("==> up")
            began = time.monotonic()
            person.sendintr()
            person.expect("draining")
            for pause in (1, 5, 5) if presses > 1 else ():
                if person.expect([ends, pexpect.TIMEOUT], timeout=pause) == 0:
                    break
                person.sendintr()  # bash may miss one between two commands, as a person's
            else:
                person.expect(ends)
            assert time.monotonic() - began < 18, "it does not wait for its limit of 20 s"
            assert "lost" not in str(person.after)
            person.expect(pexpect.EOF)
        assert person.exitstatus == 0, "Ctrl-C is how it is meant to end"
        assert not any(of(one, tmux.home) for one in psutil.process_iter())
