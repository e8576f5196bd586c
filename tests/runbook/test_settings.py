"""The settings: precedence, refusals, and the same values in Python, in the shell and in python-dotenv."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from dotenv import dotenv_values
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from runbook import ROOT
from runbook.messages import Fault
from runbook.settings import EXAMPLE, load, raw_settings, read_file, rules
from tests.conftest import Shell, clean_environ

QWEN = "Qwen/Qwen3-4B-Instruct-2507"
DUMP = 'source "$0"; for key in "${KEYS[@]}"; do printf "%s=%s\\0" "$key" "${!key}"; done'


def in_shell(environ: dict[str, str]) -> dict[str, str] | str:
    """What scripts/lib/settings.sh makes of the environment: the values, or the code of the fault."""
    done = subprocess.run(
        ["bash", "-c", f"set -euo pipefail; {DUMP}", str(ROOT / "scripts/lib/settings.sh")],
        env=environ,
        capture_output=True,
        check=False,
    )
    if done.returncode:
        return next(word for word in done.stderr.decode().split() if word[:1] == "E" and word[1:].isdigit())
    return dict(pair.split("=", 1) for pair in done.stdout.decode().split("\0")[:-1])


def in_python(environ: dict[str, str]) -> dict[str, str] | str:
    """The same by runbook.settings."""
    try:
        found = load(environ)
    except Fault as fault:
        return fault.code
    return {key: found[key] for key in rules()}


def test_every_key_has_a_default_a_comment_and_a_rule() -> None:
    lines = EXAMPLE.read_text("utf-8").splitlines()
    keys = [line.split("=")[0] for line in lines if line and not line.startswith("#")]
    assert keys == list(rules())
    assert all(lines[lines.index(line) - 1].startswith("# ") for line in lines if line and not line.startswith("#"))
    assert {*load({"HOME": "/h"})} == {*keys, "ENV_FILE"}


def test_plain_source_reads_the_example_as_we_do(tmp_path: Path) -> None:
    """A person may source the file: for the values as they ship, the shell's own reading is the same."""
    done = subprocess.run(
        ["bash", "-c", f"set -a; source {EXAMPLE}; env -0"], env={"HOME": "/home/me"}, capture_output=True, check=True
    )
    sourced = dict(pair.split("=", 1) for pair in done.stdout.decode().split("\0")[:-1])
    ours, _ = raw_settings({"HOME": "/home/me", "ENV_FILE": str(EXAMPLE)})  # and not somebody's own .env
    assert {key: sourced[key] for key in rules()} == ours


def test_precedence(tmp_path: Path) -> None:
    env_file = tmp_path / "a.env"
    env_file.write_text("PORT=20001\nBASE_DIR=/from/file\n")
    settings = load({"HOME": "/h", "ENV_FILE": str(env_file), "PORT": "20002", "PROFILE": "cpu"})
    assert settings["PORT"] == "20002"
    assert settings["BASE_DIR"] == "/from/file"
    assert settings["LOG_DIR"] == "/from/file/logs", "a default follows the value it refers to"
    assert settings["TMUX_SESSION"] == "vllm-qwen3"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            {"PROFILE": "gpu"},
            ("Qwen/Qwen3-4B-Instruct-2507", "/b/models/Qwen3-4B-Instruct-2507", "Qwen3-4B-Instruct-2507"),
        ),
        ({"PROFILE": "cpu"}, ("demo", "/b/models/SmolLM2-135M-Instruct", "SmolLM2-135M-Instruct")),
        ({"PROFILE": "cpu", "MODEL_ID": "a/b"}, ("a/b", "/b/models/b", "b")),
        ({"PROFILE": "gpu", "MODEL_ID": "demo"}, ("demo", "/b/models/SmolLM2-135M-Instruct", "SmolLM2-135M-Instruct")),
        ({"PROFILE": "gpu", "MODEL_DIR": "/data/My-7B/"}, (QWEN, "/data/My-7B", "My-7B")),
        ({"PROFILE": "gpu", "MODEL_ID": "a/b", "MODEL_DIR": "/data/c"}, ("a/b", "/data/c", "b")),
        ({"PROFILE": "cpu", "SERVED_MODEL_NAME": "chat"}, ("demo", "/b/models/SmolLM2-135M-Instruct", "chat")),
    ],
)
def test_auto_is_resolved_alike(given: dict[str, str], expected: tuple[str, str, str], tmp_path: Path) -> None:
    environ = clean_environ(tmp_path, BASE_DIR="/b", **given)
    found = load(environ)
    assert (found["MODEL_ID"], found["MODEL_DIR"], found["SERVED_MODEL_NAME"]) == expected
    assert in_shell(environ) == in_python(environ)


