"""How a page of the repository becomes a page of the site, where GitHub's Markdown and Zensical's differ."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runbook import ROOT
from runbook.dev.docs_site import fit, lay, place

LINE = st.text(st.sampled_from("ab -*1.`|#[]()\n"), max_size=60)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("- a\n  - b\n\n    c\n", "- a\n    - b\n\n        c\n"),
        ("1. a\n   - b\n", "1. a\n    - b\n"),
        ("text:\n- a\n- b\n", "text:\n\n- a\n- b\n"),
        ("- a\n  b\n- c\n", "- a\n    b\n- c\n"),
        ("```bash\nif x; then\n  y\n- z\n```\n", "```bash\nif x; then\n  y\n- z\n```\n"),
        ("- a\n  ```bash\n  if x\n    y\n  ```\n", "- a\n    ```bash\n    if x\n      y\n    ```\n"),
        ("````\n```\n  [a](b)\n```\n````\n", "````\n```\n  [a](b)\n```\n````\n"),
    ],
)
def test_lists_are_indented_by_fours_and_code_is_left_alone(before: str, after: str) -> None:
    assert fit(before, lambda match: "changed") == after


def test_links_are_found_in_markdown_and_html_and_others_left_alone() -> None:
    text = '[a](b.md) [c](d.md#e07) [e](#e07) [f](https://x.y/z) ![g](h.svg) <img src="i.svg"> <a href="mailto:x">'
    wanted = '[a](B.MD) [c](D.MD#e07) [e](#e07) [f](https://x.y/z) ![g](H.SVG) <img src="I.SVG"> <a href="mailto:x">'
    assert fit(text, lambda match: match[0].upper()) == wanted + "\n"


@given(st.lists(LINE).map("\n".join))
def test_no_word_is_lost(text: str) -> None:
    assert fit(text, lambda match: match[0]).split() == text.split()


@pytest.mark.parametrize(
    ("file", "where"),
    [
        ("docs/zh/2-download.md", ("zh", "2-download.md")),
        ("docs/en/README.md", ("en", "index.md")),
        ("README.md", ("en", "project.md")),
        ("README.zh.md", ("zh", "project.md")),
        ("CONTRIBUTING.md", ("zh", "CONTRIBUTING.md")),
        ("scripts/lib/common.sh", ("zh", "scripts-lib-common.sh.md")),
        (".env.example", ("zh", "env.example.md")),
        ("docs/deploy.zh.svg", ("zh", "deploy.zh.svg")),
    ],
)
def test_every_file_has_one_place(file: str, where: tuple[str, str]) -> None:
    assert place(ROOT / file, "zh") == where


def test_what_the_pages_lead_to_is_laid_beside_them(tmp_path: Path) -> None:
    lay("en", tmp_path)
    pages = {path.name for path in tmp_path.iterdir()}
    assert pages >= {"index.md", "project.md", "CONTRIBUTING.md", "settings.md"}
    assert "](../zh/project.html)" in (tmp_path / "project.md").read_text("utf-8")
    assert "](troubleshooting.md#e16)" in (tmp_path / "5-curl-test.md").read_text("utf-8")
