"""Register this server in a RAGFlow as its default model, ask it a question there, or take that back.

Usage: ragflow_register.py [--base-url URL] [--remove] [--dry], with the settings and what scripts/lib/ragflow.sh finds
in the environment. Needs the standard library only.

Two interfaces: v0.26 and later know providers, instances and models (Providers below); v0.25 and earlier a flat list of
models (Models). RAGFlow reports most failures with HTTP 200, so success is `code` 0 and nothing else, and what a call
has left behind is looked at afterwards. What was made here is kept in $BASE_DIR/run/SESSION.ragflow.json, without keys.
"""

import argparse
import http.client
import json
import os
import re
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from words import fail, tr

READ, PROBE, ANSWER = 30, 180, 600  # seconds: a probe takes RAGFlow 10 s a model, an answer much longer
QUESTION = "Introduce yourself in one sentence."
FACTORY = "VLLM"


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


def send(method: str, url: str, key: str, body: object = None, timeout: float = READ) -> tuple[int, bytes]:
    """HTTP status and content. Raises OSError or HTTPException where there is no HTTP answer. Follows no redirect,
    which would carry the key elsewhere; what is on this machine is asked without a proxy."""

    class Stay(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *args: object) -> None:
            return None

    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    proxies = [urllib.request.ProxyHandler({})] if is_here(urlsplit(url).hostname or "") else []
    request = urllib.request.Request(url, data, headers, method=method)
    try:
        with urllib.request.build_opener(Stay, *proxies).open(request, timeout=timeout) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as error:
        with error:
            moved = error.headers.get("Location", "") if 300 <= error.code < 400 else ""
            return error.code, f"-> {moved}".encode() if moved else error.read()


def is_here(host: str) -> bool:
    """Whether the host is this machine: only a machine's own address can be bound."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, proto) as probe:
            probe.bind(address)
    except OSError:
        return False
    return True


class Ragflow:
    """One RAGFlow: its calls, each with an answer that has been looked at."""

    def __init__(self, url: str, key: str) -> None:
        self.url, self.key, self.trusted = url, key, False

    def call(self, method: str, path: str, body: object = None, timeout: float = READ) -> dict[str, Any]:
        """The answer, an object with a `code`; an unknown path has 404. Raises Trouble E42, or E43 for the key."""
        where = f"{self.url}{path.partition('?')[0]}"
        try:
            status, content = send(method, f"{self.url}{path}", self.key, body, timeout)
        except TimeoutError:
            raise Trouble("E42", url=where, reason=tr(f"{timeout} 秒内没有应答", f"no answer within {timeout} s")) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            late = isinstance(getattr(error, "reason", None), TimeoutError)
            why = tr(f"{timeout} 秒内没有应答", f"no answer within {timeout} s") if late else error
            raise Trouble("E42", url=where, reason=why) from None
        try:
            answer = json.loads(content)
        except ValueError:
            answer = None
        if not isinstance(answer, dict) or not isinstance(answer.get("code"), int):
            if status == 401 and not self.trusted:
                raise Trouble("E43", url=self.url)
            raise Trouble("E42", url=where, reason=f"HTTP {status} {content[:80].decode('utf-8', 'replace')}")
        if 401 in (status, answer["code"]) and not self.trusted:
            raise Trouble("E43", url=self.url)
        if status == 404:
            answer["code"] = 404
        elif status != 200 and answer["code"] == 0:
            answer["code"] = status
        return answer

    def ask(self, method: str, path: str, body: object = None, timeout: float = READ, of: type = object) -> Any:
        """The `data` of an answer with code 0, of the type that is expected. Raises Trouble E44 for any other."""
        answer = self.call(method, path, body, timeout)
        if answer["code"] != 0 or not isinstance(answer.get("data"), of):
            said = answer.get("message") or json.dumps(answer, ensure_ascii=False)
            raise Trouble("E44", call=f"{method} {path.partition('?')[0]}", number=answer["code"], message=said)
        return answer.get("data")


class Server:
    """What RAGFlow is to be told of the server that runs here."""

    def __init__(self, environ: dict[str, str]) -> None:
        self.name, self.key, self.url = environ["SERVED_MODEL_NAME"], environ["API_KEY"], environ["SOURCE_URL"]
        self.max_tokens = int(environ.get("MAX_TOKENS") or 0)
        for mark in ("___", "@"):
            if mark in self.name:
                raise Trouble("E47", name=self.name, mark=mark)
        self.kind, self.tools = "chat", False

    def look(self) -> None:
        """What kind of model answers, and whether it takes the tool calls of agents. Raises Trouble E16."""

        def works(path: str, **body: object) -> bool:
            status, content = send("POST", f"{self.url}{path}", self.key, {"model": self.name, **body}, ANSWER)
            if status == 401 or (status == 404 and b"does not exist" in content):
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

    def info(self) -> dict[str, Any]:
        """The model as RAGFlow's instances take it; any other key breaks the call."""
        extra = {"is_tools": self.tools}
        return {"model_name": self.name, "model_type": [self.kind], "max_tokens": self.max_tokens, "extra": extra}


