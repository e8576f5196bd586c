"""deploy and single steps, through ./inv as a person runs them."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from runbook.steps import STEPS, flags
from tests.conftest import BUSY, MACHINE, Shell, changes, copy_checkout, snapshot
from tests.scripts.test_scripts import model


@pytest.fixture
def clone(shell: Shell) -> Shell:
    """A checkout of its own that uses the environment of this one."""
    root = copy_checkout(shell.home / "clone")
    (root / ".venv").symlink_to(shell.root / ".venv")
    return Shell(shell.home, root, shell.settings)


def test_the_steps_are_those_of_the_runbook_in_order() -> None:
    order = "preflight mkdirs venv install download port-check tmux-start curl-test ragflow-notes"
    assert " ".join(STEPS) == order


def test_dry_shows_every_command_and_changes_nothing(clone: Shell) -> None:
    before = snapshot(clone.home)
    done = clone.inv("deploy", "--dry", PYTHONDONTWRITEBYTECODE=1)
    assert done.returncode == 0, done.stderr
    # Nothing but the empty directory where tmux would keep its socket.
    assert changes(before, snapshot(clone.home), clone.root) <= {str(clone.home / f"tmux-{os.getuid()}")}
    for name in STEPS:
        assert f"] {name} · " in done.stdout
    for command in ("mkdir -p", "uv venv", "pip install", "vllm serve", "tmux new-session", "curl -sS"):
        assert command in done.stdout
    assert clone.run("tmux", "ls").returncode != 0


def test_dry_says_what_it_would_do_with_these_settings(clone: Shell) -> None:
    words = ("--dry", "--from", "tmux-start", "--to", "tmux-start")
    done = clone.inv("deploy", *words, MAX_MODEL_LEN=4096, RUNBOOK_LANG="zh")
    assert done.returncode == 0
    assert "--max-model-len 4096" in done.stdout
    assert "什么都没有改变" in done.stdout
    assert "mkdirs" not in done.stdout


@pytest.mark.parametrize(
    "words", [("--from", "dowload"), ("--to", "nothing"), ("--from", "curl-test", "--to", "mkdirs"), ("--from", "stop")]
)
def test_an_unknown_step_is_refused_with_the_list(words: tuple[str, ...], clone: Shell) -> None:
    done = clone.inv("deploy", *words)
    assert done.returncode == 1
    assert "There is no such step or range of steps:" in done.stderr
    assert "preflight mkdirs venv" in done.stderr
    assert "E17 docs/en/troubleshooting.md#e17" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("words", [("--dry", "deploy"), ("-R", "mkdirs"), ("--dry", "stop")])
def test_invokes_own_dry_does_nothing_for_real_either(words: tuple[str, ...], clone: Shell) -> None:
    done = clone.inv(*words)
    assert done.returncode == 0, done.stderr
    assert not (clone.home / "base").exists()
    assert not (clone.root / ".env").exists()


def test_inv_alone_lists_the_tasks(clone: Shell) -> None:
    assert clone.inv().stdout == clone.inv("--list").stdout


@pytest.mark.parametrize("task", ["tmux-attach", "curl-test"])
def test_the_way_on_is_that_of_the_env_file_in_use(task: str, clone: Shell) -> None:
    """Otherwise a newcomer stops or starts the first server when the second was meant."""
    (clone.home / "second 2.env").write_text("TMUX_SESSION=second\nAPI_KEY=k\n")
    done = clone.inv(task, ENV_FILE="second 2.env")
    assert done.returncode == 1
    assert f"ENV_FILE='{clone.home}/second 2.env' ./inv " in done.stderr
    assert " ./inv" not in done.stderr.replace(f"ENV_FILE='{clone.home}/second 2.env' ./inv", "")


def test_from_and_to(clone: Shell) -> None:
    done = clone.inv("deploy", "--to", "mkdirs")
    assert done.returncode == 0, done.stderr
    assert f"[2/{len(STEPS)}] mkdirs" in done.stdout
    assert "venv" not in done.stdout
    assert (clone.home / "base/logs").is_dir()
    done = clone.inv("deploy", "--from", "mkdirs", "--to", "mkdirs")
    assert "already done" in done.stdout
    assert "$ mkdir" not in done.stdout


def test_the_first_use_makes_the_env_file_and_the_second_keeps_it(clone: Shell) -> None:
    assert clone.inv("mkdirs").returncode == 0
    text = (clone.root / ".env").read_text("utf-8")
    assert clone.inv("mkdirs").returncode == 0
    assert (clone.root / ".env").read_text("utf-8") == text


def test_an_empty_key_in_the_environment_does_not_open_the_server(clone: Shell) -> None:
    done = clone.inv("mkdirs", API_KEY="")
    assert done.returncode == 0, done.stderr
    text = (clone.root / ".env").read_text("utf-8")
    done = clone.inv("mkdirs", API_KEY="")
    assert (clone.root / ".env").read_text("utf-8") == text, "the key that is there is used"


def test_a_step_that_fails_says_the_way_on(clone: Shell) -> None:
    (clone.home / "file").write_text("in the way")
    done = clone.inv("deploy", BASE_DIR=clone.home / "file/base")
    assert done.returncode == 1
    assert "E06 " in done.stderr
    assert "run ./inv deploy again; it continues from this step" in done.stderr
    assert "Traceback" not in done.stderr + done.stdout


def test_a_failed_start_ends_with_the_doctors_words(clone: Shell) -> None:
    """The cause in this start's log, and not the one of an earlier start."""
    log = clone.home / "base/logs" / MACHINE / "vllm.log"
    log.parent.mkdir(parents=True)
    log.write_text("==> 2026-01-01 00:00:00 serve.sh\nOSError: [Errno 28] No space left on device\n")
    says = "echo 'torch.OutOfMemoryError: CUDA out of memory'; echo 'RuntimeError: Engine core initialization failed.'"
    clone.vllm(f"{says}; exit 1")
    model(clone.home / "base/models/SmolLM2-135M-Instruct")
    done = clone.inv("tmux-start", timeout=30)
    assert done.returncode == 1
    assert "E14 " in done.stderr
    assert "The GPU ran out of memory" in done.stdout
    assert "E54 docs/en/troubleshooting.md#e54" in done.stdout
    assert "No space left" not in done.stdout + done.stderr
    assert done.stderr.rstrip().endswith("Fix this, then run ./inv tmux-start again")