@pytest.mark.parametrize("works", [True, False])
def test_profile_follows_nvidia_smi(works: bool, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that fails is a GPU all the same: the steps then say what is wrong."""
    shell.stand_in("nvidia-smi", "echo 'NVIDIA-SMI has failed'; exit 9")
    if works:
        shell.cards((1, 2))
    environ = shell.environ(PROFILE="auto")
    monkeypatch.setenv("PATH", environ["PATH"])
    assert load(environ)["PROFILE"] == "gpu"
    assert in_shell(environ) == in_python(environ)


BAD = [
    ("PORT=abc", "E03"), ("PORT=0", "E03"), ("PORT=65536", "E03"), ("PORT=", "E03"), ("PROFILE=tpu", "E03"),
    ("BASE_DIR=~/x", "E03"), ("BASE_DIR=relative", "E03"), ("GPU=first", "E03"), ("GPU=0,", "E03"),
    ("GPU_MEMORY_UTILIZATION=1.5", "E03"), ("GPU_MEMORY_UTILIZATION=0", "E03"), ("GPU_MEMORY_UTILIZATION=30%", "E03"),
    ("MAX_MODEL_LEN=32k", "E03"), ("TRUST_REMOTE_CODE=yes", "E03"), ("TMUX_SESSION=a.b", "E03"),
    (f"VENV_DIR={ROOT}/.venv", "E03"), (f"BASE_DIR={ROOT}", "E03"),
    ("MODEL_ID=qwen", "E03"), ("SERVED_MODEL_NAME=-x", "E03"),
    ("API_KEY='a b'", "E03"), ("RUNBOOK_LANG=fr", "E03"), ("PIP_INDEX_URL=mirror", "E03"), ("HOST='a b'", "E03"),
    ("PROT=20000", "E02"), ("BASE_DIR=${HOMEE}/x", "E20"), ("LOG_DIR=${LOG_DIR}/x", "E20"),
    ("BASE_DIR=${LOG_DIR}", "E20"), ("PORT", "E01"), ("= 3", "E01"), ("PORT='20000", "E01"), ("PORT='20000'x", "E01"),
    ("BASE_DIR=/a\u3000b", "E01"), ('BASE_DIR="/a\\tb"', "E01"), ("'PORT'=20000", "E01"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "code"), BAD)
def test_refusals_name_the_fault_in_both(line: str, code: str, tmp_path: Path) -> None:
    env_file = tmp_path / "bad.env"
    env_file.write_text(f"# a comment\n\n{line}\n", "utf-8")
    environ = clean_environ(tmp_path, ENV_FILE=env_file, PROFILE="cpu")
    environ.pop(line.split("=")[0], None)
    assert in_python(environ) == code
    assert in_shell(environ) == code


def test_a_refusal_names_key_value_and_what_is_allowed(shell: Shell) -> None:
    shell.settings["PORT"] = "99999"
    done = shell.script("mkdirs")
    assert done.returncode == 1
    assert "PORT=99999 is invalid; expected: 1 to 65535" in done.stderr
    assert "E03 docs/en/troubleshooting.md#e03" in done.stderr
    done = shell.script("mkdirs", RUNBOOK_LANG="zh")
    assert "PORT=99999 无效" in done.stderr
    with pytest.raises(Fault) as caught:
        load(shell.environ())
    assert "PORT=99999 is invalid; expected: 1 to 65535" in str(caught.value)


@pytest.mark.parametrize(
    "line", ["RUNBOOK_LANG=zh\nPROT=1", "RUNBOOK_LANG=zh\nPORT=x", "RUNBOOK_LANG=zh\nBASE_DIR=${NO}"]
)
def test_a_refusal_speaks_the_language_of_the_file(line: str, shell: Shell) -> None:
    (shell.home / "zh.env").write_text(line + "\n")
    del shell.settings["BASE_DIR"], shell.settings["PORT"]
    for done in (shell.script("mkdirs", ENV_FILE="zh.env"), shell.inv("mkdirs", ENV_FILE="zh.env")):
        assert done.returncode == 1
        assert "docs/zh/" in done.stderr
    (shell.home / "zh.env").write_text("PROT=1\n")
    assert "docs/zh/" in shell.script("mkdirs", ENV_FILE="zh.env", LANG="zh_CN.UTF-8").stderr


def test_a_key_is_never_shown(shell: Shell) -> None:
    shell.settings["API_KEY"] = "geheim mit Luecke"
    done = shell.script("mkdirs")
    assert "API_KEY=*** is invalid" in done.stderr
    assert "geheim" not in done.stdout + done.stderr
    with pytest.raises(Fault) as caught:
        load(shell.environ())
    assert "geheim" not in str(caught.value)


def test_a_named_env_file_must_be_there(shell: Shell) -> None:
    environ = shell.environ(ENV_FILE="/nowhere/second.env")
    assert in_python(environ) == "E18"
    assert in_shell(environ) == "E18"


# What people write: words with every character that some reader treats specially.
ODD = " \t'\"\\$#{}=`!~*?&|;<>()[]%:,-_.+@^/中文路径　é\u00a0"
TEXT = st.text(alphabet=st.sampled_from("aZ09" + ODD), max_size=12)


def quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def double_quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


VALUE = st.one_of(
    TEXT,
    TEXT.map(quoted),
    TEXT.map(double_quoted),
    TEXT.map(lambda text: "/" + text),
    TEXT.map(lambda text: quoted("/" + text)),
    st.builds(lambda a, b: a + "${HOME}" + b, TEXT, TEXT),
    st.builds(lambda a, b: double_quoted("/" + a) + b, TEXT, st.sampled_from(["", " ", " # 注释", "#c", " c"])),
    st.builds("${{{}:-{}}}".format, st.sampled_from(["NO_SUCH", "HOME", "LOG_DIR", "a b"]), TEXT),
    st.just(""),
)
LINE = st.one_of(
    st.builds(
        "{}{}{}={}{}".format,
        st.sampled_from(["", "", "", " ", "export "]),
        st.sampled_from(["BASE_DIR", "LOG_DIR", "VLLM_EXTRA_ARGS", "VLLM_EXTRA_ARGS", "API_KEY", "PORT", "XPORT"]),
        st.sampled_from(["", "", " "]),
        st.sampled_from(["", "", " "]),
        VALUE,
    ),
    TEXT.map(lambda text: "#" + text),
    st.just(""),
)


FILES: dict[str, Any] = {"lines": st.lists(LINE, min_size=1, max_size=3), "end": st.sampled_from(["\n", "\r\n", ""])}
ANY_FIXTURE: dict[str, Any] = {"suppress_health_check": [HealthCheck.function_scoped_fixture]}


def read_alike(lines: list[str], end: str, tmp_path: Path) -> None:
    """The shell and Python read the same from a file, or refuse it for the same reason."""
    env_file = tmp_path / "g.env"
    env_file.write_bytes("\ufeff".encode() * (len(lines) == 2) + (end or "\n").join(lines).encode() + end.encode())
    environ = clean_environ(tmp_path, ENV_FILE=env_file, PROFILE="cpu", HOME="/home/我")
    del environ["PIP_INDEX_URL"]
    ours = in_python(environ)
    assert in_shell(environ) == ours
    if isinstance(ours, dict):  # what is accepted is what python-dotenv itself reads, by the same names
        expected = {key: value or "" for key, value in dotenv_values(env_file, interpolate=False).items()}
        assert read_file(env_file) == expected


@settings(max_examples=50, **ANY_FIXTURE)
@given(**FILES)
@example(lines=["VLLM_EXTRA_ARGS='a\\\\'"], end="\n")
@example(lines=["VLLM_EXTRA_ARGS=a # b # c"], end="\r\n")
@example(lines=["API_KEY= #x"], end="")
@example(lines=["BASE_DIR=/a//b/./c/../d/"], end="\n")
def test_shell_and_python_read_a_file_alike(lines: list[str], end: str, tmp_path: Path) -> None:
    read_alike(lines, end, tmp_path)


@pytest.mark.slow
@settings(max_examples=250, **ANY_FIXTURE)
@given(**FILES)
def test_shell_and_python_read_every_file_alike(lines: list[str], end: str, tmp_path: Path) -> None:
    read_alike(lines, end, tmp_path)


@pytest.mark.parametrize(
    "value", ["a b", "it's", '"q"', "$5", "a#b", "# a", "中文", "", "\\n", "a\\\\b", "x=y", "`id`"]
)
def test_an_odd_value_survives_the_way_through_every_door(value: str, tmp_path: Path) -> None:
    """From the process environment, and from a file as the tmux step writes it."""
    environ = clean_environ(tmp_path, VLLM_EXTRA_ARGS=value, PROFILE="cpu")
    assert load(environ)["VLLM_EXTRA_ARGS"] == value
    shell = in_shell(environ)
    assert isinstance(shell, dict)
    assert shell["VLLM_EXTRA_ARGS"] == value
    env_file = tmp_path / "x.env"
    env_file.write_text(f"VLLM_EXTRA_ARGS={quoted(value)}\n", "utf-8")
    environ = clean_environ(tmp_path, ENV_FILE=env_file, PROFILE="cpu")
    assert dotenv_values(env_file)["VLLM_EXTRA_ARGS"] == value
    assert load(environ)["VLLM_EXTRA_ARGS"] == value
    shell = in_shell(environ)
    assert isinstance(shell, dict)
    assert shell["VLLM_EXTRA_ARGS"] == value


def test_settings_are_frozen() -> None:
    with pytest.raises(TypeError):
        load({**os.environ, "PROFILE": "cpu"})["PORT"] = "1"  # type: ignore[index]
