"""Talk to the server: one question, or a conversation that Ctrl-D ends. Runs in the serving environment, for openai.

Usage: chat.py [QUESTION], with BASE_URL and API_KEY in the environment. `vllm chat` does the same, but loads vLLM for
ten seconds and more first, ends in tracebacks, and knows no arrow keys.
"""

import contextlib
import os
import sys
from typing import Any

from words import fail, tr


def answer(client: Any, model: str, talk: list[dict[str, str]]) -> str:
    """The answer to a talk of {"role", "content"}, shown as it comes. Raises what openai and httpx raise."""
    said = ""
    for chunk in client.chat.completions.create(model=model, messages=talk, stream=True):
        words = (chunk.choices[0].delta.content or "") if chunk.choices else ""
        print(words, end="", flush=True)
        said += words
    print()
    return said


def main(question: str) -> None:
    """Ask until there is no more question. A server that is gone, or refuses, is fault E16."""
    import httpx
    import openai

    url = os.environ["BASE_URL"]
    web = httpx.Client(trust_env=False, timeout=httpx.Timeout(600, connect=5))  # a proxy does not know this machine
    client = openai.OpenAI(api_key=os.environ["API_KEY"] or "none", base_url=url, max_retries=0, http_client=web)
    talk: list[dict[str, str]] = []
    try:
        model = client.models.list().data[0].id
        if not question:
            print(tr(f"与 {model} 对话；Ctrl-D 离开。", f"You talk to {model}; Ctrl-D leaves."))
        while True:
            if not (words := question or input("> ")).strip():
                continue
            talk.append({"role": "user", "content": words})
            talk.append({"role": "assistant", "content": answer(client, model, talk)})
            if question:
                return
    except (openai.OpenAIError, httpx.HTTPError) as error:
        print()
        fail("E16", url=url, reason=error)
    except (EOFError, KeyboardInterrupt):
        print()
    print(tr("已离开，服务继续运行。", "You have left; the server goes on."))


if __name__ == "__main__":
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401, arrow keys and the lines before, also with wide characters
    main(" ".join(sys.argv[1:]))
