"""deploy --rag and --all: further servers with settings files of their own, which follow the user's."""

import stat
from pathlib import Path

import pytest

from runbook.members import file_of
from runbook.settings import load
from tests.conftest import Shell

MAIN = "BASE_DIR='{base}'\nPORT={port}\nAPI_KEY='k''\nTMUX_SESSION=mine\nMODEL_DIR='/models/big model'\n"
MAIN += "VLLM_EXTRA_ARGS=--tool-call-parser x\nMAX_MODEL_LEN=4096\n"


@pytest.fixture
def file(shell: Shell) -> Path:
    path = shell.home / "x.env"
    path.write_text(MAIN.format(base=shell.settings["BASE_DIR"], port=23456).replace("'k''", '"it\'s"'))
    shell.settings = {"ENV_FILE": path, "PROFILE": "cpu", "RUNBOOK_LANG": "en"}
    return path


def member(shell: Shell, kind: str, **more: object) -> dict[str, str]:
    """The settings of a member, as they are read again."""
    path = file_of(Path(str(shell.settings["ENV_FILE"])), kind)
    done = shell.script("support/member-file", kind, path, **more)  # type: ignore[arg-type]
    assert done.returncode == 0, done.stderr
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    return dict(load({"ENV_FILE": str(path)}))


@pytest.mark.parametrize(
    ("name", "member_name"), [(".env", "rag-embed.env"), ("x.env", "x-embed.env"), ("y", "y-embed.env")]
)
def test_the_name_of_a_members_file(name: str, member_name: str) -> None:
    assert file_of(Path("/p") / name, "embed") == Path("/p") / member_name


def test_a_member_follows_the_settings_file_but_for_what_is_its_own(file: Path, shell: Shell) -> None:
    main, embed = load({"ENV_FILE": str(file), "PROFILE": "cpu"}), member(shell, "embed")
    own = {"MODEL_ID", "MODEL_DIR", "SERVED_MODEL_NAME", "PORT", "TMUX_SESSION", "LOG_DIR", "VLLM_EXTRA_ARGS"}
    own |= {"MAX_MODEL_LEN", "ENV_FILE", "RUNBOOK_LANG"}
    own |= {"PIP_INDEX_URL"}  # in the environment of the tests, which the file follows as well
    assert {key for key in main if main[key] != embed[key]} == own
    assert embed["API_KEY"] == "it's"
    assert (embed["MODEL_ID"], embed["SERVED_MODEL_NAME"], embed["PORT"]) == (
        "demo-embedding",
        "all-MiniLM-L6-v2",
        "23457",
    )
    assert (embed["TMUX_SESSION"], embed["LOG_DIR"]) == ("mine-embed", f"{main['LOG_DIR']}/embed")
    gpu = member(shell, "embed", PROFILE="gpu")
    assert gpu["MODEL_ID"] == "Qwen/Qwen3-Embedding-0.6B"
    rerank = member(shell, "rerank", RERANK_MODEL_ID="BAAI/bge-reranker-v2-m3")
    assert (rerank["MODEL_ID"], rerank["PORT"]) == ("BAAI/bge-reranker-v2-m3", "23458")


def test_a_members_file_is_written_only_when_it_changes(file: Path, shell: Shell) -> None:
    member(shell, "embed")
    path = file_of(file, "embed")
    before = path.stat().st_mtime_ns
    member(shell, "embed")
    assert path.stat().st_mtime_ns == before
    file.write_text(file.read_text() + "HOST=127.0.0.1\n")
    assert member(shell, "embed")["HOST"] == "127.0.0.1"


def test_the_preview_names_every_server_and_writes_nothing(file: Path, shell: Shell) -> None:
    file.write_text(file.read_text() + "RERANK_MODEL_ID=BAAI/bge-reranker-v2-m3\n")
    before = sorted(shell.home.glob("*.env"))
    done = shell.inv("deploy", "--rag", "--dry")
    assert done.returncode == 0, done.stderr
    assert done.stdout.index("x-embed.env") < done.stdout.index("x-rerank.env")
    assert sorted(shell.home.glob("*.env")) == before
    assert not (shell.home / "base").exists()


def test_all_speaks_of_every_server_and_without_it_of_one(file: Path, shell: Shell) -> None:
    member(shell, "embed")
    done = shell.inv("status", "--all")
    assert done.returncode == 1
    assert [line for line in done.stdout.splitlines() if line.endswith(".env:")] == ["x.env:", "x-embed.env:"]
    assert "    port      23457" in done.stdout
    assert "23457" not in shell.inv("status").stdout
    stopped = shell.inv("stop", "--all")
    assert stopped.returncode == 0, stopped.stderr
    assert stopped.stdout.count("The server is not running on this machine") == 2
