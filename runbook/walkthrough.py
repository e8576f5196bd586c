"""The walkthrough: explain, and deploy --step, which shows the page and the commands of each step and asks."""

import os
import re
import shutil
import sys
import termios
import time
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import sh
from invoke.exceptions import Exit

from runbook import ROOT, steps
from runbook.messages import Fault, inv, language, near, tr
from runbook.settings import Settings, load
from runbook.steps import STEPS, already_done

ANSWERS = {
    "run": {"", "r", "run", "y", "yes", "是", "好", "运行", "执行"},
    "skip": {"s", "skip", "n", "no", "否", "跳过"},
    "explain": {"e", "explain", "?", "讲解", "解释", "说明"},
    "quit": {"q", "quit", "exit", "退出"},
}
BASH = re.compile(r"^```bash.*\n((?:.*\n)*?)```$", re.MULTILINE)
LINK = re.compile(r"\[([^\]]+)\]\((?!https?:)([^)\s]+)\)")


def pages() -> dict[str, Path]:
    """Return every page that has a script, by the script's name, in the order of the docs."""
    found = sorted((ROOT / "docs" / language()).glob("*-*.md"))
    named = {path.stem.partition("-")[2]: path for path in found}
    return {name: path for name, path in named.items() if (ROOT / "scripts" / f"{name}.sh").is_file()}


def text_of(name: str) -> str:
    """Return the page of this script, in the reader's language. Raises Fault E75."""
    known = pages()
    if name not in known:
        raise Fault("E75", step=name, near=near(name, known))
    return known[name].read_text("utf-8")


def show(markdown: str) -> None:
    """Print Markdown: rendered on a terminal, else unchanged."""
    if not sys.stdout.isatty():
        print(f"{markdown.strip()}\n")
        return
    from runbook.page import render

    render(LINK.sub(_spelled_out, markdown))


def _spelled_out(link: re.Match[str]) -> str:
    """Return a link as text, because a terminal has no links. A fault's own report names its page."""
    words, page = link[1], link[2].partition("#")[0]
    if re.fullmatch(r"E\d{2,3}", words):
        return words
    name = Path(page).stem.partition("-")[2]
    target = inv(f"explain {name}") if name in pages() else os.path.normpath(f"docs/{language()}/{page}")
    return words + tr(f"（`{target}`）", f" (`{target}`)")


def words() -> list[str]:
    """Return the positional arguments of explain: none if the step is left out, because Invoke has no optional ones."""
    return [] if re.search(r" explain( (-l ?|--lang[ =])\S+)?$", " ".join(sys.argv)) else ["step"]


def explain(name: str, chosen: str) -> None:
    """Show a page and its script's commands; without a name, list the pages. Raises Fault E70, E75."""
    if chosen:
        if chosen not in ("zh", "en"):
            raise Fault("E70", script="explain", word=f"--lang {chosen}", usage="./inv explain STEP --lang zh")
        os.environ["RUNBOOK_LANG"] = chosen
    settings = load()
    if not name:
        for known, path in pages().items():
            title = path.read_text("utf-8").partition("\n")[0].removeprefix("# ")
            print(f"{inv('explain')} {known:<18}{title}")
        return
    show(text_of(name))
    line = tr("按现在的设置运行 {}（这里只是预览）：", "{} with the current settings (only shown here):")
    print(line.format(f"scripts/{name}.sh"))
    with suppress(Exit):  # the script has reported its failure
        steps.run_script(name, settings=settings, dry=True, again=inv(f"explain {name}"))


def beginning(markdown: str) -> tuple[str, str]:
    """Return the page's title and its first paragraph, which says what and why and fits on one screen."""
    title, first, *_ = markdown.split("\n\n")
    return title.removeprefix("# "), first


def verifying(markdown: str) -> tuple[str, str, str]:
    """Return the Verify section as (text up to its last command, the commands, what to expect)."""
    found = re.search(r"^## (?:Verify|验证)\n(.*?)(?=^## |\Z)", markdown, re.MULTILINE | re.DOTALL)
    blocks = list(BASH.finditer(found[0])) if found else []
    if not found or not blocks:
        return "", "", ""
    end = blocks[-1].end()
    return found[0][:end], "".join(block[1] for block in blocks), found[0][end:]


def preview(name: str, settings: Settings) -> str:
    """Return the step's commands with the current settings; for a script that shows none, its own command."""
    path = str(ROOT / "scripts" / f"{name}.sh")
    environ = steps.environ(name, settings, dry=True)
    run = sh.bash.bake(path, _env=environ, _ok_code=list(range(256)), _err_to_out=True)
    shown = str(run(_tty_out=False, _decode_errors="replace"))
    return shown.rstrip() if "\n    $ " in f"\n{shown}" else f"    $ bash scripts/{name}.sh"


