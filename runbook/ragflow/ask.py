"""Ask RAGFlow a question over one's own documents: upload what has changed, wait until it is parsed, ask, show sources.

Usage: python -m runbook.ragflow.ask [--docs DIR] [--remove] [--dry] [QUESTION], with the settings in the environment.
Every directory has a knowledge base (RAGFlow's API: dataset) and a chat of its own in RAGFlow. The record of them is
$BASE_DIR/run/MACHINE/SESSION.ragflow-ask.json. What somebody else put into the knowledge base is neither changed nor
removed.
"""

import argparse
import hashlib
import os
import re
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

from runbook import ROOT
from runbook.messages import run, tr
from runbook.ragflow.client import ANSWER, Ragflow, Record, Upload, fault, refusal, say
from runbook.ragflow.register import DEFAULT, greet

API = "/api/v1"
# The endings that RAGFlow v0.27 parses as text; pictures and sound need models of their own.
ENDINGS = frozenset(
    (
        "md",
        "mdx",
        "txt",
        "text",
        "pdf",
        "doc",
        "docx",
        "xls",
        "xlsx",
        "csv",
        "ppt",
        "pptx",
        "html",
        "htm",
        "json",
        "eml",
    )
)
PAGE = 100  # documents of one listing
POLL = 2.0  # seconds between two looks at the parsing
STUCK = 900  # seconds without any progress, after which the parsing counts as stuck: a model on a CPU is slow
SHOWN = 3  # passages that are shown if the answer names none
MARK = re.compile(r"\s*\[ID:\s*(\d+)\]")


def files_of(folder: Path) -> dict[str, Path]:
    """Return {name in RAGFlow: path} of the directory's documents, subdirectories included, hidden ones not."""
    found = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in relative.parts)
        if path.suffix[1:].lower() in ENDINGS and not hidden and path.is_file():
            found["-".join(relative.parts)] = path
    return found


