"""Chat with the server: one question, or a conversation that Ctrl-D ends. Runs in the serving environment, for openai.

Usage: python -m runbook.server.chat [QUESTION], with BASE_URL and API_KEY in the environment. `vllm chat` does the
same, but first loads vLLM for ten seconds and more, ends in tracebacks, and has no arrow keys.
"""

import contextlib
import os
import sys
from typing import Any

from runbook.messages import Fault, run, tr


def answer(client: Any, model: str, talk: list[dict[str, str]]) -> str:
    """Print the answer to a list of {"role", "content"} as it arrives; return it. Raises errors of openai, httpx."""
    said = ""
    for chunk in client.chat.completions.create(model=model, messages=talk, stream=True):
        words = (chunk.choices[0].delta.content or "") if chunk.choices else ""
        print(words, end="", flush=True)
        said += words
    print()
    return said


def main() -> None:
    """Ask one question, or chat until the input ends. Raises Fault E16 if the server does not answer or refuses."""
    question = " ".join(sys.argv[1:])
    import httpx
    import openai

    url = os.environ["BASE_URL"]
    web = httpx.Client(trust_env=False, timeout=httpx.Timeout(600, connect=5))  # no proxy for this machine
    client = openai.OpenAI(api_key=os.environ["API_KEY"] or "none", base_url=url, max_retries=0, http_client=web)
    talk: list[dict[str, str]] = []
    try:
        model = client.models.list().data[0].id
        if not question:
            print(tr(f"与 {model} 对话；Ctrl-D 离开。", f"Talking to {model}; Ctrl-D quits."))
        while True:
            if not (words := question or input("> ")).strip():
                continue
            talk.append({"role": "user", "content": words})
            talk.append({"role": "assistant", "content": answer(client, model, talk)})
            if question:
                return
    except (openai.OpenAIError, httpx.HTTPError) as error:
        print()
        raise Fault("E16", url=url, reason=error) from None
    except (EOFError, KeyboardInterrupt):
        print()
    print(tr("已退出对话，服务继续运行。", "You have left the conversation; the server keeps running."))


if __name__ == "__main__":
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401, arrow keys and history, also with wide characters
    run(main)