class Record:
    """What was made in one RAGFlow, so that it can be taken back: a file of this user's own, without keys."""

    def __init__(self, path: Path, url: str) -> None:
        self.path, self.url = path, url
        self.all: dict[str, dict[str, Any]] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
        self.made = self.all.get(url, {})

    def keep(self, **values: Any) -> None:
        """Note these; None forgets."""
        self.made = {key: value for key, value in (self.made | values).items() if value is not None}
        self.all = {url: made for url, made in (self.all | {self.url: self.made}).items() if made}
        if self.all:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            new = self.path.with_suffix(".new")
            new.unlink(missing_ok=True)
            with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
                json.dump(self.all, file, ensure_ascii=False, indent=2)
            new.replace(self.path)
        else:
            self.path.unlink(missing_ok=True)

    def forget(self) -> None:
        self.keep(**dict.fromkeys(self.made))


Step = tuple[str, Callable[[], object]]


class Providers:
    """v0.26 and later: a provider holds instances, an instance holds models. Paths below /api/v1."""

    root = "/api/v1/providers"

    def __init__(self, ragflow: Ragflow, server: Server, record: Record, session: str) -> None:
        self.ragflow, self.server, self.record = ragflow, server, record
        # No @ or / (the default's lookup fails), no 401 (RAGFlow takes it for a refused key), not "default".
        name = re.sub("401|unauthorized", "x", session, flags=re.IGNORECASE)
        self.wanted = f"vllm-{name}" if name.lower() == "default" else name
        self.instance, self.fresh, self.shown = self.wanted, False, True

    def body(self, base_url: str) -> dict[str, Any]:
        key, others = self.server.key, []
        if not self.fresh and self.instance in self.instances():
            mine = {self.server.name, self.record.made.get("model")}
            others = [
                {
                    "model_name": item["name"],
                    "model_type": item["model_type"],
                    "max_tokens": item["max_tokens"],
                    "extra": {"is_tools": bool((item.get("extra") or {}).get("is_tools"))},
                }
                for item in self.models()
                if item["name"] not in mine
            ]  # what somebody added to our instance stays: RAGFlow removes what is not listed
        info = [self.server.info(), *others]
        return {"instance_name": self.instance, "api_key": key, "base_url": base_url, "region": "default", "model_info": info}

    def probe(self, base_url: str) -> str:
        """RAGFlow's own check, which stores nothing: empty when it passes, else what RAGFlow said."""
        body = {"api_key": self.server.key, "base_url": base_url, "region": "default", "model_info": [self.server.info()]}
        answer = self.ragflow.call("POST", f"{self.root}/{FACTORY}/connection", body, PROBE)
        return "" if answer["code"] == 0 else str(answer.get("message") or answer["code"])

    def instances(self) -> list[str]:
        return [item["instance_name"] for item in self.ragflow.ask("GET", f"{self.root}/{FACTORY}/instances", of=list)]

    def models(self) -> list[dict[str, Any]]:
        found = self.ragflow.ask("GET", f"{self.root}/{FACTORY}/instances/{quote(self.instance, '')}/models", of=list)
        return [item for item in found if isinstance(item, dict)]

    def has_provider(self) -> bool:
        return FACTORY in [item["name"] for item in self.ragflow.ask("GET", self.root, of=list)]

    def same(self, base_url: str) -> bool:
        """Whether the instance is as it should be; v0.26 shows neither its address nor its key."""
        shown = self.ragflow.ask("GET", f"{self.root}/{FACTORY}/instances/{quote(self.instance, '')}", of=dict)
        self.shown = "api_key" in shown
        kept, info = self.record.made.get("base_url"), self.server.info()
        model: dict[str, Any] = next((item for item in self.models() if item["name"] == self.server.name), {})
        return (
            shown.get("base_url", kept) == base_url
            and shown.get("api_key", self.server.key) == self.server.key
            and model.get("max_tokens") == info["max_tokens"]
            and self.server.kind in (model.get("model_type") or [])
            and (model.get("extra") or info["extra"]).get("is_tools") == info["extra"]["is_tools"]
        )

    def defaults(self) -> dict[str, Any] | None:
        """The default model of our kind, as PATCH takes it; None where there is none, or it dangles."""
        found = self.ragflow.ask("GET", "/api/v1/models/default", of=dict).get("models") or []
        for item in found:
            if item.get("model_type") in (self.server.kind, [self.server.kind]):
                names = ("model_provider", "model_instance", "model_name")
                return {"model_type": self.server.kind} | {name: item.get(name) for name in names}
        return None

    def ours(self) -> dict[str, Any]:
        names = {"model_provider": FACTORY, "model_instance": self.instance, "model_name": self.server.name}
        return {"model_type": self.server.kind} | names

    def plan(self, base_url: str) -> list[Step]:
        """What has to be changed, in order: what to say, and the call."""
        steps: list[Step] = []
        exists = self.has_provider()
        held = self.instances() if exists else []
        if not exists:
            steps.append((tr(f"添加模型提供商 {FACTORY}", f"add the provider {FACTORY}"), self.add_provider))
        mine = self.record.made.get("instance")
        if mine in held:
            self.instance = mine
        elif self.wanted in held and not self.same(base_url):  # somebody else's: it is left alone
            number = next(n for n in range(2, 1000) if f"{self.wanted}-{n}" not in held)
            self.instance = f"{self.wanted}-{number}"
        what = f"{self.instance}: {base_url}, {self.server.name} ({self.server.kind}), Max tokens {self.server.max_tokens}"
        what += f", tool call {'on' if self.server.tools else 'off'}"
        self.fresh = self.instance not in held
        if self.fresh:
            steps.append((tr(f"添加实例 {what}", f"add the instance {what}"), lambda: self.add(base_url)))
        elif not self.same(base_url):
            steps.append((tr(f"更新实例 {what}", f"update the instance {what}"), lambda: self.update(base_url)))
        now = self.defaults()
        if now != self.ours():
            was = f"{now['model_name']}@{now['model_instance']}" if now else "-"
            words = tr(f"默认 {self.server.kind} 模型：{was} → ", f"default {self.server.kind} model: {was} → ")
            steps.append((f"{words}{self.server.name}@{self.instance}", lambda: self.set_default(now)))
        return steps

    def add_provider(self) -> None:
        self.record.keep(provider=True)
        answer = self.ragflow.call("PUT", self.root, {"provider_name": FACTORY})
        if "already exists" in str(answer.get("message")):
            self.record.keep(provider=None)
        elif answer["code"] != 0:
            raise Trouble("E44", call=f"PUT {self.root}", number=answer["code"], message=answer.get("message"))

    def add(self, base_url: str) -> None:
        """A new instance with one model. Whatever a call that failed has left behind is removed again."""
        before = self.instances()
        kind = self.server.kind
        self.record.keep(instance=self.instance, model=self.server.name, base_url=base_url, kind=kind)
        try:
            self.ragflow.ask("POST", f"{self.root}/{FACTORY}/instances", self.body(base_url), PROBE)
            if not self.same(base_url):
                path = f"{self.root}/{FACTORY}/instances/{self.instance}"
                raise Trouble("E44", call=f"GET {path}", number=0, message=tr("保存的内容不一致", "not stored as it was sent"))
        except BaseException:
            self.tidy(before, all_of_it=True)
            raise
        self.tidy(before, all_of_it=False)

    def tidy(self, before: list[str], all_of_it: bool) -> None:
        """Remove the instances that a call made beside ours (RAGFlow numbers them), and ours too where it failed."""
        name = re.compile(re.escape(self.instance) + (r"(\(\d+\))?" if all_of_it else r"\(\d+\)"))
        for left in self.instances():
            if left not in before and name.fullmatch(left):
                self.ragflow.ask("DELETE", f"{self.root}/{FACTORY}/instances", {"instances": [left]})

    def update(self, base_url: str) -> None:
        """PUT verifies first and changes nothing when that fails. v0.26 has no PUT: the instance is made anew."""
        body = self.body(base_url)
        path = f"{self.root}/{FACTORY}/instances"
        answer = self.ragflow.call("PUT", f"{path}/{quote(self.instance, '')}", body, PROBE)
        if answer["code"] in (100, 404, 405):
            self.ragflow.ask("DELETE", path, {"instances": [self.instance]})
            self.ragflow.ask("POST", path, body, PROBE)
        elif answer["code"] != 0:
            raise Trouble("E44", call=f"PUT {path}", number=answer["code"], message=answer.get("message"))
        self.record.keep(model=self.server.name, base_url=base_url)

    def set_default(self, now: dict[str, Any] | None) -> None:
        if not now or (now["model_provider"], now["model_instance"]) != (FACTORY, self.instance):
            self.record.keep(previous=now, default=True)
        self.ragflow.ask("PATCH", "/api/v1/models/default", self.ours())
        if self.defaults() != self.ours():
            raise Trouble("E44", call="GET /api/v1/models/default", number=0, message=json.dumps(self.defaults()))

    def remove(self) -> None:
        """Take back what the record says was made: the default, the instance, the provider."""
        made = self.record.made
        self.instance, self.server.kind = made.get("instance", self.wanted), made.get("kind", self.server.kind)
        now, before = self.defaults(), made.get("previous")
        if made.get("default") and now and (now["model_provider"], now["model_instance"]) == (FACTORY, self.instance):
            path = "/api/v1/models/default"
            say("恢复原来的默认模型", "the default model of before is restored")
            if not before or self.ragflow.call("PATCH", path, before)["code"] != 0:
                say("原来没有默认模型，或已不存在：清空", "there was none, or it is gone: none is set")
                self.ragflow.ask("PATCH", path, {"model_type": self.server.kind})
        held = self.instances() if self.has_provider() else []
        if "instance" in made and self.instance in held:
            self.remove_instance(held)
        elif made.get("provider") and not held and self.has_provider():
            self.drop_provider()
        self.record.forget()

    def remove_instance(self, held: list[str]) -> None:
        others = [item["name"] for item in self.models() if item["name"] != self.record.made.get("model")]
        if others:
            words = ", ".join(others)
            say(f"实例 {self.instance} 里还有别的模型（{words}），保留", f"{self.instance} holds other models ({words}): it stays")
        elif self.record.made.get("provider") and held == [self.instance]:  # v0.26 refuses to remove an empty one
            self.drop_provider()
        else:
            say(f"删除实例 {self.instance}", f"the instance {self.instance} is removed")
            self.ragflow.ask("DELETE", f"{self.root}/{FACTORY}/instances", {"instances": [self.instance]})

    def drop_provider(self) -> None:
        say(f"删除提供商 {FACTORY} 及其实例", f"the provider {FACTORY} is removed, with its instance")
        self.ragflow.ask("DELETE", f"{self.root}/{FACTORY}")


