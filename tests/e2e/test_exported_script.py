"""The exported script alone, on a machine with nothing of this project: to an answer, again, and stop."""

import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from runbook.steps import STEPS
from tests.conftest import Done, Shell
from tests.e2e.conftest import Deployment, listening
from tests.home import fingerprint


def test_from_nothing_to_an_answer_again_and_stop(
    deployed: Deployment, free_port: Callable[[], int], measured: Callable[[str], None]
) -> None:
    """An empty home but for pip's own configuration, no uv, no variable of ours: each step by its script alone."""
    assert deployed.first.returncode == 0
    port, home = free_port(), deployed.shell.home / "another machine"
    home.mkdir()
    env = deployed.shell.home / "for-export.env"
    env.write_text(
        f"PORT={port}\nTMUX_SESSION=exported\nBASE_DIR='${{HOME}}/部署 here'\nPIP_INDEX_URL=\n",
        "utf-8",
    )
    made = Shell(deployed.shell.home, deployed.shell.root, {"ENV_FILE": env}).inv("export")
    assert made.returncode == 0, made.stderr
    script = home / "deploy.sh"
    script.write_text(made.stdout, "utf-8")
    tools = home / "bin"
    tools.mkdir()
    python = next(path for path in os.environ["PATH"].split(":") if (Path(path) / "python3").exists())
    (tools / "python3").symlink_to(Path(python) / "python3")
    minimal = [f"PATH={tools}:/usr/bin:/bin", f"HOME={home}", f"TMUX_TMPDIR={home}", "LANG=C.UTF-8"]
    minimal += [f"{key}={value}" for key, value in os.environ.items() if re.match("PIP_(?!INDEX_URL)|SSL_", key)]
    for own in (".config/pip/pip.conf", ".pip/pip.conf"):
        if (Path.home() / own).is_file():
            (home / own).parent.mkdir(parents=True)
            shutil.copy(Path.home() / own, home / own)
    machine = Shell(home)
    base = home / "部署 here"
    before = fingerprint(home, base)

    def run(*words: object) -> Done:
        return machine.run("env", "-i", *minimal, *words, timeout=900)

    folder = home / "部署 here/runbook/exported"
    try:
        began = time.monotonic()
        first = run("bash", script)
        measured(f"the exported script, from nothing to an answer: {time.monotonic() - began:.0f} s")
        print(first.stdout, first.stderr)
        assert first.returncode == 0
        assert re.findall(r"^\[\d/9\] (\S+) · ", first.stdout, re.MULTILINE) == list(STEPS)
        assert "AI assistant" in first.stdout, "the model's own words at temperature 0"
        assert "Getting uv " in first.stdout, "it brings its own"
        assert re.search(r"/uv'? pip install", first.stdout)
        assert str(deployed.shell.root) not in first.stdout
        assert f"Files and settings are in {folder}" in first.stdout
        key = re.search(r"^API_KEY=(.{48})$", (folder / ".env").read_text("utf-8"), re.MULTILINE)
        assert key
        assert key[1] != deployed.key
        assert key[1] not in first.stdout + first.stderr

        again = run("bash", script)
        assert again.returncode == 0, again.stderr
        assert again.stdout.count("already done: ") == 5
        assert "is used by this server" in again.stdout
        assert "AI assistant" in again.stdout
        assert run(folder / "inv", "status").returncode == 0
    finally:
        done = run("bash", script, "stop")
        run("tmux", "kill-server")
    assert done.returncode == 0, done.stderr
    assert f"No process is left, port {port} is free" in done.stdout
    assert not listening(port)
    # pip asks rustc for its version, and a rustup without settings notes some. tmux keeps its socket where it is told.
    after = fingerprint(home, base, home / ".rustup", home / f"tmux-{os.getuid()}")
    assert after == before, "nothing else in the home directory has been changed"
    shutil.rmtree(home)
