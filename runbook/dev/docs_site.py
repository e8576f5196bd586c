"""Write the pages of one language for Zensical, all in one directory: docs_site.py zh|en DIRECTORY.

The pages are written for GitHub. This module adapts their links, and turns a file that they link to into a page.
"""

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_TARGET = re.compile(r'(?<=\]\()(?!\w+:|#)[^)#\s]+|(?<=(?:src|ref|set)=")(?!\w+:|#)[^"#]+')
_ITEM = re.compile(r"([-*]|\d+\.) ")


def place(file: Path, lang: str) -> tuple[str, str]:
    """Return the language and the name of a repository file in the site."""
    path = file.relative_to(ROOT)
    if path.suffix == ".md" and path.parent.parent.name == "docs":
        return path.parent.name, "index.md" if path.stem == "README" else path.name
    if path.name in ("README.md", "README.zh.md"):
        return "zh" if path.stem == "README.zh" else "en", "project.md"
    if path.suffix in (".svg", ".png"):
        return lang, path.name
    return lang, "-".join(path.parts).lstrip(".").removesuffix(".md") + ".md"


def fit(text: str, link: Callable[[re.Match[str]], str]) -> str:
    """Return Markdown with `link` applied to every link, and lists indented by four, as Python-Markdown needs them."""
    lines, fence, indent = [""], "", 0
    for line in text.splitlines():
        body = line.lstrip(" ")
        depth = len(line) - len(body)
        if not fence:
            indent, body = depth, _TARGET.sub(link, body)
            fence = (re.match("`{3,}", body) or [""])[0]
            if _ITEM.match(body) and lines[-1][:1].strip() and not _ITEM.match(lines[-1]):
                lines.append("")  # a list directly after a paragraph needs an empty line
        elif body.rstrip() == fence:
            fence = ""
        lines.append((" " * (indent // 2 * 4 + depth - indent) + body).rstrip())
    return "\n".join(lines[1:]) + "\n"


def lay(lang: str, directory: Path) -> None:
    """Write the pages of docs/LANG, the README, and every file that they link to."""
    queue = [*sorted((ROOT / "docs" / lang).glob("*.md")), ROOT / ("README.zh.md" if lang == "zh" else "README.md")]
    for file in queue:  # link() adds the linked files

        def link(match: re.Match[str], file: Path = file) -> str:
            target = Path(os.path.normpath(file.parent / match[0]))
            other, name = place(target, lang)
            if other != lang:
                return f"../{other}/{name.removesuffix('.md')}.html"
            if target not in queue:
                queue.append(target)
            return name

        new = directory / place(file, lang)[1]
        if new.suffix != ".md":
            new.write_bytes(file.read_bytes())
        elif file.suffix == ".md":
            new.write_text(fit(file.read_text("utf-8"), link), "utf-8")
        else:
            kind = "python" if file.suffix == ".py" else "bash"
            new.write_text(f"# {file.relative_to(ROOT)}\n\n`````{kind}\n{file.read_text('utf-8')}`````\n", "utf-8")


if __name__ == "__main__":
    lay(sys.argv[1], Path(sys.argv[2]))
