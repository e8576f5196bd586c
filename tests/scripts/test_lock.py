"""The lock of what several programs and machines share: waiting, taking over what was left, kept for children."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.conftest import BUSY, MACHINE, Shell

SOURCES = 'source "{0}/scripts/lib/settings.sh"; source "{0}/scripts/lib/lock.sh"; '
OTHER = "gpu02-0badcafe"


def locking(shell: Shell, body: str, **more: object) -> "subprocess.Popen[str]":
    """A script that takes the lock of base/M and then runs the body, in a process group of its own."""
    words = SOURCES.format(shell.root) + f'lock "$BASE_DIR/M"; {body}'
    return subprocess.Popen(
        ["bash", "-euc", words],
        env=shell.environ(**more),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def says(process: "subprocess.Popen[str]", words: str) -> str:
    """The line with these words, which it prints sooner or later."""
    assert process.stdout
    for line in process.stdout:
        if words in line:
            return line
    raise AssertionError(f"it has not said {words}")


def go_on(process: "subprocess.Popen[str]") -> None:
    assert process.stdin
    process.stdin.write("\n")
    process.stdin.flush()


def soon(what: Callable[[], bool], words: str) -> None:
    end = time.monotonic() + 20 * BUSY
    while not what():
        assert time.monotonic() < end, words
        time.sleep(0.05)


def lock_of(shell: Shell) -> Path:
    return shell.home / "base/.M.lock"


def left(lock: Path, machine: str, seconds: float) -> Path:
    """A lock as a killed program, or another machine, has left it so long ago."""
    lock.mkdir(parents=True)
    (lock / f"{machine} 4711 1767225600").touch()
    os.utime(lock, (time.time() - seconds,) * 2)
    return lock


def test_one_waits_for_the_other_and_says_for_whom(shell: Shell) -> None:
    first = locking(shell, "echo held; read -r _")
    says(first, "held")
    second = locking(shell, "echo mine")
    assert f"Process {first.pid} on {MACHINE} has been writing {shell.home}/base/M since 20" in says(second, "waiting")
    go_on(first)
    assert "mine" in second.communicate(timeout=20 * BUSY)[0]
    assert first.wait(20 * BUSY) == 0
    soon(lambda: not list((shell.home / "base").glob(".*")), "something is left of it")


@pytest.mark.slow
def test_two_that_take_over_at_once_do_not_take_from_each_other(shell: Shell) -> None:
    """When the second moves the old lock away, the first has done so, and has a lock of its own there."""
    left(lock_of(shell), MACHINE, 20)
    first = f'mkdir "$2" && touch "$2/{OTHER} 4712 1767225600"'
    shell.stand_in("mv", f'[[ $3 != *.left.* || -e $3 ]] || {{ /bin/mv "$@" && {first}; }}\nexec /bin/mv "$@"')
    second = locking(shell, "echo mine")
    assert f"Process 4712 on {OTHER}" in says(second, f"on {OTHER}")
    (holder,) = lock_of(shell).iterdir()
    holder.unlink()
    lock_of(shell).rmdir()
    assert "mine" in second.communicate(timeout=20 * BUSY)[0]


@pytest.mark.slow
def test_of_many_at_once_each_has_it_alone(shell: Shell) -> None:
    alone = 'mkdir "$BASE_DIR/busy" && sleep 0.05 && rmdir "$BASE_DIR/busy" && echo mine'
    several = [locking(shell, alone) for _ in range(10)]
    said = [process.communicate(timeout=50 * BUSY)[0] for process in several]
    assert [process.returncode for process in several] == [0] * 10, said
    soon(lambda: not list((shell.home / "base").glob(".*")), "something is left of it")


@pytest.mark.slow
def test_a_holder_that_has_shown_signs_of_life_is_waited_for_and_no_other(shell: Shell) -> None:
    """All at the same time, each with a BASE_DIR of its own: machine, seconds since it was touched."""
    rows = {"a": (MACHINE, 5), "b": (OTHER, 60), "c": (OTHER, 100)}
    locks = {base: left(shell.home / base / ".M.lock", *row) for base, row in rows.items()}
    waiting = {base: locking(shell, "echo mine", BASE_DIR=shell.home / base) for base in rows}
    said = says(waiting["c"], "mine")
    for base in "ab":
        assert f"Process 4711 on {rows[base][0]}" in says(waiting[base], "waiting")
        (holder,) = locks[base].iterdir()
        holder.unlink()  # as its holder does
        locks[base].rmdir()
        assert "mine" in waiting[base].communicate(timeout=20 * BUSY)[0]
    assert said == "mine\n"


def test_a_killed_script_gives_its_lock_back_and_its_child_does_not(shell: Shell) -> None:
    """A download may go on writing when the script that started it is gone."""
    script = locking(shell, "env sleep 60 & echo held; wait")
    says(script, "held")
    os.kill(script.pid, signal.SIGKILL)
    script.wait(20 * BUSY)
    os.utime(lock_of(shell), (0, 0))
    soon(lambda: lock_of(shell).stat().st_mtime > 0, "nobody touches it any more")
    os.killpg(script.pid, signal.SIGKILL)
    soon(lambda: not lock_of(shell).exists(), "it is still there")


def test_a_suspended_script_keeps_its_lock(shell: Shell) -> None:
    script = locking(shell, "echo held; read -r _")
    says(script, "held")
    children = psutil.Process(script.pid).children
    soon(lambda: any(os.getsid(child.pid) != script.pid for child in children()), "nobody touches it")
    os.killpg(script.pid, signal.SIGSTOP)  # as Ctrl-Z does
    try:
        os.utime(lock_of(shell), (0, 0))
        soon(lambda: lock_of(shell).stat().st_mtime > 0, "nobody touches it any more")
    finally:
        os.killpg(script.pid, signal.SIGCONT)
    go_on(script)
    assert script.wait(20 * BUSY) == 0


def test_one_that_was_taken_over_is_not_given_back(shell: Shell) -> None:
    """By a holder that had been suspended with its machine."""
    script = locking(shell, "echo held; read -r _")
    says(script, "held")
    lock_of(shell).rename(shell.home / "base/.M.lock.left")
    left(lock_of(shell), OTHER, 0)
    go_on(script)
    assert script.wait(20 * BUSY) == 0
    time.sleep(0.2)
    assert [path.name for path in lock_of(shell).iterdir()] == [f"{OTHER} 4711 1767225600"]


@pytest.mark.parametrize("what", ["link", "dangling link", "file", "directory"])
def test_what_is_no_lock_of_ours_stays_and_is_named(what: str, shell: Shell) -> None:
    target, lock = shell.home / "theirs", lock_of(shell)
    lock.parent.mkdir()
    if what == "directory":
        lock.mkdir()
        (lock / "theirs").touch()
    elif what == "file":
        lock.touch()
    else:
        lock.symlink_to(target)
        if what == "link":
            target.mkdir()
    os.utime(lock, (0, 0), follow_symlinks=False)
    said = locking(shell, "echo mine").communicate(timeout=20 * BUSY)[0]
    assert "mine" not in said
    assert "E77 " in said
    assert f"rm -r {lock}" in said
    assert os.path.lexists(lock)
    assert what == "dangling link" or not target.exists() or not list(target.iterdir())


def test_one_name_for_a_directory_and_a_link_to_it(shell: Shell) -> None:
    (shell.home / "base").mkdir()
    (shell.home / "link").symlink_to(shell.home / "base/M")
    first = locking(shell, "echo held; read -r _")
    says(first, "held")
    words = SOURCES.format(shell.root) + f'lock "{shell.home}/link"; echo mine'
    with subprocess.Popen(["bash", "-euc", words], env=shell.environ(), stdout=-1, text=True) as second:
        says(second, "waiting")
        go_on(first)
        assert "mine" in second.communicate(timeout=20 * BUSY)[0]


def test_where_nothing_can_be_written_beside_it_the_lock_is_below_base_dir(shell: Shell) -> None:
    words = SOURCES.format(shell.root) + 'lock /proc/models/M; ls "$BASE_DIR/run/locks"'
    done = shell.run("bash", "-euc", words)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1


def test_a_dry_run_takes_no_lock(shell: Shell) -> None:
    assert "mine" in locking(shell, "echo mine", RUNBOOK_DRY=1).communicate(timeout=20 * BUSY)[0]
    assert not (shell.home / "base").exists()
