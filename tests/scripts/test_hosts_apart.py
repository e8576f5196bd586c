"""Two hosts that share BASE_DIR, each with its own server; with the real one: tests/e2e/test_two_hosts.py."""

import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.conftest import BUSY, Shell
from tests.hosts import check_that_each_stops_its_own, host
from tests.scripts.test_home import SERVER
from tests.scripts.test_scripts import model


@pytest.mark.slow
def test_two_hosts_with_one_base_dir(shell: Shell, free_port: Callable[[], int], tmp_path: Path) -> None:
    base = tmp_path / "base"
    shell.vllm("")
    (base / ".venv/bin/vllm").write_text(SERVER.format(python=sys.executable))
    model(base / "models/SmolLM2-135M-Instruct")
    with ExitStack() as stack:
        hosts = []
        for name in ("gpu01", "gpu02"):
            home = tmp_path / name
            home.mkdir()
            # The same port on both: each has a network of its own.
            own = Shell(home, shell.root, {**shell.settings, "API_KEY": "k3y", "HOME": home})
            hosts.append(stack.enter_context(host(name, own)))
        starts = [one.begin("tmux-start") for one in hosts]
        said = [start.communicate(timeout=50 * BUSY)[0] for start in starts]
        assert [start.returncode for start in starts] == [0, 0], said
        end = time.monotonic() + 20 * BUSY
        while len(list((base / "run").glob("*/*.alive"))) < 2:  # the watch looks every five seconds
            assert time.monotonic() < end
            time.sleep(0.1)
        for one in hosts:
            assert f"/{one.name}-" in one.status()["log"]
            assert (base / "logs/vllm.log").is_file(), "of the one that was started last"
        check_that_each_stops_its_own(*hosts)
