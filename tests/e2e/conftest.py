"""One deployment from a fresh checkout into an empty folder, made once by each worker and shared by its tests."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.conftest import Done, Shell, copy_checkout


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


@pytest.fixture(scope="session")
def deployed(tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]) -> Iterator[Deployment]:
    """The README's `./inv deploy` where nothing is yet, in a folder whose name has spaces and Chinese."""
    home = tmp_path_factory.mktemp("e2e")
    root = copy_checkout(home / "新 checkout")
    # The port comes from the environment: on a shared machine the usual one may be somebody's.
    shell = Shell(home, root, {"BASE_DIR": home / "base 目录", "PORT": free_port()})
    first = shell.inv("deploy", timeout=1200)
    yield Deployment(shell, first)
    shell.inv("stop", timeout=120)
    shell.run("tmux", "kill-server")
    shutil.rmtree(home / "base 目录", ignore_errors=True)


@pytest.fixture
def running(deployed: Deployment) -> Deployment:
    """The same, with the server up, whatever the test before has done."""
    assert deployed.first.returncode == 0, deployed.first.stdout[-3000:] + deployed.first.stderr[-3000:]
    done = deployed.shell.inv("tmux-start", timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return deployed


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here is slow."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)


def listening(port: int) -> bool:
    found = subprocess.run(["ss", "-Hlnt", f"sport = :{port}"], capture_output=True, text=True, check=True)
    return bool(found.stdout.strip())


def others_can_read(path: Path) -> bool:
    return bool(path.stat().st_mode & 0o044)
