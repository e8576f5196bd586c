"""Send the server the requests of RAGFlow, with RAGFlow's client library; print a line for each, with its cause.

Usage: python -m runbook.ragflow.check [--base-url URL] [--model NAME] [--max-tokens N], with the settings and what
scripts/lib/ragflow.sh finds in the environment. Runs in the serving environment, which has openai and httpx.
Lines: ✓ works, ✗ RAGFlow's chat needs it and it does not work, ! advice. A ✗ ends with fault E40.
"""

import argparse
import os
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

from runbook.messages import Fault, run, tr

PROBE, AT_ONCE = 10, 10  # seconds within which RAGFlow needs the first words of a new model; requests at once
CANDIDATES, CHUNK, RERANK_LIMIT = 64, 512, 30  # passages that RAGFlow ranks, tokens of each; seconds that it waits
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "get_weather", "description": "Weather of a city", "parameters": CITY}}


class Unfit(Exception):
    """The server answered, but not with what RAGFlow needs."""


class Check:
    """The requests, with the base URL, the key and the model name that RAGFlow would use."""

    def __init__(self, base_url: str, key: str, name: str, max_tokens: int) -> None:
        self.base_url, self.key, self.name, self.max_tokens = base_url.rstrip("/"), key, name, max_tokens
        self.context, self.failed = 0, list[str]()

    def line(self, mark: str, what: str, words: str) -> None:
        """Print one result; with the mark ✗, record the failure."""
        print(f"    {mark} {what}  {words}", flush=True)
        if mark == "✗":
            self.failed.append(what)

    def entered(self) -> None:
        """Check the values themselves, then change them as RAGFlow would."""
        good = re.search(r"/v\d+$", self.base_url)
        why = tr("末尾没有 /v1：v0.27 之前的 RAGFlow 会得到 404", "no /v1 at its end: RAGFlow before v0.27 gets 404")
        self.line("✓" if good else "✗", tr("基础 URL", "base URL"), self.base_url + ("" if good else f"  {why}"))
        self.base_url += "" if good else "/v1"
        why = tr("为空：RAGFlow 会报 Internal server error", "empty: RAGFlow reports Internal server error")
        self.line("✓" if self.key else "✗", tr("密钥", "key"), tr("不为空", "not empty") if self.key else why)
        self.key = self.key or "x"  # RAGFlow's VLLM sends this instead
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

    def client(self, timeout: float = 600) -> Any:
        """Return an OpenAI client; timeout in seconds."""
        import httpx
        import openai

        web = httpx.Client(trust_env=False, timeout=timeout)
        return openai.OpenAI(api_key=self.key, base_url=self.base_url, max_retries=0, http_client=web)

    def cause(self, error: Exception) -> str:
        """Return the cause of a client error."""
        import openai

        if isinstance(error, openai.AuthenticationError):
            return tr(
                "密钥不对（HTTP 401）：不是服务启动时的 API_KEY", "wrong key (HTTP 401): not the server's API_KEY"
            )
        if isinstance(error, openai.BadRequestError) and "context length" in str(error):
            fits = self.context * 3 // 4
            zh = f"提示超出上下文（{self.context}）：最大 Token 数至多填 {fits}"
            return tr(zh, f"the prompt exceeds the context ({self.context}): enter at most {fits} as Max tokens")
        if isinstance(error, openai.APITimeoutError):
            return tr("没有按时回答", "no answer in time")
        if isinstance(error, openai.APIConnectionError):
            return tr(
                "无法连接：服务没有运行，或不监听这个地址",
                "no connection: the server is not running, or listens on another address",
            )
        return " ".join(str(error).split())[:200]

    def see(self, what: str, ask: Callable[[], str], bad: str = "✗") -> bool:
        """Print what `ask` returns, or the cause if it fails, with the mark `bad`. Return whether it works."""
        import openai

        began = time.monotonic()
        try:
            words = ask()
        except (openai.OpenAIError, Unfit) as error:
            self.line(bad, what, self.cause(error))
            return False
        self.line("✓", what, f"{words} ({time.monotonic() - began:.1f} s)")
        return True

    def models(self) -> str:
        """Check that the model is listed, and read its context length. Raises Unfit."""
        served = {model.id: model for model in self.client(30).models.list()}
        if self.name not in served:
            names = ", ".join(served)
            raise Unfit(tr(f"没有 {self.name}，只有：{names}", f"{self.name} is not served; served: {names}"))
        self.context = int(getattr(served[self.name], "max_model_len", 0) or 8192)
        self.max_tokens = self.max_tokens or self.context * 3 // 4
        return tr("上下文", "context") + f" {self.context}, Max tokens {self.max_tokens}"

    def chat(self, text: str, timeout: float = 600, **more: Any) -> Any:
        """Return the answer to one message; timeout in seconds."""
        messages: Any = [{"role": "user", "content": text}]
        return self.client(timeout).chat.completions.create(model=self.name, messages=messages, **more)

    def embed(self, text: str) -> Any:
        """Return the answer to an embedding request."""
        return self.client().embeddings.create(model=self.name, input=[text], encoding_format="float")

    def probe(self) -> str:
        """Verify the model as RAGFlow v0.27 does: streaming, no max_tokens, its parameter for Qwen3. Raises Unfit."""
        odd, began = {"enable_thinking": False} if "qwen3" in self.name.lower() else {}, time.monotonic()
        reasoned = False
        with self.chat("Hi", PROBE, stream=True, temperature=0.9, extra_body=odd) as stream:
            for chunk in stream:
                took, delta = time.monotonic() - began, chunk.choices[0].delta if chunk.choices else None
                if took < PROBE and delta and delta.content:
                    return tr(f"流式，首字 {took:.1f} s", f"streaming, first words after {took:.1f} s")
                reasoned = reasoned or bool(
                    delta and (getattr(delta, "reasoning", None) or getattr(delta, "reasoning_content", None))
                )
        if reasoned:
            zh = "回答都在思考内容（reasoning）里，而 RAGFlow 只看正文：去掉 --reasoning-parser，或换成适合该模型的"
            en = (
                "all of the answer is reasoning, and RAGFlow reads only the content: remove --reasoning-parser, or use "
            )
            raise Unfit(tr(zh, en + "the one of this model"))
        raise Unfit(tr(f"{PROBE} 秒内没有首字", f"no words within {PROBE} s"))

    def long(self, ask: Callable[[str], Any]) -> str:
        """Send a prompt as long as RAGFlow makes it: 0.95 of Max tokens, in the server's own tokens."""
        words = "one two three "
        few, many = (int(ask(words * count).usage.prompt_tokens) for count in (20, 40))
        count = 20 + (self.max_tokens * 0.95 - few) * 20 / (many - few)
        size = int(ask(words * max(1, int(count))).usage.prompt_tokens)
        left = self.context - size
        return tr(f"{size} 个 token，上下文还余 {left}", f"{size} tokens, {left} of the context left")

    def at_once(self, ask: Callable[[str], Any]) -> str:
        """Send AT_ONCE requests in parallel."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(ask, [f"Say {number}." for number in range(AT_ONCE)]))
        return tr("都有回答", "all answered")

    def tool_call(self) -> str:
        """Ask a question that needs a tool. Raises Unfit if the server takes none, or the model calls none."""
        if os.environ["TOOLS"] == "off":  # not asked: the server would log a refused request
            zh = "服务没有打开（Qwen3、Qwen2.5 自动打开）：在 RAGFlow 中不要选 Tool call"
            raise Unfit(tr(zh, "off in the server (on for Qwen3 and Qwen2.5): leave Tool call off in RAGFlow"))
        reply = self.chat("What is the weather in Paris?", max_tokens=128, tools=[TOOL], tool_choice="auto")
        calls = reply.choices[0].message.tool_calls
        if not calls:
            raise Unfit(tr("服务接受，但模型没有调用工具", "the server accepts it, but the model calls no tool"))
        return f"{calls[0].function.name}({calls[0].function.arguments})"

    def embedding(self) -> str:
        """Request a vector and return its size."""
        size = len(self.embed("Test if the api key is available").data[0].embedding)
        return tr(f"{size} 维", f"{size} dimensions")

    def rerank(self, *documents: str, timeout: float = 600) -> dict[str, Any]:
        """Return the answer to a reranking request of these documents; timeout in seconds."""
        body = {"model": self.name, "query": "Which port does the server listen on?", "documents": documents}
        found: dict[str, Any] = self.client(timeout).post("/rerank", body=body, cast_to=dict[str, Any])
        return found

    def scores(self) -> str:
        """Rank two documents. Raises Unfit if the one that answers is not the first, as with a wrong template."""
        best = "The server listens on port 20000."
        ranked = self.rerank("Cats sleep for most of the day.", best)["results"]
        scores = ", ".join(f"{one['relevance_score']:.3f}" for one in ranked)
        if ranked[0]["document"]["text"] != best:
            zh = f"排序不对（{scores}）：模型需要自己的对话模板（--chat-template），或它还没有训练好"
            raise Unfit(tr(zh, f"wrong order ({scores}): the model needs its own --chat-template, or is not trained"))
        return scores

    def candidates(self) -> str:
        """Rank as many passages as RAGFlow does, within its limit. Raises Unfit."""
        passage, began = " one two three four" * (min(CHUNK, self.context // 2) // 4), time.monotonic()
        self.rerank(*[passage] * CANDIDATES, timeout=4 * RERANK_LIMIT)
        took = time.monotonic() - began
        if took > RERANK_LIMIT:
            zh = f"用了 {took:.0f} 秒，而 RAGFlow 只等 {RERANK_LIMIT} 秒：换小一些的模型，或用 GPU"
            en = f"it took {took:.0f} s, and RAGFlow waits {RERANK_LIMIT} s: use a smaller model, or a GPU"
            raise Unfit(tr(zh, en))
        return tr("都有得分", "all ranked")

    def rerank_tokens(self, text: str) -> Any:
        """Return an answer with the number of tokens of the request in `usage`, as the other requests."""
        usage = self.rerank(text)["usage"]
        return SimpleNamespace(usage=SimpleNamespace(prompt_tokens=usage.get("prompt_tokens") or usage["total_tokens"]))

    def run(self, kind: str) -> None:
        """Run every check for this kind of model in order; without a list of models, skip the others."""
        self.entered()
        if not self.see(tr("模型列表", "list of models"), self.models):
            return
        print(
            tr("    ……接下来几项各需几秒到几十秒", "    … the next ones take seconds to half a minute each"), flush=True
        )
        probe, many = tr("添加模型时的探测", "probe when it is added"), tr(f"同时 {AT_ONCE} 个", f"{AT_ONCE} at once")
        shorts: dict[str, Callable[[str], Any]] = {"embedding": self.embed, "rerank": self.rerank_tokens}
        probes = {"embedding": self.embedding, "rerank": self.scores}
        short = shorts.get(kind, lambda text: self.chat(text, max_tokens=16))
        self.see(probe, probes.get(kind, self.probe), bad="!" if kind == "rerank" else "✗")
        self.see(tr("长提示", "long prompt"), lambda: self.long(short))
        self.see(many, lambda: self.at_once(short))
        if kind == "rerank":
            what = tr(f"{CANDIDATES} 个段落", f"{CANDIDATES} passages")
            self.see(what, self.candidates)
        if kind == "chat":
            self.see(tr("工具调用（仅智能体需要）", "tool call (agents only)"), self.tool_call, bad="!")

    def reach(self, environ: dict[str, str]) -> None:
        """Show from where RAGFlow can reach the server; if it runs in a container here, the result from inside."""
        what, container, says = tr("可到达", "reach"), environ["CONTAINER"], environ["CONTAINER_SAYS"]
        here, docker, lan = (environ[f"{place}_URL"] for place in ("SOURCE", "DOCKER", "LAN"))
        if not docker:
            why = tr("容器和其他机器无法访问", "not reachable from containers and other machines")
            self.line("✗" if container else "!", what, f"HOST={environ['HOST']}  {why}: HOST=0.0.0.0")
        elif not container:
            self.line("✓", what, " ".join(dict.fromkeys([here, docker, lan])))
        if container and says == "200":
            self.line("✓", container, f"curl {docker or here}/models")
        elif container and says.isdigit():
            why = (
                tr("无法连接：请检查防火墙和 HOST", "no connection: check the firewall and HOST")
                if says == "000"
                else f"HTTP {says}"
            )
            self.line("✗", container, f"curl {docker or here}/models  {why}")
        elif container:
            self.line(
                "!", container, tr("无法从容器内检查（没有 curl？）", "could not be checked from inside (no curl?)")
            )


def main() -> None:
    """Run all checks. Raises Fault E40 if something that RAGFlow needs does not work."""
    parser = argparse.ArgumentParser(prog="ragflow-check")
    parser.add_argument("--base-url", default=os.environ["SOURCE_URL"])
    parser.add_argument("--model", default=os.environ["SERVED_MODEL_NAME"])
    parser.add_argument("--max-tokens", type=int, default=0)
    given = parser.parse_args()
    check = Check(given.base_url, os.environ["API_KEY"], given.model, given.max_tokens)
    check.run(os.environ["KIND"])
    check.reach(dict(os.environ))
    if check.failed:
        raise Fault("E40", failed=", ".join(check.failed))


if __name__ == "__main__":
    run(main)
