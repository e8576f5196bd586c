"""Register this server in RAGFlow as its default model and ask a question there, or remove the registration.

Usage: python -m runbook.ragflow.register [--base-url URL] [--remove] [--dry], with the settings and what
scripts/lib/ragflow.sh finds in the environment. RAGFlow v0.26 and later have providers, instances and models; in
earlier ones the model is entered by hand. The record is $BASE_DIR/run/MACHINE/SESSION.ragflow.json.
"""

import argparse
import os
import re
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from runbook.messages import Fault, run, tr
from runbook.ragflow.client import ANSWER, FACTORY, PROBE, Ragflow, Record, Server, Step, fault, is_here, refusal, say

ROOT, DEFAULT, CHAT = "/api/v1/providers", "/api/v1/models/default", "/api/v1/chat/completions"
INSTANCES = f"{ROOT}/{FACTORY}/instances"
QUESTION = "Introduce yourself in one sentence."


class Registration:
    """This server in one RAGFlow: the provider has instances, an instance has models."""

    def __init__(self, ragflow: Ragflow, server: Server, record: Record, session: str) -> None:
        self.ragflow, self.server, self.record, self.fresh = ragflow, server, record, False
        # Without @ or / (RAGFlow cannot find the default then), without 401 (it means a refused key), not "default".
        name = re.sub("401|unauthorized", "x", session, flags=re.IGNORECASE)
        self.instance = record.made.get("instance") or (f"vllm-{name}" if name.lower() == "default" else name)

    def info(self) -> dict[str, Any]:
        """Return the model in the format of an instance; with any other key the call fails."""
        info = {"model_name": self.server.name, "model_type": [self.server.kind], "max_tokens": self.server.max_tokens}
        return info | {"extra": {"is_tools": self.server.tools}}

    def body(self, base_url: str, *others: dict[str, Any]) -> dict[str, Any]:
        """Return the request for an instance with this model and `others`."""
        where = {"api_key": self.server.key, "base_url": base_url, "region": "default"}
        return where | {"model_info": [self.info(), *others]}

    def probe(self, base_url: str) -> str:
        """Run RAGFlow's own check, which stores nothing. Return RAGFlow's error message, or an empty text."""
        answer = self.ragflow.call("POST", f"{ROOT}/{FACTORY}/connection", self.body(base_url), PROBE)
        return "" if answer["code"] == 0 else str(answer.get("message") or answer["code"])

    def has_provider(self) -> bool:
        """Return whether RAGFlow has the provider VLLM. Raises Fault."""
        return FACTORY in [item["name"] for item in self.ragflow.ask("GET", ROOT, of=list)]

    def instances(self) -> list[str]:
        """Return the names of the provider's instances. Raises Fault."""
        return [item["instance_name"] for item in self.ragflow.ask("GET", INSTANCES, of=list)]

    def path(self) -> str:
        """Return the API path of our instance."""
        return f"{INSTANCES}/{quote(self.instance, safe='')}"

    def others(self) -> list[dict[str, Any]]:
        """Return the models that somebody added to our instance, as model_info: RAGFlow removes those not listed."""
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
        """Return whether the instance is up to date. v0.26 shows neither its address nor its key: they are recorded."""
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
        """Return the default model of our kind in the format of PATCH; None if there is none, or it does not exist."""
        found = self.ragflow.ask("GET", DEFAULT)
        for item in (found.get("models") if isinstance(found, dict) else found) or []:
            if item.get("model_type") in (self.server.kind, [self.server.kind]):
                names = ("model_provider", "model_instance", "model_name")
                return {"model_type": self.server.kind} | {name: item.get(name) for name in names}
        return None

    def ours(self) -> dict[str, Any]:
        """Return this server's model in the format of PATCH."""
        names = {"model_provider": FACTORY, "model_instance": self.instance, "model_name": self.server.name}
        return {"model_type": self.server.kind} | names

    def is_ours(self, default: dict[str, Any]) -> bool:
        """Return whether a default model is in our instance."""
        return (default["model_provider"], default["model_instance"]) == (FACTORY, self.instance)

    def plan(self, base_url: str) -> list[Step]:
        """Return the necessary changes, in order."""
        steps, exists, words = list[Step](), self.has_provider(), self.server.words(base_url)
        held = self.instances() if exists else []
        if not exists:
            steps.append((tr(f"添加模型提供商 {FACTORY}", f"add the provider {FACTORY}"), self.add_provider))
        if self.instance in held and "instance" not in self.record.made and not self.same(base_url):
            number = next(n for n in range(2, 1000) if f"{self.instance}-{n}" not in held)
            self.instance = f"{self.instance}-{number}"  # the existing one is somebody else's
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
        """Add the provider, and record it unless it already exists. Raises Fault E44."""
        self.fresh = True
        self.record.keep(provider=True)
        answer = self.ragflow.call("PUT", ROOT, {"provider_name": FACTORY})
        if "already exists" in str(answer.get("message")):
            self.record.keep(provider=None)
        elif answer["code"] != 0:
            raise refusal(f"PUT {ROOT}", answer)

    def save_instance(self, base_url: str) -> None:
        """Record the instance."""
        kept = {"instance": self.instance, "model": self.server.name, "kind": self.server.kind, "base_url": base_url}
        self.record.keep(**kept, key_mark=self.server.key_mark())

    def add(self, base_url: str) -> None:
        """Add an instance with one model; remove what a failed call has left behind. Raises Fault."""
        self.fresh = True
        before = self.instances()
        self.save_instance(base_url)
        try:
            self.create(self.body(base_url))
            if not self.same(base_url):
                raise refusal(
                    f"GET {self.path()}", {"code": 0, "message": tr("与所发的不符", "it differs from what was sent")}
                )
        finally:  # a duplicate that RAGFlow has numbered; our own instance is removed with the record
            for left in self.instances():
                if left not in before and re.fullmatch(re.escape(self.instance) + r"\(\d+\)", left):
                    self.ragflow.ask("DELETE", INSTANCES, {"instances": [left]})

    def create(self, body: dict[str, Any]) -> None:
        """Create the instance. Raises Fault."""
        self.ragflow.ask("POST", INSTANCES, {"instance_name": self.instance, **body}, PROBE)

    def update(self, base_url: str) -> None:
        """Update the instance. PUT verifies first and changes nothing on failure; v0.26 has no PUT: create it again."""
        body = self.body(base_url, *self.others())
        answer = self.ragflow.call("PUT", self.path(), {"instance_name": self.instance, **body}, PROBE)
        if answer["code"] in (404, 405) or "MethodNotAllowed" in str(answer.get("message")):
            self.fresh = True
            self.ragflow.ask("DELETE", INSTANCES, {"instances": [self.instance]})
            self.create(body)
        elif answer["code"] != 0:
            raise refusal(f"PUT {self.path()}", answer)
        self.save_instance(base_url)

    def set_default(self, now: dict[str, Any] | None) -> None:
        """Set the default model, and record the previous one. Raises Fault E44."""
        if not now or not self.is_ours(now):
            self.record.keep(previous=now, default=True)
        self.ragflow.ask("PATCH", DEFAULT, self.ours())
        if self.default() != self.ours():
            raise refusal(f"GET {DEFAULT}", {"code": 0, "message": tr("没有生效", "it has no effect")})

    def remove(self) -> None:
        """Remove what the record lists: the default, the instance, the provider."""
        made, exists = self.record.made, self.has_provider()
        self.server.kind, self.server.name = made.get("kind", self.server.kind), made.get("model", self.server.name)
        held = self.instances() if exists else []
        ours = "instance" in made and self.instance in held
        kept = [item["model_name"] for item in self.others()] if ours else []
        now = self.default()  # None also if our instance was removed by hand
        if made.get("default") and (not now or self.is_ours(now)):
            before = made.get("previous")
            if before and self.ragflow.call("PATCH", DEFAULT, before)["code"] == 0:
                say("恢复原来的默认模型", "The previous default model is restored")
            else:
                say(
                    "清空默认模型：原来没有，或已不存在",
                    "No default model is set: there was none before, or it no longer exists",
                )
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
            if answer["code"] != 0 and held:  # v0.26 does not delete an empty one
                raise refusal(f"DELETE {ROOT}/{FACTORY}", answer)
        elif ours:
            say(f"删除实例 {self.instance}", f"the instance {self.instance} is removed")
            self.ragflow.ask("DELETE", INSTANCES, {"instances": [self.instance]})
            if made.get("provider"):
                self.record.hand_over("provider")
        self.record.forget()


