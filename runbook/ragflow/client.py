"""Calls to RAGFlow, the record of what was created there, and the values of this server for RAGFlow.

RAGFlow reports most failures with HTTP 200: only `code` 0 is success. An answer without a `code` is not from RAGFlow.
"""

import hashlib
import http.client
import json
import os
import socket
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

from runbook.messages import Fault, tr

READ, PROBE, ANSWER = 30, 180, 600  # seconds: a probe takes RAGFlow 10 s a model, an answer much longer
FACTORY = "VLLM"
Step = tuple[str, Callable[[], object]]  # the text to print, and the call that makes the change


def fault(code: str, **values: object) -> Fault:
    """Return a Fault whose values contain no API key."""
    return Fault(code, **{name: hide(str(value)) for name, value in values.items()})


def hide(text: str) -> str:
    """Return the text without our API keys, which some versions of RAGFlow repeat in their messages."""
    for key in filter(None, (os.environ.get("API_KEY"), os.environ.get("RAGFLOW_API_KEY"))):
        text = text.replace(key, "***")
    return " ".join(text.split())[:300]


def say(zh: str, en: str) -> None:
    """Print the text in the reader's language, without our API keys."""
    print("    " + hide(tr(zh, en)), flush=True)


def is_here(host: str) -> bool:
    """Return whether the host is this machine: only a machine's own address can be bound."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, proto) as probe:
            probe.bind(address)
    except OSError:
        return False
    return True


class _Stay(HTTPRedirectHandler):
    """Follow no redirect: it would send the key elsewhere."""

    def redirect_request(self, *args: object) -> None:
        return None


class Upload:
    """The body of a request that uploads one file: multipart/form-data with the field `file`."""

    def __init__(self, name: str, content: bytes) -> None:
        mark = uuid.uuid4().hex
        quoted = name.replace("\\", "_").replace('"', "%22")
        head = f'--{mark}\r\nContent-Disposition: form-data; name="file"; filename="{quoted}"\r\n'
        head += "Content-Type: application/octet-stream\r\n\r\n"
        self.content = head.encode() + content + f"\r\n--{mark}--\r\n".encode()
        self.content_type = f"multipart/form-data; boundary={mark}"


def send(method: str, url: str, key: str, body: object = None, timeout: float = READ) -> tuple[int, bytes]:
    """Return (HTTP status, content); no proxy for this machine. Each request has a connection of its own.

    body: an Upload, or what JSON can hold. Raises OSError, HTTPException or ValueError.
    """
    headers, data = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}, None
    if isinstance(body, Upload):
        headers["Content-Type"], data = body.content_type, body.content
    elif body is not None:
        data = json.dumps(body).encode()
    request = Request(url, data, headers, method=method)
    proxies = [ProxyHandler({})] if is_here(urlsplit(url).hostname or "") else []
    try:
        with build_opener(_Stay, *proxies).open(request, timeout=timeout) as reply:
            return reply.status, reply.read()
    except HTTPError as error:
        with error:
            moved = error.headers.get("Location")
            return error.code, f"-> {moved}".encode() if moved else error.read()


class Ragflow:
    """One RAGFlow: its address and an API key of its user."""

    def __init__(self, url: str, key: str) -> None:
        self.url, self.key, self.trusted = url, key, False  # trusted: the key was accepted once

    def call(self, method: str, path: str, body: object = None, timeout: float = READ) -> dict[str, Any]:
        """Return the answer, an object with a `code`; 404 for an unknown path. Raises Fault E42, or E43 for the key."""
        where = f"{self.url}{path.partition('?')[0]}"
        try:
            status, content = send(method, f"{self.url}{path}", self.key, body, timeout)
            answer = json.loads(content) if content[:1] == b"{" else {}
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise fault("E42", url=where, reason=getattr(error, "reason", None) or error) from None
        if 401 in (status, answer.get("code")) and not self.trusted:
            raise fault("E43", url=self.url)
        if not isinstance(answer.get("code"), int):
            raise fault("E42", url=where, reason=f"HTTP {status} {content[:80].decode('utf-8', 'replace')}")
        return answer if status == 200 else answer | {"code": status}

    def ask(self, method: str, path: str, body: object = None, timeout: float = READ, of: type = object) -> Any:
        """Return the `data`, of the type `of`, of an answer with code 0. Raises Fault E44 for any other answer."""
        answer = self.call(method, path, body, timeout)
        data = answer.get("data", [] if of is list else None)
        if answer["code"] != 0 or not isinstance(data, of):
            raise refusal(f"{method} {path.partition('?')[0]}", answer)
        return data


def refusal(call: str, answer: dict[str, Any]) -> Fault:
    """Return Fault E44 for an answer that reports a failure."""
    return fault("E44", call=call, number=answer["code"], message=answer.get("message") or answer.get("data"))


class Record:
    """What was created in one RAGFlow, so that it can be removed: a file that only this user can read, without keys."""

    def __init__(self, path: Path, url: str) -> None:
        self.path, self.url = path, url
        self.all: dict[str, dict[str, Any]] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
        self.made = self.all.get(url, {})

    def keep(self, **values: Any) -> None:
        """Save these values; None removes one."""
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
        """Pass a value to another server below BASE_DIR in the same RAGFlow, which removes it later."""
        for path in sorted(self.path.parent.parent.glob("*/*.ragflow.json")):
            other = Record(path, self.url)
            if path != self.path and other.made:
                other.keep(**{key: self.made[key]})
                return

    def forget(self) -> None:
        """Remove all values."""
        self.keep(**dict.fromkeys(self.made))


class Server:
    """The values of this server for RAGFlow."""

    def __init__(self, environ: dict[str, str]) -> None:
        self.name, self.key, self.url = environ["SERVED_MODEL_NAME"], environ["API_KEY"], environ["SOURCE_URL"]
        self.max_tokens, self.tools = int(environ.get("MAX_TOKENS") or 0), environ.get("TOOLS") == "on"
        self.kind = environ.get("KIND") or "chat"
        for mark in ("___", "@"):
            if mark in self.name:
                raise fault("E47", name=self.name, mark=mark)

    def key_mark(self) -> str:
        """Return a short hash of the key, which shows a changed key if RAGFlow does not show its own."""
        return hashlib.sha256(self.key.encode()).hexdigest()[:8]

    def look(self) -> None:
        """Check that the server answers as the kind that the model's files say; find the kind if not. Raises Fault E16.

        The first question is right for a server of ours, so that its log has no refused request.
        """

        def works(path: str, **body: object) -> bool:
            status, content = send("POST", f"{self.url}{path}", self.key, {"model": self.name, **body}, ANSWER)
            if status == 401 or b"does not exist" in content:
                raise fault("E16", url=f"{self.url}{path}", reason=f"HTTP {status} {content[:200].decode()}")
            return status == 200

        hi = [{"role": "user", "content": "Hi"}]
        tool = {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}
        agents = {"tools": [tool], "tool_choice": "auto"}
        asks: dict[str, Callable[[], bool]] = {
            "embedding": lambda: works("/embeddings", input=["Hi"]),
            "rerank": lambda: works("/rerank", query="Hi", documents=["Hi"]),
            "chat": lambda: works("/chat/completions", messages=hi, max_tokens=1, **(agents if self.tools else {})),
        }
        try:
            if not asks[self.kind]():
                self.kind = next((kind for kind in ("embedding", "rerank") if asks[kind]()), "chat")
                self.tools = self.kind == "chat" and works("/chat/completions", messages=hi, max_tokens=1, **agents)
            self.tools = self.tools and self.kind == "chat"
        except (OSError, http.client.HTTPException) as error:
            raise fault("E16", url=self.url, reason=error) from None

    def words(self, base_url: str) -> str:
        """Return all values in one line."""
        tools = ", tool call" if self.tools else ""
        return f"{base_url}, {self.name} ({self.kind}), Max tokens {self.max_tokens}{tools}"
