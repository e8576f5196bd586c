"""A start that fails for real ends with the doctor's words; a healthy server has no finding."""

import json
import os
import shutil
from pathlib import Path

import httpx
import pytest

from tests.conftest import BUSY, Shell
from tests.e2e.conftest import Deployment


def variant(deployed: Deployment, path: Path) -> Path:
    """A copy of the model to spoil; what is not touched is the same file."""
    shutil.copytree(deployed.model, path, copy_function=os.link)
    return path


@pytest.mark.parametrize(
    ("settings", "code", "words"),
    [
        ({"VLLM_EXTRA_ARGS": "--no-such-flag"}, "E64", "unrecognized arguments: --no-such-flag"),
        ({"GPU_MEMORY_UTILIZATION": "0.01"}, "E53", "is less than requested memory for kv"),
        ({"MAX_MODEL_LEN": "999999", "GPU_MEMORY_UTILIZATION": "0.2"}, "E52", "User-specified max_model_len (999999)"),
        (
            {"VLLM_EXTRA_ARGS": "--enable-auto-tool-choice --tool-call-parser nosuch"},
            "E125",
            "invalid tool call parser: nosuch",
        ),
        ({"SPOIL": "shard"}, "E13", "SafetensorError"),
        ({"SPOIL": "tokenizer"}, "E13", "tokenizer"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_failed_start_says_why(
    settings: dict[str, str], code: str, words: str, deployed: Deployment, tmp_path: Path
) -> None:
    given = dict(settings)
    spoil = given.pop("SPOIL", "")
    if spoil:
        folder = variant(deployed, tmp_path / "M")
        given["MODEL_DIR"] = str(folder)
        for path in folder.glob("tokenizer*" if spoil == "tokenizer" else "*.safetensors"):
            path.unlink()
        if spoil == "shard":
            shutil.copy(deployed.model / "model.safetensors", folder)
            os.truncate(folder / "model.safetensors", 100_000_000)
    own = Shell(deployed.shell.home, deployed.shell.root, {**deployed.shell.settings, **given})
    assert own.inv("stop", timeout=120).returncode == 0
    done = own.inv("tmux-start", timeout=180)
    assert done.returncode == 1
    assert "E14 " in done.stderr, "what the start itself says"
    assert f"{code} docs/en/troubleshooting.md#{code.lower()}" in done.stdout, done.stdout[-3000:] + done.stderr
    assert words in done.stdout
    found = json.loads(own.inv("doctor", "--json").stdout)
    assert [row["code"] for row in found] == [code], "asked again, the same"


def test_what_the_plan_refuses_is_told_before_the_session_is_made(deployed: Deployment) -> None:
    own = Shell(deployed.shell.home, deployed.shell.root, {**deployed.shell.settings, "MAX_MODEL_LEN": "999999"})
    assert own.inv("stop", timeout=120).returncode == 0
    done = own.inv("tmux-start", timeout=180)
    assert done.returncode == 1
    assert "E50 " in done.stderr
    assert "exceeds the model's maximum of 8192" in done.stderr
    assert own.run("tmux", "has-session", "-t", "=vllm-qwen3").returncode != 0


TEMPLATE = """{%- for m in messages %}{%- if m.role == "system" and not loop.first %}
{{- raise_exception("System message must be at the beginning.") }}{%- endif %}{{ m.content }}
{% endfor %}"""


def test_a_chat_that_the_template_refuses_is_told_by_its_reason(deployed: Deployment, tmp_path: Path) -> None:
    """vLLM logs only the status of a refused request: the middleware adds the reason."""
    folder = variant(deployed, tmp_path / "M")
    (folder / "chat_template.jinja").unlink()
    own = Shell(deployed.shell.home, deployed.shell.root, {**deployed.shell.settings, "MODEL_DIR": str(folder)})
    assert own.inv("stop", timeout=120).returncode == 0
    try:
        assert own.inv("tmux-start", timeout=180).returncode == 0
        done = own.inv("curl-test", timeout=60)
        assert done.returncode == 1
        assert "E118 docs/en/troubleshooting.md#e118" in done.stdout, done.stdout + done.stderr
        assert "default chat template is no longer allowed" in done.stdout
        assert own.inv("stop", timeout=120).returncode == 0
        (folder / "chat_template.jinja").write_text(TEMPLATE, "utf-8")
        assert own.inv("tmux-start", timeout=180).returncode == 0
        messages = [{"role": role, "content": "hello"} for role in ("system", "user", "system")]
        answer = httpx.post(
            f"http://127.0.0.1:{deployed.port}/v1/chat/completions",
            json={"model": "M", "messages": messages, "max_tokens": 2},
            headers={"Authorization": f"Bearer {deployed.key}"},
            timeout=60 * BUSY,
            trust_env=False,
        )
        assert answer.status_code == 400, answer.text
        found = json.loads(own.inv("doctor", "--json").stdout)
        assert [row["code"] for row in found] == ["E119"], found
        assert "System message must be at the beginning." in found[0]["evidence"]
    finally:
        own.inv("stop", timeout=120)


def test_a_running_server_has_no_finding(running: Deployment) -> None:
    done = running.shell.inv("doctor")
    assert done.returncode == 0, done.stdout
    assert "Nothing wrong was found" in done.stdout
    done = running.shell.inv("preflight")
    assert done.returncode == 0, done.stdout
    assert "is used by this server, which is running" in done.stdout
