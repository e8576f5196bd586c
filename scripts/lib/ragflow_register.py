"""Register this server in a RAGFlow as its default model, ask it a question there, or take that back.

Usage: ragflow_register.py [--base-url URL] [--remove] [--dry], with the settings and what scripts/lib/ragflow.sh finds
in the environment. v0.26 and later know providers, instances and models (Providers); for earlier ones see
ragflow_old.py. What was made here is kept in $BASE_DIR/run/SESSION.ragflow.json.
"""

import argparse
import os
import re
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from ragflow_api import ANSWER, FACTORY, PROBE, Ragflow, Record, Server, Step, Trouble, is_here, refusal, say
from ragflow_old import Models
from words import fail, tr

ROOT, DEFAULT, CHAT = "/api/v1/providers", "/api/v1/models/default", "/api/v1/chat/completions"
INSTANCES = f"{ROOT}/{FACTORY}/instances"
QUESTION = "Introduce yourself in one sentence."


class Providers:
    """v0.26 and later: a provider holds instances, an instance holds models."""

    def __init__(self, ragflow: Ragflow, server: Server, record: Record, session: str) -> None:
        self.ragflow, self.server, self.record, self.fresh = ragflow, server, record, False
        # No @ or / (the default's lookup fails), no 401 (RAGFlow takes it for a refused key), not "default".
        name = re.sub("401|unauthorized", "x", session, flags=re.IGNORECASE)
        self.instance = record.made.get("instance") or (f"vllm-{name}" if name.lower() == "default" else name)

    def info(self) -> dict[str, Any]:
        """The model as instances take it; any other key breaks the call."""
        info = {"model_name": self.server.name, "model_type": [self.server.kind], "max_tokens": self.server.max_tokens}
        return info | {"extra": {"is_tools": self.server.tools}}

    def body(self, base_url: str, *others: dict[str, Any]) -> dict[str, Any]:
        where = {"api_key": self.server.key, "base_url": base_url, "region": "default"}
        return where | {"model_info": [self.info(), *others]}

    def allowed(self, known: list[str]) -> list[str]:
        return known

    def probe(self, base_url: str) -> str:
        """RAGFlow's own check, which stores nothing: empty when it passes, else what RAGFlow said."""
        answer = self.ragflow.call("POST", f"{ROOT}/{FACTORY}/connection", self.body(base_url), PROBE)
        return "" if answer["code"] == 0 else str(answer.get("message") or answer["code"])

    def has_provider(self) -> bool:
        return FACTORY in [item["name"] for item in self.ragflow.ask("GET", ROOT, of=list)]

    def instances(self) -> list[str]:
        return [item["instance_name"] for item in self.ragflow.ask("GET", INSTANCES, of=list)]

    def path(self) -> str:
        return f"{INSTANCES}/{quote(self.instance, safe='')}"

    def others(self) -> list[dict[str, Any]]:
        """What somebody added to our instance, as model_info: RAGFlow removes what is not listed."""
        mine = {self.server.name, self.record.made.get("model")}
        return [
            {
                "model_name": item["name"],
                "model_type": item["model_type"],
                "max_tokens": item["max_tokens"],
                "extra": {"is_tools": bool((item.get("extra") or {}).get("is_tools"))},
            }
            for item in self.ragflow.ask("GET", f"{self.path()}/models", of=list)
            if item["name"] not in mine
        ]

    def same(self, base_url: str) -> bool:
        """Whether the instance is as it should be. v0.26 shows neither its address nor its key: the record knows."""
        made, info = self.record.made, self.info()
        shown = self.ragflow.ask("GET", self.path(), of=dict)
        models = self.ragflow.ask("GET", f"{self.path()}/models", of=list)
        model: dict[str, Any] = next((item for item in models if item["name"] == self.server.name), {})
        key, mark = shown.get("api_key", self.server.key), made.get("key_mark")
        return bool(
            shown.get("base_url", made.get("base_url")) == base_url
            and key == self.server.key
            and ("api_key" in shown or mark == self.server.key_mark())
            and model.get("max_tokens") == info["max_tokens"]
            and self.server.kind in model["model_type"]
            and (model.get("extra") or info["extra"]).get("is_tools") == info["extra"]["is_tools"]
        )

    def default(self) -> dict[str, Any] | None:
        """The default model of our kind, as PATCH takes it; None where there is none, or it dangles."""
        found = self.ragflow.ask("GET", DEFAULT)
        for item in (found.get("models") if isinstance(found, dict) else found) or []:
            if item.get("model_type") in (self.server.kind, [self.server.kind]):
                names = ("model_provider", "model_instance", "model_name")
                return {"model_type": self.server.kind} | {name: item.get(name) for name in names}
        return None

    def ours(self) -> dict[str, Any]:
        names = {"model_provider": FACTORY, "model_instance": self.instance, "model_name": self.server.name}
        return {"model_type": self.server.kind} | names

    def is_ours(self, default: dict[str, Any]) -> bool:
        return (default["model_provider"], default["model_instance"]) == (FACTORY, self.instance)

    def plan(self, base_url: str) -> list[Step]:
        """What has to be changed, in order."""
        steps, exists, words = list[Step](), self.has_provider(), self.server.words(base_url)
        held = self.instances() if exists else []
        if not exists:
            steps.append((tr(f"添加模型提供商 {FACTORY}", f"add the provider {FACTORY}"), self.add_provider))
        if self.instance in held and "instance" not in self.record.made and not self.same(base_url):
            number = next(n for n in range(2, 1000) if f"{self.instance}-{n}" not in held)
            self.instance = f"{self.instance}-{number}"  # that one is somebody else's and is left alone
        what = f"{self.instance}: {words}"
        if self.instance not in held:
            steps.append((tr(f"添加实例 {what}", f"add the instance {what}"), lambda: self.add(base_url)))
        elif not self.same(base_url):
            steps.append((tr(f"更新实例 {what}", f"update the instance {what}"), lambda: self.update(base_url)))
        now = self.default()
        if now != self.ours():
            was = f"{now['model_name']}@{now['model_instance']}" if now else "-"
            what = f"{self.server.kind}: {was} → {self.server.name}@{self.instance}"
            steps.append((tr(f"默认模型 {what}", f"default model {what}"), lambda: self.set_default(now)))
        return steps

    def add_provider(self) -> None:
        self.fresh = True
        self.record.keep(provider=True)
        answer = self.ragflow.call("PUT", ROOT, {"provider_name": FACTORY})
        if "already exists" in str(answer.get("message")):
            self.record.keep(provider=None)
        elif answer["code"] != 0:
            raise refusal(f"PUT {ROOT}", answer)

    def noted(self, base_url: str) -> None:
        kept = {"instance": self.instance, "model": self.server.name, "kind": self.server.kind, "base_url": base_url}
        self.record.keep(**kept, key_mark=self.server.key_mark())

    def add(self, base_url: str) -> None:
        """A new instance with one model; of a call that fails, what it has left behind is removed."""
        self.fresh = True
        before = self.instances()
        self.noted(base_url)
        try:
            self.create(self.body(base_url))
            if not self.same(base_url):
                raise refusal(f"GET {self.path()}", {"code": 0, "message": tr("与所发的不符", "not as it was sent")})
        finally:  # RAGFlow numbers what it makes beside ours; ours is removed with the record
            for left in self.instances():
                if left not in before and re.fullmatch(re.escape(self.instance) + r"\(\d+\)", left):
                    self.ragflow.ask("DELETE", INSTANCES, {"instances": [left]})

    def create(self, body: dict[str, Any]) -> None:
        self.ragflow.ask("POST", INSTANCES, {"instance_name": self.instance, **body}, PROBE)

    def update(self, base_url: str) -> None:
        """PUT verifies first and changes nothing when that fails. v0.26 has no PUT: the instance is made anew."""
        body = self.body(base_url, *self.others())
        answer = self.ragflow.call("PUT", self.path(), {"instance_name": self.instance, **body}, PROBE)
        if answer["code"] in (404, 405) or "MethodNotAllowed" in str(answer.get("message")):
            self.fresh = True
            self.ragflow.ask("DELETE", INSTANCES, {"instances": [self.instance]})
            self.create(body)
        elif answer["code"] != 0:
            raise refusal(f"PUT {self.path()}", answer)
        self.noted(base_url)

    def set_default(self, now: dict[str, Any] | None) -> None:
        if not now or not self.is_ours(now):
            self.record.keep(previous=now, default=True)
        self.ragflow.ask("PATCH", DEFAULT, self.ours())
        if self.default() != self.ours():
            raise refusal(f"GET {DEFAULT}", {"code": 0, "message": tr("没有生效", "it has not taken effect")})

    def remove(self) -> None:
        """Take back what the record says was made: the default, the instance, the provider."""
        made, exists = self.record.made, self.has_provider()
        self.server.kind, self.server.name = made.get("kind", self.server.kind), made.get("model", self.server.name)
        held = self.instances() if exists else []
        ours = "instance" in made and self.instance in held
        kept = [item["model_name"] for item in self.others()] if ours else []
        now = self.default()  # None also when our instance has been removed by hand
        if made.get("default") and (not now or self.is_ours(now)):
            before = made.get("previous")
            if before and self.ragflow.call("PATCH", DEFAULT, before)["code"] == 0:
                say("恢复原来的默认模型", "the default model of before is restored")
            else:
                say("清空默认模型：原来没有，或已不存在", "no default model is set: there was none, or it is gone")
                self.ragflow.ask("PATCH", DEFAULT, {"model_type": self.server.kind})
        if kept:
            words = ", ".join(kept)
            say(
                f"实例 {self.instance} 里还有别的模型（{words}），保留",
                f"{self.instance} holds other models ({words}): it stays",
            )
        elif made.get("provider") and exists and held in ([], [self.instance]):
            say(f"删除提供商 {FACTORY}", f"the provider {FACTORY} is removed")
            answer = self.ragflow.call("DELETE", f"{ROOT}/{FACTORY}")
            if answer["code"] != 0 and held:  # v0.26 keeps one that is empty
                raise refusal(f"DELETE {ROOT}/{FACTORY}", answer)
        elif ours:
            say(f"删除实例 {self.instance}", f"the instance {self.instance} is removed")
            self.ragflow.ask("DELETE", INSTANCES, {"instances": [self.instance]})
            if made.get("provider"):
                self.record.hand_over("provider")
        self.record.forget()