def digest(path: Path) -> str:
    """Return the SHA-256 of a file in hex. Raises OSError."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def with_sources(answer: str, chunks: list[dict[str, Any]]) -> str:
    """Return the answer with its marks numbered from 1, and the files that they name below it.

    chunks: the passages in RAGFlow's order; the number of a mark is the place in this list, from 0.
    """
    numbers: dict[int, int] = {}

    def number(match: re.Match[str]) -> str:
        place = int(match[1])
        return f" [{numbers.setdefault(place, len(numbers) + 1)}]" if place < len(chunks) else ""

    text = MARK.sub(number, answer).strip()
    rows = [(f"[{shown}]", chunks[place]) for place, shown in numbers.items()]
    if not rows and chunks:
        text += "\n\n" + tr("回答没有注明来源；它得到的段落：", "The answer names no source; it was given:")
        rows = [("-", chunk) for chunk in chunks[:SHOWN]]
    lines = []
    for mark, chunk in rows:
        passage = " ".join(str(chunk.get("content") or "").split())
        shown = passage[:100] + ("…" if len(passage) > 100 else "")
        lines.append(f"{mark} {chunk.get('document_name')} ({float(chunk.get('similarity') or 0):.2f}): {shown}")
    return "\n".join([text, "", *lines]).rstrip()


class KnowledgeBase:
    """The knowledge base and the chat of one directory in one RAGFlow, as recorded and as they are."""

    def __init__(self, ragflow: Ragflow, record: Record, folder: Path) -> None:
        self.ragflow, self.record, self.key = ragflow, record, str(folder)
        self.folder, self.made = folder, dict(record.made.get(self.key) or {})
        name = re.sub(r"[^\w.-]+", "-", folder.name) or "documents"
        if folder.is_relative_to(ROOT):
            name = "-".join(["vllm-runbook", *folder.relative_to(ROOT).parts])
        self.name = re.sub("401|unauthorized", "x", name, flags=re.IGNORECASE)  # RAGFlow takes it for a refused key

    def keep(self, **values: Any) -> None:
        """Record these values of the directory; None removes one."""
        self.made = {key: value for key, value in (self.made | values).items() if value is not None}
        self.record.keep(**{self.key: self.made or None})

    def find(self) -> dict[str, Any] | None:
        """Return our dataset; None if there is none, or it was deleted in RAGFlow. Raises Fault."""
        if "dataset" not in self.made:
            return None
        answer = self.ragflow.call("GET", f"{API}/datasets?id={quote(self.made['dataset'])}")
        rows = answer.get("data") or []
        if answer["code"] == 0:
            return next((row for row in rows if row["id"] == self.made["dataset"]), None)
        if answer["code"] == 102:  # RAGFlow's answer for one that does not exist
            return None
        raise refusal(f"GET {API}/datasets", answer)

    def taken(self, name: str) -> bool:
        """Return whether RAGFlow has a dataset of this name. Raises Fault."""
        answer = self.ragflow.call("GET", f"{API}/datasets?name={quote(name)}")
        if answer["code"] not in (0, 102):
            raise refusal(f"GET {API}/datasets", answer)
        return answer["code"] == 0 and any(row["name"] == name for row in answer.get("data") or [])

    def create(self) -> None:
        """Create the dataset, under a name that is free: RAGFlow renames a duplicate. Raises Fault."""
        names = [self.name, *(f"{self.name}-{number}" for number in range(2, 100))]
        name = next(one for one in names if not self.taken(one))
        say(f"创建知识库 {name}", f"creating the knowledge base {name}")
        made = self.ragflow.ask("POST", f"{API}/datasets", {"name": name}, of=dict)
        self.keep(dataset=made["id"], name=made["name"], files={}, chat=None)

    def path(self, rest: str) -> str:
        """Return an API path below the dataset."""
        return f"{API}/datasets/{quote(self.made['dataset'])}/{rest}"

    def documents(self) -> dict[str, dict[str, Any]]:
        """Return {id: document} of everything in the dataset. Raises Fault."""
        found: dict[str, dict[str, Any]] = {}
        for page in range(1, 1000):
            rows = self.ragflow.ask("GET", self.path(f"documents?page={page}&page_size={PAGE}"), of=dict)["docs"]
            new = {row["id"]: row for row in rows}
            if not set(new) - set(found):
                break
            found |= new
            if len(rows) < PAGE:
                break
        return found

    def changes(self, files: dict[str, Path]) -> tuple[list[str], list[str]]:
        """Return (names to upload, names to delete): new or changed files, and those that are gone or changed."""
        there = self.documents() if "dataset" in self.made else {}
        known = {name: one for name, one in self.made.get("files", {}).items() if one["id"] in there}
        new = [name for name, path in files.items() if known.get(name, {}).get("sha256") != digest(path)]
        gone = [name for name in known if name not in files or name in new]
        return new, gone

    def delete(self, names: list[str]) -> None:
        """Delete these of our documents. Raises Fault."""
        held = dict(self.made["files"])
        for name in names:
            self.ragflow.ask("DELETE", self.path("documents"), {"ids": [held.pop(name)["id"]]})
            self.keep(files=held)

    def upload(self, names: list[str], files: dict[str, Path]) -> None:
        """Upload these files one after the other; RAGFlow says of each whether it supports it. Raises Fault."""
        for name in names:
            content = files[name].read_bytes()
            answer = self.ragflow.call("POST", self.path("documents"), Upload(name, content), ANSWER)
            if "has not been supported" in str(answer.get("message")):
                say(f"! {name}：RAGFlow 不支持这种文件", f"! {name}: RAGFlow does not support this type of file")
                continue
            if answer["code"] != 0 or not isinstance(answer.get("data"), list):
                raise refusal("POST documents", answer)
            entry = {"id": answer["data"][0]["id"], "sha256": hashlib.sha256(content).hexdigest()}
            self.keep(files={**self.made["files"], name: entry})

    def parse(self) -> None:
        """Start the parsing of what is not parsed, and wait for it. Raises Fault E202 or E203."""
        ours = {entry["id"] for entry in self.made["files"].values()}
        there = self.documents()
        todo = [one for one in ours if there.get(one, {}).get("run") in ("UNSTART", "FAIL", "CANCEL")]
        if todo:
            answer = self.ragflow.call("POST", self.path("chunks"), {"document_ids": todo})
            if answer["code"] != 0 and "being processed" not in str(answer.get("message")):
                raise refusal("POST chunks", answer)
        seen: dict[str, tuple[Any, ...]] = {}
        moved = told = time.monotonic()
        while True:
            rows = [row for one, row in self.documents().items() if one in ours]
            now = {row["id"]: (row["run"], row.get("progress"), row.get("progress_msg")) for row in rows}
            if now != seen:
                seen, moved = now, time.monotonic()
            ended = [row for row in rows if row["run"] in ("DONE", "FAIL", "CANCEL")]
            if len(ended) == len(rows):
                break
            if time.monotonic() - moved > STUCK:
                raise fault("E203", seconds=STUCK, url=self.ragflow.url, name=self.made["name"])
            if time.monotonic() - told >= 2:
                told = time.monotonic()
                share = sum(max(0.0, float(row.get("progress") or 0)) for row in rows) / max(1, len(rows))
                words = f"{len(ended)}/{len(rows)} ({share:.0%})"
                say(f"解析 {words}", f"parsing {words}")
            time.sleep(POLL)
        self.judge(rows)

    def judge(self, rows: list[dict[str, Any]]) -> None:
        """Report the documents that RAGFlow could not parse. Raises Fault E202 if it parsed none."""
        failed = [row for row in rows if row["run"] != "DONE"]
        reasons = [(row["name"], reason_of(row)) for row in failed]
        if failed and len(failed) == len(rows):
            raise fault("E202", file=reasons[0][0], reason=reasons[0][1])
        for name, reason in reasons:
            say(f"! {name} 解析失败：{reason}", f"! {name} could not be parsed: {reason}")
        for row in rows:
            if row["run"] == "DONE" and not row.get("chunk_count"):
                say(f"! {row['name']}：没有得到任何段落", f"! {row['name']}: no passage came out of it")
        passages = sum(row.get("chunk_count") or 0 for row in rows)
        good = len(rows) - len(failed)
        say(f"知识库 {self.made['name']}：{good} 个文档，{passages} 个段落",
            f"knowledge base {self.made['name']}: {good} documents, {passages} passages")  # fmt: skip

    def session(self) -> tuple[str, str]:
        """Return (chat, session); the chat is created if there is none, or it was deleted in RAGFlow. Raises Fault."""
        if chat := self.made.get("chat"):
            answer = self.ragflow.call("POST", f"{API}/chats/{quote(chat)}/sessions", {"name": "ask"})
            if answer["code"] == 0:
                return chat, answer["data"]["id"]
        for name in [self.made["name"], *(f"{self.made['name']}-{number}" for number in range(2, 100))]:
            body = {"name": name, "dataset_ids": [self.made["dataset"]]}
            answer = self.ragflow.call("POST", f"{API}/chats", body)
            if answer["code"] == 0:
                break
            if "duplicated" not in str(answer.get("message")).lower():
                raise refusal(f"POST {API}/chats", answer)
        chat = answer["data"]["id"]
        self.keep(chat=chat)
        return chat, self.ragflow.ask("POST", f"{API}/chats/{quote(chat)}/sessions", {"name": "ask"}, of=dict)["id"]

    def answer(self, question: str) -> str:
        """Return the answer with its sources. Raises Fault E46 for an error in it, E204 if no passage fits."""
        chat, session = self.session()
        body = {"question": question, "session_id": session, "stream": False}
        answer = self.ragflow.call("POST", f"{API}/chats/{quote(chat)}/completions", body, ANSWER)
        data = answer.get("data")
        text = str(data.get("answer") or "").strip() if isinstance(data, dict) else ""
        if answer["code"] != 0 or not text or "**ERROR**" in text:
            raise fault("E46", url=self.ragflow.url, reason=text or answer.get("message") or answer["code"])
        chunks = (data.get("reference") or {}).get("chunks") or [] if isinstance(data, dict) else []
        if not chunks:
            raise fault("E204", name=self.made["name"], question=question)
        return with_sources(text, chunks)

    def remove(self) -> None:
        """Remove the chat, and the knowledge base unless it holds documents of somebody else. Raises Fault."""

        def gone(path: str, ids: list[str]) -> None:
            answer = self.ragflow.call("DELETE", path, {"ids": ids})
            if answer["code"] not in (0, 102):  # 102: it no longer exists
                raise refusal(f"DELETE {path}", answer)

        if chat := self.made.get("chat"):
            gone(f"{API}/chats", [chat])
            self.keep(chat=None)
        if self.find():
            ours = {entry["id"] for entry in self.made.get("files", {}).values()}
            there = self.documents()
            others = [row["name"] for one, row in there.items() if one not in ours]
            name = self.made["name"]
            if others:
                some = ", ".join(others[:3])
                zh = f"知识库 {name} 里还有别的文档（{some}），只删除本项目上传的"
                say(zh, f"the knowledge base {name} holds other documents ({some}): only ours are deleted")
                if left := sorted(ours & set(there)):
                    gone(self.path("documents"), left)
            else:
                say(f"删除知识库 {name}", f"the knowledge base {name} is removed")
                gone(f"{API}/datasets", [self.made["dataset"]])
        self.keep(**dict.fromkeys(self.made))


def reason_of(row: dict[str, Any]) -> str:
    """Return why a document was not parsed: the last line of RAGFlow's messages, without its time."""
    lines = [line for line in str(row.get("progress_msg") or "").splitlines() if line.strip()]
    errors = [line for line in lines if "ERROR" in line.upper()] or lines or ["?"]
    return re.sub(r"^\s*\d\d:\d\d:\d\d\s*", "", errors[-1])


