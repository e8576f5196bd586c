"""What the pages repeat is what the code says, in both languages; and the rules by which the pages are executed."""

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runbook import ROOT
from runbook.messages import faults
from runbook.settings import EXAMPLE, read_file, rules
from runbook.steps import STEPS
from tests.conftest import MACHINE, Shell
from tests.pages import LANGS, blocks, commands, fences, pages, plain, same
from tests.test_house import SCRIPTS, TASKS, pages_of

NAMES = sorted(path.name for path in (ROOT / "docs/en").glob("*.md"))
SECTIONS = {
    "zh": ["运行", "它执行的命令", "验证", "动手试试", "出错时", "下一步"],
    "en": ["Run", "What it runs", "Verify", "Try it", "If it fails", "Next"],
}


def page(lang: str, name: str) -> str:
    return (ROOT / "docs" / lang / name).read_text("utf-8")


def path_of(lang: str, name: str) -> Path:
    """The page of a script."""
    (found,) = pages_of(lang, name)
    return found


def door(lang: str, name: str) -> str:
    return path_of(lang, name).read_text("utf-8")


def test_every_page_is_there_in_both_languages_and_listed() -> None:
    for lang in LANGS:
        assert sorted(path.name for path in (ROOT / "docs" / lang).glob("*.md")) == NAMES
        listed = re.findall(r"^- \[.*?\]\(([^)]+)\)", page(lang, "README.md"), re.MULTILINE)
        assert sorted([*listed, "README.md"]) == NAMES


@pytest.mark.parametrize("name", [*NAMES, "README"])
def test_both_languages_have_the_same_headings_and_code(name: str) -> None:
    files = (
        [ROOT / "README.zh.md", ROOT / "README.md"]
        if name == "README"
        else [ROOT / "docs" / lang / name for lang in LANGS]
    )
    zh, en = (file.read_text("utf-8") for file in files)
    headings = [[len(one) for one in re.findall(r"^(#+) ", text, re.MULTILINE)] for text in (zh, en)]
    assert headings[0] == headings[1]
    one, other = ([(kind, text) for _, _, kind, text in fences(text.splitlines())] for text in (zh, en))
    assert [kind for kind, _ in one] == [kind for kind, _ in other]
    for (kind, mine), (_, yours) in zip(one, other, strict=True):
        if kind == "bash":
            assert commands(mine) == commands(yours)
        elif kind != "text":  # what a program prints is in its reader's language
            assert mine == yours
    marks = [[(block.mark, block.words) for block in blocks(file, "en")] for file in files]
    assert marks[0] == marks[1]


@pytest.mark.parametrize("lang", LANGS)
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_steps_page_has_its_sections_in_order(name: str, lang: str) -> None:
    found = re.findall(r"^## (.+)$", door(lang, name), re.MULTILINE)
    assert [heading for heading in found if heading in SECTIONS[lang]] == SECTIONS[lang]
    assert found.index(SECTIONS[lang][3]) == found.index(SECTIONS[lang][2]) + 1, "what was verified is tried at once"


@pytest.mark.parametrize("lang", LANGS)
@pytest.mark.parametrize("name", SCRIPTS)
def test_verify_has_a_command_and_its_output(name: str, lang: str) -> None:
    path = path_of(lang, name)
    lines = path.read_text("utf-8").splitlines()
    begin = lines.index(f"## {SECTIONS[lang][2]}") + 1
    end = lines.index(f"## {SECTIONS[lang][3]}") + 1
    there = [block for block in blocks(path, lang) if begin < block.line < end]
    assert any(block.expected and block.mark != "not run" for block in there)


@pytest.mark.parametrize("lang", LANGS)
def test_the_settings_page_has_every_key_with_its_default_and_what_is_allowed(lang: str) -> None:
    rows = re.findall(r"^\| `([A-Z_]+)` \| (.+?) \| .+ \| (.+?) \|$", page(lang, "settings.md"), re.MULTILINE)
    defaults = {
        key: f"`{value}`" if value else {"zh": "空", "en": "empty"}[lang] for key, value in read_file(EXAMPLE).items()
    }
    assert {key: default for key, default, _ in rows} == defaults
    assert {key: words.replace("`", "") for key, _, words in rows} == {
        key: words[LANGS.index(lang)] for key, (_, *words) in rules().items()
    }


