"""The whole thing on the real vLLM: deploy, ask, look around, stop, deploy again; and every script by hand."""

import json
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import httpx
import pexpect
import psutil
import pytest

from runbook import ROOT
from runbook.steps import STEPS
from tests.conftest import BUSY, Shell, at_rest
from tests.e2e.conftest import Deployment, listening, others_can_read
from tests.hub import hub


def ask(deployed: Deployment, name: str, key: str, question: str) -> httpx.Response:
    """The runbook's own curl, by its own words, as a request; at temperature 0 the answer is the same each time."""
    messages = [{"role": "user", "content": question}]
    return httpx.post(
        f"http://127.0.0.1:{deployed.port}/v1/chat/completions",
        headers={"Authorization": f"Bearer {key}"},
        json={"model": name, "messages": messages, "max_tokens": 64, "temperature": 0},
        timeout=120 * BUSY,
        trust_env=False,
    )


@pytest.mark.smoke
def test_the_first_deploy_ends_with_an_answer(deployed: Deployment) -> None:
    out = deployed.first.stdout
    assert deployed.first.returncode == 0, out[-3000:] + deployed.first.stderr[-3000:]
    for number, name in enumerate(STEPS, 1):
        assert re.search(rf"^\[{number}/9\] {name} +✓ +\d+\.\d s", out, re.MULTILINE), name
    assert "AI assistant" in out, "the model's own words at temperature 0"
    assert re.search(r"^Deployed in \d+ s", out, re.MULTILINE)
    assert deployed.key not in out + deployed.first.stderr
    print(out)


@pytest.mark.smoke
def test_the_first_log_is_short_and_has_no_noise(deployed: Deployment) -> None:
    """How many lines there are depends on pip, uv and the network; what they must not be does not."""
    out = deployed.first.stdout
    assert not re.findall(r"[^\n]*[\x00-\x08\x0b-\x1f\x7f][^\n]*", out), "control characters are for a terminal"
    lines = [line for line in out.split("\n") if line.strip()]
    repeated = [line for line, times in Counter(lines).items() if times > 3]
    assert not [line for line in repeated if not line.startswith("    $ ")], "several steps run the same command"
    locked = set(re.findall(r"^([\w.-]+)==", (ROOT / "requirements/cpu.txt").read_text("utf-8"), re.MULTILINE))
    named = {name for name in locked if re.search(rf"^[ +]*(\w+ )?{re.escape(name)}\b", out, re.MULTILINE)}
    assert len(named) < len(locked) / 3, "the large packages, which take time, and not a line for each of 150"


@pytest.mark.smoke
def test_the_session_is_there_and_shows_the_log(running: Deployment) -> None:
    assert "vllm-qwen3: 1 windows" in running.shell.run("tmux", "ls").stdout
    assert "vllm-qwen3" in running.shell.inv("tmux-ls").stdout
    pane = running.shell.run("tmux", "capture-pane", "-p", "-t", "vllm-qwen3", "-S", "-500").stdout
    assert "Application startup complete" in pane
    assert "Application startup complete" in (running.base / "logs/vllm.log").read_text("utf-8")


@pytest.mark.smoke
def test_the_runbooks_own_curl(running: Deployment) -> None:
    """The folder path as the model's name and the key as Bearer, through curl itself."""
    body = {"model": str(running.model), "messages": [{"role": "user", "content": "用中文简单介绍一下你自己"}]}
    done = running.shell.run(
        *("curl", "-s", "--noproxy", "*", "-X", "POST", f"http://127.0.0.1:{running.port}/v1/chat/completions"),
        *("-H", "Content-Type: application/json", "-H", f"Authorization: Bearer {running.key}"),
        *("-d", json.dumps(body)),
        timeout=300,
    )
    reply = json.loads(done.stdout)
    assert reply["choices"][0]["message"]["content"], "the embedded model's Chinese is noise, but it comes to an end"
    assert reply["usage"]["completion_tokens"] <= 512
    assert "Beijing" in ask(running, str(running.model), running.key, "What is the capital of China?").text


@pytest.mark.smoke
def test_both_names_work_and_others_do_not(running: Deployment) -> None:
    assert ask(running, "SmolLM2-135M-Instruct", running.key, "Hi").status_code == 200
    assert ask(running, "qwen", running.key, "Hi").status_code == 404
    assert ask(running, str(running.model), "dummy", "Hi").status_code == 401


