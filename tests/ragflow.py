"""Stand-ins on loopback: RAGFlow's interface of v0.27 or v0.26, and a small OpenAI-compatible model.

RAGFlow's stand-in keeps to what was recorded of v0.27, quirks included, and to what the older versions' sources say.
Its probe and its chat really ask the base URL, so it can stand before the real vLLM as well as before the small model.
"""

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.error import HTTPError
from urllib.parse import parse_qsl, unquote, urlsplit
from urllib.request import ProxyHandler, Request, build_opener

TOKEN = "ragflow-stand-in-t0ken"
Reply = tuple[int, Any]


def post(url: str, key: str, body: dict[str, Any], timeout: float) -> bytes:
    """What a model server answers; raises OSError (HTTPError among them)."""
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    request = Request(url, json.dumps(body).encode(), headers)
    with build_opener(ProxyHandler({})).open(request, timeout=timeout) as reply:
        return bytes(reply.read())


@dataclass
class Ragflow:
    """The state of one tenant, and how the stand-in misbehaves.

    `docker`: it runs in a container: its 127.0.0.1 is not this machine's, host.docker.internal is.
    `broken`: "METHOD part-of-path" → what is answered instead: ("hang", seconds), ("html",), ("drop",), ("say", Reply),
    or ("after", Reply): the call is carried out, and then this is said.
    """

    version: str = "0.27.0"
    docker: bool = False
    probe_seconds: float = 10
    providers: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    defaults: dict[str, str] = field(default_factory=dict)
    broken: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    calls: list[tuple[str, str, Any]] = field(default_factory=list)
    serial: int = 0
    datasets: dict[str, dict[str, Any]] = field(default_factory=dict)
    chats: dict[str, dict[str, Any]] = field(default_factory=dict)
    unparsable: str = ""  # documents whose name has this in it end as FAIL
    looks: int = 2  # listings until a document is parsed

    def state(self) -> str:
        """Everything that is stored, to compare."""
        return repr((self.providers, self.defaults, self.datasets, self.chats))

    def changes(self) -> list[str]:
        """The calls that may have changed something."""
        return [f"{method} {path}" for method, path, _ in self.calls if method != "GET" and "connection" not in path]

    # What it does with a model server.

    def reach(self, base_url: str) -> str:
        host = urlsplit(base_url).hostname or ""
        if self.docker and host == "host.docker.internal":
            return base_url.replace(host, "127.0.0.1")
        if (host == "host.docker.internal") or (self.docker and host in ("127.0.0.1", "localhost")):
            raise OSError("Cannot connect to host")
        return base_url

    def try_model(self, name: str, kind: str, key: str, base_url: str) -> str:
        """The reason for which the model failed; empty when it answered in time."""
        url, began = self.reach(base_url), time.monotonic()
        try:
            if kind == "embedding":
                body: dict[str, Any] = {"model": name, "input": ["Test if the api key is available"]}
                post(f"{url}/embeddings", key, body, self.probe_seconds)
            elif kind == "rerank":
                body = {"model": name, "query": "Who are you?", "documents": ["Hi", "there"], "top_n": 2}
                post(f"{url}/rerank", key, body, self.probe_seconds)
            else:
                messages = [{"role": "user", "content": "Hi"}]
                body = {"messages": messages, "model": name, "stream": True, "temperature": 0.9}
                if b'"content":"' not in post(f"{url}/chat/completions", key, body, self.probe_seconds):
                    return "No valid response received"
        except OSError:
            slow = time.monotonic() - began >= self.probe_seconds
            return "timeout" if slow else "No valid response received"
        return ""

    def verify(self, key: str, base_url: str, models: list[dict[str, Any]]) -> str:
        """As v0.27 verifies; empty when one model passed."""
        said, passed = "", False
        for model in models:
            for kind in [word for word in model.get("model_type") or [] if word in ("chat", "embedding", "rerank")]:
                try:
                    why = self.try_model(model["model_name"], kind, key, base_url)
                except OSError:
                    why = "No valid response received"
                name = model["model_name"]
                label = f"embedding model({name})" if kind == "embedding" else f"model(VLLM/{name})"
                if why == "timeout":
                    said += f"\nTimeout accessing {label}."
                elif why:
                    said += f"\nFail to access {label}.{why}"
                passed = passed or not why
        return "" if passed else said or "No model passed verification"

    # The interface.

    def answer(self, method: str, path: str, body: Any, token: str) -> Reply:
        old, minor = self.version < "0.26", path.removeprefix("/api/v1")
        if path.startswith("/api/v1/system/version") and self.version >= "0.25.1":
            return 200, {"code": 0, "data": self.version, "message": "success"}
        if minor == "/system/ping":
            return 200, b"pong"
        if minor == "/language" and self.version >= "0.27":
            return 200, {"code": 0, "data": {"language": "python"}, "message": "success"}
        missing = (404, {"code": 404, "data": None, "error": "Not Found", "message": f"Not Found: {path}"})
        known = path.startswith(("/v1/llm/", "/v1/user/")) if old else path.startswith("/api/v1/")
        known = known or (self.version >= "0.25.1" and minor in ("/users/me/models", "/chat/completions"))
        if not known:
            return missing
        if token != f"Bearer {TOKEN}":
            return 401, {"code": 401, "data": None, "message": "<Unauthorized '401: Unauthorized'>"}
        if old:  # enough to be recognized
            return (200, {"code": 0, "data": {}, "message": "success"}) if "/my_llms" in path else missing
        minor, _, rest = minor.partition("?")
        query = dict(parse_qsl(rest))
        words = [unquote(word) for word in minor.strip("/").split("/")]
        if words[0] == "providers":
            return self.provider(method, words[1:], body)
        if words == ["models", "default"]:
            return self.default(method, body)
        if words == ["chat", "completions"]:
            return self.chat(body)
        if words[0] == "datasets":
            return self.dataset(method, words[1:], query, body)
        if words[0] == "chats":
            return self.chat_of_documents(method, words[1:], body)
        return missing

    def provider(self, method: str, words: list[str], body: Any) -> Reply:
        def no(code: int, said: str) -> Reply:
            return 200, {"code": code, "message": said}

        yes: Reply = (200, {"code": 0})
        if not words and method == "GET":
            rows = [
                {"has_instance": bool(held), "model_types": [], "name": name, "url": {"default": ""}}
                for name, held in self.providers.items()
            ]
            return 200, {"code": 0, "data": rows}
        if not words and method == "PUT":
            name = body.get("provider_name")
            if not name:
                return no(101, "provider_name is required")
            if name not in ("VLLM", "OpenAI-API-Compatible"):
                return no(102, f"Provider '{name}' is not allowed")
            if name in self.providers:
                return no(102, f"Provider {name} already exists")
            self.providers[name] = {}
            return yes
        name, rest = words[0], words[1:]
        if not rest and method == "DELETE":
            if name not in self.providers:
                return no(102, f"Provider {name} not found")
            if not self.providers[name] and self.version < "0.27":
                return no(102, f"No instances found for provider {name}")
            del self.providers[name]
            return yes
        if rest == ["connection"] and method == "POST":
            if "api_key" not in body:
                return no(101, "api_key is required")
            why = self.verify(body["api_key"], body["base_url"], body["model_info"])
            return no(102, why) if why else yes
        held = self.providers.get(name)
        if held is None:
            return no(102, f"Provider '{name}' does not exist")
        if rest == ["instances"]:
            return self.instances(method, name, held, body)
        if len(rest) < 2 or rest[1] not in held:
            return no(102, f"No instance found for provider '{name}' and instance '{rest[1:2]}'")
        one = held[rest[1]]
        if rest[2:] == ["models"] and method == "GET":
            hidden = ("extra", "features", "verify", "rank") if self.version < "0.27" else ()
            rows = [{key: value for key, value in row.items() if key not in hidden} for row in one["models"].values()]
            return 200, {"code": 0, "data": rows}
        shown = {
            "id": one["id"],
            "instance_name": rest[1],
            "provider_id": "p1",
            "region": "default",
            "status": "active",
        }
        if method == "GET" and self.version >= "0.27":
            return 200, {"code": 0, "data": shown | {"api_key": one["api_key"], "base_url": one["base_url"]}}
        if method == "GET":
            return 200, {"code": 0, "data": shown}
        if method == "PUT" and self.version >= "0.27":
            lacking = [key for key in ("instance_name", "api_key", "base_url", "model_info") if key not in body]
            if lacking:
                return no(101, f"Missing required fields: {', '.join(lacking)}")
            if body.get("verify", True) and (why := self.verify(body["api_key"], body["base_url"], body["model_info"])):
                return no(102, why)
            del held[rest[1]]
            models = {item["model_name"]: self.model(item) for item in body["model_info"]}
            held[body["instance_name"]] = one | {
                "api_key": body["api_key"],
                "base_url": body["base_url"],
                "models": models,
            }
            return yes
        return 200, {"code": 100, "data": None, "message": "<MethodNotAllowed '405: Method Not Allowed'>"}

    def model(self, item: dict[str, Any]) -> dict[str, Any]:
        if set(item) - {"model_name", "model_type", "max_tokens", "extra"}:
            raise ValueError("unexpected keyword argument")
        extra = item["extra"] | {"max_tokens": item["max_tokens"], "verify": "success"}
        kinds = [word for word in item["model_type"] if word in ("chat", "embedding", "rerank", "vision")]
        return {
            "extra": extra, "features": [], "max_tokens": item["max_tokens"], "model_type": kinds,
            "name": item["model_name"], "rank": 500, "status": "active", "verify": "success",
        }  # fmt: skip

    def instances(self, method: str, provider: str, held: dict[str, dict[str, Any]], body: Any) -> Reply:
        if method == "GET":
            rows = [
                {"id": one["id"], "instance_name": name, "provider_id": "p1", "region": "default", "status": "active"}
                for name, one in reversed(held.items())
            ]
            return 200, {"code": 0, "data": rows}
        if method == "DELETE":
            wanted = body.get("instances")
            if not wanted:
                return 200, {"code": 101, "message": "instances is required"}
            if set(wanted) - set(held):
                return 200, {
                    "code": 102,
                    "message": f"No instance found for provider '{provider}' and instance '{wanted}'",
                }
            for name in wanted:
                del held[name]
            return 200, {"code": 0}
        name, models = body["instance_name"], body.get("model_info", [])
        if name == "default":
            return 200, {"code": 102, "message": "Instance name cannot be 'default'"}
        if self.version < "0.27" and (same := [key for key, one in held.items() if one["api_key"] == body["api_key"]]):
            return 200, {"code": 102, "message": f"Already exist instance: {same[0]} with api_key {body['api_key']}"}
        if models and (why := self.verify(body["api_key"], body["base_url"], models)):
            return 200, {"code": 102, "message": why}
        self.serial += 1
        fresh = {"id": f"i{self.serial}", "api_key": body["api_key"], "base_url": body["base_url"], "models": {}}
        first = name in held and held[name]
        held[f"{name}(1)" if first else name] = fresh
        for item in models:
            try:
                row = self.model(item)
            except (ValueError, KeyError):
                return 200, {"code": 102, "message": "Internal server error"}
            if first and row["name"] in first["models"]:
                said = f"Model '{row['name']}' already exists for provider '{provider}' and instance '{name}'"
                return 200, {"code": 102, "message": said}
            (first or fresh)["models"][row["name"]] = row
        return 200, {"code": 0}

    def default(self, method: str, body: Any) -> Reply:
        if method == "GET":
            found = []
            for kind, text in self.defaults.items():
                name, instance, provider = text.rsplit("@", 2)
                if name in self.providers.get(provider, {}).get(instance, {}).get("models", {}):
                    row = {"enable": True, "model_id": text, "model_instance": instance, "model_name": name}
                    found.append(row | {"model_provider": provider, "model_type": kind})
            return 200, {"code": 0, "data": {"models": found}}
        kind = body["model_type"]
        if set(body) == {"model_type"}:
            self.defaults.pop(kind, None)
            return 200, {"code": 0}
        provider, instance, name = body["model_provider"], body["model_instance"], body["model_name"]
        if provider not in self.providers:
            return 200, {"code": 102, "message": f"Provider '{provider}' not found"}
        if instance not in self.providers[provider]:
            return 200, {"code": 102, "message": f"Instance '{instance}' not found for provider '{provider}'"}
        if name not in self.providers[provider][instance]["models"]:
            return 200, {"code": 102, "message": "Internal server error"}
        if kind not in self.providers[provider][instance]["models"][name]["model_type"]:
            return 200, {"code": 102, "message": f"Model '{name}' isn't a {kind} model"}
        self.defaults[kind] = f"{name}@{instance}@{provider}"
        return 200, {"code": 0}

    def chat(self, body: Any) -> Reply:
        def refused(said: str) -> Reply:
            return 200, {"code": 100, "data": None, "message": said}

        if body.get("stream", True):
            return 200, b'data:{"code":0,"message":"","data":true}\n\n'
        if "chat" not in self.defaults:
            return refused("LookupError('No default chat model for tenant.')")
        name, instance, provider = self.defaults["chat"].rsplit("@", 2)
        one = self.providers.get(provider, {}).get(instance)
        if not one:
            return refused(f"LookupError('Instance {instance} not found for model {self.defaults['chat']}.')")
        return self.said(one["base_url"], one["api_key"], name, body["question"])

    def said(self, base_url: str, key: str, model: str, question: str) -> Reply:
        ask = {"model": model, "messages": [{"role": "user", "content": question}], "stream": False}
        try:
            reply = json.loads(post(f"{self.reach(base_url)}/chat/completions", key, ask, 120))
            text = reply["choices"][0]["message"]["content"]
        except HTTPError as error:
            text = f"**ERROR**: {'AUTH_ERROR' if error.code == 401 else 'SERVER_ERROR'} - {error}"
        except OSError:
            text = "**ERROR**: CONNECTION_ERROR - Connection error."
        data = {"answer": text, "audio_binary": None, "created_at": 1.0, "id": "c1", "prompt": "", "session_id": ""}
        return 200, {"code": 0, "data": data | {"reference": {"chunks": []}}, "message": "success"}

    # Knowledge bases and the chats over them.

    def number(self, kind: str) -> str:
        self.serial += 1
        return f"{kind}{self.serial}"

    def dataset(self, method: str, words: list[str], query: dict[str, str], body: Any) -> Reply:
        def no(code: int, said: str) -> Reply:
            return 200, {"code": code, "message": said}

        if not words and method == "POST":
            if "name" not in body:
                return no(101, "Field: <name> - Message: <Field required> - Value: <{}>")
            if not (model := body.get("embedding_model") or self.defaults.get("embedding")):
                return no(102, "Model None not found for model embedding")
            names, name = {one["name"] for one in self.datasets.values()}, body["name"]
            name = f"{name}(1)" if name in names else name
            one = {"id": self.number("d"), "name": name, "embedding_model": model, "chunk_method": "naive"}
            self.datasets[one["id"]] = one | {"docs": {}}
            return 200, {"code": 0, "data": one}
        if not words and method == "GET":
            asked = query.get("id") or query.get("name")
            rows = [one for one in self.datasets.values() if asked in (None, one["id"], one["name"])]
            if not rows and asked:
                return no(102, f"User 'u1' lacks permission for dataset '{asked}'")
            return 200, {"code": 0, "data": [{key: one[key] for key in one if key != "docs"} for one in rows]}
        if not words and method == "DELETE":
            unwanted: list[str] = body.get("ids") or []
            if set(unwanted) - set(self.datasets):
                return no(102, f"User 'u1' lacks permission for dataset '{unwanted[0]}'")
            for key in unwanted:
                del self.datasets[key]
            return 200, {"code": 0, "data": {"success_count": len(unwanted)}}
        if words[0] not in self.datasets:
            return no(102, f"You don't own the dataset {words[0]}.")
        held: dict[str, dict[str, Any]] = self.datasets[words[0]]["docs"]
        if words[1:] == ["documents"] and method == "POST":
            return self.uploaded(held, body)
        if words[1:] == ["documents"] and method == "GET":
            self.parse_on(held)
            size, page = int(query.get("page_size", 30)), int(query.get("page", 1))
            rows = [{key: row[key] for key in row if key not in ("content", "looks")} for row in held.values()]
            return 200, {"code": 0, "data": {"docs": rows[(page - 1) * size : page * size], "total": len(rows)}}
        if words[1:] == ["documents"] and method == "DELETE":
            for one in body.get("ids") or []:
                if one not in held:
                    return no(102, f"Documents not found: ['{one}']")
                del held[one]
            return 200, {"code": 0, "data": {"deleted": len(body.get("ids") or [])}}
        if words[1:] == ["chunks"] and method == "POST":
            for one in body["document_ids"]:
                if held[one]["run"] == "RUNNING":
                    return no(102, "Can't parse document that is currently being processed")
                held[one] |= {"run": "RUNNING", "progress": 0.1, "looks": self.looks}
            return 200, {"code": 0}
        return 200, {"code": 100, "data": None, "message": "<MethodNotAllowed '405: Method Not Allowed'>"}

    def uploaded(self, held: dict[str, dict[str, Any]], body: bytes) -> Reply:
        found = re.search(
            rb'name="file"; filename="([^"]*)"\r\n.*?\r\n\r\n(.*)\r\n--[^\r]+--\r\n$', body or b"", re.DOTALL
        )
        if not found:
            return 200, {"code": 101, "message": "No file part!"}
        name, content = found[1].decode(), found[2].decode("utf-8", "replace")
        if name.rpartition(".")[2] not in ("md", "txt", "pdf", "docx"):
            return 200, {"code": 500, "message": f"{name}: This type of file has not been supported yet!"}
        if name in {row["name"] for row in held.values()}:
            stem, _, ending = name.rpartition(".")
            name = f"{stem}(1).{ending}"
        row: dict[str, Any] = {
            "id": self.number("doc"),
            "name": name,
            "run": "UNSTART",
            "progress": 0.0,
            "progress_msg": "",
        }
        held[row["id"]] = row | {"chunk_count": 0, "token_count": 0, "content": content, "looks": 0}
        return 200, {"code": 0, "data": [row]}

    def parse_on(self, held: dict[str, dict[str, Any]]) -> None:
        for row in held.values():
            if row["run"] != "RUNNING":
                continue
            row["looks"] -= 1
            row["progress"] = 0.5
            if row["looks"] > 0:
                continue
            why = self.embed_all(row["content"])
            if self.unparsable and self.unparsable in row["name"]:
                why = "broken file"
            if why:
                row |= {
                    "run": "FAIL",
                    "progress": -1,
                    "progress_msg": f"10:00:00 Task has been received.\n10:00:01 [ERROR]{why}",
                }
            else:
                row |= {"run": "DONE", "progress": 1.0, "chunk_count": 1 if row["content"].strip() else 0}

    def embed_all(self, content: str) -> str:
        """Really asks the embedding model; the reason for which it failed."""
        name, instance, provider = self.defaults["embedding"].rsplit("@", 2)
        one = self.providers.get(provider, {}).get(instance)
        if not one:
            return "LookupError"
        try:
            post(
                f"{self.reach(one['base_url'])}/embeddings",
                one["api_key"],
                {"model": name, "input": [content[:200]]},
                60,
            )
        except OSError as error:
            return f"Fail to bind embedding model: {error}"
        return ""

    def chat_of_documents(self, method: str, words: list[str], body: Any) -> Reply:
        def no(code: int, said: str) -> Reply:
            return 200, {"code": code, "data": None, "message": said}

        def yes(data: Any) -> Reply:
            return 200, {"code": 0, "data": data, "message": "success"}

        if not words and method == "POST":
            if body["name"] in {one["name"] for one in self.chats.values()}:
                return no(102, "duplicated chat name in creating chat")
            one = {"id": self.number("c"), "name": body["name"], "dataset_ids": body["dataset_ids"], "rerank_id": ""}
            self.chats[one["id"]] = one
            return yes(one)
        if not words and method == "DELETE":
            if set(body["ids"]) - set(self.chats):
                return no(102, f"Chat {body['ids'][0]} not found")
            for one_id in body["ids"]:
                del self.chats[one_id]
            return yes({"success_count": len(body["ids"])})
        if words[0] not in self.chats:
            return no(102, "You do not own the chat.")
        if words[1:] == ["sessions"]:
            return yes({"id": self.number("s"), "name": body["name"]})
        docs = [row for one in self.chats[words[0]]["dataset_ids"] for row in self.datasets[one]["docs"].values()]
        asked = _words(body["question"])
        scored = [(len(asked & _words(row["content"])) / max(1, len(asked)), row) for row in docs]
        best = sorted(
            (pair for pair in scored if pair[0] > 0.1 and pair[1]["run"] == "DONE"), key=lambda pair: -pair[0]
        )
        chunks = [
            {"document_name": row["name"], "content": row["content"], "similarity": score} for score, row in best[:6]
        ]
        if not chunks:
            return yes({"answer": "Sorry! No relevant content was found", "reference": {"chunks": []}, "prompt": ""})
        name, instance, provider = self.defaults["chat"].rsplit("@", 2)
        one = self.providers.get(provider, {}).get(instance) or {"base_url": "http://127.0.0.1:9", "api_key": "x"}
        prompt = "".join(chunk["content"] for chunk in chunks)[:500]
        status, reply = self.said(one["base_url"], one["api_key"], name, f"{prompt}\n{body['question']}")
        if "**ERROR**" not in reply["data"]["answer"]:
            reply["data"] |= {"answer": f"{reply['data']['answer']} [ID:0]", "reference": {"chunks": chunks}}
        return status, reply


