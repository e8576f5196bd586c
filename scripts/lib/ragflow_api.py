"""What ragflow_register.py and ragflow_old.py share: the calls to a RAGFlow, and the record of what was made there.

RAGFlow reports most failures with HTTP 200, so that success is `code` 0 and nothing else; an answer without a `code` is
not RAGFlow's. Needs the standard library only.
"""

import hashlib
import http.client
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

from words import tr

READ, PROBE, ANSWER = 30, 180, 600  # seconds: a probe takes RAGFlow 10 s a model, an answer much longer
FACTORY = "VLLM"
Step = tuple[str, Callable[[], object]]  # what to say, and the call that changes something


class Trouble(Exception):
    """A known fault: its code and its values, in which no key is left standing."""

    def __init__(self, code: str, **values: object) -> None:
        super().__init__(code)
        self.code, self.values = code, {name: hide(str(value)) for name, value in values.items()}


def hide(text: str) -> str:
    """The text without our keys: some RAGFlows repeat them in their messages."""
    for key in filter(None, (os.environ.get("API_KEY"), os.environ.get("RAGFLOW_API_KEY"))):
        text = text.replace(key, "***")
    return " ".join(text.split())[:300]


def say(zh: str, en: str) -> None:
    print("    " + hide(tr(zh, en)), flush=True)


def is_here(host: str) -> bool:
    """Whether the host is this machine: only a machine's own address can be bound."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, proto) as probe:
            probe.bind(address)
    except OSError:
        return False
    return True


class _Stay(HTTPRedirectHandler):
    """No redirect is followed: it would carry the key elsewhere."""

    def redirect_request(self, *args: object) -> None:
        return None


def send(method: str, url: str, key: str, body: object = None, timeout: float = READ) -> tuple[int, bytes]:
    """HTTP status and content; this machine is asked without a proxy. Raises OSError, HTTPException or ValueError."""
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    request = Request(url, None if body is None else json.dumps(body).encode(), headers, method=method)
    proxies = [ProxyHandler({})] if is_here(urlsplit(url).hostname or "") else []
    try:
        with build_opener(_Stay, *proxies).open(request, timeout=timeout) as reply:
            return reply.status, reply.read()
    except HTTPError as error:
        with error:
            moved = error.headers.get("Location")
            return error.code, f"-> {moved}".encode() if moved else error.read()


class Ragflow:
    """One RAGFlow, by its address and an API key of its user's."""

    def __init__(self, url: str, key: str) -> None:
        self.url, self.key, self.trusted = url, key, False  # trusted: the key has been taken once

    def call(self, method: str, path: str, body: object = None, timeout: float = READ) -> dict[str, Any]:
        """The answer, an object with a `code`; an unknown path has 404. Raises Trouble E42, or E43 for the key."""
        where = f"{self.url}{path.partition('?')[0]}"
        try:
            status, content = send(method, f"{self.url}{path}", self.key, body, timeout)
            answer = json.loads(content) if content[:1] == b"{" else {}
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Trouble("E42", url=where, reason=getattr(error, "reason", None) or error) from None
        if 401 in (status, answer.get("code")) and not self.trusted:
            raise Trouble("E43", url=self.url)
        if not isinstance(answer.get("code"), int):
            raise Trouble("E42", url=where, reason=f"HTTP {status} {content[:80].decode('utf-8', 'replace')}")
        return answer if status == 200 else answer | {"code": status}

    def ask(self, method: str, path: str, body: object = None, timeout: float = READ, of: type = object) -> Any:
        """The `data` of an answer with code 0, of the type that is expected. Raises Trouble E44 for any other."""
        answer = self.call(method, path, body, timeout)
        data = answer.get("data", [] if of is list else None)
        if answer["code"] != 0 or not isinstance(data, of):
            raise refusal(f"{method} {path.partition('?')[0]}", answer)
        return data


def refusal(call: str, answer: dict[str, Any]) -> Trouble:
    return Trouble("E44", call=call, number=answer["code"], message=answer.get("message") or answer.get("data"))


class Record:
    """What was made in one RAGFlow, so that it can be taken back: a file of this user's own, with no key in it."""

    def __init__(self, path: Path, url: str) -> None:
        self.path, self.url = path, url
        self.all: dict[str, dict[str, Any]] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
        self.made = self.all.get(url, {})

    def keep(self, **values: Any) -> None:
        """Note these; None forgets one."""
        self.made = {key: value for key, value in (self.made | values).items() if value is not None}
        self.all = {url: made for url, made in (self.all | {self.url: self.made}).items() if made}
        if not self.all:
            self.path.unlink(missing_ok=True)
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = self.path.with_suffix(".new")
        new.unlink(missing_ok=True)
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            json.dump(self.all, file, ensure_ascii=False, indent=2)
        new.replace(self.path)

    def hand_over(self, key: str) -> None:
        """Another server of this machine has things in the same RAGFlow: it is the one to remove this in the end."""
        for path in sorted(self.path.parent.glob("*.ragflow.json")):
            other = Record(path, self.url)
            if path != self.path and other.made:
                other.keep(**{key: self.made[key]})
                return

    def forget(self) -> None:
        self.keep(**dict.fromkeys(self.made))


class Server:
    """What RAGFlow is to be told of the server that runs here."""

    def __init__(self, environ: dict[str, str]) -> None:
        self.name, self.key, self.url = environ["SERVED_MODEL_NAME"], environ["API_KEY"], environ["SOURCE_URL"]
        self.max_tokens, self.kind, self.tools = int(environ.get("MAX_TOKENS") or 0), "chat", False
        for mark in ("___", "@"):
            if mark in self.name:
                raise Trouble("E47", name=self.name, mark=mark)

    def key_mark(self) -> str:
        """By which a changed key is noticed where RAGFlow does not show the one that it has."""
        return hashlib.sha256(self.key.encode()).hexdigest()[:8]

    def look(self) -> None:
        """What kind of model answers, and whether it takes the tool calls of agents. Raises Trouble E16."""

        def works(path: str, **body: object) -> bool:
            status, content = send("POST", f"{self.url}{path}", self.key, {"model": self.name, **body}, ANSWER)
            if status == 401 or b"does not exist" in content:
                raise Trouble("E16", url=f"{self.url}{path}", reason=f"HTTP {status} {content[:200].decode()}")
            return status == 200

        hi = [{"role": "user", "content": "Hi"}]
        tool = {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}
        try:
            if works("/embeddings", input=["Hi"]):
                self.kind = "embedding"
            else:
                self.tools = works("/chat/completions", messages=hi, max_tokens=1, tools=[tool], tool_choice="auto")
        except (OSError, http.client.HTTPException) as error:
            raise Trouble("E16", url=self.url, reason=error) from None

    def words(self, base_url: str) -> str:
        """The whole of it in one line."""
        tools = ", tool call" if self.tools else ""
        return f"{base_url}, {self.name} ({self.kind}), Max tokens {self.max_tokens}{tools}"