def meet(ragflow: Ragflow) -> bool:
    """Say which RAGFlow answers; True for v0.26 and later. Raises Trouble where it is none, or refuses the key."""
    version = ragflow.call("GET", "/api/v1/system/version").get("data")
    language = ragflow.call("GET", "/api/v1/language").get("data")
    modern = bool(ragflow.call("GET", ROOT)["code"] != 404)
    if not modern and ragflow.call("GET", "/v1/llm/my_llms")["code"] == 404:
        raise Trouble("E42", url=ragflow.url, reason=tr("没有 RAGFlow 的接口", "it has no interface of RAGFlow's"))
    ragflow.trusted = True
    older = tr("v0.26 或更新", "v0.26 or later") if modern else tr("v0.25 或更早", "v0.25 or earlier")
    shown = older if version in (None, "unknown") else version
    say(f"RAGFlow {shown}：{ragflow.url}", f"RAGFlow {shown}: {ragflow.url}")
    if isinstance(language, dict) and language.get("language") == "go":
        say(
            "这是 Go 版：尚未在其上验证，每个应答都会核对",
            "This is the Go version, not tried yet; every answer is checked",
        )
    return modern


def choose(there: Providers | Models, known: list[str], environ: dict[str, str]) -> str:
    """The first address under which RAGFlow itself reaches the server. Raises Trouble E45."""
    for address in known:
        say(f"请 RAGFlow 访问 {address} ……", f"RAGFlow is asked to try {address} …")
        why = there.probe(address)
        if not why:
            return address
        say(f"✗ {why}", f"✗ {why}")
    raise Trouble("E45", url=there.ragflow.url, host=environ["HOST"], port=environ["PORT"])


