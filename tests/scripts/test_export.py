"""The exported script: what is in it and what is not, and where it unpacks. Running it: tests/e2e."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runbook import ROOT
from runbook.settings import raw_settings, read_file, rules
from tests.conftest import Shell, checkout_files

MIRROR = "https://mirrors.aliyun.com/pypi/simple/"  # the default
SECRET = "not-for-others-0123456789"


@pytest.fixture
def other(tmp_path: Path) -> Shell:
    """A machine of its own: an empty home, none of our settings."""
    home = tmp_path / "other"
    home.mkdir()
    return Shell(home, settings={"HOME": home, "LANG": "C.UTF-8"})


def exported(shell: Shell, env: str = "", **environ: Any) -> Path:
    """The script made with these lines in the env file, and these words in the environment."""
    file = shell.home / "own.env"
    file.write_text(env, "utf-8")
    shell.settings = {"ENV_FILE": file, "PIP_INDEX_URL": MIRROR}
    script = shell.home / "deploy.sh"
    done = shell.script("export", "--output", script, **environ)
    assert done.returncode == 0, done.stderr
    return script


def top(script: Path) -> dict[str, str]:
    """The settings in the script, as our own parser reads them."""
    text = re.search(r"<<'END settings'\n(.*?)\nEND settings\n", script.read_text("utf-8"), re.DOTALL)
    assert text
    part = script.with_suffix(".top.env")
    part.write_text(text[1], "utf-8")
    return read_file(part)


@pytest.mark.slow
def test_the_checker_is_content_and_every_file_arrives_as_it_is(shell: Shell, other: Shell) -> None:
    script = exported(shell)
    found = subprocess.run(
        [Path(sys.executable).parent / "shellcheck", "--norc", script], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout[-2000:]
    done = other.run("bash", script, "--list", timeout=120)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^ +stop +.*Stop the server", done.stdout, re.MULTILINE)
    folder = other.home / "vllm-runbook/runbook/vllm-qwen3"
    ours = r"scripts/|runbook/|requirements/|docs/(zh|en)/.*\.md$"
    names = [name for name in checkout_files() if re.match(ours, name)]
    wanted = {name for name in names if not name.startswith("scripts/dev/") and not name.endswith(".in")}
    for name in wanted | {".env.example", "inv", "tasks.py", "requirements.txt"}:
        assert (folder / name).read_bytes() == (ROOT / name).read_bytes(), name
    assert not (folder / "scripts/dev").exists()
    again = other.run("bash", folder / "scripts/export.sh", PIP_INDEX_URL=MIRROR)
    assert again.stdout == script.read_text("utf-8"), "what is unpacked can export itself"

    with (folder / "scripts/support/pane.sh").open("r+") as running:
        done = other.run("bash", script, "stpo")
        assert "stpo" in done.stderr
        assert done.returncode == 1
        assert os.fstat(running.fileno()).st_nlink == 1, "the same file is not written again"
        running.write("# an older one")
        running.flush()
        other.run("bash", script, "stpo")
        assert os.fstat(running.fileno()).st_nlink == 0, "what bash reads on in is still the old one"


def test_settings_are_those_that_differ_and_unresolved(shell: Shell, other: Shell) -> None:
    env = """PORT=21277
