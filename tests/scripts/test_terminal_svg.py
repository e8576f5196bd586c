"""The picture of a terminal: straight columns for Chinese too, nothing fetched, and it shows today's steps."""

import re
import unicodedata
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from terminal_svg import SIDE, WIDTH, columns, draw

from runbook import ROOT
from runbook.checks import STEPS

LINE = st.text(st.sampled_from("ab <>&\"'$✓→·中文，（"), max_size=30)


def pieces(svg: str) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text"))


@given(st.lists(LINE, min_size=1))
def test_every_character_stands_in_its_column(lines: list[str]) -> None:
    wanted, found = set(), set()
    for number, line in enumerate(lines):
        column = 0
        for char in line:
            if char != " ":
                wanted.add((number, column, char))
            column += 2 if unicodedata.east_asian_width(char) in "WF" else 1
    rows = sorted({float(piece.attrib["y"]) for piece in pieces(draw(["x"] * len(lines), 30))})
    for piece in pieces(draw(lines, 30)):
        column = round((float(piece.attrib["x"]) - SIDE) / WIDTH)
        assert float(piece.attrib["textLength"]) == pytest.approx(columns(piece.text or "") * WIDTH, abs=0.1)
        for char in piece.text or "":
            found.add((rows.index(float(piece.attrib["y"])), column, char))
            column += columns(char)
    assert found == wanted


@pytest.mark.parametrize("lang", ["zh", "en"])
def test_the_recorded_run_shows_the_steps_of_today_and_nothing_of_a_machine(lang: str) -> None:
    svg = (ROOT / f"docs/deploy.{lang}.svg").read_text("utf-8")
    text = " ".join(piece.text or "" for piece in pieces(svg))
    shown = re.findall(rf"\[(\d)/{len(STEPS)}\] (\S+) ✓ [\d.]+ s", text)
    assert [name for _, name in shown] == list(STEPS)[: len(shown)]
    assert shown[-1][1] == "curl-test", "up to the answer"
    assert "AI assistant" in text
    assert ("已完成" in text) == (lang == "zh")
    assert set(re.findall(r"/home/\w+", text)) == {"/home/me"}
    assert set(re.findall(r"\w+://([^/:\s]+)", svg)) == {"www.w3.org", "127.0.0.1"}
    assert "<image" not in svg
    assert "url(" not in svg