def addresses(there: Providers | Models, given: str, environ: dict[str, str]) -> list[str]:
    """Where to try, in order. A RAGFlow elsewhere is not asked for an address of its own, which would get our key."""
    here = is_here(urlsplit(there.ragflow.url).hostname or "")
    places = ["DOCKER_URL", "SOURCE_URL", "LAN_URL"] if here else ["LAN_URL"]
    known = [there.record.made.get("base_url"), *(environ[place] for place in places)]
    return there.allowed([given] if given else list(dict.fromkeys(filter(None, known))))


def prove(ragflow: Ragflow, kind: str) -> None:
    """An answer of RAGFlow's default model. Raises Trouble E46: an error has code 0 as well."""
    if kind == "embedding":  # RAGFlow's own check has just embedded a sentence
        say("✓ RAGFlow 已用它得到向量", "✓ RAGFlow has got a vector from it")
        return
    say(f"在 RAGFlow 中提问：{QUESTION}", f"RAGFlow is asked: {QUESTION}")
    answer = ragflow.call("POST", CHAT, {"question": QUESTION, "stream": False}, ANSWER)
    if answer["code"] == 404:
        zh = "✓ 这个版本不能直接向默认模型提问；登记前 RAGFlow 已得到它的回答"
        say(zh, "✓ This version has no way to ask its default model; RAGFlow has had an answer from it above")
        return
    data = answer.get("data")
    text = str(data.get("answer") or "").strip() if isinstance(data, dict) else ""
    if answer["code"] != 0 or not text or "**ERROR**" in text:
        raise Trouble("E46", url=ragflow.url, reason=text or answer.get("message") or answer["code"])
    print(f"\n{text}\n", flush=True)