def read(prompt: str) -> str:
    """Return what is typed; the end of the input means quit. Raises KeyboardInterrupt."""
    sys.stdout.flush()
    termios.tcflush(sys.stdin, termios.TCIFLUSH)  # keys pressed while a step ran are not an answer
    try:
        said = input(f"\n{prompt} ")
    except EOFError:
        print()
        return "q"
    return unicodedata.normalize("NFKC", said).strip().casefold()  # an input method may type full width


def ask(question: str) -> str:
    """Ask until the answer is one of ANSWERS, and return its key."""
    ways = tr("回车 是 · s 跳过 · e 讲解 · q 退出", "Enter yes · s skip · e explain · q quit")
    while True:
        said = read(f"{question} [{ways}]")
        for answer, words in ANSWERS.items():
            if said in words:
                return answer
        print(tr(f"没有「{said}」这个选项。", f"{said!r} is not one of the options."))


class Quit(Exception):
    """The reader has chosen to quit."""


def confirm(name: str, question: str, do: Callable[[], None]) -> bool:
    """Ask, and call `do` until it succeeds: True; or skip it: False. Raises Quit, KeyboardInterrupt, Interrupted."""
    while (answer := ask(question)) != "skip":
        if answer == "quit":
            raise Quit
        if answer == "explain":
            show(text_of(name))
            continue
        try:
            do()
            return True
        except steps.Interrupted:
            raise
        except (Exit, Fault) as error:
            print(str(error) or tr("✗ 命令失败", "✗ The command failed"), file=sys.stderr)
            question = tr("解决之后（可另开一个窗口），再试一次？", "After fixing it (in another window): try again?")
    return False


def walk_step(name: str, again: str, dry: bool) -> bool:
    """Show a step's page and commands, ask, run it and verify it. Return False if it was skipped."""
    settings, place = load(), f"[{list(STEPS).index(name) + 1}/{len(STEPS)}] "
    if not dry and STEPS[name] and already_done(name, settings):
        steps.run_step(name, place=place)
        return True
    page = text_of(name)
    title, what = beginning(page)
    print(f"\n── {place}{name} · {title} ─────────────", end="\n\n")
    show(what)
    commands, screen = preview(name, settings), shutil.get_terminal_size()
    rows = sum(1 + len(line) // screen.columns for line in commands.splitlines())
    long = not dry and rows > screen.lines - 12  # the text above would scroll away before it is read
    if long and read(tr("[回车 看要执行的命令]", "[Enter shows the commands]")) in ANSWERS["quit"]:
        raise Quit
    print(tr("\n将执行（按你的设置）：", "\nIt runs these commands, with your settings:"), commands, sep="\n")
    if dry:
        return True
    if not confirm(name, tr(f"执行 {name}？", f"Run {name}?"), lambda: steps.run_step(name, place=place, again=again)):
        return False
    how, proof, expected = verifying(page)

    def verify() -> None:
        print(tr("正在执行，可能要等一会儿……", "Running; this may take a while…"))
        steps.run_script("support/shell", proof, settings=load(), again=again)

    print()
    show(how)
    if proof and confirm(name, tr("执行这些命令来验证？", "Run these commands to verify it?"), verify):
        print(tr("\n预期：", "\nExpected:"))
        show(expected)
    return True


def deploy(dry: bool, first: str | None, last: str | None, more: Callable[[bool], None] = steps.nothing_more) -> None:
    """Walk through the steps. Raises Exit unless no step was skipped, or the server gave an answer.

    more(dry): deploys further servers afterwards, without questions; see members.py.
    """
    dry = dry or steps.dry_wanted()
    names, began, skipped, left = steps.chosen(first, last), time.monotonic(), [], False
    if not (dry or sys.stdin.isatty()):
        raise Fault("E76")
    sys.stdin.reconfigure(errors="replace")  # type: ignore[union-attr]  # invalid UTF-8 is an unknown answer
    steps.opening(load())
    print(
        tr(
            "每一步都先讲解、再询问；可以随时退出，以后继续。",
            "Each step is explained before you are asked. You can quit at any time and continue later.",
        )
    )
    again = ""
    try:
        for name in names:
            again = inv(f"deploy --step --from {name}" + (f" --to {last}" if last else ""))
            if not walk_step(name, again, dry):
                skipped.append(inv(name))
    except KeyboardInterrupt:
        print()
        raise steps.Interrupted(again) from None
    except Quit:
        left = True
        print(tr(f"已退出，完成的步骤都已保留。继续执行：{again}", f"Completed steps are kept. To continue: {again}"))
    print()
    if skipped:
        print(tr(f"跳过了 {len(skipped)} 步，补做：", f"{len(skipped)} skipped; to run later: ") + ", ".join(skipped))
    answered = "curl-test" in names and inv("curl-test") not in skipped
    if left or (skipped and not answered):
        raise Exit(code=1)
    more(dry)
    steps.closing(dry, last, began)