def greet(ragflow: Ragflow) -> None:
    """Print RAGFlow's version. Raises Fault if it is not RAGFlow, is too old for its API, or refuses the key."""
    version = ragflow.call("GET", "/api/v1/system/version").get("data")
    language = ragflow.call("GET", "/api/v1/language").get("data")
    shown = tr("v0.26 或更新", "v0.26 or later") if version in (None, "unknown") else version
    if ragflow.call("GET", ROOT)["code"] == 404:
        if ragflow.call("GET", "/v1/llm/my_llms")["code"] == 404:
            raise fault("E42", url=ragflow.url, reason=tr("没有 RAGFlow 的接口", "it has no API of RAGFlow"))
        raise fault("E89", url=ragflow.url, version=tr("v0.25 或更早", "v0.25 or earlier"))
    ragflow.trusted = True
    say(f"RAGFlow {shown}：{ragflow.url}", f"RAGFlow {shown}: {ragflow.url}")
    if isinstance(language, dict) and language.get("language") == "go":
        say(
            "这是 Go 版，尚未验证过；每个应答都会核对",
            "This is the Go version, not tested yet; every answer is checked",
        )


def choose(registration: Registration, known: list[str], environ: dict[str, str]) -> str:
    """Return the first address at which RAGFlow itself reaches the server. Raises Fault E45."""
    for address in known:
        say(f"由 RAGFlow 访问 {address} ……", f"RAGFlow tries {address} …")
        why = registration.probe(address)
        if not why:
            return address
        say(f"✗ {why}", f"✗ {why}")
    raise fault("E45", url=registration.ragflow.url, host=environ["HOST"], port=environ["PORT"])