def _words(text: str) -> set[str]:
    """The words of a text, and each Chinese character: RAGFlow cuts Chinese as well."""
    return set(re.findall(r"[\u4e00-\u9fff]|[^\W\u4e00-\u9fff]+", text.lower()))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: Any

    def _do(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        raw = self.rfile.read(size)
        form = str(self.headers.get("Content-Type")).startswith("multipart/")
        self.reply(*self.state_reply(raw if form else json.loads(raw) if raw else None))

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _do

    def state_reply(self, body: Any) -> Reply:
        raise NotImplementedError

    def reply(self, status: int, content: Any) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content, separators=(",", ":")).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Type", "text/html" if data[:1] == b"<" else "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        except OSError:  # the other side has stopped waiting
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


class _RagflowHandler(_Handler):
    def state_reply(self, body: Any) -> Reply:
        state: Ragflow = self.state
        state.calls.append((self.command, self.path, body))
        for spot, what in list(state.broken.items()):
            method, part = spot.split(" ", 1)
            if method != self.command or not self.path.partition("?")[0].endswith(part):
                continue
            if what[0] == "hang":
                time.sleep(what[1])
            elif what[0] == "html":
                return 200, b"<!doctype html><title>RAGFlow</title>"
            elif what[0] == "drop":
                self.close_connection = True
                self.connection.shutdown(2)
                return 200, b""
            elif what[0] == "say":
                return what[1]  # type: ignore[no-any-return]
            else:
                state.answer(self.command, self.path, body, self.headers.get("Authorization") or "")
                return what[1]  # type: ignore[no-any-return]
        return state.answer(self.command, self.path, body, self.headers.get("Authorization") or "")