@pytest.mark.smoke
def test_the_key_is_nowhere_that_others_can_read(running: Deployment) -> None:
    key = running.key
    assert len(key) == 48
    for process in psutil.process_iter(["cmdline"]):
        assert key not in " ".join(process.info["cmdline"] or []), process
    with_key = []
    for folder in (running.base / "logs", running.base / "run", running.base / "models", running.shell.root):
        for path in folder.rglob("*"):
            with suppress(FileNotFoundError):  # a running server removes files of its own
                if path.is_file() and ".venv" not in path.parts and key.encode() in path.read_bytes():
                    with_key.append(path)
    assert {path.name for path in with_key} == {".env", "vllm-qwen3.env"}
    assert not [path for path in with_key if others_can_read(path)]
    assert key not in running.shell.run("tmux", "show-environment", "-g").stdout


@pytest.mark.smoke
def test_the_second_deploy_only_checks(running: Deployment) -> None:
    before = at_rest(running.base)
    pids = running.server()
    done = running.shell.inv("deploy", timeout=120)
    assert done.returncode == 0, done.stderr
    for name in ("mkdirs", "venv", "install", "download", "tmux-start"):
        assert re.search(rf"\] {name} +✓ +\d\.\d s  already done: ", done.stdout), name
    assert before == at_rest(running.base)
    by_hand = running.shell.script("tmux-start")
    assert by_hand.returncode == 0, by_hand.stderr
    assert "is already running or starting" in by_hand.stdout, "the script alone sees the same server and settings"
    assert pids == running.server()
    print(done.stdout)


def test_deploy_in_chinese(running: Deployment) -> None:
    done = running.shell.inv("deploy", timeout=120, LANG="zh_CN.UTF-8")
    assert done.returncode == 0, done.stderr
    assert "已完成：" in done.stdout
    assert re.search(r"^部署完成（\d+ 秒）", done.stdout, re.MULTILINE)


def test_a_wrong_key_fails_the_self_test(running: Deployment) -> None:
    done = running.shell.inv("curl-test", API_KEY="wrong")
    assert done.returncode == 1
    assert "HTTP 401" in done.stderr
    assert "E16 " in done.stderr


@pytest.mark.smoke
def test_stop_leaves_nothing_and_deploy_brings_it_back(running: Deployment) -> None:
    assert len(running.processes()) >= 3
    done = running.shell.inv("stop", timeout=120)
    assert done.returncode == 0, done.stderr
    wait(lambda: not running.processes(), 5)
    assert not listening(running.port)
    assert running.shell.run("tmux", "ls").returncode != 0
    again = running.shell.inv("deploy", timeout=300)
    assert again.returncode == 0, again.stderr
    assert "AI assistant" in again.stdout


def test_serve_beside_the_running_server_is_refused(running: Deployment) -> None:
    done = running.shell.inv("serve", timeout=60)
    assert done.returncode == 1
    assert "This server is already running" in done.stderr
    assert "E26 " in done.stderr


def test_changed_settings_are_said_and_not_forced_on_a_running_server(running: Deployment) -> None:
    before = {process.pid for process in running.processes()}
    done = running.shell.inv("deploy", timeout=60, MAX_MODEL_LEN=2048)
    assert done.returncode == 1
    assert "different values of: MAX_MODEL_LEN" in done.stderr
    assert "./inv restart" in done.stderr
    assert {process.pid for process in running.processes()} == before
    done = running.shell.inv("deploy", timeout=60, PORT=running.port + 1)
    assert "different values of: PORT" in done.stderr, "and no waiting for a port that will never open"


def test_another_server_on_the_port_is_not_taken_for_ours(running: Deployment, free_port: Callable[[], int]) -> None:
    """A healthy vLLM of somebody else listens: readiness must not be its."""
    port = running.port
    other = Shell(running.shell.home, running.shell.root, {**running.shell.settings, "TMUX_SESSION": "second"})
    done = other.inv("tmux-start", timeout=60)
    assert done.returncode == 1
    assert f"Port {port} is already in use by" in done.stderr
    assert httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False).status_code == 200


