"""What kind of model is served: by its files, by the user's options, and before the download by its name."""

import json
from pathlib import Path

import pytest

from runbook.model.kind import QWEN3_TEMPLATE, kind_of, serving_options
from tests.conftest import Shell

CARD = "---\nlicense: apache-2.0\n{}\n---\n# A model\n"
# directory, architecture, other files, VLLM_EXTRA_ARGS, kind; the files are those of the repositories on ModelScope
MODELS: list[tuple[str, str, dict[str, str], str, str]] = [
    (
        "Qwen3-4B-Instruct-2507",
        "Qwen3ForCausalLM",
        {"README.md": CARD.format("pipeline_tag: text-generation")},
        "",
        "chat",
    ),
    ("my-model", "LlamaForCausalLM", {}, "", "chat"),
    ("Qwen3-Embedding-0.6B", "Qwen3ForCausalLM", {"modules.json": "[]"}, "", "embedding"),
    ("my-vectors", "BertModel", {"1_Pooling/config.json": "{}"}, "", "embedding"),
    ("bge-m3", "XLMRobertaModel", {}, "", "embedding"),
    ("gte-of-mine", "Qwen2ForCausalLM", {"README.md": CARD.format("tasks:\n- sentence-embedding")}, "", "embedding"),
    ("bge-reranker-v2-m3", "XLMRobertaForSequenceClassification", {}, "", "rerank"),
    ("judge", "XLMRobertaForSequenceClassification", {"modules.json": "[]"}, "", "rerank"),
    ("Qwen3-Reranker-0.6B", "Qwen3ForCausalLM", {"README.md": CARD.format("pipeline_tag: text-ranking")}, "", "rerank"),
    ("ranker-of-mine", "Qwen3ForCausalLM", {"README.md": CARD.format("pipeline_tag: text-ranking")}, "", "rerank"),
    ("Qwen3-Reranker-4B", "Qwen3ForCausalLM", {}, "", "rerank"),
    ("embedded-systems-chat", "Qwen3ForCausalLM", {"README.md": "no front matter"}, "--runner generate", "chat"),
    ("my-model", "LlamaForCausalLM", {}, "--runner pooling", "embedding"),
    ("my-model", "LlamaForCausalLM", {}, "--convert embed", "embedding"),
    ("my-model", "LlamaForCausalLM", {}, "--convert=classify", "rerank"),
    ("x", "Qwen3ForCausalLM", {}, '--hf_overrides {"architectures":["Qwen3ForSequenceClassification"]}', "rerank"),
    ("x", "Qwen3ForCausalLM", {}, '--chat-template "unbalanced', "chat"),
]
NAMES = [
    ("Qwen3-4B-Instruct-2507", "chat"),
    ("Qwen3-Embedding-0.6B", "embedding"),
    ("bge-m3", "embedding"),
    ("all-MiniLM-L6-v2", "embedding"),
    ("bge-reranker-v2-m3", "rerank"),
    ("Qwen3-Reranker-0.6B", "rerank"),
    ("Biggeorge-7B", "chat"),
]


@pytest.mark.parametrize(("name", "architecture", "files", "extra", "kind"), MODELS)
def test_the_kind_by_files_and_options(
    name: str, architecture: str, files: dict[str, str], extra: str, kind: str, tmp_path: Path
) -> None:
    folder = tmp_path / name
    for path, text in {"config.json": json.dumps({"architectures": [architecture]}), **files}.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    assert kind_of(folder, extra) == kind


@pytest.mark.parametrize(("name", "kind"), NAMES)
def test_the_kind_by_name_before_the_download(name: str, kind: str, tmp_path: Path) -> None:
    assert kind_of(tmp_path / name, "") == kind


def test_a_language_model_that_ranks_becomes_a_classifier(shell: Shell) -> None:
    folder = shell.home / "Qwen3-Reranker-0.6B"
    folder.mkdir()
    (folder / "config.json").write_text('{"architectures": ["Qwen3ForCausalLM"]}')
    words = serving_options(folder, "")
    assert words[:3] == ["--runner", "pooling", "--hf-overrides"]
    assert json.loads(words[3])["classifier_from_token"] == ["no", "yes"]
    assert words[4:] == ["--chat-template", str(QWEN3_TEMPLATE)]
    assert QWEN3_TEMPLATE.is_file()
    assert serving_options(folder, "--chat-template mine.jinja --runner pooling")[::2] == ["--hf-overrides"]
    command = shell.script("serve", RUNBOOK_DRY="1", MODEL_DIR=folder, PROFILE="cpu").stdout.splitlines()[-1]
    assert f"--runner pooling --hf-overrides '{words[3]}' --chat-template" in command
    assert "--tool-call-parser" not in command


@pytest.mark.parametrize("kind", ["embedding", "rerank"])
def test_the_notes_name_the_type(kind: str, shell: Shell) -> None:
    folder = shell.home / {"embedding": "bge-m3", "rerank": "bge-reranker-v2-m3"}[kind]
    done = shell.script("ragflow-notes", MODEL_DIR=folder, RUNBOOK_LANG="en")
    assert f"Model type 模型类型      {kind}" in done.stdout, done.stderr
    assert {"embedding": "→ Embedding →", "rerank": "→ Rerank →"}[kind] in done.stdout


@pytest.mark.parametrize(
    ("folder", "name"),
    [("Qwen2___5-7B-Instruct", "Qwen2.5-7B-Instruct"), ("a@b", "a-b"), ("my model", "my-model"), ("m", "m")],
)
def test_the_served_name_is_one_that_ragflow_keeps(folder: str, name: str, shell: Shell) -> None:
    """RAGFlow cuts names at ___, and an @ is a separator of its own."""
    done = shell.script("ragflow-notes", MODEL_DIR=shell.home / folder, MODEL_ID="auto", RUNBOOK_LANG="en")
    assert f"Model name 模型名称      {name}\n" in done.stdout
    own = shell.script("ragflow-notes", MODEL_DIR=shell.home / folder, SERVED_MODEL_NAME="my___own", RUNBOOK_LANG="en")
    assert "Model name 模型名称      my___own\n" in own.stdout