@dataclass
class Model:
    """A small OpenAI-compatible server: what of vLLM RAGFlow touches."""

    name: str = "tiny"
    key: str = "k3y"
    context: int = 8192
    tools: bool = False
    kind: str = "chat"  # or embedding, rerank
    answer: str = "I am a stand-in."
    slow: float = 0
    refused: list[str] = field(default_factory=list)  # the paths that got another status than 200


class _ModelHandler(_Handler):
    def state_reply(self, body: Any) -> Reply:
        reply = self.reply_of(self.state, body)
        if reply[0] != 200:
            self.state.refused.append(self.path)
        return reply

    def reply_of(self, state: Model, body: Any) -> Reply:
        if self.headers.get("Authorization") != f"Bearer {state.key}":
            return 401, {"error": "Unauthorized"}
        if self.path == "/v1/models":
            return 200, {"object": "list", "data": [{"id": state.name, "max_model_len": state.context}]}
        routes = {"chat": "/v1/chat/completions", "embedding": "/v1/embeddings", "rerank": "/v1/rerank"}
        if self.path != routes[state.kind]:
            return 404, {"detail": "Not Found"}
        if body["model"] != state.name:
            return 404, {"error": {"message": f"The model `{body['model']}` does not exist."}}
        time.sleep(state.slow)
        if state.kind == "embedding":
            return 200, {"data": [{"index": 0, "embedding": [0.1, 0.2]}]}
        if state.kind == "rerank":
            rows = [
                {"index": n, "document": {"text": text}, "relevance_score": 0.5}
                for n, text in enumerate(body["documents"])
            ]
            return 200, {"results": rows, "usage": {"total_tokens": 8}}
        if body.get("tools") and not state.tools:
            return 400, {"error": {"message": '"auto" tool choice requires --enable-auto-tool-choice'}}
        if body.get("stream"):
            return 200, b'data: {"choices":[{"delta":{"content":"Hello"}}]}\n\ndata: [DONE]\n\n'
        return 200, {"choices": [{"message": {"content": state.answer}}]}


@contextmanager
def _serving(kind: type[_Handler], state: object) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (kind,), {"state": state}))
    server.daemon_threads = True
    server.block_on_close = False
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def ragflow(state: Ragflow) -> Iterator[str]:
    """RAGFlow's stand-in; gives its address."""
    with _serving(_RagflowHandler, state) as url:
        yield url


@contextmanager
def model(state: Model) -> Iterator[str]:
    """The small model; gives its address without /v1."""
    with _serving(_ModelHandler, state) as url:
        yield url
