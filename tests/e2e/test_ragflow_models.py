"""What RAGFlow needs of the real vLLM: every question of ragflow-check, every trap, and a registration that answers."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import Done, Shell, executable
from tests.e2e.conftest import Deployment
from tests.ragflow import TOKEN, Ragflow, ragflow

NAME = "SmolLM2-135M-Instruct"


def check(running: Deployment, *words: object, **settings: object) -> Done:
    done = running.shell.inv("ragflow-check", *words, timeout=300, **settings)
    print(done.stdout, done.stderr)
    return done


def test_the_server_has_all_that_ragflow_asks_for(running: Deployment) -> None:
    done = check(running)
    assert done.returncode == 0, done.stderr
    for line in ("✓ base URL", "✓ key", "✓ model name", "✓ list of models  context 8192, Max tokens 6144"):
        assert line in done.stdout
    for line in ("✓ probe when it is added", "✓ long prompt  58", "✓ 10 at once", "✓ reach"):
        assert line in done.stdout
    assert "! tool call (agents only)  off in the server" in done.stdout
    assert running.key not in done.stdout + done.stderr


def test_no_v1(running: Deployment) -> None:
    url = f"http://127.0.0.1:{running.port}"
    headers = {"Authorization": f"Bearer {running.key}"}
    body = {"model": NAME, "messages": [{"role": "user", "content": "Hi"}]}
    assert httpx.post(f"{url}/chat/completions", json=body, headers=headers, trust_env=False).status_code == 404
    done = check(running, "--base-url", url)
    assert done.returncode == 1
    assert f"✗ base URL  {url}  no /v1 at its end" in done.stdout
    assert "failed: base URL." in done.stderr
    assert "E40 " in done.stderr


@pytest.mark.parametrize(
    ("words", "settings", "said"),
    [
        (["--model", "qwen3"], {}, f"✗ list of models  qwen3 is not served; served: {NAME}, "),
        (["--model", f"{NAME}___x"], {}, f"✗ model name  {NAME}___x  RAGFlow cuts it to {NAME}"),
        (["--max-tokens", "9000"], {}, "✗ long prompt  the prompt exceeds the context (8192): enter at most 6144"),
        ([], {"API_KEY": "wrong"}, "✗ list of models  wrong key (HTTP 401)"),
        ([], {"PORT": 9}, "✗ list of models  no connection: the server is not running, or listens on another address"),
    ],
)
def test_traps(words: list[str], settings: dict[str, object], said: str, running: Deployment) -> None:
    done = check(running, *words, **settings)
    assert done.returncode == 1
    assert said in done.stdout
    assert "E40 " in done.stderr


def test_a_blank_key(running: Deployment, free_port: Callable[[], int]) -> None:
    blank = running.shell.home / "blank.env"
    blank.write_text("API_KEY=\n")
    done = check(running, ENV_FILE=blank)
    assert done.returncode == 1
    assert "✗ key  empty: RAGFlow reports Internal server error" in done.stdout
    assert blank.read_text() == "API_KEY=\n", "a check changes nothing"


def container(shell: Shell, curl: str) -> Shell:
    """A machine where RAGFlow runs in Docker; its container's curl is what is given."""
    body = f"""case $1 in
      ps) echo 'docker-es-1 elasticsearch:8'; echo 'docker-ragflow-cpu-1 infiniflow/ragflow:v0.27.0' ;;
      exec) [[ $2$3 == -idocker-ragflow-cpu-1 ]] || exit 9; shift 3; {curl} ;;
    esac"""
    executable(shell.home / "docker-here/docker", body)
    return Shell(shell.home, shell.root, shell.settings, [shell.home / "docker-here"])


def test_from_inside_the_container(running: Deployment) -> None:
    inside = Deployment(container(running.shell, 'exec "${@//host.docker.internal/127.0.0.1}"'), running.first)
    done = check(inside)
    assert done.returncode == 0, done.stderr
    assert f"✓ docker-ragflow-cpu-1  curl http://host.docker.internal:{running.port}/v1/models" in done.stdout
    assert "docker exec -i docker-ragflow-cpu-1 curl" in done.stdout
    assert running.key not in done.stdout
    for curl, said in (("printf 000; exit 7", "✗ docker-ragflow-cpu-1"), ("exit 127", "! docker-ragflow-cpu-1")):
        done = check(Deployment(container(running.shell, curl), running.first))
        assert said in done.stdout
        assert done.returncode == (1 if "✗" in said else 0)


