"""Draws what a terminal shows, from standard input, as an SVG on standard output: terminal_svg.py COLUMNS.

Fonts are those of the reader's machine. Chinese is placed apart from the rest, two columns a character, so that
columns stay straight whatever its font.
"""

import sys
import unicodedata
from html import escape
from itertools import groupby

WIDTH, HEIGHT, TOP, SIDE = 8.4, 18, 36, 14  # of a column, a line, the title bar and the margin, in pixels
HEAD = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w:g} {h:g}" width="{w:g}" role="img">
<rect width="{w:g}" height="{h:g}" rx="8" fill="#161b22"/>
<g fill="#57606a"><circle cx="20" cy="18" r="5"/><circle cx="38" cy="18" r="5"/><circle cx="56" cy="18" r="5"/></g>
<g fill="#e6edf3" font-size="14" font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', \
'PingFang SC', 'Microsoft YaHei', 'Noto Sans Mono CJK SC', monospace">
"""


def columns(text: str) -> int:
    """How many columns of a terminal the text takes."""
    return sum(1 + (unicodedata.east_asian_width(char) in "WF") for char in text)


def draw(lines: list[str], width: int) -> str:
    """The SVG of these lines in a terminal of so many columns."""
    w, h = width * WIDTH + 2 * SIDE, len(lines) * HEIGHT + TOP + SIDE
    out = [HEAD.format(w=w, h=h)]
    for number, line in enumerate(lines):
        column = 0
        for _, run in groupby(line, key=lambda char: (char == " ", columns(char))):
            text = "".join(run)
            x, y, long = SIDE + column * WIDTH, TOP + (number + 0.75) * HEIGHT, columns(text) * WIDTH
            if text.strip():
                place = f'x="{x:.1f}" y="{y:.1f}" textLength="{long:.1f}" lengthAdjust="spacingAndGlyphs"'
                out.append(f"<text {place}>{escape(text)}</text>\n")
            column += columns(text)
    return "".join(out) + "</g>\n</svg>\n"


if __name__ == "__main__":
    print(draw(sys.stdin.read().rstrip().split("\n"), int(sys.argv[1])), end="")