def test_stop_while_it_warms_up(running: Deployment) -> None:
    assert running.shell.inv("stop", timeout=120).returncode == 0
    child = pexpect.spawn(
        str(running.shell.root / "inv"),
        ["tmux-start"],
        env=running.shell.environ(),
        encoding="utf-8",
        timeout=60 * BUSY,
    )
    child.expect("checking the model")
    child.sendintr()
    child.expect("Interrupted by Ctrl-C")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 130
    assert running.processes(), "the start goes on in tmux"
    done = running.shell.inv("stop", timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    wait(lambda: not running.processes(), 5)
    assert not listening(running.port)


def test_serve_in_the_foreground_until_ctrl_c(deployed: Deployment) -> None:
    assert deployed.shell.inv("stop", timeout=120).returncode == 0
    child = pexpect.spawn(
        str(deployed.shell.root / "inv"), ["serve"], env=deployed.shell.environ(), encoding="utf-8", timeout=300 * BUSY
    )
    child.expect("Application startup complete")
    assert ask(deployed, "SmolLM2-135M-Instruct", deployed.key, "Hi").status_code == 200
    refused = deployed.shell.inv("tmux-start", timeout=60)
    assert "E26 " in refused.stderr, "it does not survive the terminal, and is not taken for the one in tmux"
    with deployed.in_flight() as answers:
        child.sendintr()
        child.expect("requests in flight get up to 30 s")
        child.expect(pexpect.EOF)
        child.close()
    assert answers == [200], "a request in flight gets its time"
    assert child.exitstatus == 0, "Ctrl-C is how it is meant to end"
    wait(lambda: not deployed.processes(), 30)
    assert not listening(deployed.port)


def test_the_users_own_model_on_a_cpu(deployed: Deployment) -> None:
    """The real ModelScope client against a loopback hub; the model is the same one under a name of its own."""
    with hub(deployed.model, "acme/Tiny-Chat") as served:
        given = {
            "MODEL_ID": "acme/Tiny-Chat",
            "MODELSCOPE_ENDPOINT": served.endpoint,
            "MODELSCOPE_DOWNLOAD_INTRA_CLOUD": "false",
            "HOME": deployed.shell.home,
            "MODELSCOPE_HOME": deployed.shell.home / "modelscope",
            "NO_PROXY": "127.0.0.1",
        }
        own = Shell(deployed.shell.home, deployed.shell.root, {**deployed.shell.settings, **given})
        assert own.inv("stop", timeout=120).returncode == 0
        done = own.inv("deploy", timeout=300)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        assert any(path.endswith("/repo/files") for path in served.asked)
    folder = deployed.base / "models/Tiny-Chat"
    for path in served.paths():
        assert (folder / path.name).read_bytes() == path.read_bytes()
    assert ask(deployed, "Tiny-Chat", deployed.key, "Hi").status_code == 200
    assert own.inv("stop", timeout=120).returncode == 0


def test_every_step_interrupted_by_ctrl_c_and_then_finished(
    deployed: Deployment, free_port: Callable[[], int], tmp_path: Path
) -> None:
    """In a terminal of its own, into an empty folder: after each Ctrl-C the same command goes on."""
    own = Shell(tmp_path, deployed.shell.root, {"BASE_DIR": tmp_path / "base", "PORT": free_port()})
    moments = [" venv --quiet", " pip install --python", "vllm --version", "convert_embedded", "starting the engine"]
    try:
        for moment in moments:
            child = pexpect.spawn(
                str(own.root / "inv"), ["deploy"], env=own.environ(), encoding="utf-8", timeout=300 * BUSY
            )
            child.expect_exact(moment)
            time.sleep(0.7)
            child.sendintr()
            child.expect("Interrupted by Ctrl-C")
            said = child.read()
            child.close()
            assert child.exitstatus == 130, moment
            assert "./inv deploy" in said
            assert "Traceback" not in said
        done = own.inv("deploy", timeout=600)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        assert "AI assistant" in done.stdout
        assert not list((tmp_path / "base").rglob("*.new.*"))
        assert not list((tmp_path / "base").rglob(".runbook-work"))
    finally:
        own.inv("stop", timeout=120)
        own.run("tmux", "kill-server")
        shutil.rmtree(tmp_path / "base", ignore_errors=True)  # gigabytes


def wait(condition: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds * BUSY
    while not condition():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.3)