@pytest.mark.parametrize("version", ["0.27.0", "0.26.0"])
@pytest.mark.parametrize("docker", [False, True])
def test_registered_the_model_answers_through_ragflow(version: str, docker: bool, running: Deployment) -> None:
    there = Ragflow(version=version, docker=docker)
    before = there.state()
    with ragflow(there) as url:
        ours = {"RAGFLOW_URL": url, "RAGFLOW_API_KEY": TOKEN}
        dry = running.shell.inv("ragflow-register", "--dry", timeout=120, **ours)
        assert dry.returncode == 0, dry.stderr
        assert there.state() == before
        done = running.shell.inv("ragflow-register", timeout=300, **ours)
        print(done.stdout, done.stderr)
        assert done.returncode == 0, done.stderr
        assert "AI assistant" in done.stdout
        host = "host.docker.internal" if docker else "127.0.0.1"
        assert f"http://{host}:{running.port}/v1, {NAME} (chat), Max tokens 6144" in done.stdout
        made = there.state()
        again = running.shell.inv("ragflow-register", timeout=300, **ours)
        assert "Already registered, nothing to change" in again.stdout
        assert there.state() == made
        gone = running.shell.inv("ragflow-register", "--remove", timeout=120, **ours)
        assert gone.returncode == 0, gone.stderr
    assert there.state() == before
    assert running.key not in done.stdout + done.stderr + again.stdout + gone.stdout


@pytest.fixture
def second(running: Deployment, free_port: Callable[[], int]) -> Iterator[Callable[..., Shell]]:
    """Starts another server beside the first, with other options or another model."""
    started: list[Shell] = []

    def start(name: str, **more: object) -> Shell:
        own: dict[str, object] = {"PORT": free_port(), "TMUX_SESSION": name, "LOG_DIR": running.base / name}
        shell = Shell(running.shell.home, running.shell.root, {**running.shell.settings, **own, **more})
        started.append(shell)
        for task in ("download", "tmux-start"):
            done = shell.inv(task, timeout=300)
            assert done.returncode == 0, done.stdout + done.stderr
        return shell

    yield start
    for shell in started:
        assert shell.inv("stop", timeout=120).returncode == 0


def test_from_two_embedded_models_to_an_answer_over_documents(
    second: Callable[..., Shell], running: Deployment, tmp_path: Path
) -> None:
    """Both models registered, a question answered from a document with its source, everything taken back."""
    shell = second("vllm-embed", MODEL_ID="demo-embedding")
    done = shell.inv("curl-test", timeout=120)
    assert done.returncode == 0, done.stderr
    assert "/v1/embeddings" in done.stdout
    assert "… 384" in done.stdout
    done = check(Deployment(shell, running.first))
    assert done.returncode == 0, done.stderr
    assert "✓ probe when it is added  384 dimensions" in done.stdout
    done = shell.inv("bench", "--requests", 2, timeout=180)
    assert re.search(r"4 at a time: \d+\.\d texts and \d+ tokens a second", done.stdout), done.stdout + done.stderr
    (tmp_path / "port.md").write_text("The server listens on port 20000.")
    (tmp_path / "cats.md").write_text("Cats sleep for most of the day.")
    there = Ragflow()
    before = there.state()
    with ragflow(there) as url:
        ours: dict[str, Any] = {"RAGFLOW_URL": url, "RAGFLOW_API_KEY": TOKEN, "timeout": 300}
        for one in (running.shell, shell):
            done = one.inv("ragflow-register", **ours)
            print(done.stdout, done.stderr)
            assert done.returncode == 0, done.stderr
        assert there.defaults == {"chat": f"{NAME}@vllm-qwen3@VLLM", "embedding": "all-MiniLM-L6-v2@vllm-embed@VLLM"}
        question = "Which port does the server listen on?"
        done = running.shell.inv("ragflow-ask", "--docs", tmp_path, question, **ours)
        print(done.stdout, done.stderr)
        assert done.returncode == 0, done.stderr
        assert "[1] port.md" in done.stdout
        assert "20000" in done.stdout.split("Question:")[1].split("[1] port.md")[0], "the model's own words"
        again = running.shell.inv("ragflow-ask", "--docs", tmp_path, question, **ours)
        assert "0 of 2 documents to upload" in again.stdout
        assert running.shell.inv("ragflow-ask", "--remove", **ours).returncode == 0
        for one in (running.shell, shell):
            assert one.inv("ragflow-register", "--remove", **ours).returncode == 0
    assert there.state() == before


RERANKER = """
import sys
import torch
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification
source, target = sys.argv[1:]
torch.manual_seed(0)
sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
config = BertConfig(vocab_size=30522, num_labels=1, **sizes)
BertForSequenceClassification(config).save_pretrained(target)
AutoTokenizer.from_pretrained(source).save_pretrained(target)
"""


