"""Render a page of the docs on a terminal with rich: wraps Chinese text, and keeps commands as lines to copy."""

import re
from collections.abc import Iterator
from typing import ClassVar

from rich import markdown
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text
from rich.theme import Theme

# Text that stays on one line: a word or a Chinese character, with the punctuation that belongs to it.
UNIT = re.compile(r"[（「《]*(?:[一-鿿]|[^\s一-鿿（「《，。、；：！？）」》]+)?[，。、；：！？）」》]*\s*")


def breaks(text: str, width: int) -> Iterator[int]:
    """Yield where the lines begin when text is wrapped to `width` columns; rich itself breaks only at spaces."""
    column = 0
    for unit in UNIT.finditer(text):
        if column and column + cell_len(unit[0].rstrip()) > width:
            yield unit.start()
            column = 0
        column += cell_len(unit[0])


class Paragraph(markdown.Paragraph):
    """A paragraph that is wrapped by `breaks`."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in self.text.divide(breaks(self.text.plain, options.max_width)):
            line.rstrip()
            yield line


class Code(markdown.CodeBlock):
    """Indented lines that are not wrapped."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in str(self.text).rstrip().splitlines():
            yield Text(f"    {line}", style="cyan", no_wrap=True, overflow="ignore")


class Markdown(markdown.Markdown):
    """Markdown with these two elements."""

    elements: ClassVar = {**markdown.Markdown.elements, "paragraph_open": Paragraph, "fence": Code}


def render(text: str) -> None:
    """Print Markdown, up to 80 columns wide; the terminal wraps a longer command."""
    text = re.sub(r"!\[[^]]*\]\([^)]*\)\n*", "", text)  # a terminal cannot show images
    console = Console(highlight=False, theme=Theme({"markdown.code": "bold"}))
    console.width = min(console.width, 80)
    console.print(Markdown(text, hyperlinks=False), crop=False)
