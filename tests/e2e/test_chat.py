"""chat and bench against the real server, chat also in a real terminal."""

import re

import httpx
import pexpect
import psutil

from tests.conftest import BUSY
from tests.e2e.conftest import Deployment


def test_one_question(running: Deployment) -> None:
    done = running.shell.inv("chat", "-q", "What is the capital of China?", http_proxy="http://127.0.0.1:9")
    assert done.returncode == 0, done.stderr
    assert "The capital of China is Beijing." in done.stdout
    assert running.key not in done.stdout + done.stderr
    assert (
        "The capital of China is Beijing." in running.shell.script("chat", "-q", "What is the capital of China?").stdout
    )


def chat(running: Deployment, **more: object) -> "pexpect.spawn[str]":
    environ = running.shell.environ(**more)
    return pexpect.spawn(str(running.shell.root / "inv"), ["chat"], env=environ, encoding="utf-8", timeout=60 * BUSY)


def prompt_tokens(running: Deployment) -> float:
    """How many tokens the server has been asked, since its start."""
    url, headers = f"http://127.0.0.1:{running.port}/metrics", {"Authorization": f"Bearer {running.key}"}
    text = httpx.get(url, headers=headers, trust_env=False).text
    return sum(float(value) for value in re.findall(r"^vllm:prompt_tokens_total\{.*\} (\S+)$", text, re.MULTILINE))


def test_a_conversation_in_a_terminal(running: Deployment) -> None:
    before = prompt_tokens(running)
    child = chat(running)
    child.expect_exact("Talking to SmolLM2-135M-Instruct; Ctrl-D quits.")
    child.expect_exact("> ")
    child.sendline("")
    child.expect_exact("> ")
    child.sendline("What is the capital of Chin\x1b[D\x1b[C\x7fna?")
    child.expect_exact("is Beijing.")
    child.expect_exact("> ")
    words = [word for process in psutil.Process(child.pid).children(recursive=True) for word in process.cmdline()]
    assert "runbook.server.chat" in words
    assert running.key not in " ".join(words)
    first = prompt_tokens(running) - before
    child.sendline("Why?")
    child.expect_exact("Why?")
    child.expect_exact("> ")
    assert prompt_tokens(running) - before > 2 * first, "it was told what was said before"
    child.sendeof()
    child.expect_exact("You have left the conversation; the server keeps running.")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


def test_ctrl_c_leaves_in_the_middle_of_an_answer(running: Deployment) -> None:
    child = chat(running, LANG="zh_CN.UTF-8")
    child.expect_exact("与 SmolLM2-135M-Instruct 对话；Ctrl-D 离开。")
    child.expect_exact("> ")
    child.sendline("Write a long story about the sea, of a thousand words.")
    child.expect(r"(?:\w+\s+){5}", timeout=60 * BUSY)
    child.sendintr()
    child.expect_exact("已退出对话，服务继续运行。")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    assert "Traceback" not in str(child.before)
    assert running.shell.inv("status").returncode == 0


def test_a_question_that_is_too_long_and_a_server_that_is_gone(running: Deployment) -> None:
    done = running.shell.inv("chat", "-q", "word " * 9000)
    assert done.returncode == 1
    assert "E16 " in done.stderr
    assert "context length" in done.stderr
    words = [running.base / ".venv/bin/python", "-m", "runbook.server.chat", "Hi"]
    root, nobody = running.shell.root, "http://127.0.0.1:9/v1"
    done = running.shell.run(*words, PYTHONPATH=root, BASE_URL=nobody, API_KEY="x")
    assert done.returncode == 1
    assert nobody in done.stderr
    assert "Connection error." in done.stderr
    assert "E16 " in done.stderr
    assert "Traceback" not in done.stderr


def test_bench(running: Deployment) -> None:
    words = ["--requests", "3", "--concurrency", "2", "--input", "100", "--output", "8"]
    done = running.shell.inv("bench", *words, timeout=180, http_proxy="http://127.0.0.1:9")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^ +Successful requests: +3", done.stdout, re.MULTILINE)
    assert re.search(r"^ +Total generated tokens: +24", done.stdout, re.MULTILINE)
    speed = re.search(r"^ +Output token throughput \(tok/s\): +(\d+\.\d+)", done.stdout, re.MULTILINE)
    assert speed
    assert re.search(
        rf"^    2 at a time: {speed[1]} tokens a second in all; on average the first word", done.stdout, re.M
    )
    assert "3/3" in done.stdout, "the progress"
    assert "nanobind" not in done.stdout + done.stderr
    assert running.key not in done.stdout + done.stderr
    print(done.stdout)


def test_bench_beyond_the_context(running: Deployment) -> None:
    done = running.shell.inv("bench", "--requests", "2", "--input", "9000", timeout=180, LANG="zh_CN.UTF-8")
    assert done.returncode == 1
    assert "2 个请求没有得到完整的回答" in done.stderr
    assert "不超过服务的上下文长度（8192 个 token）" in done.stderr
    assert "E74 " in done.stderr
    assert "tok/s" not in done.stdout, "no figures that mean nothing"
