"""Hosts that share a file system: namespaces with a host name, processes, a network and a /proc of their own."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from runbook import ROOT
from tests.conftest import BUSY, Done, Shell, at_rest

OWN = ["--uts", "--net", "--pid", "--ipc", "--mount", *(["--user"] if os.geteuid() else [])]
APART = ["unshare", *OWN, *(["--map-root-user"] if os.geteuid() else []), "--fork", "--kill-child", "--mount-proc"]
HUB = """
import sys
from pathlib import Path
from tests.hub import hub
with hub(Path(sys.argv[1]), sys.argv[2]) as served:
    served.rate = 8e6
    print(served.endpoint, flush=True)
    sys.stdin.read()
"""


@dataclass
class Host:
    """One of them, known by the process that holds its namespaces."""

    name: str
    pid: int
    shell: Shell
    settings: dict[str, Any] = field(default_factory=dict)

    def words(self, *words: object) -> list[str]:
        return ["nsenter", "--target", str(self.pid), *OWN, *map(str, words)]

    def script(self, name: str, *words: object, timeout: float = 60) -> Done:
        path = self.shell.root / "scripts" / f"{name}.sh"
        return self.shell.run(*self.words("bash", path, *words), timeout=timeout, **self.settings)

    def begin(self, name: str) -> "subprocess.Popen[str]":
        """The same, while others go on."""
        path = self.shell.root / "scripts" / f"{name}.sh"
        environ = self.shell.environ(**self.settings)
        return subprocess.Popen(self.words("bash", path), env=environ, stdout=-1, stderr=-2, stdin=-3, text=True)

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.script("status", "--json").stdout)
        return found

    def state(self) -> Mapping[str, tuple[int, int]]:
        """Its files below BASE_DIR, but for what its own watch changes while it runs: see watch.py."""
        (own,) = Path(str(self.shell.settings["BASE_DIR"]), "run").glob(f"{self.name}-*")
        return at_rest(own)


@contextmanager
def host(name: str, shell: Shell) -> Iterator[Host]:
    if subprocess.run([*APART, "true"], capture_output=True).returncode:
        pytest.skip("namespaces are not allowed here")
    words = [*APART, "bash", "-c", f"hostname {name}; ip link set lo up; echo up; sleep infinity & wait"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == "up\n"
        (first,) = Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text().split()
        try:
            yield Host(name, int(first), shell)
        finally:
            os.kill(int(first), signal.SIGKILL)


@contextmanager
def hub_in(one: Host, folder: Path, model: str) -> Iterator[str]:
    """The hub of tests/hub.py on the host's own loopback; its address."""
    words, environ = one.words(sys.executable, "-c", HUB, folder, model), os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(words, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as served:
        assert served.stdout
        yield served.stdout.readline().strip()
        served.kill()


def check_that_each_stops_its_own(first: Host, second: Host) -> None:
    """Two servers that run: each is told of the other, and the stop of the second leaves the first as it is."""
    for one, other in ((first, second), (second, first)):
        (found,) = one.status()["other_machines"]
        assert found["machine"].startswith(other.name)
        assert found["base_url"] == f"http://{other.name}:{one.shell.settings['PORT']}/v1"
        assert found["seen_s"] < 60 * BUSY
    kept, pid = first.state(), first.status()["pid"]
    done = second.script("stop", timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    found = second.status()
    assert found["state"] == "stopped"
    assert f"it runs on {first.name}-" in second.script("status").stdout
    done = second.script("stop", timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"It runs on {first.name}-" in done.stdout
    assert (first.status()["state"], first.status()["pid"]) == ("ready", pid)
    assert first.status()["other_machines"] == []
    assert first.state() == kept
    assert first.script("stop", timeout=120).returncode == 0
    assert second.status()["other_machines"] == []
