"""The pages as a site, opened from the disk in a real Chromium that reaches no network."""

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urlparse

import pytest

from runbook import ROOT
from tests.chromium import FOUND, Browser, browser
from tests.conftest import BUSY, Shell, copy_checkout

pytestmark = pytest.mark.skipif(
    not FOUND, reason="no Chromium: apt-get update && apt-get install -y chromium fonts-noto-cjk"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the script builds alone, in a folder whose name has a space and Chinese."""
    home = tmp_path_factory.mktemp("site")
    root = copy_checkout(home / "新 checkout")
    done = Shell(home, root).script("dev/docs", timeout=300, RUNBOOK_LANG="en")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Open {root}/site/index.html in a browser" in done.stdout
    return root / "site"


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as one:
        yield one


@pytest.fixture(autouse=True)
def _nothing_wrong(tab: Browser) -> Iterator[None]:
    """No page complains, and none asks for anything but files of this machine."""
    yield  # what was seen before the first test counts too
    wrong, asked = tab.wrong.copy(), tab.asked.copy()
    tab.wrong.clear()
    tab.asked.clear()
    assert wrong == []
    assert {urlparse(url).scheme for url in asked} <= {"file", "data", "about"}, asked


FENCED = r"^( *)(`{3,})\w*\n(.*?)^ *\2$"
LOOK = """(() => {
    const all = what => [...document.querySelectorAll(what)]
    return {
        lang: document.documentElement.lang,
        ids: all("[id]").map(one => one.id),
        links: all("a[href]").map(one => one.href),
        nav: all(".md-nav--primary > .md-nav__list > .md-nav__item > a").map(one => one.href),
        pictures: all("article img").map(one => one.naturalWidth),
        headings: all("article :is(h1, h2, h3, h4)").length,
        code: all("article pre > code").map(one => one.innerText.trim()),
        items: all("article li").length,
        rows: all("article tr").length,
    }
})()"""


SHOWN = """[...document.querySelectorAll("div")].filter(one => one.shadowRoot)
    .flatMap(one => [...one.shadowRoot.querySelectorAll("a[href]")]).map(one => one.href)"""


def pages(site: Path, lang: str) -> list[Path]:
    return sorted(path for path in (site / lang).glob("*.html") if path.name != "404.html")


@pytest.fixture(scope="module")
def seen(site: Path, tab: Browser) -> dict[Path, dict[str, Any]]:
    """Every page of both languages with what is in it, as the browser sees it; and how far it scrolls sideways."""
    found = {}
    for page in [*pages(site, "zh"), *pages(site, "en")]:
        tab.open(page.as_uri())
        found[page] = tab.ask(LOOK)
        assert page.as_uri() in tab.asked
        for width in (360, 1280):
            tab.size(width)
            found[page][f"over {width}"] = tab.ask(
                "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            )
    return found


def test_every_page_is_there_with_all_that_the_markdown_has(site: Path, seen: dict[Path, dict[str, Any]]) -> None:
    for lang in ("zh", "en"):
        for source in (ROOT / "docs" / lang).glob("*.md"):
            page = seen[site / lang / f"{'index' if source.stem == 'README' else source.stem}.html"]
            text = re.sub(r"^> ?", "", source.read_text("utf-8"), flags=re.MULTILINE)
            blocks = re.findall(FENCED, text, re.MULTILINE | re.DOTALL)
            plain = re.sub(FENCED, "", text, flags=re.MULTILINE | re.DOTALL)
            assert page["lang"] == lang
            assert page["headings"] == len(re.findall(r"^#+ ", plain, re.MULTILINE)), source
            assert page["items"] == len(re.findall(r"^ *(?:[-*]|\d+\.) ", plain, re.MULTILINE)), source
            rules = len(re.findall(r"^\|[-|: ]*-[-|: ]*\|$", plain, re.MULTILINE))
            assert page["rows"] == len(re.findall(r"^\|", plain, re.MULTILINE)) - rules, source
            code = [re.sub(f"^{indent}", "", code, flags=re.MULTILINE).strip() for indent, _, code in blocks]
            assert page["code"] == code, source


def test_every_link_and_anchor_leads_somewhere(site: Path, seen: dict[Path, dict[str, Any]]) -> None:
    checked = 0
    for page, content in seen.items():
        assert all(content["pictures"]), page
        for link in content["links"]:
            address, anchor = urldefrag(link)
            if not address.startswith("file:"):
                continue
            target = Path(unquote(urlparse(address).path))
            assert target in seen, (page.name, link)
            assert not anchor or unquote(anchor) in seen[target]["ids"], (page.name, link)
            checked += 1
        other = site / ("en" if page.parent.name == "zh" else "zh") / page.name
        assert other.as_uri() in content["links"], page
    assert checked > 1000
    assert (site / "en/troubleshooting.html").as_uri() + "#e07" in seen[site / "en/3.1-port-check.html"]["links"]


@pytest.mark.parametrize("lang", ["zh", "en"])
def test_the_navigation_has_every_page_in_the_order_of_the_list(lang: str, seen: dict[Path, dict[str, Any]]) -> None:
    text = (ROOT / f"docs/{lang}/README.md").read_text("utf-8")
    names = list(dict.fromkeys(re.findall(r"^ *(?:[-*]|\d+\.) \[[^]]*\]\(([^)/]+)\.md\)", text, re.MULTILINE)))
    for page, content in seen.items():
        shown = [Path(unquote(urldefrag(link)[0])).stem for link in content["nav"]]
        assert page.parent.name != lang or list(dict.fromkeys(shown)) == ["index", *names, "project"]
    assert {*names, "README"} == {path.stem for path in (ROOT / "docs" / lang).glob("*.md")}


def test_no_page_scrolls_sideways_not_even_on_a_phone(seen: dict[Path, dict[str, Any]]) -> None:
    assert [page.name for page, content in seen.items() if content["over 360"] > 0 or content["over 1280"] > 0] == []


@pytest.mark.parametrize(
    ("lang", "words", "page"),
    [
        ("zh", "端口占用", "troubleshooting.html"),
        ("zh", "规划显存", "0-plan.html"),
        ("en", "proxy", "troubleshooting.html"),
        ("en", "supervisor", "4.1-tmux-start.html"),
    ],
)
def test_the_search_finds_words(site: Path, lang: str, words: str, page: str, tab: Browser) -> None:
    tab.size(1280)
    tab.open((site / lang / "index.html").as_uri())
    tab.ask("document.querySelector('.md-search__button').click()")
    tab.type(words)
    found: list[str] = []
    for _ in range(50 * BUSY):
        time.sleep(0.1)
        found = tab.ask(SHOWN)
        if found:
            break
    assert any(f"/{lang}/{page}" in link for link in found), found


def test_the_front_door_leads_to_the_language_of_the_browser(site: Path, tab: Browser) -> None:
    for lang in ("zh", "en"):
        tab.call("Emulation.setUserAgentOverride", userAgent="test", acceptLanguage=lang)
        tab.open((site / "index.html").as_uri())
        for _ in range(50 * BUSY):
            if tab.ask("location.pathname").endswith(f"/site/{lang}/index.html"):
                break
            time.sleep(0.1)
        else:
            pytest.fail(tab.ask("location.href"))