@pytest.mark.parametrize("lang", LANGS)
def test_the_cheat_sheet_has_every_task(lang: str) -> None:
    known = set(re.findall(r"^(?:ENV_FILE=\S+ )?\./inv ([a-z-]+)", page(lang, "cheat-sheet.md"), re.MULTILINE))
    (rare,) = re.findall(r'Collection\("dev", (.+?)\)', (ROOT / "tasks.py").read_text("utf-8"))
    assert set(TASKS) - set(rare.split(", ")) <= known


def shown_by(shell: Shell, name: str, **settings: object) -> list[list[str]]:
    """The words of each command that a script shows, with the values put back to $NAMES."""
    folders = ["BASE_DIR", "VENV_DIR", "MODEL_DIR", "MODELSCOPE_CACHE", "LOG_DIR"]
    values: dict[str, Any] = {key: f"/{key.lower()}/here" for key in folders}
    values |= {"PIP_INDEX_URL": "https://index/", "TORCH_FIND_LINKS": "https://torch/", "HOST": "0.0.0.0"}
    values |= {"PORT": "20777", "TMUX_SESSION": "a-server", "MODEL_ID": "own-er/mo-del", "MODEL_REVISION": "revision"}
    values |= {"SERVED_MODEL_NAME": "na-me", "MAX_MODEL_LEN": "12345"}
    values |= {key: str(value) for key, value in settings.items()}
    given = dict(values)
    if name == "boot-on":  # refuses settings that stand in no file
        (shell.home / ".env").write_text("".join(f"{key}={values[key]}\n" for key in rules() if key in values))
        given = {"ENV_FILE": shell.home / ".env", "HOME": shell.home}
        shell.settings = {}
    done = shell.run("bash", ROOT / "scripts" / f"{name}.sh", RUNBOOK_DRY=1, **given)
    values |= {"MACHINE": MACHINE}
    values |= {"(dirname $MODEL_DIR)": "/model_dir", "(id -un)": "somebody"}
    values |= {"TMUX_SESSION-$(uname -n)": "a-server-some-host"}
    found = []
    for line in re.findall(r"^    \$ (.*)$", done.stdout, re.MULTILINE):
        for key, value in sorted(values.items(), key=lambda pair: -len(pair[1])):
            if len(value) > 4:
                line = re.sub(rf"(?<![\w.]){re.escape(value)}(?![\w-])", f"${key}", line)
        found.append(words_of(line.replace(f"{ROOT}/", "").replace(str(ROOT), "$PWD")))
    assert found, done.stdout + done.stderr
    return found


def words_of(command: str) -> list[str]:
    command = command.replace("$HOME", "~").replace("/python3/site", "/python3.*/site")
    command = re.sub(r"\S*/python3(?= )", "python3", command)
    return re.sub(r"""["'{}]|\\\n|\$PWD/|^exec """, "", command).replace("|", " | ").split()


def within(few: list[str], many: list[str]) -> bool:
    rest = iter(many)
    return all(word in rest for word in few)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("mkdirs", {}),
        ("venv", {}),
        ("install", {"PROFILE": "gpu"}),
        ("install", {"PROFILE": "cpu"}),
        ("download", {}),
        ("download", {"MODEL_ID": "demo"}),
        ("port-check", {}),
        (
            "serve",
            {"PROFILE": "gpu", "MODEL_DIR": "/model_dir/Qwen3-4B", "GPU": "11111", "GPU_MEMORY_UTILIZATION": "0.31415"},
        ),
        ("serve", {"PROFILE": "cpu"}),
        ("tmux-start", {}),
        ("tmux-ls", {}),
        ("curl-test", {}),
        ("boot-on", {}),
        ("boot-off", {}),
    ],
)
def test_what_it_runs_is_what_the_script_shows(name: str, settings: dict[str, object], shell: Shell) -> None:
    """Every command that the script shows is on the page, word after word; the page may add what some machines need."""
    shell.cards((40000, 40960))
    shell.stand_in("id", "echo somebody")
    shell.stand_in("uname", "echo some-host")
    for tool in ("systemctl", "loginctl"):
        shell.stand_in(tool, "exit 0")
    shell.stand_in("crontab", "[[ $1 != -l ]] || echo '@reboot # vllm-runbook /base_dir/here/run/a-server'")
    (shell.home / ".config/systemd/user").mkdir(parents=True)
    (shell.home / ".config/systemd/user/vllm-runbook-a-server-some-host.service").write_text(
        "# vllm-runbook /base_dir/here/run/a-server\n"
    )
    path = path_of("en", name)
    told = [*blocks(path, "en"), *blocks(ROOT / "docs/en/3.2-serve.md", "en")]  # what runs in the session is told there
    there = [words_of(command) for block in told for command in commands(block.code)]
    for shown in shown_by(shell, name, HOME=shell.home, **settings):
        own = shown[0] in ("write", "touch", "rm") and shown[-1] in path.read_text(
            "utf-8"
        )  # a file of the script's own, in a sentence
        if "LD_PRELOAD" not in str(shown):  # the machine's own libraries
            assert own or any(within(shown, words) for words in there), (shown, there)


