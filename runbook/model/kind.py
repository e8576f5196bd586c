"""What kind of model is served: chat, embedding or rerank; and the options of vLLM that the kind needs.

Usage: python -m runbook.model.kind [options], with the settings in the environment: print the kind, or the options, one
word a line. The model's own files decide; its name decides only before the download. Reads only.
"""

import json
import os
import re
import shlex
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

from runbook.messages import run

CHAT, EMBEDDING, RERANK = "chat", "embedding", "rerank"
# The format that Qwen3-Reranker was trained with; without it the ranking is close to random (vllm#19260, #31538).
QWEN3_TEMPLATE = Path(__file__).with_name("qwen3_reranker.jinja")
# Qwen3-Reranker is a language model whose next token is "yes" or "no": vLLM makes a classifier of it.
QWEN3_OVERRIDES = {
    "architectures": ["Qwen3ForSequenceClassification"],
    "classifier_from_token": ["no", "yes"],
    "is_original_qwen3_reranker": True,
}


def options(text: str) -> dict[str, str]:
    """Return {--name: value} of the options in VLLM_EXTRA_ARGS; an option without a value has an empty one."""
    try:
        words = shlex.split(text)
    except ValueError:  # serve.sh reports it
        words = text.split()
    found = {}
    for word, following in pairwise([*words, "--"]):
        if word.startswith("-"):
            name, _, value = word.partition("=")
            found[name.replace("_", "-")] = value or ("" if following.startswith("-") else following)
    return found


def read_json(path: Path) -> Any:
    """Return the content of a JSON file; an empty object if it cannot be read."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}


def task_of(directory: Path) -> str:
    """Return the task that the model's card states (`pipeline_tag`), or an empty text."""
    try:
        head = (directory / "README.md").read_text("utf-8", "replace")[:20_000]
    except OSError:
        return ""
    found = re.match(r"---\s*\n(.*?)\n---", head, re.DOTALL)
    tag = re.search(r"^(?:pipeline_tag|tasks):\s*(?:\n\s*-\s*)?([\w-]+)", found[1], re.MULTILINE) if found else None
    return tag[1] if tag else ""


def architectures(directory: Path) -> list[str]:
    """Return the architectures in config.json."""
    config = read_json(directory / "config.json")
    found = config.get("architectures") if isinstance(config, dict) else None
    return [str(one) for one in found or []]


def kind_by_options(given: dict[str, str]) -> str:
    """Return the kind that the user's options of vLLM choose, or an empty text."""
    if "ForSequenceClassification" in given.get("--hf-overrides", "") or given.get("--convert") == "classify":
        return RERANK
    if given.get("--convert") == "embed":
        return EMBEDDING
    return CHAT if given.get("--runner") == "generate" else ""


def kind_by_files(directory: Path) -> str:
    """Return the kind that the model's files state, or an empty text if they do not."""
    names, task = architectures(directory), task_of(directory)
    modules = json.dumps(read_json(directory / "modules.json"))
    if any(name.endswith("ForSequenceClassification") for name in names) or "cross_encoder" in modules:
        return RERANK
    if task == "text-ranking":
        return RERANK
    # sentence-transformers writes modules.json; a model without a head gives vectors.
    if modules != "{}" or (directory / "1_Pooling").is_dir() or (names and all(one.endswith("Model") for one in names)):
        return EMBEDDING
    return EMBEDDING if task in ("sentence-similarity", "feature-extraction", "sentence-embedding") else ""


def kind_of(directory: Path, text: str) -> str:
    """Return the kind of the model in a directory that is served with the options `text`."""
    given, name = options(text), directory.name.lower()
    if found := kind_by_options(given) or kind_by_files(directory):
        return found
    if "rerank" in name:  # as Qwen3-Reranker, whose architecture is that of a chat model
        return RERANK
    if re.search("embed|(^|[-_])(bge|gte|e5|minilm)([-_]|$)", name) or given.get("--runner") == "pooling":
        return EMBEDDING
    return CHAT


def serving_options(directory: Path, text: str) -> list[str]:
    """Return the options of `vllm serve` for the model's kind, without those that the user has given."""
    kind, given, wanted = kind_of(directory, text), options(text), dict[str, str]()
    if kind != CHAT:
        wanted["--runner"] = "pooling"
    names = architectures(directory)
    language_model = any(name == "Qwen3ForCausalLM" for name in names) or (
        not names and "qwen3" in directory.name.lower()
    )
    if kind == RERANK and language_model:
        wanted["--hf-overrides"] = json.dumps(QWEN3_OVERRIDES, separators=(",", ":"))
        wanted["--chat-template"] = str(QWEN3_TEMPLATE)
    return [word for name, value in wanted.items() if name not in given for word in (name, value)]


def main() -> None:
    """Print the kind of the settings' model, or its options, one word a line."""
    directory, text = Path(os.environ["MODEL_DIR"]), os.environ["VLLM_EXTRA_ARGS"]
    print(*serving_options(directory, text) if "options" in sys.argv else [kind_of(directory, text)], sep="\n")


if __name__ == "__main__":
    run(main)
