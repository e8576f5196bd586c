"""A loopback hub that speaks ModelScope's protocol: the listing and the files of one model folder."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    folder: Path
    model_id: str
    asked: list[str]

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        self.asked.append(url.path)
        if url.path == f"/api/v1/models/{self.model_id}/repo/files":
            self.reply(json.dumps({"Code": 200, "Success": True, "Data": {"Files": self.listing()}}).encode())
        elif url.path == f"/api/v1/models/{self.model_id}/repo" and (self.folder / query["FilePath"]).is_file():
            self.file((self.folder / query["FilePath"]).read_bytes())
        else:
            missing = {"Code": 404, "Success": False, "Message": "not found", "RequestId": "0"}
            self.reply(json.dumps(missing).encode(), 404)

    def listing(self) -> list[dict[str, object]]:
        return [
            {
                "Path": path.name,
                "Name": path.name,
                "Type": "blob",
                "Size": path.stat().st_size,
                "Sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            }
            for path in sorted(self.folder.iterdir())
        ]

    def file(self, content: bytes) -> None:
        wanted = self.headers.get("Range")
        if not wanted:
            self.reply(content)
            return
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        start, end = int(first), int(last or len(content) - 1)
        if start >= len(content):
            self.reply(b"", 416, {"Content-Range": f"bytes */{len(content)}"})
            return
        part = content[start : end + 1]
        self.reply(part, 206, {"Content-Range": f"bytes {start}-{start + len(part) - 1}/{len(content)}"})

    def reply(self, body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@contextmanager
def hub(folder: Path, model_id: str) -> Iterator[tuple[str, list[str]]]:
    """Serve a folder as a model; gives the endpoint and the paths that were asked for."""
    asked: list[str] = []
    kind = type("Hub", (Handler,), {"folder": folder, "model_id": model_id, "asked": asked})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
