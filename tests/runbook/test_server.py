"""What is said of the running server where none runs; the rest is in tests/e2e on the real vLLM."""

from pathlib import Path

import pytest

from runbook import server
from runbook.faults import lang
from runbook.settings import load
from tests.conftest import Shell


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("0.0.0.0", "http://127.0.0.1:20000"),
        ("::", "http://[::1]:20000"),
        ("fd00::1", "http://[fd00::1]:20000"),
        ("10.0.0.1", "http://10.0.0.1:20000"),
    ],
)
def test_base_url_is_the_same_in_the_shell(host: str, url: str, shell: Shell) -> None:
    environ = shell.environ(HOST=host, PORT=20000)
    assert server.base_url(load(environ)) == url
    code = (
        f"set -euo pipefail; source {shell.root}/scripts/lib/settings.sh; source $ROOT/scripts/lib/server.sh; base_url"
    )
    assert shell.run("bash", "-c", code, HOST=host, PORT=20000).stdout.strip() == url


def test_changed_settings_are_named_and_the_language_stays(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANG", "en_US.UTF-8")
    monkeypatch.delenv("LC_ALL", raising=False)
    now = load(shell.environ(MAX_MODEL_LEN=2048, VLLM_EXTRA_ARGS="--a 'b\\c'"))
    assert server.changed(now) == []
    started = Path(f"{server.server_id(now)}.env")
    started.parent.mkdir(parents=True)
    then = now.env() | {"MAX_MODEL_LEN": "4096", "RUNBOOK_LANG": "zh", "VLLM_EXTRA_ARGS": "--a \\'b\\\\c\\'"}
    started.write_text("".join(f"{key}='{value}'\n" for key, value in then.items() if key != "ENV_FILE"))
    assert server.changed(now) == ["MAX_MODEL_LEN"]
    assert lang() == "en"


def test_nothing_runs(shell: Shell) -> None:
    settings = load(shell.environ())
    assert server.pids(settings) == set()
    assert server.state(settings) == "stopped"
    assert not server.in_tmux(settings)
