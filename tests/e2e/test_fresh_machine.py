"""The README's commands on a fresh minimal Debian, and what comes after its reboot."""

import re
import shutil
import time
from collections.abc import Callable, Iterator

import pytest

from tests.conftest import BUSY, Done
from tests.fresh_machine import SUITE, Machine, tree, why_not

pytestmark = pytest.mark.skipif(bool(why_not()), reason=f"no fresh machine: {why_not()}")


@pytest.fixture
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    home = tmp_path_factory.mktemp("machine")
    if problem := tree(home / SUITE):
        pytest.skip(f"no fresh machine: {problem}")
    one = Machine(home / SUITE)
    one.carry()
    try:
        if problem := one.boot():
            pytest.skip(f"no fresh machine: {problem}")
        yield one
    finally:
        one.power_off()
        shutil.rmtree(home / SUITE, ignore_errors=True)


def said(done: Done) -> str:
    return done.stdout[-6000:] + done.stderr[-3000:]


def test_the_readmes_commands_and_a_reboot(
    machine: Machine, free_port: Callable[[], int], measured: Callable[[str], None]
) -> None:
    """What it lacks is named before anything is downloaded, with the command that installs it; then all works."""
    assert not list((machine.root / "usr/bin").glob("ps")), "as minimal as can be"
    edit = f"cp .env.example .env && sed -i 's/^PORT=.*/PORT={free_port()}/' .env"
    assert machine.run(edit).returncode == 0
    began = time.monotonic()
    done = machine.run("./inv deploy", timeout=600)
    if done.returncode:
        install = re.search(r"apt-get install -y [a-z0-9][\w .+-]*", done.stderr)
        assert install, said(done)
        assert not re.search(r"^ *Downloading ", done.stdout, re.MULTILINE), said(done)
        lacking = machine.run(install[0], timeout=200)
        assert lacking.returncode == 0, said(lacking)
        done = machine.run("./inv deploy", timeout=600)
    assert done.returncode == 0, said(done)
    assert "AI assistant" in done.stdout, said(done)
    took = [f"deploy {time.monotonic() - began:.0f} s"]

    began = time.monotonic()
    done = machine.run("./inv test --fast", timeout=600)
    assert done.returncode == 0, said(done)
    took.append(f"test --fast {time.monotonic() - began:.0f} s, {done.stdout.strip().splitlines()[-1].strip('= ')}")

    done = machine.run("./inv boot-on")
    assert done.returncode == 0, said(done)
    machine.power_off()
    assert machine.boot() == ""
    began = time.monotonic()
    while (done := machine.run("./inv status")).returncode:
        assert time.monotonic() - began < 240 * BUSY, said(done) + said(machine.run("cat ~/vllm-runbook/logs/boot.log"))
        time.sleep(2)
    done = machine.run("./inv curl-test")
    assert "AI assistant" in done.stdout, said(done)
    took.append(f"after a reboot ready in {time.monotonic() - began:.0f} s")
    measured(f"a fresh {SUITE}: {'; '.join(took)}")
