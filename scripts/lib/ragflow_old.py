"""RAGFlow v0.25 and earlier: a flat list of models, named M___VLLM; the default models are fields of the tenant."""

from typing import Any

from ragflow_api import FACTORY, PROBE, Ragflow, Record, Server, Step, Trouble, refusal, say
from words import tr


class Models:
    """The same four things as Providers: probe, plan, remove, and whether this run has made something."""

    def __init__(self, ragflow: Ragflow, server: Server, record: Record) -> None:
        self.ragflow, self.server, self.record, self.fresh = ragflow, server, record, False

    def full(self, name: str) -> str:
        return f"{name}___{FACTORY}@{FACTORY}"

    def add_llm(self, base_url: str, **more: object) -> dict[str, Any]:
        body = {"llm_factory": FACTORY, "llm_name": self.server.name, "model_type": self.server.kind}
        body |= {"api_base": base_url, "api_key": self.server.key}
        return self.ragflow.call("POST", "/v1/llm/add_llm", body | {"max_tokens": self.server.max_tokens} | more, PROBE)

    def noted(self, base_url: str) -> None:
        kept = {"model": self.server.name, "kind": self.server.kind, "base_url": base_url}
        self.record.keep(**kept, key_mark=self.server.key_mark())

    def ours(self) -> bool:
        return bool(self.record.made.get("model") == self.server.name)

    def same(self, here: dict[str, Any], base_url: str) -> bool:
        wanted = {"type": self.server.kind, "api_base": base_url, "max_tokens": self.server.max_tokens}
        return all(here.get(name, value) == value for name, value in wanted.items())

    def allowed(self, known: list[str]) -> list[str]:
        """A model of our name that was not made here must be as ours would be. Raises Trouble E48."""
        here = self.find()
        if here and not self.ours():
            known = [address for address in known if self.same(here, address)]
            if not known:
                raise Trouble("E48", name=self.server.name)
        return known

    def probe(self, base_url: str) -> str:
        """add_llm that only verifies. Before it knew the word it stored the model at once: then that is noted."""
        had, answer = self.find(), self.add_llm(base_url, verify=True)
        data = answer.get("data")
        if answer["code"] == 0 and isinstance(data, dict):
            return "" if data.get("success") is True else str(data.get("message") or data)
        if answer["code"] == 0 and not had:
            self.fresh = True
            self.noted(base_url)
        return "" if answer["code"] == 0 else str(answer.get("message") or answer["code"])

    def find(self) -> dict[str, Any] | None:
        held = self.ragflow.ask("GET", "/v1/llm/my_llms?include_details=true", of=dict).get(FACTORY) or {}
        names = (self.server.name, f"{self.server.name}___{FACTORY}")
        return next((item for item in held.get("llm", []) if item.get("name") in names), None)

    def tenant(self) -> tuple[str, str, dict[str, Any]]:
        """How the defaults are written (method, path), and what they are. They have moved in v0.25.1."""
        method, path = "POST", "/v1/user/set_tenant_info"
        answer = self.ragflow.call("GET", "/v1/user/tenant_info")
        if answer["code"] == 404:
            method, path = "PATCH", "/api/v1/users/me/models"
            answer = self.ragflow.call("GET", path)
        if answer["code"] != 0 or not isinstance(answer.get("data"), dict):
            raise refusal("GET tenant_info", answer)
        return method, path, answer["data"]

    def field(self) -> str:
        return "embd_id" if self.server.kind == "embedding" else "llm_id"

    def plan(self, base_url: str) -> list[Step]:
        """What has to be changed, in order."""
        here, steps = self.find(), list[Step]()
        stale = self.ours() and self.record.made.get("key_mark") != self.server.key_mark()
        if stale or not here or not self.same(here, base_url):
            what = f"{FACTORY}: {self.server.words(base_url)}"
            steps.append((tr(f"写入模型 {what}", f"write the model {what}"), lambda: self.add(base_url)))
        made = self.record.made
        now, new = str(self.tenant()[2].get(self.field()) or ""), self.full(self.server.name)
        if now != new:
            before = made.get("previous", "") if now == made.get("default") else now
            what = f"{self.server.kind}: {now or '-'} → {new}"
            change = (tr(f"默认模型 {what}", f"default model {what}"), lambda: self.set_default(new, previous=before))
            steps.append(change)
        if "model" in made and not self.ours():
            old = made["model"]
            steps.append((tr(f"删除模型 {old}", f"remove the model {old}"), lambda: self.drop(old)))
        return steps

    def drop(self, name: str) -> None:
        body = {"llm_factory": FACTORY, "llm_name": f"{name}___{FACTORY}"}
        self.ragflow.ask("POST", "/v1/llm/delete_llm", body)

    def add(self, base_url: str) -> None:
        self.fresh = self.fresh or not self.find()
        self.noted(base_url)
        answer = self.add_llm(base_url)
        if answer["code"] != 0 or not self.find():
            raise refusal("POST /v1/llm/add_llm", answer)

    def set_default(self, new: str, **note: str) -> None:
        """The other defaults go with it as they are: the call asks for all of them."""
        if note:
            self.record.keep(default=new, **note)
        method, path, tenant = self.tenant()
        body = {name: tenant.get(name) for name in ("tenant_id", "llm_id", "embd_id", "asr_id", "img2txt_id")}
        self.ragflow.ask(method, path, body | {self.field(): new})
        if str(self.tenant()[2].get(self.field()) or "") != new:
            raise refusal(f"{method} {path}", {"code": 0, "message": tr("没有生效", "it has not taken effect")})

    def remove(self) -> None:
        """Take back what the record says was made: the default, then the model."""
        made = self.record.made
        self.server.kind = made.get("kind", self.server.kind)
        if made.get("default") and self.tenant()[2].get(self.field()) == made["default"]:
            say("恢复原来的默认模型", "the default model of before is restored")
            self.set_default(made.get("previous", ""))
        if "model" in made:
            say(f"删除模型 {made['model']}", f"the model {made['model']} is removed")
            self.drop(made["model"])
        self.record.forget()