def addresses(registration: Registration, given: str, environ: dict[str, str]) -> list[str]:
    """Return the addresses to try, in order: for a RAGFlow elsewhere not its own localhost, which would get our key."""
    if given:
        return [given]
    here = is_here(urlsplit(registration.ragflow.url).hostname or "")
    places = ["DOCKER_URL", "SOURCE_URL", "LAN_URL"] if here else ["LAN_URL"]
    known = [registration.record.made.get("base_url"), *(environ[place] for place in places)]
    return list(dict.fromkeys(filter(None, known)))


def prove(ragflow: Ragflow, kind: str) -> None:
    """Ask RAGFlow's default model a question. Raises Fault E46: an error has code 0 as well."""
    if kind == "embedding":  # RAGFlow's own check has already embedded a sentence
        say("✓ RAGFlow 已用它得到向量", "✓ RAGFlow received a vector from it")
        return
    if kind == "rerank":
        say("✓ RAGFlow 已用它排序", "✓ RAGFlow ranked with it")
        return
    say(f"在 RAGFlow 中提问：{QUESTION}", f"Question to RAGFlow: {QUESTION}")
    answer = ragflow.call("POST", CHAT, {"question": QUESTION, "stream": False}, ANSWER)
    if answer["code"] == 404:
        zh = "✓ 这个版本不能直接向默认模型提问；登记前 RAGFlow 已得到它的回答"
        say(zh, "✓ This version cannot ask its default model; RAGFlow received an answer from it above")
        return
    data = answer.get("data")
    text = str(data.get("answer") or "").strip() if isinstance(data, dict) else ""
    if answer["code"] != 0 or not text or "**ERROR**" in text:
        raise fault("E46", url=ragflow.url, reason=text or answer.get("message") or answer["code"])
    print(f"\n{text}\n", flush=True)


def register(registration: Registration, environ: dict[str, str], base_url: str, dry: bool) -> None:
    """Print the changes, make them and test the result. On a failure, remove what this run has created."""
    registration.server.look()
    known = addresses(registration, base_url, environ)
    try:
        steps = registration.plan(choose(registration, known, environ))
        if steps:
            say("将在 RAGFlow 中改变：", "This will be changed in RAGFlow:")
        else:
            say("已登记，无需改变", "Already registered, nothing to change")
        for words, _ in steps:
            say(f"- {words}", f"- {words}")
        if dry:
            return
        for _, act in steps:
            act()
        prove(registration.ragflow, registration.server.kind)
    except BaseException as error:
        if registration.fresh:
            say(
                "登记失败：撤回本次创建的内容", "Registration failed: everything that this run created is removed again"
            )
            made = registration.record.made
            try:
                registration.remove()
                if getattr(error, "code", "E42") == "E42":  # a call without an answer may still take effect
                    registration.record.keep(**made)
            except Fault as second:
                zh = f"✗ 没能全部撤回（{second.values}），请稍后执行 --remove"
                say(zh, f"✗ Not all of it was removed ({second.values}): use --remove later")
        raise


def perform(words: list[str], environ: dict[str, str]) -> None:
    """Register, or remove the registration, with these options and settings. Raises Fault."""
    parser = argparse.ArgumentParser(prog="ragflow-register")
    parser.add_argument("--base-url", default="", help="the address at which RAGFlow reaches this server, with /v1")
    parser.add_argument("--remove", action="store_true", help="remove what was registered")
    parser.add_argument("--dry", action="store_true", help="only show what would change")
    given = parser.parse_args(words)
    if given.base_url and not re.fullmatch(r"https?://\S+/v\d+", given.base_url):
        raise fault("E49", value=given.base_url)
    url, session = environ["RAGFLOW_URL"].rstrip("/"), environ["TMUX_SESSION"]
    path = Path(environ["BASE_DIR"], "run", environ["MACHINE"], f"{session}.ragflow.json")
    earlier = Path(environ["BASE_DIR"], "run", path.name)  # an earlier version had one for all machines
    if earlier.is_file() and not path.exists():
        if given.dry:
            path = earlier
        else:
            path.parent.mkdir(exist_ok=True)
            earlier.rename(path)
    record = Record(path, url)
    ragflow, server = Ragflow(url, environ["RAGFLOW_API_KEY"]), Server(environ)
    if given.remove and not record.made:
        say(f"没有在 {url} 登记过", f"Nothing of this server is registered in {url}")
        return
    greet(ragflow)
    registration = Registration(ragflow, server, record, session)
    if not given.remove:
        register(registration, environ, given.base_url, given.dry)
    elif given.dry:
        say(f"将撤回：{record.made}", f"Would be removed: {record.made}")
    else:
        registration.remove()
        say("已撤回", "The registration has been removed")


if __name__ == "__main__":
    run(lambda: perform(sys.argv[1:], dict(os.environ)))