class Models:
    """v0.25 and earlier: a flat list of models, named M___VLLM; the defaults are fields of the tenant."""

    fresh, shown, instance = False, True, ""

    def __init__(self, ragflow: Ragflow, server: Server, record: Record) -> None:
        self.ragflow, self.server, self.record = ragflow, server, record
        self.stored = f"{server.name}___{FACTORY}"

    def field(self) -> str:
        return "embd_id" if self.server.kind == "embedding" else "llm_id"

    def add_llm(self, base_url: str, **more: object) -> dict[str, Any]:
        body = {"llm_factory": FACTORY, "llm_name": self.server.name, "model_type": self.server.kind}
        body |= {"api_base": base_url, "api_key": self.server.key}
        return self.ragflow.call("POST", "/v1/llm/add_llm", body | {"max_tokens": self.server.max_tokens} | more, PROBE)

    def probe(self, base_url: str) -> str:
        """add_llm that only verifies. Before it knew the word it stored the model at once: then that is noted."""
        had = self.find()
        answer = self.add_llm(base_url, verify=True)
        data = answer.get("data")
        if answer["code"] == 0 and isinstance(data, dict):
            return "" if data.get("success") is True else str(data.get("message") or "verify")
        if answer["code"] == 0 and not had:
            self.fresh = True
            self.record.keep(model=self.server.name, kind=self.server.kind)
        return "" if answer["code"] == 0 else str(answer.get("message") or answer["code"])

    def find(self) -> dict[str, Any] | None:
        held = self.ragflow.ask("GET", "/v1/llm/my_llms?include_details=true", of=dict).get(FACTORY) or {}
        return next((item for item in held.get("llm", []) if item.get("name") in (self.stored, self.server.name)), None)

    def tenant(self) -> tuple[str, str, dict[str, Any]]:
        """How the defaults are written (method, path), and what they are."""
        for method, path, read in (
            ("POST", "/v1/user/set_tenant_info", "/v1/user/tenant_info"),
            ("PATCH", "/api/v1/users/me/models", "/api/v1/users/me/models"),
        ):
            answer = self.ragflow.call("GET", read)
            if answer["code"] == 0 and isinstance(answer.get("data"), dict):
                return method, path, answer["data"]
        raise Trouble("E44", call="GET /v1/user/tenant_info", number=answer["code"], message=answer.get("message"))

    def plan(self, base_url: str) -> list[Step]:
        here, made = self.find(), self.record.made.get("model") == self.server.name
        wanted = {"type": self.server.kind, "api_base": base_url, "max_tokens": self.server.max_tokens}
        same = here is not None and all(here.get(name, value) == value for name, value in wanted.items())
        if here and not made and not same:
            raise Trouble("E48", name=self.server.name)
        steps: list[Step] = []
        if not here or made:  # this version does not show its key: the same again does no harm, a stale key does
            verb = tr("再次写入", "write again") if same else tr("写入", "write")
            what = f"{verb} {FACTORY}: {base_url}, {self.server.name} ({self.server.kind}), Max tokens "
            steps.append((f"{what}{self.server.max_tokens}", lambda: self.add(base_url)))
        now = str(self.tenant()[2].get(self.field()) or "")
        if now != f"{self.stored}@{FACTORY}":
            words = tr(f"默认 {self.server.kind} 模型", f"default {self.server.kind} model")
            what = f"{words}: {now or '-'} → {self.stored}@{FACTORY}"
            steps.append((what, lambda: self.set_default(now, f"{self.stored}@{FACTORY}", note=True)))
        return steps

    def add(self, base_url: str) -> None:
        self.fresh = self.fresh or not self.find()
        self.record.keep(model=self.server.name, kind=self.server.kind)
        answer = self.add_llm(base_url)
        if answer["code"] != 0 or answer.get("data") is not True or not self.find():
            raise Trouble("E44", call="POST /v1/llm/add_llm", number=answer["code"], message=answer.get("message"))

    def set_default(self, now: str, new: str, note: bool = False) -> None:
        if note:
            self.record.keep(previous=now, default=True)
        method, path, tenant = self.tenant()
        body = {name: tenant.get(name) for name in ("tenant_id", "llm_id", "embd_id", "asr_id", "img2txt_id")}
        self.ragflow.ask(method, path, body | {self.field(): new})
        if str(self.tenant()[2].get(self.field()) or "") != new:
            raise Trouble("E44", call=f"{method} {path}", number=0, message=tr("没有生效", "it has not taken effect"))

    def update(self, base_url: str) -> None:
        self.add(base_url)

    def remove(self) -> None:
        made = self.record.made
        self.stored, self.server.kind = f"{made.get('model')}___{FACTORY}", made.get("kind", self.server.kind)
        now = self.tenant()[2].get(self.field())
        if made.get("default") and now == f"{self.stored}@{FACTORY}":
            say("恢复原来的默认模型", "the default model of before is restored")
            self.set_default(str(now), made.get("previous", ""))
        if "model" in made:
            say(f"删除模型 {made['model']}", f"the model {made['model']} is removed")
            self.ragflow.ask("POST", "/v1/llm/delete_llm", {"llm_factory": FACTORY, "llm_name": self.stored})
        self.record.forget()


