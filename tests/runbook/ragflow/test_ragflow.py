"""ragflow-register's whole life against a stand-in that keeps to RAGFlow's recorded contract; ragflow-notes.

What is claimed of our own server is tested on the real vLLM in tests/e2e/test_ragflow_models.py.
"""

import json
import os
import re
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runbook import ROOT
from runbook.messages import Fault
from runbook.ragflow import client
from runbook.ragflow import register as registering
from tests.conftest import BUSY, MACHINE, Done, Shell
from tests.ragflow import TOKEN, Model, Ragflow, model, ragflow

PIPES: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
VERSIONS = ["0.27.0", "0.26.0"]


@dataclass
class Pair:
    """A model that runs, a RAGFlow that runs, and the script between them."""

    shell: Shell
    ragflow: Ragflow
    model: Model
    url: str
    base_url: str

    def script(self, *words: object, **settings: Any) -> Done:
        return self.shell.script("ragflow-register", *words, **settings)

    def register(self, *words: str, **settings: object) -> Done:
        """The program without the shell around it, which takes most of the time."""
        given = {key: str(value) for key, value in {**self.shell.settings, **settings}.items()}
        url = f"http://127.0.0.1:{given['PORT']}/v1"
        fixed = {"HOST": "0.0.0.0", "TMUX_SESSION": "vllm-qwen3", "MACHINE": MACHINE, "SOURCE_URL": url, "LAN_URL": ""}
        given = fixed | given
        given |= {"MAX_TOKENS": str(self.model.context * 3 // 4), "TOOLS": "on" if self.model.tools else "off"}
        given.setdefault("DOCKER_URL", url.replace("127.0.0.1", "host.docker.internal"))
        out, code, said = StringIO(), 0, ""
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out):
            for key in ("API_KEY", "RAGFLOW_API_KEY", "RUNBOOK_LANG"):
                patch.setenv(key, given[key])
            try:
                registering.perform(list(words), given)
            except Fault as fault:
                code, said = 1, str(fault)
        assert not re.search(r"\{\w+\}", said), "every value of the fault is given"
        return Done([], code, out.getvalue(), said)

    @property
    def record(self) -> Path:
        return self.shell.home / "base/run" / MACHINE / "vllm-qwen3.ragflow.json"


@pytest.fixture
def pair(shell: Shell) -> Iterator[Pair]:
    with ExitStack() as stack:
        there, tiny = Ragflow(probe_seconds=1), Model()
        url, base = stack.enter_context(ragflow(there)), stack.enter_context(model(tiny))
        settings = {"RAGFLOW_URL": url, "RAGFLOW_API_KEY": TOKEN, "API_KEY": "k3y", "SERVED_MODEL_NAME": "tiny"}
        shell.settings |= settings | {"PORT": urlsplit(base).port, "RUNBOOK_LANG": "en"}
        yield Pair(shell, there, tiny, url, f"{base}/v1")


def other(pair: Pair, name: str = "mine") -> None:
    """Somebody's own instance with its model, which is the default."""
    row = {"extra": {"is_tools": True, "max_tokens": 1000, "verify": "success"}, "features": [], "max_tokens": 1000}
    row |= {"model_type": ["chat"], "name": "own", "rank": 500, "status": "active", "verify": "success"}
    held = {"id": "x1", "api_key": "own-key", "base_url": "http://10.9.9.9:1/v1", "models": {"own": row}}
    pair.ragflow.providers["VLLM"] = {name: held}
    pair.ragflow.defaults["chat"] = f"own@{name}@VLLM"


@pytest.mark.parametrize("version", VERSIONS)
def test_the_whole_life_of_a_registration(version: str, pair: Pair) -> None:
    there = pair.ragflow
    there.version = version
    before = there.state()
    done = (pair.script if version == "0.27.0" else pair.register)()
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"RAGFlow {version}: {pair.url}" in done.stdout
    said = done.stdout
    assert said.index("This will be changed in RAGFlow:") < said.index("- default model")
    assert f"\n{pair.model.answer}\n" in said
    one = there.providers["VLLM"]["vllm-qwen3"]
    assert (one["api_key"], one["base_url"]) == ("k3y", pair.base_url)
    assert one["models"]["tiny"]["model_type"] == ["chat"]
    assert one["models"]["tiny"]["max_tokens"] == 6144 < pair.model.context
    assert one["models"]["tiny"]["extra"]["is_tools"] is False
    assert there.defaults == {"chat": "tiny@vllm-qwen3@VLLM"}
    made, calls = there.state(), len(there.calls)
    again = pair.register()
    assert again.returncode == 0, again.stderr
    assert there.state() == made
    assert "nothing to change" in again.stdout
    there.calls = there.calls[calls:]
    assert there.changes() == ["POST /api/v1/chat/completions"]
    assert stat.S_IMODE(pair.record.stat().st_mode) == 0o600
    for text in (pair.record.read_text(), done.stdout + done.stderr + again.stdout + again.stderr):
        assert "k3y" not in text
        assert TOKEN not in text
    gone = pair.register("--remove")
    assert gone.returncode == 0, gone.stderr
    assert there.state() == before
    assert not pair.record.exists()
    assert "Nothing of this server is registered" in pair.register("--remove").stdout


@pytest.mark.parametrize("version", ["0.25.6", "0.24.0", "0.23.0"])
def test_an_older_ragflow_is_left_to_be_filled_in_by_hand(version: str, pair: Pair) -> None:
    pair.ragflow.version = version
    before = pair.ragflow.state()
    done = pair.register()
    assert done.returncode == 1
    assert "E89 " in done.stderr
    assert "./inv ragflow-notes" in done.stderr
    assert pair.ragflow.state() == before
    assert pair.ragflow.changes() == []
    assert not pair.record.exists()


@pytest.mark.parametrize("version", ["0.27.0", "0.26.0"])
def test_what_others_made_stays_and_their_default_comes_back(version: str, pair: Pair) -> None:
    pair.ragflow.version = version
    other(pair)
    before = pair.ragflow.state()
    done = pair.register()
    assert done.returncode == 0, done.stderr
    assert "- default model chat: own@mine → tiny@vllm-qwen3" in done.stdout
    assert pair.register("--remove").returncode == 0
    assert pair.ragflow.state() == before


def test_the_default_of_before_is_gone(pair: Pair) -> None:
    other(pair)
    assert pair.register().returncode == 0
    del pair.ragflow.providers["VLLM"]["mine"]
    done = pair.register("--remove")
    assert done.returncode == 0, done.stderr
    assert pair.ragflow.defaults == {}
    assert pair.ragflow.providers == {"VLLM": {}}, "the provider was there before us"


def test_an_instance_of_our_name_that_is_not_ours(pair: Pair) -> None:
    other(pair, "vllm-qwen3")
    before = pair.ragflow.state()
    done = pair.register()
    assert done.returncode == 0, done.stderr
    assert set(pair.ragflow.providers["VLLM"]) == {"vllm-qwen3", "vllm-qwen3-2"}
    assert pair.register("--remove").returncode == 0
    assert pair.ragflow.state() == before


@pytest.mark.parametrize("version", ["0.27.0", "0.26.0"])
def test_changed_settings_update_the_instance_and_keep_what_somebody_added_to_it(version: str, pair: Pair) -> None:
    pair.ragflow.version = version
    assert pair.register().returncode == 0
    held = pair.ragflow.providers["VLLM"]["vllm-qwen3"]["models"]
    held["extra"] = held["tiny"] | {"name": "extra"}
    pair.model.context, pair.model.tools = 4096, True
    done = pair.register()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "update the instance vllm-qwen3" in done.stdout
    held = pair.ragflow.providers["VLLM"]["vllm-qwen3"]["models"]
    assert (held["tiny"]["max_tokens"], held["tiny"]["extra"]["is_tools"]) == (3072, True)
    assert held["extra"]["max_tokens"] == 6144
    assert list(pair.ragflow.providers["VLLM"]) == ["vllm-qwen3"]
    done = pair.register("--remove")
    assert "it stays" in done.stdout
    assert "extra" in pair.ragflow.providers["VLLM"]["vllm-qwen3"]["models"]


def test_v026_fails_while_the_instance_is_made_anew(pair: Pair) -> None:
    pair.ragflow.version = "0.26.0"
    other(pair)
    before = pair.ragflow.state()
    assert pair.register().returncode == 0
    pair.model.context = 4096
    pair.ragflow.broken = {"POST /instances": REFUSED}
    assert pair.register().returncode == 1
    assert pair.ragflow.state() == before, "and the default of before is back"


@pytest.mark.parametrize("version", VERSIONS)
def test_a_new_key_reaches_ragflow(version: str, pair: Pair) -> None:
    """v0.26 does not show the key that it has."""
    pair.ragflow.version = version
    assert pair.register().returncode == 0
    pair.model.key = "second"
    done = pair.register(API_KEY="second")
    assert done.returncode == 0, done.stdout + done.stderr
    stored: dict[str, Any] = next(iter(pair.ragflow.providers["VLLM"].values()))
    assert stored["api_key"] == "second"


@pytest.mark.parametrize("version", VERSIONS)
def test_a_new_name_replaces_the_old_one(version: str, pair: Pair) -> None:
    pair.ragflow.version = version
    other(pair)
    before = pair.ragflow.state()
    assert pair.register().returncode == 0
    pair.model.name = "tiny2"
    done = pair.register(SERVED_MODEL_NAME="tiny2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(pair.ragflow.providers["VLLM"]["vllm-qwen3"]["models"]) == ["tiny2"]
    assert pair.ragflow.defaults == {"chat": "tiny2@vllm-qwen3@VLLM"}
    assert pair.register("--remove", SERVED_MODEL_NAME="tiny2").returncode == 0
    assert pair.ragflow.state() == before


@pytest.mark.parametrize("version", VERSIONS)
def test_dry_says_what_it_would_do_and_changes_nothing(version: str, pair: Pair) -> None:
    pair.ragflow.version = version
    before = pair.ragflow.state()
    done = pair.script(RUNBOOK_DRY="1") if version == "0.27.0" else pair.register("--dry")
    assert done.returncode == 0, done.stderr
    assert "This will be changed in RAGFlow:" in done.stdout
    assert pair.ragflow.state() == before
    assert pair.ragflow.changes() == []
    assert not pair.record.exists()
    assert pair.register().returncode == 0
    made = pair.ragflow.state()
    assert pair.register("--remove", "--dry").returncode == 0
    assert pair.ragflow.state() == made


@pytest.mark.parametrize(("kind", "tools"), [("chat", False), ("chat", True), ("embedding", False), ("rerank", False)])
def test_a_server_of_ours_is_asked_only_what_it_can_answer(kind: str, tools: bool, pair: Pair) -> None:
    """Its log has no refused request afterwards, which the doctor would report."""
    pair.model.kind, pair.model.tools = kind, tools
    done = pair.register(KIND=kind)
    assert done.returncode == 0, done.stdout + done.stderr
    assert pair.model.refused == []
    assert f"({kind})" in done.stdout


def test_a_model_that_can_call_tools_is_registered_so(pair: Pair) -> None:
    pair.model.tools = True
    assert pair.register().returncode == 0
    assert pair.ragflow.providers["VLLM"]["vllm-qwen3"]["models"]["tiny"]["extra"]["is_tools"] is True


@pytest.mark.parametrize(("kind", "words"), [("embedding", "received a vector"), ("rerank", "ranked with it")])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_model_for_retrieval(version: str, kind: str, words: str, pair: Pair) -> None:
    pair.model.kind, pair.ragflow.version = kind, version
    before = pair.ragflow.state()
    done = pair.register()
    assert done.returncode == 0, done.stdout + done.stderr
    assert words in done.stdout
    assert pair.ragflow.providers["VLLM"]["vllm-qwen3"]["models"]["tiny"]["model_type"] == [kind]
    assert pair.ragflow.defaults == {kind: "tiny@vllm-qwen3@VLLM"}
    assert pair.register("--remove").returncode == 0
    assert pair.ragflow.state() == before


def test_chat_and_embedding_side_by_side(pair: Pair) -> None:
    assert pair.register().returncode == 0
    with model(Model("vec", kind="embedding")) as base:
        second = {"PORT": urlsplit(base).port, "SERVED_MODEL_NAME": "vec", "TMUX_SESSION": "vllm-embed"}
        done = pair.register(**second)
        assert done.returncode == 0, done.stdout + done.stderr
        assert set(pair.ragflow.defaults) == {"chat", "embedding"}
        assert pair.register("--remove").returncode == 0
        assert list(pair.ragflow.providers["VLLM"]) == ["vllm-embed"], "the provider stays for the other"
        assert pair.register("--remove", **second).returncode == 0
    assert pair.ragflow.defaults == {}
    assert pair.ragflow.providers == {}, "the last one removes it"


# Which address.


def test_in_docker_the_containers_own_address_is_not_ours(pair: Pair) -> None:
    pair.ragflow.docker = True
    done = pair.register()
    assert done.returncode == 0, done.stderr
    port = urlsplit(pair.base_url).port
    assert pair.ragflow.providers["VLLM"]["vllm-qwen3"]["base_url"] == f"http://host.docker.internal:{port}/v1"


@pytest.mark.parametrize("version", VERSIONS)
def test_a_server_for_this_machine_only_is_not_reached_from_a_container(version: str, pair: Pair) -> None:
    pair.ragflow.docker, pair.ragflow.version = True, version
    before = pair.ragflow.state()
    there = pair.script if version == "0.27.0" else pair.register
    done = there(HOST="127.0.0.1", **({} if version == "0.27.0" else {"DOCKER_URL": ""}))
    assert done.returncode == 1
    assert "✗ Fail to access model(VLLM/tiny)." in done.stdout
    assert "the server listens on 127.0.0.1:" in done.stderr
    assert "HOST=0.0.0.0" in done.stderr
    assert "E45 " in done.stderr
    assert pair.ragflow.state() == before


def test_a_named_address_is_the_only_one_tried(pair: Pair) -> None:
    done = pair.register("--base-url", pair.base_url)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("tries") == 1
    done = pair.register("--base-url", pair.base_url.removesuffix("/v1"))
    assert done.returncode == 1
    assert "E49 " in done.stderr


def test_a_model_that_answers_too_slowly(pair: Pair) -> None:
    pair.model.slow, pair.ragflow.probe_seconds = 0.4, 0.1
    done = pair.register("--base-url", pair.base_url)
    assert done.returncode == 1
    assert "Timeout accessing model(VLLM/tiny)." in done.stdout
    assert "E45 " in done.stderr


# What fails.


def test_what_must_be_set(pair: Pair) -> None:
    for key in ("RAGFLOW_URL", "RAGFLOW_API_KEY"):
        done = pair.script(**{key: ""})
        assert done.returncode == 1
        assert f"{key} is empty" in done.stderr
        assert "E41 " in done.stderr


def test_a_wrong_key_for_ragflow(pair: Pair) -> None:
    for version in VERSIONS:
        pair.ragflow.version = version
        done = pair.register(RAGFLOW_API_KEY="ragflow-wr0ng")
        assert done.returncode == 1
        assert "E43 " in done.stderr
        assert "wr0ng" not in done.stdout + done.stderr


def test_our_own_server_is_not_there_or_refuses(pair: Pair, free_port: Any) -> None:
    for change in ({"PORT": free_port()}, {"API_KEY": "wrong"}, {"SERVED_MODEL_NAME": "other"}):
        done = pair.script(**change)
        assert done.returncode == 1
        assert "E16 " in done.stderr
    assert pair.ragflow.changes() == []


@pytest.mark.parametrize("name", ["a___b", "a@b"])
def test_a_name_that_ragflow_cuts(name: str, pair: Pair) -> None:
    pair.model.name = name
    done = pair.register(SERVED_MODEL_NAME=name)
    assert done.returncode == 1
    assert "E47 " in done.stderr
    assert pair.ragflow.calls == []


HTML = ("html",)
REFUSED = ("say", (200, {"code": 102, "message": "Internal server error"}))
UNHEARD = ("after", (200, {"code": 102, "message": "Internal server error"}))
EXCEPTION = ("say", (401, {"code": 401, "data": None, "message": "<Unauthorized '401: Unauthorized'>"}))
BAD_GATEWAY = ("say", (502, b"<html>502 Bad Gateway</html>"))
NO_CODE = ("say", (200, {"db": "ok"}))
SPOTS = [
    "GET /system/version", "GET /api/v1/providers", "PUT /providers", "POST /connection", "POST /instances",
    "GET /instances", "GET /instances/vllm-qwen3", "GET /models", "GET /models/default", "PATCH /models/default",
    "POST /chat/completions",
]  # fmt: skip


@pytest.mark.parametrize("spot", SPOTS)
@pytest.mark.parametrize(
    "what", [HTML, REFUSED, UNHEARD, EXCEPTION, ("drop",)], ids=["html", "refused", "unheard", "401", "drop"]
)
def test_a_failure_at_each_call_is_said_and_leaves_nothing(spot: str, what: tuple[Any, ...], pair: Pair) -> None:
    if spot == "GET /system/version" and what in (REFUSED, UNHEARD):
        pytest.skip("the version is only for show")
    before, there = pair.ragflow.state(), pair.ragflow
    there.broken = {spot: what}
    done = pair.register()
    assert done.returncode == 1
    assert re.search(r"  E4[23456] docs", done.stderr)
    there.broken = {}
    if there.state() != before or pair.record.exists():  # the way back was broken as well: then the record knows
        assert pair.register("--remove").returncode == 0
    assert there.state() == before


@pytest.mark.parametrize("what", [BAD_GATEWAY, NO_CODE])
def test_what_answers_is_not_ragflow(what: tuple[Any, ...], pair: Pair) -> None:
    for spot in ("GET /system/version", "POST /chat/completions"):
        pair.ragflow.broken = {spot: what}
        done = pair.register()
        assert done.returncode == 1
        assert "E42 " in done.stderr


@pytest.mark.parametrize("spot", ["GET /system/version", "POST /instances", "POST /chat/completions"])
def test_a_ragflow_that_hangs(spot: str, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call without an answer may come true later: the record keeps what it was for."""
    monkeypatch.setattr(registering, "PROBE", 1)
    monkeypatch.setattr(registering, "ANSWER", 1)
    monkeypatch.setattr(client.Ragflow.call, "__defaults__", (None, 1))
    other(pair)
    before = pair.ragflow.state()
    pair.ragflow.broken = {spot: ("hang", 2)}
    done = pair.register()
    assert done.returncode == 1
    assert "timed out" in done.stderr
    assert "E42 " in done.stderr
    time.sleep(2)
    pair.ragflow.broken = {}
    assert (pair.ragflow.state() != before) == (spot == "POST /instances")
    assert pair.register("--remove").returncode == 0
    assert pair.ragflow.state() == before


def test_ctrl_c_takes_back_what_was_made(pair: Pair) -> None:
    """The terminal's SIGINT reaches the shell and the program; the default has just been asked for."""
    other(pair)
    before = pair.ragflow.state()
    pair.ragflow.broken = {"PATCH /models/default": ("hang", 5)}
    script = [str(word) for word in ("bash", ROOT / "scripts/ragflow-register.sh")]
    child = subprocess.Popen(script, env=pair.shell.environ(), text=True, start_new_session=True, **PIPES)
    while not any(call[0] == "PATCH" for call in pair.ragflow.calls):
        assert child.poll() is None
        time.sleep(0.05)
    pair.ragflow.broken = {}
    os.killpg(child.pid, signal.SIGINT)
    out, err = child.communicate(timeout=30 * BUSY)
    assert child.returncode == 130
    assert "everything that this run created is removed again" in out
    assert "E98 " in err
    assert "vllm-qwen3" not in pair.ragflow.providers["VLLM"]
    time.sleep(0.1)
    assert pair.register("--remove").returncode == 0
    assert pair.ragflow.state() == before


def test_an_answer_that_is_an_error_is_no_answer(pair: Pair) -> None:
    pair.model.answer = "**ERROR**: AUTH_ERROR - nope"
    before = pair.ragflow.state()
    done = pair.register()
    assert done.returncode == 1
    assert "AUTH_ERROR - nope" in done.stderr
    assert "E46 " in done.stderr
    assert "removed again" in done.stdout
    assert pair.ragflow.state() == before


def test_v026_refuses_a_second_instance_of_one_key_and_repeats_the_key(pair: Pair) -> None:
    pair.ragflow.version = "0.26.0"
    other(pair)
    pair.ragflow.providers["VLLM"]["mine"]["api_key"] = "k3y"
    before = pair.ragflow.state()
    done = pair.register()
    assert done.returncode == 1
    assert "Already exist instance: mine with api_key ***" in done.stderr
    assert "k3y" not in done.stdout + done.stderr
    assert pair.ragflow.state() == before


def test_a_redirect_would_carry_the_key_elsewhere(pair: Pair) -> None:
    pair.ragflow.broken = {"GET /system/version": ("say", (301, b"moved"))}
    done = pair.register()
    assert done.returncode == 1
    assert "HTTP 301" in done.stderr


def test_v026_with_a_failed_instance_keeps_an_empty_provider_and_nothing_else(pair: Pair) -> None:
    pair.ragflow.version = "0.26.0"
    pair.ragflow.broken = {"POST /instances": UNHEARD}
    assert pair.register().returncode == 1
    assert pair.ragflow.providers in ({}, {"VLLM": {}})
    assert not pair.record.exists()


# ragflow-notes, and what serve.sh gives the model.


@pytest.mark.parametrize("lang", ["zh", "en"])
@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1", "10.1.2.3", "::"])
def test_notes_have_the_address_for_each_place(lang: str, host: str, pair: Pair) -> None:
    done = pair.shell.script("ragflow-notes", RUNBOOK_LANG=lang, HOST=host)
    assert done.returncode == 0, done.stderr
    port = pair.shell.settings["PORT"]
    docker = f"http://10.1.2.3:{port}/v1" if host == "10.1.2.3" else f"http://host.docker.internal:{port}/v1"
    assert (docker in done.stdout) == (host != "127.0.0.1")
    assert done.stdout.count(f"HOST={host}") == (2 if host == "127.0.0.1" else 0), "what cannot be reached is said"
    assert len(re.findall(rf"http://\S+:{port}/v1\n", done.stdout)) == (1 if host == "127.0.0.1" else 3)
    assert "k3y" not in done.stdout
    words = "验证 保存 待添加的模型" if lang == "en" else "Verify Save Model providers"
    assert all(word in done.stdout for word in words.split()), "the labels stand in both languages"


def test_notes_on_a_machine_without_a_route(pair: Pair) -> None:
    pair.shell.stand_in("ip", "exit 2")
    pair.shell.stand_in("hostname", "exit 1")
    done = pair.shell.script("ragflow-notes")
    assert done.returncode == 0, done.stderr
    assert "http://THIS-MACHINE:" in done.stdout


def test_notes_take_max_tokens_from_the_server(pair: Pair, free_port: Any) -> None:
    pair.model.context = 40960
    assert re.search(
        r"Max tokens .* 30720 \(the server's context is 40960\)", pair.shell.script("ragflow-notes").stdout
    )
    done = pair.shell.script("ragflow-notes", PORT=free_port())
    assert done.returncode == 0
    assert "not known while the server does not run" in done.stdout


@pytest.mark.parametrize(
    ("folder", "extra", "flags"),
    [
        ("Qwen3-4B-Instruct-2507", "", "--enable-auto-tool-choice --tool-call-parser hermes"),
        ("Qwen2.5-7B-Instruct", "", "--enable-auto-tool-choice --tool-call-parser hermes"),
        ("Qwen3-4B", "--tool-call-parser qwen3_xml --enable-auto-tool-choice", ""),
        ("Qwen3-Coder-30B", "", ""),
        ("SmolLM2-135M-Instruct", "", ""),
        ("Qwen3-Embedding-0.6B", "", "--runner pooling"),
        ("Qwen3-Embedding-0.6B", "--runner pooling", ""),
        ("SmolLM2-135M-Instruct", "--runner pooling", ""),
        ("with-modules.json", "", "--runner pooling"),
        ("Qwen2___5-7B-Instruct", "", "--enable-auto-tool-choice --tool-call-parser hermes"),
        ("bge-reranker-v2-m3", "", "--runner pooling"),
    ],
)
def test_flags_by_model(folder: str, extra: str, flags: str, pair: Pair) -> None:
    path = pair.shell.home / folder
    path.mkdir()
    if "modules.json" in folder:
        (path / "modules.json").write_text("[]")
    done = pair.shell.script("serve", RUNBOOK_DRY="1", MODEL_DIR=path, VLLM_EXTRA_ARGS=extra)
    assert done.returncode == 0, done.stderr
    command = done.stdout.splitlines()[-1]
    for flag in ("--enable-auto-tool-choice", "--tool-call-parser", "--runner"):
        assert command.count(flag) == (flags + extra).count(flag)
    assert flags in command


@given(st.from_regex(r"[A-Za-z0-9_-]+", fullmatch=True))
def test_instance_names(session: str) -> None:
    environ = {"SERVED_MODEL_NAME": "m", "API_KEY": "k", "SOURCE_URL": "u"}
    server = client.Server(environ)
    there = client.Ragflow("http://127.0.0.1:9", "k")
    record = client.Record(Path("/nowhere/at/all"), "u")
    name = registering.Registration(there, server, record, session).instance
    assert re.fullmatch(r"[A-Za-z0-9_-]+", name)
    assert "401" not in name
    assert name.lower() != "default"


@given(st.text(max_size=40), st.text(alphabet="abcdef0123456789", min_size=8, max_size=48))
def test_a_key_is_never_shown(text: str, key: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("API_KEY", key)
        assert key not in client.hide(f"{text}{key}{text}")


def test_the_record_of_an_earlier_version_is_taken_over(pair: Pair) -> None:
    """It had one for all machines."""
    before = pair.ragflow.state()
    assert pair.register().returncode == 0
    earlier = pair.record.parent.parent / pair.record.name
    pair.record.rename(earlier)
    assert pair.register().returncode == 0
    assert not earlier.exists()
    pair.record.rename(earlier)
    assert pair.register("--remove").returncode == 0
    assert pair.ragflow.state() == before
    assert not earlier.exists()
    assert not pair.record.exists()


def test_another_machines_registration_is_left_alone(pair: Pair) -> None:
    """One BASE_DIR, one RAGFlow, two machines: each has an instance of its own."""
    assert pair.register().returncode == 0
    first = json.dumps(pair.ragflow.providers["VLLM"]["vllm-qwen3"])
    away = {"MACHINE": "gpu02-0badcafe"}
    there = pair.base_url.replace("127.0.0.1", "localhost")
    assert pair.register("--base-url", there, **away).returncode == 0
    assert set(pair.ragflow.providers["VLLM"]) == {"vllm-qwen3", "vllm-qwen3-2"}
    assert pair.register("--remove", **away).returncode == 0
    assert json.dumps(pair.ragflow.providers["VLLM"]["vllm-qwen3"]) == first
    assert pair.record.exists()


def test_the_record_of_another_ragflow_is_kept(pair: Pair) -> None:
    assert pair.register().returncode == 0
    with ragflow(Ragflow()) as second:
        assert pair.register(RAGFLOW_URL=second).returncode == 0
        assert set(json.loads(pair.record.read_text())) == {pair.url, second}
        assert pair.register("--remove", RAGFLOW_URL=second).returncode == 0
    assert set(json.loads(pair.record.read_text())) == {pair.url}