def test_a_reranker(second: Callable[..., Shell], running: Deployment) -> None:
    """A tiny one that has learned nothing: it is served, asked, checked and registered as what it is."""
    embedding = Shell(running.shell.home, running.shell.root, {**running.shell.settings, "MODEL_ID": "demo-embedding"})
    done = embedding.inv("download", timeout=300)
    assert done.returncode == 0, done.stderr
    target = running.base / "models/tiny-judge"
    source = running.base / "models/all-MiniLM-L6-v2"
    made = running.shell.run(running.base / ".venv/bin/python", "-c", RERANKER, source, target, timeout=300)
    assert made.returncode == 0, made.stderr
    shell = second("vllm-rerank", MODEL_ID="auto", MODEL_DIR=target)
    done = shell.inv("curl-test", timeout=120)
    assert done.returncode == 0, done.stderr
    assert "/v1/rerank" in done.stdout
    assert re.search(r"^[01]\.\d{3} (Cats|The server)", done.stdout, re.MULTILINE), done.stdout
    done = check(Deployment(shell, running.first))
    assert done.returncode == 0, done.stderr
    assert "✓ 64 passages  all ranked" in done.stdout
    done = shell.inv("bench", "--requests", 2, timeout=180)
    assert re.search(r"4 at a time: \d+\.\d texts and \d+ tokens a second", done.stdout), done.stdout + done.stderr
    assert "E205 " in shell.inv("chat", "--question", "Hi").stderr
    notes = shell.inv("ragflow-notes").stdout
    assert re.search(r"Model type .*rerank", notes)
    there = Ragflow()
    with ragflow(there) as url:
        ours: dict[str, Any] = {"RAGFLOW_URL": url, "RAGFLOW_API_KEY": TOKEN, "timeout": 300}
        done = shell.inv("ragflow-register", **ours)
        assert done.returncode == 0, done.stdout + done.stderr
        assert there.defaults == {"rerank": "tiny-judge@vllm-rerank@VLLM"}
        assert shell.inv("ragflow-register", "--remove", **ours).returncode == 0
    assert there.providers == {}


def test_a_server_for_this_machine_only_that_takes_tool_calls(
    second: Callable[..., Shell], running: Deployment
) -> None:
    """It listens on 127.0.0.1 for real: from here all is well, from a container nothing is reached."""
    shell = second(
        "vllm-tools", VLLM_EXTRA_ARGS="--enable-auto-tool-choice --tool-call-parser hermes", HOST="127.0.0.1"
    )
    done = check(Deployment(shell, running.first))
    assert done.returncode == 0, done.stderr
    assert "! reach  HOST=127.0.0.1  not reachable from containers and other machines: HOST=0.0.0.0" in done.stdout
    assert "off in the server" not in done.stdout, "taken; whether a model this small calls one is another matter"
    inside = container(shell, "printf 000; exit 7")
    assert check(Deployment(inside, running.first)).returncode == 1
    ours: dict[str, Any] = {"RAGFLOW_API_KEY": TOKEN, "timeout": 120}
    there = Ragflow(docker=True)
    with ragflow(there) as url:
        done = shell.inv("ragflow-register", RAGFLOW_URL=url, **ours)
    assert done.returncode == 1
    assert "E45 " in done.stderr
    assert there.providers == {}
    there = Ragflow()
    with ragflow(there) as url:
        done = shell.inv("ragflow-register", RAGFLOW_URL=url, **ours)
        assert done.returncode == 0, done.stderr
        assert there.providers["VLLM"]["vllm-tools"]["models"][NAME]["extra"]["is_tools"] is True
        assert shell.inv("ragflow-register", "--remove", RAGFLOW_URL=url, **ours).returncode == 0


def test_one_command_deploys_what_retrieval_needs(
    running: Deployment, free_port: Callable[[], int], tmp_path: Path, measured: Callable[[str], None]
) -> None:
    """deploy --rag from a settings file: two servers that answer, each with its own kind; then both are stopped."""
    env = tmp_path / "two.env"
    port = free_port()
    env.write_text(
        f"BASE_DIR='{running.base}'\nPORT={port}\nTMUX_SESSION=two\nAPI_KEY=k3y\nLOG_DIR='{running.base}/logs-two'\n"
    )
    assert running.shell.inv("stop", timeout=120).returncode == 0
    both = Shell(running.shell.home, running.shell.root, {"ENV_FILE": env, "PIP_INDEX_URL": "", "RUNBOOK_LANG": "en"})
    try:
        done = both.inv("deploy", "--rag", timeout=600)
        print(done.stdout, done.stderr)
        assert done.returncode == 0, done.stderr
        assert re.search(r"^\[embed\] curl-test +✓", done.stdout, re.MULTILINE)
        assert "… 384" in done.stdout
        assert re.search(r"^Deployed in \d+ s", done.stdout.splitlines()[-1])
        measured("deploy --rag beside a deployment: " + done.stdout.splitlines()[-1])
        shown = both.inv("status", "--all")
        assert shown.returncode == 0, shown.stdout
        assert shown.stdout.count("state     ready") == 2
    finally:
        stopped = both.inv("stop", "--all", timeout=120)
    assert stopped.returncode == 0, stopped.stderr
    assert not running.processes()