@pytest.mark.parametrize("lang", LANGS)
def test_the_phases_on_the_page_are_those_of_the_wait(lang: str) -> None:
    server = (ROOT / "scripts/lib/log.sh").read_text("utf-8")
    known = re.findall(r'zh \? "(.+?)" : "(.+?)"', server)
    last = known.pop()  # before the first line of the log
    order = [pair[LANGS.index(lang)] for pair in [last, *known]]
    told = re.findall(r"^ +\d+ s  (.+)$", door(lang, "tmux-start"), re.MULTILINE)
    assert len(told) > 4
    assert [one for one in order if one in told] == told


@pytest.mark.parametrize("lang", LANGS)
def test_a_fault_on_a_page_is_told_in_its_own_words(lang: str) -> None:
    entries = faults()
    shown = 0
    for path in [*(ROOT / "docs" / lang).glob("*.md")]:
        text = path.read_text("utf-8")
        for what, fix, code in re.findall(r"^✗ (.+)\n(?:.*\n){0,2}?  → (.+)\n  (E\d{2,3}) docs/", text, re.MULTILINE):
            for part, words in (("what", what), ("fix", fix)):
                spelled = re.escape(entries[code][part][lang])
                wanted = re.sub(r"\\\{\w+\\\}", ".+", spelled)
                assert re.fullmatch(wanted, words) or words == entries[code]["title"][lang], (path.name, words)
            shown += 1
    assert shown > 3
    rows = re.findall(r"\[(E\d{2,3})\]\(#e\d{2,3}\) (.+?) \|$", page(lang, "troubleshooting.md"), re.MULTILINE)
    rows += re.findall(r"^## (E\d{2,3})\n\n\*\*(.+)\*\*$", page(lang, "troubleshooting.md"), re.MULTILINE)
    assert len(rows) > len(entries)
    for code, title in rows:
        assert title == entries[code]["title"][lang], code


def test_every_step_comes_on_its_page_in_the_order_of_deploy() -> None:
    order = [name["en"].stem.split("-", 1)[-1] for name in pages()]
    assert [name for name in order if name in STEPS] == list(STEPS)
    assert order.index("sheet") > order.index("doctor"), "the cheat sheet repeats what the pages before it have run"


def test_a_command_has_all_of_its_lines() -> None:
    code = "a |\n  b  # why\n# nothing\nc 'x\n y' \\\n  z\ncat <<END\n# kept\nEND\nd"
    assert commands(code) == ("a |\n  b", "c 'x\n y' \\\n  z", "cat <<END\n# kept\nEND", "d")


@pytest.mark.parametrize(
    ("expected", "got", "agree"),
    [
        ("Ready after 47 s: http://x:20000/v1", "Ready after 9 s: http://x:20000/v1", True),
        ("Ready after 47 s: http://x:20000/v1", "Ready after 9 s: http://x:20001/v1", False),
        ("0.50 GiB of weights", "\x1b[1m12,3 GiB of\tweights\x1b[0m  \r\n", True),
        ("a … d", "a b c d", True),
        ("a … d", "a b c", False),
        ("first\n…\nlast", "first\nlast", True),
        ("first\n…\nlast", "first\n1\n2\nlast", True),
        ("first\n…", "second", False),
        ("HTTP/1.1 200 OK", "HTTP/1.1 401 Unauthorized", False),
        ("restarts 0", "restarts 1", False),
        ("uptime 0:01:02", "uptime 1:00:00", True),
        ("SHARE=0.15", "SHARE=0.2", True),
        ("0.32.0", "0.33.0", False),
    ],
)
def test_when_an_output_agrees(expected: str, got: str, agree: bool) -> None:
    assert same(expected, got) is agree


@given(st.text(st.characters(codec="utf-8", exclude_characters="\r\x1b…"), max_size=60))
def test_an_output_agrees_with_itself_and_with_no_longer_one(text: str) -> None:
    assert same(text, text)
    assert not same(text, plain(text) + "\nand more")
