"""The docs as a reader meets them: the pages in their order, their command blocks, what each should print.

What can stand on the line before a ```bash block, invisible in the rendered page:
    <!-- not run: WHY -->                it cannot run here
    <!-- may fail: WHY -->               its exit code says nothing
    <!-- keys: after "TEXT" press KEYS -->   what to press in a program that does not end by itself
    <!-- each: WHY -->                   it is run in each language, however long it takes
    <!-- stays: after "TEXT" press KEYS -->  the command stays in a terminal of its own until the page ends; then KEYS
"""

import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from runbook import ROOT

LANGS = ("zh", "en")
FENCE = re.compile(r"^( *)```(\w*)$")
MARK = re.compile(r"^<!-- (not run|may fail|each|keys|stays): (.+) -->$")
# What differs from run to run: times, sizes, shares, dates. Such a number stands for any other, a version does not.
UNITS = r"(?: ?(?:s|GiB|MiB|KiB|GB|MB)\b| ?(?:秒|个 token)| tokens\b)"
MEASURED = re.compile(rf"(?<![\d.])\d+\.\d+(?![\d.])|\d+(?:[.,]\d+)*(?={UNITS})|\d+(?::\d\d)+|\d{{4}}-\d\d-\d\d")


@dataclass(frozen=True)
class Block:
    """A ```bash block: where it is, its text, the output that the page states, its mark."""

    page: str  # relative to the project
    lang: str
    line: int
    code: str
    expected: str | None
    mark: str
    words: str

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def name(self) -> str:
        """The page's name, the same in both languages."""
        return Path(self.page).name.replace(".zh.", ".")

    @property
    def press(self) -> tuple[str, str]:
        """The text after which to press, and the keys as the terminal sends them."""
        words = shlex.split(self.words.removeprefix("after "))
        names = {"Enter": "\r"} | {f"Ctrl-{chr(64 + code)}": chr(code) for code in range(1, 27)}
        return words[0], "".join(names.get(key, key) for key in words[2:])


def fences(lines: list[str]) -> Iterator[tuple[int, int, str, str]]:
    """Every fenced block as (first line, last line, its language, its text), lines counted from 0."""
    number = 0
    while number < len(lines):
        if opening := FENCE.match(lines[number]):
            closing = next(n for n in range(number + 1, len(lines)) if lines[n].strip() == "```")
            indent = len(opening[1])
            yield number, closing, opening[2], "\n".join(line[indent:] for line in lines[number + 1 : closing])
            number = closing
        number += 1


def _between(lines: list[str]) -> bool:
    """Whether a ```text block is the output of the command before it: a paragraph at most stands between the two."""
    paragraphs = [part for part in "\n".join(lines).split("\n\n") if part.strip() and not MARK.match(part.strip())]
    return len(paragraphs) < 2 and not any(line.startswith(("#", "|", "-")) for line in lines)


@cache
def blocks(page: Path, lang: str) -> tuple[Block, ...]:
    """The command blocks of a page, in its order."""
    lines = page.read_text("utf-8").splitlines()
    found, fenced = [], list(fences(lines))
    for place, (first, last, kind, code) in enumerate(fenced):
        if kind != "bash":
            continue
        expected = None
        if place + 1 < len(fenced):
            begin, _, next_kind, text = fenced[place + 1]
            if next_kind == "text" and _between(lines[last + 1 : begin]):
                expected = text
        mark = MARK.match(lines[first - 1].strip())
        found.append(
            Block(
                str(page.relative_to(ROOT)),
                lang,
                first + 2,
                code,
                expected,
                mark[1] if mark else "",
                mark[2] if mark else "",
            )
        )
    return tuple(found)


def pages() -> list[dict[str, Path]]:
    """Every page in both languages, in the order of docs/en/README.md; then that list, the README and CONTRIBUTING."""
    listed = re.findall(r"^- \[.+?\]\(([^)#/]+\.md)\)", (ROOT / "docs/en/README.md").read_text("utf-8"), re.MULTILINE)
    names = [*listed, "README.md"]
    found = [{lang: ROOT / "docs" / lang / name for lang in LANGS} for name in names]
    found.append({"zh": ROOT / "README.zh.md", "en": ROOT / "README.md"})
    return [*found, {"en": ROOT / "CONTRIBUTING.md"}]


@cache
def commands(code: str) -> tuple[str, ...]:
    """The block's commands, each with all of its lines, without comments."""
    found, held = [], ""
    for line in code.splitlines():
        line = re.sub(r"(^|\s+)#( .*|$)", "", line) if "<<" not in held else line
        if not held and not line.strip():
            continue
        held += line
        whole = subprocess.run(["bash", "-n"], input=held, capture_output=True, text=True, check=False)
        if whole.returncode or whole.stderr or held.endswith(("\\", "|")):
            held += "\n"
            continue
        found.append(held)
        held = ""
    assert not held, f"not a whole command: {held}"
    return tuple(found)


def plain(text: str) -> str:
    """What a terminal shows in the end: no colours, no lines that were overwritten, no space at the edges."""
    text = re.sub(r"\x1b(\[[0-9;?]*[ -/]*[@-~]|\][^\x07]*\x07|[()][A-Z0-9]|[=>])", "", text)
    shown = (re.sub(r"[ \t]+", " ", line.rstrip("\r").split("\r")[-1]).rstrip() for line in text.split("\n"))
    return "\n".join(shown).strip("\n")


def same(expected: str, got: str) -> bool:
    """Whether the output is what the page states: … is anything, alone on a line any lines; MEASURED is any number."""

    def line(text: str) -> str:
        if re.fullmatch(r" ?…+", text):
            return r"(?:.*\n)*"
        parts = re.split(rf"(…+|{MEASURED.pattern})", text)
        odd = (".*" if "…" in part else r"[\d.,:-]+" for part in parts[1::2])
        return "".join(re.escape(part) + next(odd, "") for part in parts[::2]) + r"\n"

    return bool(re.fullmatch("".join(map(line, plain(expected).split("\n"))), plain(got) + "\n"))