def test_a_bad_setting_has_no_traceback(clone: Shell) -> None:
    done = clone.inv("deploy", PORT="x")
    assert done.returncode == 1
    assert "E03 " in done.stderr
    assert "Traceback" not in done.stderr


def test_it_works_from_any_folder_and_through_a_link(clone: Shell) -> None:
    (clone.home / "bin").mkdir()
    (clone.home / "bin/rb").symlink_to(clone.root / "inv")
    done = clone.run(clone.home / "bin/rb", "--list")
    assert done.returncode == 0
    assert "tmux-start" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_ctrl_c_names_the_way_on_and_ends_the_script(clone: Shell) -> None:
    """The signal reaches inv alone, as from kill: the script that it runs has to end as well."""
    reached = clone.home / "reached"
    clone.stand_in("python3", f'touch "{reached}"; exec sleep 600')
    process = subprocess.Popen(
        [clone.root / "inv", "deploy"],
        env=clone.environ(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    until = time.monotonic() + 20 * BUSY
    while not reached.exists():
        assert time.monotonic() < until, process.poll()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20 * BUSY)
    assert process.returncode == 130, (out, err)
    assert "Interrupted by Ctrl-C" in err
    assert "inv deploy" in err
    assert "Traceback" not in err
    marks = [path for path in Path("/proc").glob("[0-9]*/environ") if str(clone.home).encode() in _read(path)]
    assert not [path for path in marks if b"RUNBOOK_TASK=preflight" in _read(path)], "no script is left"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, []),
        ({"verify": False, "base_url": "", "max_tokens": 0}, []),
        ({"verify": True}, ["--verify"]),
        (
            {"base_url": "http://a b/v1", "max_tokens": 1, "remove": True},
            ["--base-url", "http://a b/v1", "--max-tokens", "1", "--remove"],
        ),
    ],
)
def test_a_tasks_words_reach_its_script(given: dict[str, bool | int | str], words: list[str]) -> None:
    assert flags(**given) == words


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "E41 "),
        ("--remove", "E41 "),
        ("--docs /tmp why", "E41 "),
        ("why --docs /tmp", "E41 "),
        ("--dry", "E41 "),
        ("--dry why", "E41 "),
        ("--help", "Usage: "),
        ("-h", "Usage: "),
        ("why not", "No idea what 'not' is"),
    ],
)
def test_a_question_may_be_left_out(words: str, said: str, shell: Shell) -> None:
    """Invoke itself knows no positional argument that may be left out, and takes --help for its value."""
    (shell.home / "none.env").touch()
    done = shell.inv("ragflow-ask", *words.split(), ENV_FILE=shell.home / "none.env", RAGFLOW_URL="", RUNBOOK_LANG="en")
    assert said in done.stdout + done.stderr