HOST=0.0.0.0
BASE_DIR='${HOME}/部署 it\\'s here'
LOG_DIR="${BASE_DIR}/log $1 #x"
VLLM_EXTRA_ARGS='--a "b c" \\\\d `e` $(f) $g'
MODEL_ID=auto
PIP_INDEX_URL=https://mirrors.aliyun.com/pypi/simple/
TORCH_FIND_LINKS=/mnt/x
TMUX_SESSION=from-file
"""
    literal = "/srv/${HOME}/'\"\\ $x"
    script = exported(shell, env, TMUX_SESSION="from-environment", VENV_DIR=literal)
    assert top(script) == {
        "PORT": "21277",
        "BASE_DIR": "${HOME}/部署 it's here",
        "LOG_DIR": "${BASE_DIR}/log $1 #x",
        "VLLM_EXTRA_ARGS": '--a "b c" \\d `e` $(f) $g',
        "TORCH_FIND_LINKS": "/mnt/x",
        "TMUX_SESSION": "from-environment",
        "VENV_DIR": "/srv/${:-$}{HOME}/'\"\\ $x",
    }
    done = other.run("bash", script, "plan", "--json", timeout=60)
    folder = other.home / "部署 it's here/runbook/from-environment"
    assert (folder / ".env").is_file(), done.stderr
    show = 'source "$0"; printf "%s\\n" "$VENV_DIR" "$LOG_DIR" "$VLLM_EXTRA_ARGS"'
    seen = other.run("bash", "-c", show, folder / "scripts/lib/settings.sh", RUNBOOK_TASK="x").stdout.splitlines()
    assert seen == [literal, f"{other.home}/部署 it's here/log $1 #x", '--a "b c" \\d `e` $(f) $g']


PATHS = ["BASE_DIR", "LOG_DIR", "VENV_DIR", "MODEL_DIR", "MODELSCOPE_CACHE"]
WORD = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]) | st.sampled_from("'\"\\${} #"), min_size=1)


@pytest.mark.slow
@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.fixed_dictionaries({key: WORD.map("/{}".format) for key in PATHS}))
def test_any_value_of_the_environment_arrives(shell: Shell, values: dict[str, str]) -> None:
    written = top(exported(shell, **values))
    raw, _ = raw_settings({"ENV_FILE": str(shell.home / "deploy.top.env"), "HOME": "/home/me"})
    assert set(written) <= set(PATHS)
    assert {key: raw[key] for key in PATHS} == {key: raw_settings(values)[0][key] for key in PATHS}


def test_no_secret_and_nothing_of_this_machine(shell: Shell) -> None:
    env = [f"{key}={SECRET}" for key in ("API_KEY", "RAGFLOW_API_KEY", "MODELSCOPE_API_TOKEN")]
    env += [f"TORCH_FIND_LINKS=https://me:{SECRET}@host/x", f"VLLM_EXTRA_ARGS='--api-key {SECRET}'", ""]
    file = shell.home / "own.env"
    file.write_text("\n".join(env))
    done = shell.script("export", ENV_FILE=file, PIP_INDEX_URL=f"https://u:{SECRET}@host/simple/")
    assert done.returncode == 0
    for text in (SECRET, str(ROOT), str(Path.home()) + "/", os.uname().nodename + "\n", str(shell.home)):
        assert text not in done.stdout.replace(str(shell.settings["BASE_DIR"]), ""), text
    secrets = [key for key in rules() if key.endswith(("API_KEY", "TOKEN"))]
    for key in [*secrets, "TORCH_FIND_LINKS", "VLLM_EXTRA_ARGS", "PIP_INDEX_URL"]:
        assert f"{key} is not included" in done.stderr
    assert SECRET not in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--output"], "E70 "),
        (["deploy.sh"], "export does not accept deploy.sh."),
        (["--output", "."], "it is a directory"),
        (["--output", "nowhere/deploy.sh"], "nowhere does not exist"),
        (["--output", "mine.txt"], "not an exported script"),
    ],
)
def test_a_refused_output(words: list[str], said: str, shell: Shell) -> None:
    mine = shell.home / "mine.txt"
    mine.write_text("mine\n")
    before = sorted(shell.home.iterdir())
    done = shell.script("export", *words)
    assert done.returncode == 1
    assert said in done.stderr
    assert done.stdout == ""
    assert mine.read_text() == "mine\n"
    assert sorted(shell.home.iterdir()) == before


def test_the_output_is_whole_private_and_replaces_an_earlier_one(shell: Shell) -> None:
    script = exported(shell, "PORT=21277\n")
    assert script.stat().st_mode & 0o077 == 0
    script.write_text("".join(script.open().readlines()[:20]))
    exported(shell, "PORT=21278\n")
    assert script.read_text("utf-8").endswith('\nmain "$@"\n')
    assert top(script) == {"PORT": "21278"}
    full = shell.run("bash", "-c", 'bash "$0" >/dev/full', ROOT / "scripts/export.sh")
    assert full.returncode == 1
    assert "E72 " in full.stderr


@pytest.mark.slow
def test_the_env_file_and_its_key_stay(shell: Shell, other: Shell) -> None:
    def run(text: str) -> Path:
        done = other.run("bash", exported(shell, text), "--list", timeout=120)
        assert done.returncode == 0, done.stderr
        return other.home / "vllm-runbook/runbook/vllm-qwen3"

    folder = run("PORT=21277\n")
    assert (folder / ".env").stat().st_mode & 0o077 == 0
    done = other.run(folder / "inv", "deploy", PORT="x")
    assert "PORT=x is invalid" in done.stderr, "the directory has its own ./inv"
    own = f"PORT=21299\nAPI_KEY={SECRET}\n"
    (folder / ".env").write_text(own)
    assert run("PORT=21277\n").joinpath(".env").read_text() == own, "the same script again"
    kept = run("PORT=21278\n")
    assert read_file(kept / ".env") == {"PORT": "21278", "API_KEY": SECRET}
    assert (kept / ".env.old").read_text() == own
    run("PORT=21279\n")
    assert (kept / ".env.old.~1~").read_text() == own, "an older one is not overwritten"
    assert not [path for path in folder.glob(".env.*") if path.name != ".env.example" and path.stat().st_mode & 0o077]


def test_somebody_elses_folder_is_left_alone(shell: Shell, other: Shell) -> None:
    folder = other.home / "vllm-runbook/runbook/vllm-qwen3"
    (folder / "scripts").mkdir(parents=True)
    done = other.run("bash", exported(shell), "status")
    assert done.returncode == 1
    assert f"{folder} already exists" in done.stderr
    assert "E71 " in done.stderr
    assert [path.name for path in folder.rglob("*")] == ["scripts"]
    assert not list(Path("/tmp").glob("tmp.*/scripts/support/place.sh")), "what was unpacked is gone"


@pytest.mark.slow
def test_by_a_pipe_and_a_step_that_fails(shell: Shell, other: Shell) -> None:
    script = exported(shell, "PROFILE=cpu\n")
    text = f'cat "{script}" | bash -s -- deploy --from mkdirs'
    folder = other.home / "vllm-runbook/runbook/vllm-qwen3"
    done = other.run("bash", "-c", text, RUNBOOK_LANG="zh", MODELSCOPE_CACHE="/dev/null/here", timeout=120)
    assert done.returncode == 1
    assert "E06 docs/zh/troubleshooting.md#e06" in done.stderr
    assert (folder / "docs/zh/troubleshooting.md").is_file()
    assert f"文件和设置在 {folder}" in done.stdout
    assert "解决后再运行 ./inv deploy，会从这里继续" in done.stderr
    key = re.search(r"^API_KEY=([0-9a-f]{48})$", (folder / ".env").read_text(), re.MULTILINE)
    assert key
    assert key[1] not in done.stdout + done.stderr
