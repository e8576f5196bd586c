"""ragflow-ask against a stand-in that keeps to RAGFlow's recorded contract of datasets, documents and chats."""

import json
import os
import re
import signal
import stat
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from runbook.messages import Fault
from runbook.ragflow import ask as asking
from tests.conftest import BUSY, MACHINE, Done, Shell
from tests.ragflow import TOKEN, Model, Ragflow, model, ragflow

QUESTION = "Which port does the server listen on?"
PORT = "The server listens on port 20000."


@dataclass
class Reader:
    """Somebody with a directory of documents and a RAGFlow with a chat and an embedding model."""

    shell: Shell
    there: Ragflow
    chat: Model
    docs: Path

    def script(self, *words: object, **settings: Any) -> Done:
        return self.shell.script("ragflow-ask", "--docs", self.docs, *(words or (QUESTION,)), **settings)

    def ask(self, *words: str) -> Done:
        """The program without the shell around it, which takes most of the time."""
        environ = {key: str(value) for key, value in self.shell.settings.items()}
        environ |= {"TMUX_SESSION": "vllm-qwen3", "MACHINE": MACHINE}
        out, code, said = StringIO(), 0, ""
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out):
            patch.setattr(asking, "POLL", 0.01)
            for key in ("RAGFLOW_API_KEY", "RUNBOOK_LANG"):
                patch.setenv(key, environ[key])
            try:
                asking.perform(["--docs", str(self.docs), *(words or (QUESTION,))], environ)
            except Fault as fault:
                code, said = 1, str(fault)
        assert not re.search(r"\{\w+\}", said), "every value of the fault is given"
        return Done([], code, out.getvalue(), said)

    @property
    def record(self) -> Path:
        return self.shell.home / "base/run" / MACHINE / "vllm-qwen3.ragflow-ask.json"

    def uploads(self) -> list[str]:
        """The names of what was uploaded so far."""
        bodies = [body for method, path, body in self.there.calls if method == "POST" and path.endswith("/documents")]
        return [body.split(b'filename="')[1].split(b'"')[0].decode() for body in bodies]


@pytest.fixture
def reader(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reader]:
    docs = shell.home / "my docs"
    (docs / "sub").mkdir(parents=True)
    (docs / "port.md").write_text(PORT)
    (docs / "sub/cats.md").write_text("Cats sleep for most of the day.")
    (docs / ".hidden.md").write_text("secret")
    with ExitStack() as stack:
        there, chat, vectors = Ragflow(), Model(answer="Port 20000."), Model("vec", kind="embedding")
        url, bases = stack.enter_context(ragflow(there)), [stack.enter_context(model(one)) for one in (chat, vectors)]
        for one, base in zip((chat, vectors), bases, strict=True):
            row = {"extra": {}, "max_tokens": 6144, "model_type": [one.kind], "name": one.name}
            held = {"id": one.name, "api_key": one.key, "base_url": f"{base}/v1", "models": {one.name: row}}
            there.providers.setdefault("VLLM", {})[one.name] = held
            there.defaults[one.kind] = f"{one.name}@{one.name}@VLLM"
        shell.settings |= {"RAGFLOW_URL": url, "RAGFLOW_API_KEY": TOKEN, "RUNBOOK_LANG": "en"}
        yield Reader(shell, there, chat, docs)


def test_an_answer_with_its_source_then_only_what_has_changed_then_nothing_left(reader: Reader) -> None:
    before = reader.there.state()
    first = reader.script()
    assert first.returncode == 0, first.stdout + first.stderr
    assert "2 of 2 documents to upload" in first.stdout
    assert "2 documents, 2 passages" in first.stdout
    assert "Port 20000. [1]\n\n[1] port.md (0." in first.stdout
    assert PORT in first.stdout
    assert reader.uploads() == ["port.md", "sub-cats.md"], "a hidden file is not a document"
    (base,) = reader.there.datasets.values()
    assert base["name"] == "my-docs"
    assert stat.S_IMODE(reader.record.stat().st_mode) == 0o600
    assert TOKEN not in reader.record.read_text() + first.stdout + first.stderr

    again = reader.ask()
    assert again.returncode == 0, again.stderr
    assert "0 of 2 documents to upload, 0 to delete" in again.stdout
    assert len(reader.uploads()) == 2, "nothing was uploaded again"
    assert len(reader.there.chats) == 1

    (reader.docs / "port.md").write_text(PORT.replace("20000", "20001"))
    (reader.docs / "sub/cats.md").unlink()
    (reader.docs / "new.txt").write_text("Dogs bark.")
    changed = reader.ask()
    assert changed.returncode == 0, changed.stderr
    assert sorted(row["name"] for row in base["docs"].values()) == ["new.txt", "port.md"]
    assert "20001" in changed.stdout

    removed = reader.ask("--remove")
    assert removed.returncode == 0, removed.stderr
    assert reader.there.state() == before
    assert not reader.record.exists()
    assert "There is nothing to remove" in reader.ask("--remove").stdout


