"""explain and deploy --step: what they show, every answer they take, and how they are left; and the Tab key."""

import os
import re
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pexpect
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from runbook import ROOT, walkthrough
from runbook.messages import Fault
from runbook.page import UNIT, breaks, render
from runbook.steps import STEPS
from tests.conftest import BUSY, Shell, terminal
from tests.runbook.test_steps import clone

__all__ = ["clone"]
MKDIRS = ("deploy", "--step", "--from", "mkdirs", "--to", "mkdirs")
SCRIPTS = {path.stem for path in (ROOT / "scripts").glob("*.sh")}
PAGES = [path for path in sorted((ROOT / "docs").glob("*/*-*.md")) if path.stem.partition("-")[2] in SCRIPTS]


@pytest.fixture(params=["zh", "en"])
def lang(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("RUNBOOK_LANG", request.param)
    return str(request.param)


def code_lines(markdown: str) -> list[str]:
    blocks = re.findall(r"^```.*\n((?:.*\n)*?)```$", markdown, re.MULTILINE)
    return [line for block in blocks for line in block.splitlines() if line]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_page_fits_80_columns_and_its_commands_can_be_copied(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    markdown = path.read_text("utf-8")
    render(markdown)
    lines = capsys.readouterr().out.splitlines()
    code = {f"    {line}" for line in code_lines(markdown)}
    assert code <= set(lines), "a command is one line, however long"
    assert not [line for line in lines if cell_len(line) > 80 and line not in code]
    assert not [line for line in lines if re.match(r"\s*[，。、；：！？）」》]", line)], "what closes begins no line"


@given(st.text(st.sampled_from("a1/-中文，。（） `é😀"), max_size=200), st.integers(4, 40))
def test_lines_are_as_wide_as_they_may_be_and_lose_nothing(text: str, width: int) -> None:
    places = [0, *breaks(text, width), len(text)]
    lines = [text[begin:end] for begin, end in pairwise(places)]
    assert "".join(lines) == text
    for line in lines:
        assert cell_len(line.rstrip()) <= width or UNIT.fullmatch(line), "a word alone may be too long"


def test_explain_knows_every_page_that_has_a_script(lang: str) -> None:
    assert set(walkthrough.pages()) == SCRIPTS


def test_a_steps_beginning_is_short_and_its_proof_is_there(
    lang: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in STEPS:
        title, what = walkthrough.beginning(walkthrough.text_of(name))
        assert re.match(r"\d", title)
        render(what)
        assert 2 <= len(capsys.readouterr().out.splitlines()) <= 8, name
        how, commands, expected = walkthrough.verifying(walkthrough.text_of(name))
        assert commands.strip()
        assert set(code_lines(how)) >= set(commands.splitlines())
        assert expected.strip()
        assert "##" not in expected
        monkeypatch.setenv("RUNBOOK_LANG", "en" if lang == "zh" else "zh")
        assert walkthrough.verifying(walkthrough.text_of(name))[1] == commands, "the same proof in both languages"
        monkeypatch.setenv("RUNBOOK_LANG", lang)


def test_links_are_words_that_lead_on(lang: str) -> None:
    links = "[E06](troubleshooting.md#e06) [1.2](1.2-venv.md) [keys](settings.md)"
    spelled = walkthrough.LINK.sub(walkthrough._spelled_out, links)
    assert spelled.startswith("E06 ")
    assert "./inv explain venv" in spelled
    assert f"docs/{lang}/settings.md" in spelled
    web = "[vLLM](https://docs.vllm.ai/)"
    assert walkthrough.LINK.sub(walkthrough._spelled_out, web) == web


def test_explain_gives_the_page_as_it_is_and_todays_values(clone: Shell) -> None:
    done = clone.inv("explain", "mkdirs", "--lang", "zh", RUNBOOK_LANG="en")
    assert done.returncode == 0, done.stderr
    assert (ROOT / "docs/zh/1.1-mkdirs.md").read_text("utf-8").strip() in done.stdout
    assert f"$ mkdir -p {clone.home}/base/models" in done.stdout
    assert "只是预览" in done.stdout, "--lang goes before RUNBOOK_LANG, for the script too"
    assert not (clone.home / "base").exists()


@pytest.mark.parametrize("words", [(), ("--lang", "zh")])
def test_explain_alone_lists_one_a_line(words: tuple[str, ...], clone: Shell) -> None:
    done = clone.inv("explain", *words)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(SCRIPTS)
    assert ("建目录" if words else "Directories") in done.stdout


@pytest.mark.parametrize(
    ("act", "says"),
    [
        (lambda: walkthrough.explain("dowload", ""), "did you mean download?"),
        (lambda: walkthrough.explain("mkdirs", "fr"), "does not accept --lang fr"),
        (lambda: walkthrough.deploy(True, "prefligth", None), "did you mean preflight?"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    act: Callable[[], None], says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RUNBOOK_LANG", "en")
    with pytest.raises(Fault) as told:
        act()
    assert says in str(told.value)
    assert capsys.readouterr().out == ""


def test_questions_need_a_terminal(clone: Shell) -> None:
    done = clone.inv("deploy", "--step")
    assert done.returncode == 1
    assert "--step asks before each step, but standard input is not a terminal" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (clone.home / "base").exists()


def test_step_and_dry_show_and_ask_nothing(clone: Shell) -> None:
    done = clone.inv("deploy", "--dry", *MKDIRS[1:])
    assert done.returncode == 0, done.stderr
    assert "creates the directories" in done.stdout
    assert f"$ mkdir -p {clone.home}/base/models" in done.stdout
    assert "nothing has been changed" in done.stdout
    assert not (clone.home / "base").exists()
    assert not (clone.root / ".env").exists()


@pytest.mark.parametrize("words", ["deploy --dry --to mkdirs", "explain status"])
def test_a_reader_that_has_enough_ends_it_silently(words: str, clone: Shell) -> None:
    done = clone.run("bash", "-c", f"{clone.root}/inv {words} | head -n 1")
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""


def test_a_step_that_fails_is_asked_again_until_it_works_and_proves_it(clone: Shell) -> None:
    (clone.home / "base").write_text("in the way")
    with terminal(clone, *MKDIRS) as person:
        person.expect_exact("creates the directories")
        person.expect_exact(f"$ mkdir -p {clone.home}/base/models")
        person.expect_exact("Run mkdirs?")
        person.sendline("Ｒun")  # full width, as an input method types it
        person.expect_exact("E06 ")
        person.expect_exact("try again?")
        (clone.home / "base").unlink()
        person.sendline("")
        person.expect(r"mkdirs +✓")
        person.expect_exact("Run these commands to verify it?")
        assert (clone.home / "base/logs").is_dir()
        person.sendline("y")
        person.expect(rf"d\S+ .*{clone.home}/base/logs")
        person.expect_exact("four lines")
    assert person.exitstatus == 0
    with terminal(clone, *MKDIRS) as person:
        person.expect_exact("already done")
    assert person.exitstatus == 0, "nothing to ask"


def test_unknown_answers_explain_and_skip(clone: Shell) -> None:
    with terminal(clone, *MKDIRS, RUNBOOK_LANG="zh", PYTHONIOENCODING="utf-8:strict") as person:
        person.expect_exact("执行 mkdirs？")
        person.sendline("什么")
        person.expect_exact("没有「什么」这个选项")
        person.expect_exact("执行 mkdirs？")
        person.sendline("讲解")
        person.expect_exact("出错时")
        person.expect_exact("执行 mkdirs？")
        os.write(person.child_fd, b"\xff\xfe\r")  # no UTF-8
        person.expect_exact("这个选项")
        person.sendline("跳过")
        person.expect_exact("补做：./inv mkdirs")
    assert person.exitstatus == 1, "what was asked for is not done"
    assert not (clone.home / "base").exists()


@pytest.mark.parametrize(
    ("keys", "says", "code"),
    [("q\r", "To continue: {}", 1), ("\x04", "To continue: {}", 1), ("\x03", "Continue with: {}", 130)],
    ids=["quit", "end of input", "Ctrl-C"],
)
def test_leaving_says_the_exact_way_back(keys: str, says: str, code: int, clone: Shell) -> None:
    (clone.home / "second.env").write_text("API_KEY=k\n")
    with terminal(clone, *MKDIRS, ENV_FILE="second.env") as person:
        person.expect_exact("Run mkdirs?")
        person.send(keys)
        person.expect_exact(says.format(f"ENV_FILE={clone.home}/second.env ./inv {' '.join(MKDIRS)}")[:70])
    assert person.exitstatus == code
    assert not (clone.home / "base").exists()


def test_keys_pressed_while_a_step_runs_are_no_answers(clone: Shell) -> None:
    clone.stand_in("mkdir", 'sleep 0.4; exec /bin/mkdir "$@"')
    with terminal(clone, *MKDIRS) as person:
        person.expect_exact("Run mkdirs?")
        person.send("\r")
        person.expect(r"\[2/9\] mkdirs · ")
        person.send("\r\r\r")
        person.expect_exact("verify it?")
        assert person.expect_exact(["Four lines", pexpect.TIMEOUT], timeout=0.5) == 1
        person.send("s\r")
    assert person.exitstatus == 0


@pytest.mark.parametrize("name", ["bash", "zsh", "fish"])
def test_tab_completes_tasks_and_flags(name: str, shell: Shell) -> None:
    if not shutil.which(name):
        pytest.skip(f"{name} is not installed")
    plain = {"bash": "--norc", "zsh": "-f", "fish": "--no-config"}[name]
    person = pexpect.spawn(
        name, [plain, "-i"], cwd=str(ROOT), env=shell.environ(TERM="xterm"), dimensions=(24, 80), encoding="utf-8"
    )
    person.send(f"source scripts/lib/completion.{'fish' if name == 'fish' else 'sh'}; echo o''n\r")
    person.expect(r"[\r\n]on\r?\n", timeout=10 * BUSY)
    if name == "bash":
        person.send("./inv st\t\t")
        person.expect(r"status +stop", timeout=10 * BUSY)
        person.send("\x15./inv deploy --\t\t")
        person.expect(r"--dry +--from +--rag +--step +--to", timeout=10 * BUSY)
    person.send("\x15./inv explain --la\t")
    person.expect("--lang", timeout=10 * BUSY)
    person.close(force=True)
