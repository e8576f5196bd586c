"""A home directory of its own, before and after the real server has lived in it."""

from collections.abc import Callable

from tests.conftest import Shell
from tests.e2e.conftest import Deployment
from tests.home import fingerprint, furnish


def test_the_real_server_changes_nothing_else_in_the_home(
    running: Deployment, free_port: Callable[[], int], measured: Callable[[str], None]
) -> None:
    """vLLM, PyTorch, the clients and the benchmark; test_exported_script.py has what installs them."""
    home = furnish(running.shell.home / "home of its own")
    base, temporary = home / "vllm-runbook", running.shell.home / "tmp"
    temporary.mkdir()
    environ = {"HOME": home, "BASE_DIR": base, "PORT": free_port(), "TMUX_SESSION": "home", "TMPDIR": temporary}
    lent = {"VENV_DIR": running.base / ".venv", "MODEL_DIR": running.model}
    own = Shell(running.shell.home, running.shell.root, {**environ, **lent})
    table = running.shell.home / "table"
    table.write_text("5 4 * * * backup\n")
    own.keep_settings()
    own.stand_in("systemctl", "exit 1")
    replace = f'cat >"{table}.new"; mv "{table}.new" "{table}"'
    own.stand_in("crontab", f'if [[ $1 == -l ]]; then cat "{table}"; else {replace}; fi')
    before = fingerprint(home, base)
    try:
        done = own.inv("deploy", "status", "boot-on", "boot-off", "export", "--output", base / "d.sh", timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        asked = ["--requests", 2, "--concurrency", 1, "--input", 16, "--output", 4]
        for words in (["chat", "--question", "Hi"], ["bench", *asked], ["ragflow-check"], ["doctor"]):
            done = own.inv(*words, timeout=300)
            assert done.returncode == 0, done.stdout + done.stderr
    finally:
        stopped = own.inv("stop", timeout=120)
    assert stopped.returncode == 0, stopped.stderr
    assert fingerprint(home, base) == before
    assert list((base / "cache").iterdir()), "vLLM keeps something"
    assert table.read_text() == "5 4 * * * backup\n"
    left = sorted("socket" if path.is_socket() else path.name for path in temporary.iterdir())
    measured(f"left in TMPDIR after stop: {' '.join(left) or 'nothing'}")
