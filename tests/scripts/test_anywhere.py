"""Any locale, any terminal or none, any current directory: the same words, no traceback, nothing foreign is run."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from runbook import ROOT
from tests.conftest import MACHINE, Shell

LOCALES: dict[str, dict[str, str]] = {
    "GBK": {"LANG": "zh_CN.GBK"},
    "not installed": {"LC_ALL": "zh_CN.UTF-8"},
    "C": {"LC_ALL": "C", "LANG": "zh_CN", "RUNBOOK_LANG": "zh", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    "none": {"LANG": "", "RUNBOOK_LANG": "zh", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
}
NAMES = ["sh", "invoke", "dotenv", "rich", "json", "runbook", "tasks", "words", "ensurepip", "pip", "psutil"]


@pytest.fixture(scope="session")
def gbk(tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    """A directory with the locale zh_CN.GBK; None where it cannot be made (no `locales` package)."""
    folder = tmp_path_factory.mktemp("locales")
    if not shutil.which("localedef"):
        return None
    made = subprocess.run(["localedef", "-i", "zh_CN", "-f", "GBK", folder / "zh_CN.GBK"], capture_output=True)
    return folder if made.returncode == 0 else None


@pytest.mark.parametrize("name", LOCALES)
def test_the_words_are_utf8_in_every_locale(name: str, shell: Shell, gbk: Path | None) -> None:
    environ: dict[str, Any] = {**LOCALES[name], "BASE_DIR": shell.home / "中文 目录"}
    if gbk:
        environ["LOCPATH"] = gbk
    log = shell.home / "中文 目录/logs" / MACHINE / "vllm.log"
    log.parent.mkdir(parents=True)
    log.write_text("ERROR 内存不足\n", "utf-8")
    done = shell.inv("-R", "preflight", "plan", "logs", "mkdirs", "status", **environ)
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == 1, "the server is stopped"
    for words in ("✓ python", "空闲", f"中文 目录/logs/{MACHINE}/vllm.log", "状态", "停止"):
        assert words in done.stdout
    for script in ("logs", "doctor"):
        done = shell.script(script, **environ)
        assert "Traceback" not in done.stderr, done.stderr
        assert {"logs": "内存不足", "doctor": "最先出现的错误在日志第 1 行：ERROR 内存不足"}[script] in done.stdout


@pytest.mark.parametrize("locale", ["zh_CN.GBK", "zh_CN", "zh_TW.Big5", "zh_CN.UTF-8"])
def test_a_chinese_locale_of_any_encoding_is_chinese(locale: str, shell: Shell) -> None:
    done = shell.script("tmux-attach", LANG=locale)
    assert "会话" in done.stderr
    done = shell.script("tmux-attach", LANG="en_US.UTF-8", LC_ALL=locale)
    assert "会话" in done.stderr


def test_a_program_of_the_environment_finds_a_decimal_point(shell: Shell, gbk: Path | None) -> None:
    """Every script hands UTF-8, C's numbers and C's order on to what it starts."""
    done = shell.run("bash", "-c", f"source '{ROOT}/scripts/lib/common.sh'; locale", LC_ALL="de_DE.UTF-8")
    for line in ("LC_CTYPE=C.UTF-8", "LC_NUMERIC=C", "LC_COLLATE=C", "LC_ALL=", "LANG=de_DE.UTF-8"):
        assert line in done.stdout.splitlines()


def test_a_process_whose_name_is_cut_inside_a_character(shell: Shell) -> None:
    """Linux keeps 15 bytes of a process's name, which may end in the middle of a Chinese character."""
    port = shell.settings["PORT"]
    shell.stand_in("ss", f"""[[ $* != *:{port} ]] || echo 'LISTEN 0 5 *:1 *:* users:(("x",pid=7,fd=3))'""")
    shell.stand_in("cat", r"""[[ $1 != /proc/7/comm ]] || exec printf '\346\234'; exec /bin/cat "$@" """)
    done = shell.script("doctor")
    assert "Traceback" not in done.stderr
    assert "(pid 7, " in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("where", ["current directory", "PYTHONPATH"])
def test_python_files_of_others_are_not_run(where: str, shell: Shell) -> None:
    """A directory with a sh.py, as people have them, changes nothing: not the tasks, nor what the scripts start."""
    other = shell.home / "other"
    other.mkdir()
    for name in NAMES:
        (other / f"{name}.py").write_text(f"raise SystemExit('{name}.py of somebody else was run')\n")
    start = f'cd \'{other}\' && exec "$0" "$@"' if where == "current directory" else 'exec "$0" "$@"'
    environ: dict[str, Any] = {"PYTHONPATH": other} if where == "PYTHONPATH" else {}
    done = shell.run("bash", "-c", start, ROOT / "inv", "-R", "preflight", "plan", "mkdirs", "status", **environ)
    assert "somebody else" not in done.stdout + done.stderr
    assert "stopped" in done.stdout


def test_every_python_is_started_without_the_current_directory() -> None:
    """-I before -c and -m; a module of ours is started by exec_module alone, which cleans the environment."""
    start = re.compile(r"""(?:python3?"?|"\$(?:name|bin/python|1)")\s+(-m |-c )""")
    for path in [*(ROOT / "scripts").rglob("*.sh"), ROOT / "inv"]:
        code = re.sub(r"(^| )#.*", "", path.read_text("utf-8"), flags=re.MULTILINE)
        found = [line for line in code.splitlines() if start.search(line)]
        assert all(re.match(r' *(shown|exec) "\$1" -m ', line) for line in found), path


def test_no_pseudo_terminal_is_needed(shell: Shell) -> None:
    """As in a container without /dev/pts: the checks run their commands all the same."""
    shell.cards((40000, 40960))
    code = """
import os
def none() -> None: raise OSError("out of pty devices")
os.openpty = none
import pty; pty.openpty = none
from runbook import settings, steps
now = settings.load()
assert now["PROFILE"] == "gpu"
print([steps.already_done(name, now) for name, able in steps.STEPS.items() if able])
"""
    shell.settings["PROFILE"] = "auto"
    done = shell.run(ROOT / ".venv/bin/python", "-c", code, PYTHONPATH=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[None, None, None, None, None]"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("redirect", "environ"),
    [
        ("| true", {}),
        ("<&-", {}),
        (">&-", {}),
        ("2>&-", {}),
        ("</dev/null", {"TERM": ""}),
        ("", {"TERM": "dumb", "COLUMNS": "1", "LINES": "1", "NO_COLOR": "1"}),
    ],
)
def test_odd_terminals_and_pipes(redirect: str, environ: dict[str, Any], shell: Shell) -> None:
    for words in ("--list", "-R mkdirs", "explain mkdirs"):
        done = shell.run("bash", "-c", f"'{ROOT}/inv' {words} {redirect}", **environ)
        assert "Traceback" not in done.stdout + done.stderr, done.stderr
        assert "E99" not in done.stderr, done.stderr
