"""The API-key middleware of vLLM's server: every route except /health needs the key, and request bodies are limited.

An ASGI middleware, loaded by `vllm serve --middleware runbook.server.middleware.ApiKeyMiddleware` as the outermost one:
vLLM's own --api-key leaves half of its routes open. The key is in VLLM_API_KEY; without one every request is allowed.
It also logs why vLLM refuses a request, because vLLM itself logs only the status.
"""

import hmac
import json
import logging
import os
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

LIMIT = int(os.environ.get("RUNBOOK_BODY_MIB", "32")) << 20  # bytes; a full context is about 1 MiB, images are more
MOST = 65536  # bytes of an error's body that are read
LOG = logging.getLogger("vllm.runbook")  # below vLLM's logger, so that the line looks like vLLM's own


class TooLarge(Exception):
    """The body exceeds the limit."""


def message(status: int, words: str) -> tuple[int, bytes]:
    """Return the status and the body of an error, in the format of OpenAI's clients."""
    kind = {401: "AuthenticationError", 413: "RequestTooLarge"}[status]
    return status, f'{{"error": {{"message": "{words}", "type": "{kind}", "param": null, "code": {status}}}}}'.encode()


UNAUTHORIZED = message(401, "Unauthorized: send the server's API_KEY as Authorization: Bearer")
TOO_LARGE = message(413, f"The request body is larger than {LIMIT >> 20} MiB")


class ApiKeyMiddleware:
    """Wraps vLLM's app. With the key, /health also returns the number of open requests, as x-runbook-open."""

    def __init__(self, app: App) -> None:
        key = os.environ.get("VLLM_API_KEY", "")
        self.app, self.open = app, 0
        self.key = key.encode() if key and key != "none" else None

    def allowed(self, scope: Message) -> bool:
        """Return whether exactly one Authorization header has the key; compared in constant time."""
        if self.key is None:
            return True
        sent = [value for name, value in scope["headers"] if name == b"authorization"]
        scheme, _, token = (sent[0] if len(sent) == 1 else b"").partition(b" ")
        return hmac.compare_digest(token.strip(), self.key) and scheme.lower() == b"bearer"

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Handle an ASGI call of any type."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http" and scope["path"] == "/health" and scope["method"] in ("GET", "HEAD"):
            await self.app(scope, receive, self.counted(send) if self.allowed(scope) else send)
        elif not self.allowed(scope):
            await refuse(scope, send, *UNAUTHORIZED)
        elif scope["type"] == "http":
            await self.limited(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def counted(self, send: Send) -> Send:
        """Return a `send` that adds the header x-runbook-open."""

        async def with_count(event: Message) -> None:
            if event["type"] == "http.response.start":
                event["headers"] = [*event.get("headers", []), (b"x-runbook-open", str(self.open).encode())]
            await send(event)

        return with_count

    async def limited(self, scope: Message, receive: Receive, send: Send) -> None:
        """Refuse a body by its announced length, or as soon as more than the limit has arrived."""
        announced = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if not announced.isdigit() or int(announced) > LIMIT:
            await refuse(scope, send, *TOO_LARGE)
            return
        received = 0

        async def counting() -> Message:
            nonlocal received
            event = await receive()
            received += len(event.get("body", b""))
            if received > LIMIT:  # the app answers 400 to a body that it cannot read
                raise TooLarge
            return event

        async def renamed(event: Message) -> None:
            if received > LIMIT and event["type"] == "http.response.start":
                event = {**event, "status": 413}
            await told(event)

        told = telling(scope, send)
        self.open += 1
        try:
            await self.app(scope, counting, renamed)
        finally:
            self.open -= 1


def reason_of(body: bytes) -> str:
    """Return the message in the body of an error, in one line and without the request; empty if none."""
    try:
        data = json.loads(body)
        said = data["error"]["message"] if "error" in data else data["detail"]
    except (ValueError, TypeError, KeyError):
        return ""
    if not isinstance(said, str) or said in ("Not Found", "Method Not Allowed"):  # of paths that no route has
        return ""
    return one_line(re.split(r",? *(?:'input': |\binput_value=)", said)[0])


def one_line(text: str) -> str:
    """Return the text in one line of the log, 300 characters at most."""
    return " ".join("".join(one if one.isprintable() else " " for one in text).split())[:300]


def telling(scope: Message, send: Send) -> Send:
    """Return a `send` that logs why the app answers a request with 4xx."""
    status, body = 0, b""

    async def told(event: Message) -> None:
        nonlocal status, body
        if event["type"] == "http.response.start":
            status = event["status"]
        elif event["type"] == "http.response.body" and 400 <= status < 500 and status != 413:
            body += event.get("body", b"")[: MOST - len(body)]
            if not event.get("more_body") and (reason := reason_of(body)):
                LOG.info('refused "%s %s HTTP" %d: %s', scope["method"], one_line(scope["path"]), status, reason)
        await send(event)

    return told


async def refuse(scope: Message, send: Send, status: int, body: bytes) -> None:
    """Answer without calling the app, also when a websocket is opened."""
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    else:
        headers.append((b"connection", b"close"))
    prefix = ""
    if scope["type"] == "websocket":
        if "websocket.http.response" not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": 1008})
            return
        prefix = "websocket."
    await send({"type": f"{prefix}http.response.start", "status": status, "headers": headers})
    await send({"type": f"{prefix}http.response.body", "body": body})