def test_a_preview_changes_nothing(reader: Reader) -> None:
    before = reader.there.state()
    done = reader.script(RUNBOOK_DRY="1")
    assert done.returncode == 0, done.stderr
    assert "the knowledge base my-docs would be created" in done.stdout
    assert "2 of 2 documents to upload" in done.stdout
    assert reader.there.state() == before
    assert not reader.record.exists()


def test_a_knowledge_base_of_this_name_that_is_not_ours_stays(reader: Reader) -> None:
    theirs = {"id": "t1", "name": "my-docs", "embedding_model": "x", "chunk_method": "naive", "docs": {}}
    reader.there.datasets["t1"] = dict(theirs)
    reader.there.chats["t2"] = {"id": "t2", "name": "my-docs-2", "dataset_ids": ["t1"], "rerank_id": ""}
    before = reader.there.state()
    assert reader.ask().returncode == 0
    assert [one["name"] for one in reader.there.datasets.values()] == ["my-docs", "my-docs-2"]
    assert reader.there.datasets["t1"] == theirs
    assert [one["name"] for one in reader.there.chats.values()] == ["my-docs-2", "my-docs-2-2"]
    assert reader.ask("--remove").returncode == 0
    assert reader.there.state() == before


def test_documents_of_somebody_else_in_our_knowledge_base_stay(reader: Reader) -> None:
    assert reader.ask().returncode == 0
    (base,) = reader.there.datasets.values()
    base["docs"]["t1"] = {"id": "t1", "name": "theirs.md", "run": "DONE", "progress": 1.0, "content": "x", "looks": 0}
    assert reader.ask().returncode == 0
    done = reader.ask("--remove")
    assert done.returncode == 0, done.stderr
    assert "holds other documents (theirs.md): only ours are deleted" in done.stdout
    assert list(base["docs"]) == ["t1"]
    assert reader.there.chats == {}


@pytest.mark.parametrize("what", ["dataset", "chat", "document"])
def test_what_was_deleted_in_ragflow_is_made_again(what: str, reader: Reader) -> None:
    assert reader.ask().returncode == 0
    if what == "dataset":
        reader.there.datasets.clear()
    elif what == "chat":
        reader.there.chats.clear()
    else:
        (base,) = reader.there.datasets.values()
        base["docs"].pop(next(iter(base["docs"])))
    done = reader.ask()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[1] port.md" in done.stdout
    (base,) = reader.there.datasets.values()
    assert len(base["docs"]) == 2
    assert len(reader.there.chats) == (2 if what == "dataset" else 1)


def test_many_documents_take_several_pages(reader: Reader) -> None:
    for number in range(230):
        (reader.docs / f"n{number}.txt").write_text(f"number {number}")
    assert reader.ask().returncode == 0
    assert "0 of 232 documents to upload" in reader.ask().stdout


@pytest.mark.parametrize("kind", ["chat", "embedding"])
def test_a_default_model_that_is_missing_is_named(kind: str, reader: Reader) -> None:
    del reader.there.defaults[kind]
    done = reader.ask()
    assert done.returncode == 1
    assert f"has no default {kind} model" in done.stderr
    assert "E200 " in done.stderr
    assert reader.there.datasets == {}


def test_a_directory_without_documents(reader: Reader) -> None:
    for path in reader.docs.rglob("*.md"):
        path.unlink()
    (reader.docs / "tool.exe").write_text("x")
    done = reader.ask()
    assert done.returncode == 1
    assert "E201 " in done.stderr
    reader.docs = reader.shell.home / "nowhere"
    assert "E201 " in reader.ask().stderr


def test_a_file_that_ragflow_does_not_support_is_said_and_left_out(reader: Reader) -> None:
    (reader.docs / "table.csv").write_text("a,b")
    done = reader.ask()
    assert done.returncode == 0, done.stderr
    assert "! table.csv: RAGFlow does not support this type of file" in done.stdout
    assert "2 documents, 2 passages" in done.stdout


