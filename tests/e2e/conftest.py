"""One deployment from a fresh checkout into an empty folder, made once by each worker and shared by its tests."""

import fcntl
import json
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from tests.conftest import BUSY, LANES, Done, Shell, copy_checkout


@dataclass
class Deployment:
    """A checkout, its base folder, and what the first deploy printed."""

    shell: Shell
    first: Done

    @property
    def base(self) -> Path:
        return Path(str(self.shell.settings["BASE_DIR"]))

    @property
    def port(self) -> int:
        return int(str(self.shell.settings["PORT"]))

    @property
    def model(self) -> Path:
        return self.base / "models/SmolLM2-135M-Instruct"

    @property
    def key(self) -> str:
        lines = (self.shell.root / ".env").read_text("utf-8").splitlines()
        return next(line.removeprefix("API_KEY=") for line in lines if line.startswith("API_KEY="))

    def server(self, name: str = "") -> set[int]:
        """The server's processes by their mark, orphans included; or those whose command line has this in it."""
        found = set()
        for process in psutil.process_iter():
            try:
                marked = process.environ().get("RUNBOOK_SERVER", "").startswith(str(self.base))
                if marked and name in " ".join(process.cmdline()):
                    found.add(process.pid)
            except psutil.Error:
                continue
        return found

    def complete(self, tokens: int) -> int:
        """The status of one completion of so many tokens; 0 when the server went away."""
        body = {"model": self.model.name, "prompt": "Count: 1 2 3", "max_tokens": tokens, "ignore_eos": True}
        with suppress(httpx.TransportError):
            return httpx.post(
                f"http://127.0.0.1:{self.port}/v1/completions",
                json=body,
                headers={"Authorization": f"Bearer {self.key}"},
                timeout=120 * BUSY,
                trust_env=False,
            ).status_code
        return 0

    @contextmanager
    def in_flight(self) -> Iterator[list[int]]:
        """A completion that vLLM works on for some four seconds more; its status is in the list at the end."""
        answers = list[int]()
        assert self.complete(2) == 200  # the first one after a start is slower
        began = time.monotonic()
        assert self.complete(8) == 200
        tokens = max(40, int(8 * 4 / (time.monotonic() - began)))
        asking = threading.Thread(target=lambda: answers.append(self.complete(tokens)))
        asking.start()
        url, key = f"http://127.0.0.1:{self.port}/metrics", {"Authorization": f"Bearer {self.key}"}
        while asking.is_alive():
            found = httpx.get(url, headers=key, timeout=60 * BUSY, trust_env=False).text
            if re.search(r"^vllm:num_requests_running\{.*\} [1-9]", found, re.MULTILINE):
                break
            time.sleep(0.02)
        assert asking.is_alive(), "it ended before it was seen"
        yield answers
        asking.join(120 * BUSY)

    def processes(self) -> list[psutil.Process]:
        """Whatever belongs to this deployment, by its mark or by running out of its folder."""
        found = []
        for process in psutil.process_iter():
            try:
                marked = str(self.base) in process.environ().get("RUNBOOK_SERVER", "")
                if marked or any(str(self.base) in word for word in process.cmdline()):
                    found.append(process)
            except psutil.Error:
                continue
        return found


def copy_tree(source: Path, target: Path) -> None:
    """A copy without logs and what belongs to the running server; environments, of gigabytes, by hard links."""

    def copy(one: str, other: str) -> None:
        (os.link if "/.venv/" in one else shutil.copy2)(one, other)

    def left_out(folder: str, names: list[str]) -> set[str]:
        top = Path(folder) == source or Path(folder).parent == source  # tests/data has logs as well
        return {"logs", "run", f"tmux-{os.getuid()}"} & set(names) if top else set()

    shutil.copytree(source, target, symlinks=True, ignore=left_out, copy_function=copy, dirs_exist_ok=True)


def move_environment(folder: Path, old: str, new: str) -> None:
    """A virtual environment that was copied: its programs and its own record name the place where they lie now."""
    for path in [*folder.glob("pyvenv.cfg"), *folder.glob("bin/*")]:
        if path.is_symlink() or old.encode() not in (data := path.read_bytes()):
            continue
        mode = path.stat().st_mode
        path.unlink()  # it may be a hard link to the original
        path.write_bytes(data.replace(old.encode(), new.encode()))
        path.chmod(mode)


@pytest.fixture(scope="session")
def deployed(tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]) -> Iterator[Deployment]:
    """The README's `./inv deploy` where nothing is yet, in a folder whose name has spaces and Chinese.

    The first of several workers deploys; the others wait for it and get a copy, with what that deploy printed.
    """
    home = tmp_path_factory.mktemp("e2e")
    base, root = home / "base 目录", home / "新 checkout"
    # The port comes from the environment: on a shared machine the usual one may be somebody's.
    shell = Shell(home, root, {"BASE_DIR": base, "PORT": free_port()})
    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared
    kept = shared / "deployment"
    with (shared / "deployment.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if mine := not kept.exists():
            copy_checkout(root)
            first = shell.inv("deploy", timeout=1200)
            copy_tree(home, kept)
            (kept / "first.json").write_text(json.dumps([str(home), first.returncode, first.stdout, first.stderr]))
        else:
            copy_tree(kept, home)
            where, *said = json.loads((kept / "first.json").read_text())
            first = Done([], *said)
            for folder in (root / ".venv", base / ".venv"):
                move_environment(folder, where, str(home))
    yield Deployment(shell, first)
    shell.inv("stop", timeout=120)
    shell.run("tmux", "kill-server")
    for folder in (base, kept) if mine else (base,):
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def running(deployed: Deployment) -> Deployment:
    """The same, with the server up, whatever the test before has done."""
    assert deployed.first.returncode == 0, deployed.first.stdout[-3000:] + deployed.first.stderr[-3000:]
    done = deployed.shell.inv("tmux-start", timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return deployed


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here is slow and goes first, the longest of it before all."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.timeout(3000))
    order = [*LANES]

    def rank(item: pytest.Item) -> tuple[bool, int]:
        name = item.path.stem
        return here not in item.path.parents, order.index(name) if name in order else len(order)

    items.sort(key=rank)


def listening(port: int) -> bool:
    found = subprocess.run(["ss", "-Hlnt", f"sport = :{port}"], capture_output=True, text=True, check=True)
    return bool(found.stdout.strip())


def others_can_read(path: Path) -> bool:
    return bool(path.stat().st_mode & 0o044)