def need_defaults(ragflow: Ragflow) -> None:
    """Raise Fault E200 unless RAGFlow has a default chat and embedding model."""
    found = ragflow.ask("GET", DEFAULT)
    rows = (found.get("models") if isinstance(found, dict) else found) or []
    kinds = str([row.get("model_type") for row in rows])  # a text, or a list of one
    for kind in ("embedding", "chat"):
        if kind not in kinds:
            raise fault("E200", url=ragflow.url, kind=kind)


def ask(base: KnowledgeBase, question: str, dry: bool) -> None:
    """Bring the knowledge base up to date, then ask the question and print the answer. Raises Fault."""
    files = files_of(base.folder)
    if not files:
        raise fault("E201", folder=base.folder, endings=" ".join(sorted(ENDINGS)))
    need_defaults(base.ragflow)
    if not base.find():
        base.made = {}
        if dry:
            say(f"将创建知识库 {base.name}", f"the knowledge base {base.name} would be created")
        else:
            base.create()
    new, gone = base.changes(files)
    removed = [name for name in gone if name not in new]
    say(f"{base.folder}：{len(files)} 个文档中上传 {len(new)} 个，删除 {len(removed)} 个",
        f"{base.folder}: {len(new)} of {len(files)} documents to upload, {len(removed)} to delete")  # fmt: skip
    if dry:
        return
    base.delete(gone)
    base.upload(new, files)
    base.parse()
    say(f"提问：{question}", f"Question: {question}")
    print(f"\n{base.answer(question)}\n", flush=True)