def test_a_document_that_cannot_be_parsed(reader: Reader) -> None:
    reader.there.unparsable = "cats"
    done = reader.ask()
    assert done.returncode == 0, done.stderr
    assert "! sub-cats.md could not be parsed: [ERROR]broken file" in done.stdout
    reader.there.unparsable = ""
    assert "2 documents, 2 passages" in reader.ask().stdout, "it is parsed again"


def test_an_embedding_model_that_is_down(reader: Reader) -> None:
    reader.there.providers["VLLM"]["vec"]["base_url"] = "http://127.0.0.1:9/v1"
    done = reader.ask()
    assert done.returncode == 1
    assert "E202 " in done.stderr
    assert "Fail to bind embedding model" in done.stderr


def test_a_chat_model_that_is_down(reader: Reader) -> None:
    reader.there.providers["VLLM"]["tiny"]["base_url"] = "http://127.0.0.1:9/v1"
    done = reader.ask()
    assert done.returncode == 1
    assert "E46 " in done.stderr
    assert "CONNECTION_ERROR" in done.stderr


def test_a_question_that_no_passage_fits(reader: Reader) -> None:
    done = reader.ask("Quantum chromodynamics?")
    assert done.returncode == 1
    assert "E204 " in done.stderr


SPOTS = [
    "GET /api/v1/datasets", "POST /api/v1/datasets", "POST /documents", "GET /documents", "POST /chunks",
    "POST /chats", "POST /sessions", "POST /completions",
]  # fmt: skip
REFUSED = ("say", (200, {"code": 102, "message": "Internal server error"}))
HTML, DROP = ("html",), ("drop",)


@pytest.mark.parametrize("what", [REFUSED, HTML, DROP], ids=["refused", "html", "drop"])
@pytest.mark.parametrize("spot", SPOTS)
def test_a_call_that_fails_is_named_and_the_next_run_completes(
    spot: str, what: tuple[Any, ...], reader: Reader
) -> None:
    before = reader.there.state()
    reader.there.broken = {spot: what}
    done = reader.ask()
    if done.returncode == 0:  # 102 is also RAGFlow's answer for what does not exist
        assert what is REFUSED
        assert spot in ("GET /api/v1/datasets", "POST /sessions")
    else:
        assert "Traceback" not in done.stderr
        assert done.stderr.count("docs/en/troubleshooting.md#e4") == 1, done.stderr
    reader.there.broken = {}
    done = reader.ask()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[1] port.md" in done.stdout
    assert reader.ask("--remove").returncode == 0
    assert reader.there.state() == before


def test_ctrl_c_keeps_what_was_uploaded(reader: Reader) -> None:
    reader.there.looks = 1000
    words = ["bash", str(reader.shell.root / "scripts/ragflow-ask.sh"), "--docs", str(reader.docs), QUESTION]
    child = subprocess.Popen(
        words,
        env=reader.shell.environ(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert child.stdout
    for line in iter(child.stdout.readline, ""):
        if "parsing" in line:
            break
    os.killpg(child.pid, signal.SIGINT)
    _, err = child.communicate(timeout=60 * BUSY)
    assert child.returncode == 130
    assert "E98 " in err
    assert (
        len(json.loads(reader.record.read_text())[reader.shell.settings["RAGFLOW_URL"]][str(reader.docs)]["files"]) == 2
    )
    for base in reader.there.datasets.values():
        for row in base["docs"].values():
            row["looks"] = 1
    done = reader.ask()
    assert done.returncode == 0, done.stderr
    assert len(reader.uploads()) == 2


CHUNKS: list[dict[str, Any]] = [
    {"document_name": "a.md", "content": "first\n  passage", "similarity": 0.91},
    {"document_name": "b.md", "content": "x" * 200, "similarity": 0.5},
]


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        (
            "Yes [ID:1]. No [ID:0][ID:1].",
            "Yes [1]. No [2] [1].\n\n[1] b.md (0.50): " + "x" * 100 + "…\n[2] a.md (0.91): first passage",
        ),
        (
            "Yes [ID: 7].",
            "Yes.\n\nThe answer names no source; it was given:\n\n- a.md (0.91): first passage\n- b.md (0.50): "
            + "x" * 100
            + "…",
        ),
        (
            "##0$$",
            "##0$$\n\nThe answer names no source; it was given:\n\n- a.md (0.91): first passage\n- b.md (0.50): "
            + "x" * 100
            + "…",
        ),
    ],
)
def test_marks_become_numbered_sources(answer: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNBOOK_LANG", "en")
    assert asking.with_sources(answer, CHUNKS) == shown