def meet(ragflow: Ragflow) -> bool:
    """Say which RAGFlow answers; True for v0.26 and later. Raises Trouble where it is none, or refuses the key."""
    version = ragflow.call("GET", "/api/v1/system/version")
    language = ragflow.call("GET", "/api/v1/language").get("data")
    modern = ragflow.call("GET", Providers.root)["code"] != 404
    if not modern and ragflow.call("GET", "/v1/llm/my_llms")["code"] == 404:
        raise Trouble("E42", url=ragflow.url, reason=tr("没有 RAGFlow 的接口", "it has no interface of RAGFlow"))
    ragflow.trusted = True
    name = version.get("data") if version["code"] == 0 and version.get("data") != "unknown" else None
    shown = name or tr("v0.26 或更新", "v0.26 or later") if modern else name or tr("v0.25 或更早", "v0.25 or earlier")
    say(f"RAGFlow {shown}：{ragflow.url}", f"RAGFlow {shown}: {ragflow.url}")
    if isinstance(language, dict) and language.get("language") == "go":
        say("这是 Go 版：尚未在其上验证，每个应答都会核对", "This is the Go version, not tried yet; every answer is checked")
    return modern


def choose(there: Providers | Models, given: str | None, url: str, kept: str | None, environ: dict[str, str]) -> str:
    """The first address under which RAGFlow itself reaches the server. Raises Trouble E45."""
    places = ("DOCKER_URL", "SOURCE_URL", "LAN_URL") if is_here(urlsplit(url).hostname or "") else ("LAN_URL",)
    for address in [given] if given else list(dict.fromkeys(filter(None, [kept, *map(environ.get, places)]))):
        assert address is not None
        say(f"请 RAGFlow 访问 {address} ……", f"RAGFlow is asked to try {address} …")
        why = there.probe(address)
        if not why:
            return address
        say(f"✗ {why.strip()}", f"✗ {why.strip()}")
    raise Trouble("E45", url=url, host=environ["HOST"], port=environ["PORT"])


