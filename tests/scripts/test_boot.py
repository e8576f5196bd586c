"""boot-on and boot-off with stand-ins for systemctl, loginctl and crontab: what is written where, and taken back."""

from pathlib import Path

import pytest

from tests.conftest import Shell


@pytest.fixture
def cron(shell: Shell) -> Path:
    """A machine without systemd for the user, with a crontab in a file that has a line of somebody's own."""
    table = shell.home / "table"
    table.write_text("5 4 * * * backup\n")
    shell.stand_in("systemctl", "exit 1")
    shell.stand_in(
        "crontab", f'if [[ $1 == -l ]]; then cat "{table}"; else cat >"{table}.new"; mv "{table}.new" "{table}"; fi'
    )
    return table


@pytest.fixture
def systemd(shell: Shell) -> Path:
    """A machine with systemd for the user; the calls are kept in a file."""
    calls = shell.home / "calls"
    for name in ("systemctl", "loginctl"):
        shell.stand_in(name, f'echo "{name} $*" >>"{calls}"')
    shell.stand_in("crontab", "exit 1")
    shell.settings["XDG_CONFIG_HOME"] = shell.home / "config"
    return calls


def test_cron_gets_one_line_and_gives_it_back(shell: Shell, cron: Path) -> None:
    for _ in range(2):
        done = shell.script("boot-on", API_KEY="k3y")
        assert done.returncode == 0, done.stderr
    lines = cron.read_text().splitlines()
    assert len(lines) == 2
    assert lines[0] == "5 4 * * * backup"
    assert lines[1].startswith("@reboot sleep 10; ENV_FILE=")
    assert f"bash {shell.root}/scripts/tmux-start.sh >{shell.home}/base/logs/boot.log 2>&1" in lines[1]
    assert lines[1] in done.stdout, "it is said what was written"
    assert "k3y" not in cron.read_text()
    assert shell.script("boot-off").returncode == 0
    assert cron.read_text() == "5 4 * * * backup\n"
    assert "not switched on" in shell.script("boot-off").stdout


def test_a_percent_sign_in_a_path_reaches_cron_as_one(shell: Shell, cron: Path) -> None:
    done = shell.script("boot-on", LOG_DIR=shell.home / "100% logs")
    assert done.returncode == 0, done.stderr
    assert "100\\% logs/boot.log" in cron.read_text()


def test_systemd_gets_a_unit_and_gives_it_back(shell: Shell, systemd: Path) -> None:
    env_file = shell.home / 'a "b" $c 100%.env'
    env_file.write_text("PORT=20001\n")
    done = shell.script("boot-on", ENV_FILE=env_file)
    assert done.returncode == 0, done.stderr
    unit = shell.home / "config/systemd/user/vllm-runbook-vllm-qwen3.service"
    text = unit.read_text()
    assert f'Environment="ENV_FILE={shell.home}/a \\"b\\" $$c 100%%.env"' in text
    assert f'ExecStart=/bin/bash "{shell.root}/scripts/tmux-start.sh"' in text
    assert str(unit) in done.stdout
    calls = systemd.read_text()
    assert "systemctl --user enable vllm-runbook-vllm-qwen3.service" in calls
    assert "loginctl enable-linger" in calls
    assert shell.script("boot-off", ENV_FILE=env_file).returncode == 0
    assert not unit.exists()
    assert "systemctl --user disable vllm-runbook-vllm-qwen3.service" in systemd.read_text()


def test_lingering_refused_is_told(shell: Shell, systemd: Path) -> None:
    shell.stand_in("loginctl", "exit 1")
    done = shell.script("boot-on")
    assert done.returncode == 1
    assert "sudo loginctl enable-linger" in done.stderr
    assert "E37 " in done.stderr


def test_a_container_has_neither(shell: Shell) -> None:
    shell.stand_in("systemctl", "exit 1")
    path = shell.home / "only"
    path.mkdir()
    tools = ["bash", "env", "dirname", "realpath", "grep", "sed", "awk", "id", "cut", "python3", "cat", "basename"]
    for tool in tools:
        (path / tool).symlink_to(shell.run("which", tool).stdout.strip())
    done = shell.script("boot-on", PATH=path)
    assert done.returncode == 1
    assert "E38 " in done.stderr, done.stderr


def test_a_dry_run_shows_and_writes_nothing(shell: Shell, cron: Path) -> None:
    cron.write_text("5 4 * * * backup\n" * 5000)  # more than a pipe holds
    before = cron.read_text()
    done = shell.script("boot-on", RUNBOOK_DRY=1)
    assert done.returncode == 0, done.stderr
    assert "$ crontab -" in done.stdout
    assert cron.read_text() == before