def perform(words: list[str], environ: dict[str, str]) -> None:
    """Ask, or remove everything, with these options and settings. Raises Fault."""
    parser = argparse.ArgumentParser(prog="ragflow-ask")
    parser.add_argument(
        "question", nargs="?", default=tr("服务监听哪个端口？", "Which port does the server listen on?")
    )
    parser.add_argument("--docs", default="", help="the directory of the documents; default: this project's own pages")
    parser.add_argument("--remove", action="store_true", help="remove the knowledge bases and chats that were created")
    parser.add_argument("--dry", action="store_true", help="only show what would change")
    given = parser.parse_args(words)
    folder = Path(given.docs or ROOT / "docs" / tr("zh", "en")).resolve()
    if not folder.is_dir():
        raise fault("E201", folder=folder, endings=" ".join(sorted(ENDINGS)))
    path = Path(environ["BASE_DIR"], "run", environ["MACHINE"], f"{environ['TMUX_SESSION']}.ragflow-ask.json")
    ragflow = Ragflow(environ["RAGFLOW_URL"].rstrip("/"), environ["RAGFLOW_API_KEY"])
    record = Record(path, ragflow.url)
    if given.remove:
        folders = [str(folder)] if given.docs else list(record.made)
        known = [one for one in folders if one in record.made]
        if not known:
            say("没有可撤回的内容", "There is nothing to remove")
            return
        greet(ragflow)
        for one in known:
            base = KnowledgeBase(ragflow, record, Path(one))
            if given.dry:
                say(f"将撤回：{base.made['name']}", f"Would be removed: {base.made['name']}")
            else:
                base.remove()
        return
    greet(ragflow)
    ask(KnowledgeBase(ragflow, record, folder), given.question, given.dry)


if __name__ == "__main__":
    run(lambda: perform(sys.argv[1:], dict(os.environ)))
