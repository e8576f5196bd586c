"""A loopback hub that speaks ModelScope's protocol, and can be told to break it.

GET /api/v1/models/OWNER/NAME/repo/files lists, GET …/repo?FilePath=P redirects to /blob/P, which sends the bytes:
206 with a Content-Range for a Range (or 200 with one, as the real site does), 416 past the end.
"""

import hashlib
import json
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

Trouble = Callable[[str, int], "tuple[str, int] | None"]
CHUNK = 1 << 16


@dataclass
class Hub:
    """What the hub serves and how it misbehaves; may be changed while it runs."""

    folder: Path
    model_id: str
    endpoint: str = ""
    revision: str = "master"
    asked: list[str] = field(default_factory=list)
    sent: Counter[str] = field(default_factory=Counter)  # bytes of each file
    requests: Counter[str] = field(default_factory=Counter)  # GETs of each file
    corrupted: Counter[str] = field(default_factory=Counter)  # bytes that a wrong one among them has spoilt
    rate: float = 0  # bytes a second of one connection; 0: no limit
    token: str = ""  # asked for where it is set
    listing: Callable[[list[dict[str, Any]]], object] = lambda files: {"Files": files}
    envelope: dict[str, Any] = field(default_factory=lambda: {"Code": 200, "Success": True})
    trouble: Trouble = lambda path, size: None  # ("cut" | "stall" | "corrupt" | "status", bytes before it | status)
    status_200: bool = False  # answer a Range with 200 and a Content-Range
    down: bool = False  # every connection is reset

    def files(self) -> list[dict[str, Any]]:
        """The listing as it is when nothing is wrong."""
        return [
            {
                "Path": path.relative_to(self.folder).as_posix(),
                "Name": path.name,
                "Type": "blob",
                "Size": path.stat().st_size,
                "Sha256": digest(path, path.stat().st_mtime_ns),
            }
            for path in self.paths()
        ]

    def paths(self) -> list[Path]:
        """Every file of the model."""
        return sorted(
            path for path in self.folder.rglob("*") if path.is_file() and not path.name.startswith(".runbook")
        )


_digests: dict[tuple[Path, int], str] = {}


def digest(path: Path, changed: int) -> str:
    if (path, changed) not in _digests:
        _digests[path, changed] = hashlib.sha256(path.read_bytes()).hexdigest()
    return _digests[path, changed]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_GET(self) -> None:
        hub, url = self.hub, urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        hub.asked.append(url.path)
        if hub.down:
            self.reset()
        elif hub.token and f"Bearer {hub.token}" != self.headers.get("Authorization"):
            self.error(401 if not self.headers.get("Authorization") else 403, "unauthorized")
        elif url.path.startswith("/blob/"):
            self.file(query["path"])
        elif url.path.startswith(f"/api/v1/models/{hub.model_id}/repo") and query.get("Revision") != hub.revision:
            self.error(404, "no such revision")
        elif url.path == f"/api/v1/models/{hub.model_id}/repo/files":
            self.reply(json.dumps({**hub.envelope, "Data": hub.listing(hub.files())}).encode())
        elif url.path == f"/api/v1/models/{hub.model_id}/repo" and (hub.folder / query["FilePath"]).is_file():
            self.reply(b"", 302, {"Location": f"{hub.endpoint}/blob/x?path={quote(query['FilePath'], safe='')}"})
        else:
            self.error(404, "not found")

    def file(self, name: str) -> None:
        hub, path = self.hub, self.hub.folder / name
        size = path.stat().st_size
        hub.requests[name] += 1
        start, end, status, headers = 0, size - 1, 200, {}
        if wanted := self.headers.get("Range"):
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, end = int(first), min(int(last or size - 1), size - 1)
            if start >= size:
                self.reply(b"", 416, {"Content-Range": f"bytes */{size}"})
                return
            status, headers = 200 if hub.status_200 else 206, {"Content-Range": f"bytes {start}-{end}/{size}"}
        kind, where = hub.trouble(name, end - start + 1) or ("", -1)
        if kind == "status":
            self.error(where, "trouble")
            return
        self.head(end - start + 1, status, headers)
        began, sent = time.monotonic(), 0
        with path.open("rb") as source:
            source.seek(start)
            while sent < end - start + 1:
                block = source.read(min(CHUNK, end - start + 1 - sent))
                if kind and sent <= where < sent + len(block):
                    spot = where - sent
                    if kind == "corrupt":
                        hub.corrupted[name] += size
                        block = block[:spot] + bytes([block[spot] ^ 0xFF]) + block[spot + 1 :]
                    else:
                        self.wfile.write(block[:spot])
                        hub.sent[name] += spot
                        if kind == "stall":
                            time.sleep(30)
                        self.reset()
                        return
                self.wfile.write(block)
                sent += len(block)
                hub.sent[name] += len(block)
                if hub.rate and (ahead := sent / hub.rate - (time.monotonic() - began)) > 0:
                    time.sleep(ahead)

    def error(self, status: int, message: str) -> None:
        self.reply(
            json.dumps({"Code": status, "Success": False, "Message": message, "RequestId": "0"}).encode(), status
        )

    def reply(self, body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.head(len(body), status, headers or {})
        self.wfile.write(body)

    def head(self, length: int, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(length), **headers}.items():
            self.send_header(key, value)
        self.end_headers()

    def reset(self) -> None:
        """End the connection as a broken line does, without a farewell."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def handle(self) -> None:
        with suppress(ConnectionError, ValueError, OSError):  # the client went away, or we did
            super().handle()

    def finish(self) -> None:
        with suppress(ConnectionError, ValueError, OSError):
            super().finish()

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@contextmanager
def hub(folder: Path, model_id: str) -> Iterator[Hub]:
    """Serve a folder as a model."""
    served = Hub(folder, model_id)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("ThisHub", (Handler,), {"hub": served}))
    server.daemon_threads = True
    served.endpoint = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()


def chaos(seed: int, often: float = 0.5) -> Trouble:
    """Cuts, stalls, server errors and a rare wrong byte, by a seed."""
    dice = random.Random(seed)
    lock = threading.Lock()

    def trouble(path: str, size: int) -> tuple[str, int] | None:
        with lock:
            if dice.random() > often or not size:
                return None
            kind = dice.choices(["cut", "stall", "status", "corrupt"], [12, 2, 4, 1])[0]
            return (kind, dice.choice([429, 500, 502, 503]) if kind == "status" else dice.randrange(size))

    return trouble
