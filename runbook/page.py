"""A page of the docs on a terminal, rendered by rich: wrapped as Chinese is, commands in lines that can be copied."""

import re
from collections.abc import Iterator
from typing import ClassVar

from rich import markdown
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text
from rich.theme import Theme

# What stays on one line: a word or a Chinese character, with the punctuation that may not stand apart from it.
UNIT = re.compile(r"[（「《]*(?:[一-鿿]|[^\s一-鿿（「《，。、；：！？）」》]+)?[，。、；：！？）」》]*\s*")


def breaks(text: str, width: int) -> Iterator[int]:
    """Where the lines of text begin when it is wrapped to this many columns; rich alone breaks at spaces only."""
    column = 0
    for unit in UNIT.finditer(text):
        if column and column + cell_len(unit[0].rstrip()) > width:
            yield unit.start()
            column = 0
        column += cell_len(unit[0])


class Paragraph(markdown.Paragraph):
    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in self.text.divide(breaks(self.text.plain, options.max_width)):
            line.rstrip()
            yield line


class Code(markdown.CodeBlock):
    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in str(self.text).rstrip().splitlines():
            yield Text(f"    {line}", style="cyan", no_wrap=True, overflow="ignore")


class Markdown(markdown.Markdown):
    elements: ClassVar = {**markdown.Markdown.elements, "paragraph_open": Paragraph, "fence": Code}


def render(text: str) -> None:
    """Print Markdown, up to 80 columns wide; only a command may be longer, and is wrapped by the terminal."""
    text = re.sub(r"!\[[^]]*\]\([^)]*\)\n*", "", text)  # a terminal shows no picture
    console = Console(highlight=False, theme=Theme({"markdown.code": "bold"}))
    console.width = min(console.width, 80)
    console.print(Markdown(text, hyperlinks=False), crop=False)
