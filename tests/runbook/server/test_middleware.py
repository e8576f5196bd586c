"""The API-key middleware: every way to call an ASGI app, without vLLM. The real server is in tests/e2e."""

import asyncio
import importlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

KEY = "k3y-of-the-server"


def middleware(key: str = KEY, mebibytes: int = 1) -> Any:
    """A fresh module with this key, before an app that answers 200 and reads the whole body."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_API_KEY", key)
        patch.setenv("RUNBOOK_BODY_MIB", str(mebibytes))
        module = importlib.reload(importlib.import_module("runbook.server.middleware"))

        async def app(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "websocket":
                await send({"type": "websocket.accept"})
                return
            status = 200
            try:
                while (await receive()).get("more_body"):
                    pass
            except Exception:
                status = 400  # as FastAPI does with a body that cannot be read
            await send({"type": "http.response.start", "status": status, "headers": []})
            await send({"type": "http.response.body", "body": b"in"})

        return module.ApiKeyMiddleware(app)


def call(
    built: Any, path: str = "/v1/models", headers: Any = (), bodies: Any = (b"",), method: str = "GET", **scope: Any
) -> list[dict[str, Any]]:
    """The messages that the app behind the middleware, or the middleware itself, sends."""
    sent: list[dict[str, Any]] = []
    waiting = [{"type": "http.request", "body": body, "more_body": True} for body in bodies]
    waiting[-1]["more_body"] = False

    async def receive() -> Any:
        return waiting.pop(0)

    async def send(event: Any) -> None:
        sent.append(event)

    given: dict[str, Any] = {"type": "http", "path": path, "method": method, "headers": list(headers), **scope}
    asyncio.run(built(given, receive, send))
    return sent


def bearer(token: str) -> list[tuple[bytes, bytes]]:
    return [(b"authorization", f"Bearer {token}".encode())]


@pytest.mark.parametrize(
    "path", ["/v1/models", "/metrics", "/invocations", "/docs", "/nothing", "", "/health/", "//health"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "HEAD", "BREW"])
def test_no_route_without_the_key(path: str, method: str) -> None:
    for headers in ([], bearer("wrong"), bearer(KEY + "x"), bearer(""), [(b"authorization", KEY.encode())]):
        sent = call(middleware(), path, headers, method=method)
        assert sent[0]["status"] == 401
        assert (b"www-authenticate", b"Bearer") in sent[0]["headers"]
        assert KEY.encode() not in sent[1]["body"]
    assert call(middleware(), path, bearer(KEY), method=method)[0]["status"] == 200


def test_health_is_open_and_tells_nothing_but_to_the_keeper() -> None:
    built = middleware()
    assert call(built, "/health")[0] == {"type": "http.response.start", "status": 200, "headers": []}
    assert (b"x-runbook-open", b"0") in call(built, "/health", bearer(KEY))[0]["headers"]
    assert call(built, "/health", method="POST")[0]["status"] == 401


def test_two_keys_are_none() -> None:
    assert call(middleware(), headers=bearer(KEY) + bearer("wrong"))[0]["status"] == 401
    assert call(middleware(), headers=bearer("wrong") + bearer(KEY))[0]["status"] == 401


@given(st.binary(max_size=60))
def test_only_the_key_opens(header: bytes) -> None:
    opened = call(middleware(), headers=[(b"authorization", header)])[0]["status"] == 200
    scheme, _, token = header.partition(b" ")
    assert opened == (scheme.lower() == b"bearer" and token.strip() == KEY.encode())


def test_a_websocket_is_refused_before_it_opens() -> None:
    assert call(middleware(), type="websocket") == [{"type": "websocket.close", "code": 1008}]
    sent = call(middleware(), type="websocket", extensions={"websocket.http.response": {}})
    assert (sent[0]["type"], sent[0]["status"]) == ("websocket.http.response.start", 401)
    assert call(middleware(), headers=bearer(KEY), type="websocket") == [{"type": "websocket.accept"}]


def test_a_body_beyond_the_limit() -> None:
    half = b"x" * (1 << 19)
    assert call(middleware(), headers=bearer(KEY), bodies=[half, half])[0]["status"] == 200
    assert call(middleware(), headers=bearer(KEY), bodies=[half, half, b"x"])[0]["status"] == 413
    for length in (b"1048577", b"9" * 40, b"-1", b"x"):
        sent = call(middleware(), headers=[*bearer(KEY), (b"content-length", length)])
        assert sent[0]["status"] == 413


def test_opened_on_purpose() -> None:
    for key in ("none", ""):
        assert call(middleware(key))[0]["status"] == 200
        assert call(middleware(key), headers=bearer("anything"))[0]["status"] == 200


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ('{"error": {"message": "System message must be\\nfirst.", "code": 400}}', "System message must be first."),
        ('{"detail": "too many images"}', "too many images"),
        ('{"error": {"message": "Invalid input: it is empty"}}', "Invalid input: it is empty"),
        ('{"detail": "Not Found"}', ""),
        ('{"detail": [1]}', ""),
        ('{"error": "no"}', ""),
        ('["error"]', ""),
        ("<html>", ""),
        (
            """{"error": {"message": "[{'type': 'missing', 'msg': 'Field required', 'input': {'a': 'my secret'}}]"}}""",
            "[{'type': 'missing', 'msg': 'Field required'",
        ),
        (
            '{"error": {"message": "1 error: Field required [type=missing, input_value={1}]"}}',
            "1 error: Field required [type=missing",
        ),
    ],
)
def test_why_a_request_is_refused_is_logged_without_the_request(
    body: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 400, "headers": []})
        await send({"type": "http.response.body", "body": body[:20].encode(), "more_body": True})
        await send({"type": "http.response.body", "body": body[20:].encode()})

    built = middleware()
    built.app = app
    with caplog.at_level("INFO", "vllm.runbook"):
        sent = call(built, "/v1/x\nERROR y", bearer(KEY), method="POST")
    assert b"".join(one.get("body", b"") for one in sent) == body.encode(), "the answer is as it was"
    wanted = [f'refused "POST /v1/x ERROR y HTTP" 400: {reason}'] if reason else []
    assert [one.getMessage() for one in caplog.records] == wanted