def register(there: Providers | Models, environ: dict[str, str], base_url: str, dry: bool) -> None:
    """Say what will be changed, change it, prove it. When that fails, what this run has made is taken back."""
    there.server.look()
    known = addresses(there, base_url, environ)
    try:
        # The oldest ones store what they should only verify.
        base_url = known[0] if dry and known and isinstance(there, Models) else choose(there, known, environ)
        steps = there.plan(base_url)
        if steps:
            say("将在 RAGFlow 中改变：", "This will be changed in RAGFlow:")
        else:
            say("已登记，无需改变", "registered already, nothing to change")
        for words, _ in steps:
            say(f"- {words}", f"- {words}")
        if dry:
            return
        for _, act in steps:
            act()
        prove(there.ragflow, there.server.kind)
    except BaseException as error:
        if there.fresh:
            say("没有成功：撤回本次所做的", "It has not worked out: what was made is taken back")
            made = there.record.made
            try:
                there.remove()
                if getattr(error, "code", "E42") == "E42":  # a call without an answer may still come true
                    there.record.keep(**made)
            except Trouble as second:
                say(
                    f"✗ 没能撤回（{second.values}），请再用 --remove",
                    f"✗ not all of it ({second.values}): use --remove later",
                )
        raise


def run(words: list[str], environ: dict[str, str]) -> None:
    """What the words ask for. Raises Trouble."""
    parser = argparse.ArgumentParser(prog="ragflow-register")
    parser.add_argument("--base-url", default="", help="the address under which RAGFlow reaches this server, with /v1")
    parser.add_argument("--remove", action="store_true", help="take back what was made")
    parser.add_argument("--dry", action="store_true", help="say what would be done")
    given = parser.parse_args(words)
    if given.base_url and not re.fullmatch(r"https?://\S+/v\d+", given.base_url):
        raise Trouble("E49", value=given.base_url)
    url, session = environ["RAGFLOW_URL"].rstrip("/"), environ["TMUX_SESSION"]
    record = Record(Path(environ["BASE_DIR"]) / "run" / f"{session}.ragflow.json", url)
    ragflow, server = Ragflow(url, environ["RAGFLOW_API_KEY"]), Server(environ)
    if given.remove and not record.made:
        say("没有在该 RAGFlow 中登记过什么", f"nothing of this server's was registered in {url}")
        return
    there = Providers(ragflow, server, record, session) if meet(ragflow) else Models(ragflow, server, record)
    if not given.remove:
        register(there, environ, given.base_url, given.dry)
    elif given.dry:
        say(f"将撤回：{record.made}", f"would be taken back: {record.made}")
    else:
        there.remove()
        say("已撤回", "what was made has been taken back")


if __name__ == "__main__":
    try:
        run(sys.argv[1:], dict(os.environ))
    except Trouble as known:
        fail(known.code, **known.values)
    except KeyboardInterrupt:
        sys.exit(130)
