"""docs/*/add-a-step.md: its example, put together as the page says, is a whole step of this project."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from runbook import ROOT
from tests.conftest import Shell, copy_checkout

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
QUOTED = re.compile(r"^> ````markdown\n(.*?)^> ````$", re.MULTILINE | re.DOTALL)
# Where the page says that a block goes: before these words; at the end of the file; or a new file.
PLACES = [
    ("scripts/disk-free.sh", None),
    ("tasks.py", '@task(help={"verify"'),
    ("runbook/steps.py", '    "download": True,'),
    (".env.example", ""),
    ("runbook/settings.rules", ""),
    ("docs/en/settings.md", "\n## A second server"),
    ("docs/zh/settings.md", "\n## 第二个服务"),
    ("runbook/messages/faults.toml", "[E98]"),
    ("docs/en/troubleshooting.md", "## E98"),
    ("docs/zh/troubleshooting.md", "## E98"),
    ("tests/scripts/test_disk_free.py", None),
]


def page(lang: str) -> str:
    return (ROOT / "docs" / lang / "add-a-step.md").read_text("utf-8")


def put(path: Path, block: str, before: str | None) -> None:
    if before is None:
        path.write_text(block, "utf-8")
        return
    text = path.read_text("utf-8")
    assert before in text, f"{path.name}: where the page says"
    blank = "\n\n" if block.startswith(("@", "def ")) else ""
    place = text.index(before) if before else len(text)
    path.write_text(text[:place] + block + blank + text[place:], "utf-8")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this one with the step in it."""
    root = copy_checkout(tmp_path_factory.mktemp("project") / "runbook")
    found = [block for _, block in BLOCK.findall(page("en"))][: len(PLACES)]
    for (name, before), block in zip(PLACES, found, strict=True):
        put(root / name, block, before)
    (root / "scripts/disk-free.sh").chmod(0o755)
    put(root / "tasks.py", "disk_free, ", "download, port_check,")
    for lang in ("zh", "en"):
        (quoted,) = QUOTED.findall(page(lang))
        docs = root / "docs" / lang
        put(docs / "1.4-disk-free.md", re.sub(r"^> ?", "", quoted, flags=re.MULTILINE), None)
        put(docs / "README.md", "- [1.4](1.4-disk-free.md)\n", "- [2 ")
        put(docs / "cheat-sheet.md", "./inv disk-free\n", "./inv plan ")
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    return root


def test_both_languages_show_the_same_step() -> None:
    zh, en = (BLOCK.findall(page(lang)) for lang in ("zh", "en"))
    assert zh == en
    for name, _ in PLACES:
        assert all(f"**`{name}`**" in page(lang) for lang in ("zh", "en")), name


@pytest.mark.slow
def test_the_step_has_all_its_doors_and_passes_its_own_test(project: Path, shell: Shell) -> None:
    house = sorted((project / "tests").glob("test_*.py"))
    own, settings = project / "tests/scripts/test_disk_free.py", project / "tests/runbook/test_settings.py"
    picked = f"{settings}::test_every_key_has_a_default_a_comment_and_a_rule"
    about = "disk or E97 or known_used or given_where or leads or listed or allowed or every_task or every_key"
    words = ["-q", "-p", "no:cacheprovider", "-m", "not slow", "-k", f"{about} or in_the_order"]
    done = shell.run(sys.executable, "-m", "pytest", *words, f"--rootdir={project}", *house, own, picked, timeout=60)
    assert done.returncode == 0, done.stdout[-3000:]


def test_deploy_runs_the_step_in_its_place(project: Path, shell: Shell) -> None:
    (shell.home / "base").mkdir()
    inv = [sys.executable, "-m", "invoke", "--search-root", project]
    done = shell.run(*inv, "deploy", "--from", "disk-free", "--to", "disk-free", DISK_FREE_GIB=0, API_KEY="k")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^\[5/\d+\] disk-free +✓ .* GiB$", done.stdout, re.MULTILINE)
    done = shell.run(*inv, "disk-free", DISK_FREE_GIB=99999, API_KEY="k")
    assert done.returncode == 1
    assert "E97" in done.stderr