def question(ragflow: Ragflow) -> str | None:
    """The answer of RAGFlow's default model; None where this version cannot be asked so. Raises Trouble E46."""
    body = {"question": QUESTION, "stream": False}
    say(f"在 RAGFlow 中提问：{QUESTION}", f"RAGFlow is asked: {QUESTION}")
    answer = ragflow.call("POST", "/api/v1/chat/completions", body, ANSWER)
    if answer["code"] == 404:
        return None
    data = answer.get("data")
    text = str(data.get("answer") or "") if isinstance(data, dict) else ""
    if answer["code"] != 0 or not text.strip() or "**ERROR**" in text:
        raise Trouble("E46", url=ragflow.url, reason=text.strip() or answer.get("message") or answer["code"])
    return text.strip()


def run(words: list[str], environ: dict[str, str]) -> None:
    """The whole of it. Raises Trouble; what this run has made in RAGFlow is then taken back."""
    parser = argparse.ArgumentParser(prog="ragflow-register")
    parser.add_argument("--base-url", help="the address under which RAGFlow reaches this server, with /v1")
    parser.add_argument("--remove", action="store_true", help="take back what was made")
    parser.add_argument("--dry", action="store_true", help="say what would be done")
    given = parser.parse_args(words)
    url = environ["RAGFLOW_URL"].rstrip("/")
    for key in ("RAGFLOW_URL", "RAGFLOW_API_KEY"):
        if not environ[key]:
            raise Trouble("E41", key=key)
    if given.base_url and not re.fullmatch(r"https?://\S+/v\d+", given.base_url):
        raise Trouble("E49", value=given.base_url)
    session = environ["TMUX_SESSION"]
    record = Record(Path(environ["BASE_DIR"]) / "run" / f"{session}.ragflow.json", url)
    ragflow, server = Ragflow(url, environ["RAGFLOW_API_KEY"]), Server(environ)
    if given.remove and not record.made:
        say("这里没有在该 RAGFlow 中登记过什么", f"nothing of this server's was registered in {url}")
        return
    modern = meet(ragflow)
    there = Providers(ragflow, server, record, session) if modern else Models(ragflow, server, record)
    if given.remove:
        if given.dry:
            say(f"将撤回：{record.made}", f"would be taken back: {record.made}")
        else:
            there.remove()
            say("已撤回", "what was made has been taken back")
        return
    server.look()
    if given.dry and not modern:  # the oldest ones store what they should only verify
        base_url = given.base_url or environ["DOCKER_URL"] or environ["SOURCE_URL"]
    else:
        base_url = choose(there, given.base_url, url, record.made.get("base_url"), environ)
    steps = there.plan(base_url)
    if steps:
        say("将在 RAGFlow 中改变：", "This will be changed in RAGFlow:")
        for text, _ in steps:
            say(f"- {text}", f"- {text}")
    else:
        say("已登记，无需改变", "registered already, nothing to change")
    if given.dry:
        return
    try:
        for _, act in steps:
            act()
        prove(there, ragflow, server, base_url)
    except BaseException:
        if steps and there.fresh and record.made:
            say("没有成功：本次所做的撤回", "It has not worked out: what was made is taken back")
            there.remove()
        raise


def prove(there: Providers | Models, ragflow: Ragflow, server: Server, base_url: str) -> None:
    """An answer through RAGFlow; of an embedding model RAGFlow's own check, which has just embedded a sentence."""
    if server.kind == "embedding":
        say("✓ RAGFlow 已用它得到向量", "✓ RAGFlow has got a vector from it")
        return
    try:
        answer = question(ragflow)
    except Trouble as trouble:  # v0.26 does not show its key: it may be an old one
        if trouble.code != "E46" or there.shown or there.fresh:
            raise
        say("更新实例后再问一次", "The instance is updated, and asked once more")
        there.update(base_url)
        answer = question(ragflow)
    if answer is None:
        say("✓ 这个版本不能直接向默认模型提问；登记时 RAGFlow 已得到它的回答",
            "✓ This version has no way to ask its default model; RAGFlow has had an answer from it above")  # fmt: skip
    else:
        print(f"\n{answer}\n", flush=True)


if __name__ == "__main__":
    try:
        run(sys.argv[1:], dict(os.environ))
    except Trouble as known:
        fail(known.code, **known.values)
    except KeyboardInterrupt:
        sys.exit(130)
