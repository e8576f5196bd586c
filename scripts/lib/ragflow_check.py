"""Ask the server what RAGFlow will ask it, with RAGFlow's client library; a line for each thing, with its cause.

Usage: ragflow_check.py [--base-url URL] [--model NAME] [--max-tokens N], with the settings and what
scripts/lib/ragflow.sh finds in the environment. Runs in the serving environment, which has openai and httpx.
Lines: ✓ works, ✗ RAGFlow's chat needs it and it does not work, ! advice. A ✗ ends it with fault E40.
"""

import argparse
import os
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
from words import fail, tr

PROBE, AT_ONCE = 10, 10  # seconds in which RAGFlow wants the first words of a new model; questions at once
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "get_weather", "description": "Weather of a city", "parameters": CITY}}


class Unfit(Exception):
    """Something was answered, but not what RAGFlow needs."""


class Check:
    """The questions, with one base URL, one key and one name: those that RAGFlow would use."""

    def __init__(self, base_url: str, key: str, name: str, max_tokens: int) -> None:
        self.base_url, self.key, self.name, self.max_tokens = base_url.rstrip("/"), key, name, max_tokens
        self.context, self.failed = 0, list[str]()

    def line(self, mark: str, what: str, words: str) -> None:
        print(f"    {mark} {what}  {words}", flush=True)
        if mark == "✗":
            self.failed.append(what)

    def entered(self) -> None:
        """What is wrong with the values themselves. After this they are what RAGFlow would make of them."""
        good = re.search(r"/v\d+$", self.base_url)
        why = tr("末尾没有 /v1：v0.27 之前的 RAGFlow 会得到 404", "no /v1 at its end: RAGFlow before v0.27 gets 404")
        self.line("✓" if good else "✗", tr("基础 URL", "base URL"), self.base_url + ("" if good else f"  {why}"))
        self.base_url += "" if good else "/v1"
        why = tr("为空：RAGFlow 会报 Internal server error", "blank: RAGFlow says Internal server error")
        self.line("✓" if self.key else "✗", tr("密钥", "key"), tr("不为空", "not blank") if self.key else why)
        self.key = self.key or "x"  # what RAGFlow's VLLM puts in its place
        cut = re.split("___|@", self.name)[0]
        guess = re.search("vl|embed|bge|rerank|asr|stt|tts", cut.lower())
        if cut != self.name:
            mark, why = "✗", tr(f"RAGFlow 把它截成 {cut}", f"RAGFlow cuts it to {cut}")
        elif guess:
            said = (
                f"含 {guess[0]}：RAGFlow 会据此猜类型，请自己选",
                f"has {guess[0]} in it: RAGFlow guesses its type, choose it",
            )
            mark, why = "!", tr(*said)
        else:
            mark, why = "✓", ""
        self.line(mark, tr("模型名", "model name"), f"{self.name}  {why}".rstrip())
        self.name = cut

    def client(self, timeout: float = 600) -> openai.OpenAI:
        web = httpx.Client(trust_env=False, timeout=timeout)
        return openai.OpenAI(api_key=self.key, base_url=self.base_url, max_retries=0, http_client=web)

    def cause(self, error: Exception) -> str:
        """What an error of the client means here."""
        if isinstance(error, openai.AuthenticationError):
            return tr(
                "密钥不对（HTTP 401）：不是服务启动时的 API_KEY", "wrong key (HTTP 401): not the server's API_KEY"
            )
        if isinstance(error, openai.BadRequestError) and "context length" in str(error):
            fits = self.context * 3 // 4
            zh = f"提示超出上下文（{self.context}）：最大 Token 数至多填 {fits}"
            return tr(zh, f"the prompt exceeds the context ({self.context}): enter at most {fits} as Max tokens")
        if isinstance(error, openai.BadRequestError) and "--tool-call-parser" in str(error):
            zh = "服务没有打开（Qwen3、Qwen2.5 自动打开）：在 RAGFlow 中不要选 Tool call"
            return tr(zh, "off in the server (on for Qwen3 and Qwen2.5): leave Tool call off in RAGFlow")
        if isinstance(error, openai.APITimeoutError):
            return tr("没有按时回答", "no answer in time")
        if isinstance(error, openai.APIConnectionError):
            return tr("连不上：没有运行，或不监听这个地址", "no connection: it does not run, or listens elsewhere")
        return " ".join(str(error).split())[:200]

    def see(self, what: str, ask: Callable[[], str], bad: str = "✗") -> bool:
        """One line: what `ask` says when it works, the cause when it does not."""
        began = time.monotonic()
        try:
            words = ask()
        except (openai.OpenAIError, Unfit) as error:
            self.line(bad, what, self.cause(error))
            return False
        self.line("✓", what, f"{words} ({time.monotonic() - began:.1f} s)")
        return True

    def models(self) -> str:
        served = {model.id: model for model in self.client(30).models.list()}
        if self.name not in served:
            names = ", ".join(served)
            raise Unfit(tr(f"没有 {self.name}，只有：{names}", f"{self.name} is not served; served: {names}"))
        self.context = int(getattr(served[self.name], "max_model_len", 0) or 8192)
        self.max_tokens = self.max_tokens or self.context * 3 // 4
        return tr("上下文", "context") + f" {self.context}, Max tokens {self.max_tokens}"

    def chat(self, text: str, timeout: float = 600, **more: Any) -> Any:
        messages: Any = [{"role": "user", "content": text}]
        return self.client(timeout).chat.completions.create(model=self.name, messages=messages, **more)

    def embed(self, text: str) -> Any:
        return self.client().embeddings.create(model=self.name, input=[text], encoding_format="float")

    def probe(self) -> str:
        """As RAGFlow v0.27 verifies a model: streaming, no max_tokens, its odd parameter for Qwen3, ten seconds."""
        odd, began = {"enable_thinking": False} if "qwen3" in self.name.lower() else {}, time.monotonic()
        with self.chat("Hi", PROBE, stream=True, temperature=0.9, extra_body=odd) as stream:
            for chunk in stream:
                took = time.monotonic() - began
                if took < PROBE and chunk.choices and chunk.choices[0].delta.content:
                    return tr(f"流式，首字 {took:.1f} s", f"streaming, first words after {took:.1f} s")
        raise Unfit(tr(f"{PROBE} 秒内没有首字", f"no words within {PROBE} s"))

    def long(self, ask: Callable[[str], Any]) -> str:
        """As long as RAGFlow makes a prompt: 0.95 of Max tokens, in the server's own tokens."""
        words = "one two three "
        few, many = (int(ask(words * count).usage.prompt_tokens) for count in (20, 40))
        count = 20 + (self.max_tokens * 0.95 - few) * 20 / (many - few)
        size = int(ask(words * max(1, int(count))).usage.prompt_tokens)
        left = self.context - size
        return tr(f"{size} 个 token，上下文还余 {left}", f"{size} tokens, {left} of the context are left")

    def at_once(self, ask: Callable[[str], Any]) -> str:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(ask, [f"Say {number}." for number in range(AT_ONCE)]))
        return tr("都有回答", "all answered")

    def tool_call(self) -> str:
        reply = self.chat("What is the weather in Paris?", max_tokens=128, tools=[TOOL], tool_choice="auto")
        calls = reply.choices[0].message.tool_calls
        if not calls:
            raise Unfit(tr("服务接受，但模型没有调用工具", "taken by the server, but the model calls no tool"))
        return f"{calls[0].function.name}({calls[0].function.arguments})"

    def embedding(self) -> str:
        size = len(self.embed("Test if the api key is available").data[0].embedding)
        return tr(f"{size} 维", f"{size} dimensions")

    def run(self, embeds: bool) -> None:
        """Every question in order; without a list of models the rest is not asked."""
        self.entered()
        if not self.see(tr("模型列表", "list of models"), self.models):
            return
        print(
            tr("    ……接下来几项各需几秒到几十秒", "    … the next ones take seconds to half a minute each"), flush=True
        )
        probe, many = tr("添加模型时的探测", "probe when it is added"), tr(f"同时 {AT_ONCE} 个", f"{AT_ONCE} at once")
        short: Callable[[str], Any] = self.embed if embeds else lambda text: self.chat(text, max_tokens=16)
        self.see(probe, self.embedding if embeds else self.probe)
        self.see(tr("长提示", "long prompt"), lambda: self.long(short))
        self.see(many, lambda: self.at_once(short))
        if not embeds:
            self.see(tr("工具调用（仅智能体需要）", "tool call (agents only)"), self.tool_call, bad="!")

    def reach(self, environ: dict[str, str]) -> None:
        """From where RAGFlow can come; where it runs in a container here, what was seen from inside."""
        what, container, says = tr("可到达", "reach"), environ["CONTAINER"], environ["CONTAINER_SAYS"]
        here, docker, lan = (environ[f"{place}_URL"] for place in ("SOURCE", "DOCKER", "LAN"))
        if not docker:
            why = tr("容器和别的机器连不上", "no container and no other machine reaches it")
            self.line("✗" if container else "!", what, f"HOST={environ['HOST']}  {why}: HOST=0.0.0.0")
        elif not container:
            self.line("✓", what, " ".join(dict.fromkeys([here, docker, lan])))
        if container and says == "200":
            self.line("✓", container, f"curl {docker or here}/models")
        elif container and says.isdigit():
            why = tr("连不上：查防火墙和 HOST", "no connection: firewall, or HOST") if says == "000" else f"HTTP {says}"
            self.line("✗", container, f"curl {docker or here}/models  {why}")
        elif container:
            self.line(
                "!", container, tr("没能从里面查看（没有 curl？）", "could not be looked at from inside (no curl?)")
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="ragflow-check")
    parser.add_argument("--base-url", default=os.environ["SOURCE_URL"])
    parser.add_argument("--model", default=os.environ["SERVED_MODEL_NAME"])
    parser.add_argument("--max-tokens", type=int, default=0)
    given = parser.parse_args()
    check = Check(given.base_url, os.environ["API_KEY"], given.model, given.max_tokens)
    check.run(embeds=bool(os.environ["EMBEDS"]))
    check.reach(dict(os.environ))
    if check.failed:
        fail("E40", failed=", ".join(check.failed))
