"""Two hosts that share BASE_DIR: the real client, server and tools on each."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from tests.conftest import BUSY, Shell
from tests.e2e.conftest import Deployment
from tests.hosts import check_that_each_stops_its_own, host, hub_in

MODEL = "acme/Tiny-Chat"


def test_two_hosts_with_one_base_dir(
    deployed: Deployment, free_port: Callable[[], int], tmp_path: Path, measured: Callable[[str], None]
) -> None:
    base = deployed.shell.home / "shared by two"
    common = {
        "BASE_DIR": base,
        "VENV_DIR": deployed.base / ".venv",
        "MODEL_ID": MODEL,
        "PORT": free_port(),  # the same on both: each has a network of its own
        "API_KEY": "k3y",
        "MODELSCOPE_DOWNLOAD_INTRA_CLOUD": "false",
        "NO_PROXY": "127.0.0.1",
    }
    with ExitStack() as stack:
        hosts = []
        for name in ("gpu01", "gpu02"):
            home = tmp_path / name
            home.mkdir()
            shell = Shell(home, deployed.shell.root, {**common, "HOME": home, "MODELSCOPE_HOME": home / "modelscope"})
            one = stack.enter_context(host(name, shell))
            one.settings["MODELSCOPE_ENDPOINT"] = stack.enter_context(hub_in(one, deployed.model, MODEL))
            hosts.append(one)

        downloads = [one.begin("download") for one in hosts]
        said = [download.communicate(timeout=300 * BUSY)[0] for download in downloads]
        assert [download.returncode for download in downloads] == [0, 0], said
        waited = [words for words in said if "waiting for it" in words]
        assert len(waited) == 1, said
        assert "Another download has completed it" in waited[0]
        for path in deployed.model.glob("*.*"):
            if path.name[0] != ".":
                assert (base / "models/Tiny-Chat" / path.name).read_bytes() == path.read_bytes(), path.name

        began = time.monotonic()
        for one in hosts:
            done = one.script("tmux-start", timeout=300)
            assert done.returncode == 0, done.stdout + done.stderr
        measured(f"two hosts with one BASE_DIR: both ready after {time.monotonic() - began:.0f} s")
        for one in hosts:
            found = one.status()
            assert found["state"] == "ready"
            assert f"/{one.name}-" in found["log"]
            assert one.script("curl-test", timeout=120).returncode == 0
        check_that_each_stops_its_own(*hosts)
