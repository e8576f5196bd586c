"""boot-on and boot-off with stand-ins for systemctl, loginctl and crontab: what is written where, and taken back."""

import os
import re
import shlex
import shutil
import socket
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from runbook import ROOT
from tests.conftest import MACHINE, Done, Shell

HOST = os.uname().nodename
OTHERS = b"# \xe5\xa4\x87\xe4\xbb\xbd \xb1\xb8\xb7\xdd\nMAILTO=me\n5 4 * * * backup \\% 'x' \\\\\r\n\t\n"


@pytest.fixture
def booted(shell: Shell) -> Shell:
    """The settings stand in the file that the start at boot reads, for a user who is not root."""
    shell.keep_settings()
    shell.settings["HOME"] = shell.home
    shell.stand_in("id", "[[ $1 != -u ]] || { echo 1000; exit; }; echo me")
    return shell


@pytest.fixture
def cron(booted: Shell) -> Path:
    """A machine without systemd for the user, with a crontab in a file that has lines of somebody's own."""
    table = booted.home / "table"
    table.write_bytes(OTHERS)
    booted.stand_in("systemctl", "exit 1")
    booted.stand_in(
        "crontab",
        f"""case $1 in
          -l) [[ -e "{table}" ]] && exec cat "{table}"; echo "no crontab for me" >&2; exit 1 ;;
          -r) rm "{table}" ;;
          -) cat >"{table}.new"; mv "{table}.new" "{table}" ;;
          esac""",
    )
    return table


def with_systemd(shell: Shell, kind: str, directory: Path, state: str = "loaded") -> Path:
    """systemctl, and loginctl, that keep the calls in a file."""
    calls = shell.home / "calls"
    shell.stand_in(
        "systemctl",
        f"""echo "systemctl $*" >>"{calls}"
        case "$*" in
          *UnitPath*) echo "UnitPath=/run/x/systemd/transient {directory} /run/x/systemd/{kind}" ;;
          *LoadState*) echo LoadState={state} ;;
        esac""",
    )
    shell.stand_in("loginctl", f'echo "loginctl $*" >>"{calls}"')
    shell.stand_in("crontab", "echo no crontab for me >&2; exit 1")
    return calls


@pytest.fixture
def user(booted: Shell) -> Path:
    """A machine with a systemd for the user."""
    with_systemd(booted, "user", booted.home / "config/systemd/user")
    return booted.home / f"config/systemd/user/vllm-runbook-vllm-qwen3-{HOST}.service"


@pytest.fixture
def root(booted: Shell) -> Path:
    """The same for root."""
    with_systemd(booted, "system", booted.home / "etc/systemd/system")
    booted.stand_in("id", "[[ $1 != -u ]] || { echo 0; exit; }; echo root")
    return booted.home / "etc/systemd/system/vllm-runbook-vllm-qwen3.service"


def boot_files(shell: Shell) -> list[Path]:
    return [*(shell.home / "base").rglob("*.boot")]


@pytest.mark.parametrize("before", [OTHERS, b"", b"1 2 3 4 5 no newline"])
def test_cron_gets_one_line_and_gives_it_back(before: bytes, booted: Shell, cron: Path) -> None:
    cron.write_bytes(before)
    for _ in range(2):
        done = booted.script("boot-on", API_KEY="")
        assert done.returncode == 0, done.stderr
    others, line = cron.read_bytes()[: len(before)], cron.read_text(errors="replace").splitlines()[-1]
    assert others == before
    assert cron.read_bytes().count(b"@reboot") == 1
    assert line.endswith(f"# vllm-runbook {booted.home}/base/run/vllm-qwen3")
    assert line in done.stdout, "it is said what was written"
    assert booted.script("boot-off").returncode == 0
    assert (cron.read_bytes() if cron.exists() else b"") == before + (b"\n" if before and before[-1:] != b"\n" else b"")
    assert not boot_files(booted)
    assert "not enabled" in booted.script("boot-off").stdout


@pytest.mark.parametrize(
    "words",
    [
        "no crontab for me",  # vixie cron (Debian), cronie
        "crontab: can't open 'me': No such file or directory",  # BusyBox
        "crontab: no crontab for me",
    ],
)
def test_without_a_crontab_one_is_made_and_taken_away(words: str, booted: Shell, cron: Path) -> None:
    cron.unlink()
    tool = booted.home / "stand-ins/crontab"
    tool.write_text(tool.read_text().replace("no crontab for me", words))
    done = booted.script("boot-on")
    assert done.returncode == 0, done.stderr
    assert cron.read_text().startswith("@reboot ")
    assert cron.read_text().count("\n") == 1
    assert booted.script("boot-off").returncode == 0
    assert not cron.exists()


@pytest.mark.parametrize(
    "listing",
    [
        'echo "You (me) are not allowed to use this program (crontab)" >&2; exit 1',
        'echo "crontabs/me: Input/output error" >&2; exit 1',
        'head -n 1 "$TABLE"; exit 1',
        'echo "no crontab for me" ; echo "crontabs/me: Permission denied" >&2; exit 1',
        'echo "cannot connect" >&2; exit 0',
        "exit 1",
        "kill -KILL $$",
    ],
)
@pytest.mark.parametrize("name", ["boot-on", "boot-off"])
def test_a_crontab_that_cannot_be_read_is_not_written(name: str, listing: str, booted: Shell, cron: Path) -> None:
    tool = booted.home / "stand-ins/crontab"
    tool.write_text(re.sub(r"-l\).*;;", lambda _: f"-l) {listing} ;;", tool.read_text()))
    done = booted.script(name, TABLE=cron)
    assert done.returncode == 1
    assert "E84 " in done.stderr, done.stderr
    assert cron.read_bytes() == OTHERS


@pytest.mark.parametrize(
    "writing",
    ['cat >/dev/null; echo "no space left on device" >&2; exit 1', 'read -r one; echo "$one" >"$TABLE"'],
    ids=["refused", "not as written"],
)
def test_a_failed_write_leaves_the_crontab_as_it_was(writing: str, booted: Shell, cron: Path) -> None:
    tool = booted.home / "stand-ins/crontab"
    flag = booted.home / "failed"
    body = f'-) [[ -e "{flag}" ]] || {{ touch "{flag}"; {writing}; exit; }}; cat >"{cron}" ;;'
    tool.write_text(re.sub(r"-\) .*;;", lambda _: body, tool.read_text()))
    done = booted.script("boot-on", TABLE=cron)
    assert done.returncode == 1
    assert "E84 " in done.stderr, done.stderr
    assert cron.read_bytes() == OTHERS


def test_another_servers_line_stays(booted: Shell, cron: Path) -> None:
    mark = f"# vllm-runbook {booted.home}/base/run/vllm-qwen3"
    cron.write_text(f"@reboot second {mark}-b\n@reboot sleep 10; old {mark}\n# about {mark}\n")
    assert booted.script("boot-off").returncode == 0
    assert cron.read_text() == f"@reboot second {mark}-b\n# about {mark}\n"


def cron_daemons() -> list[Path]:
    found = []
    for path in Path("/proc").glob("[0-9]*/comm"):
        with suppress(OSError):  # it has ended meanwhile
            found += [path] * (path.read_text().strip() in ("cron", "crond"))
    return found


def test_it_is_said_that_no_cron_runs(booted: Shell, cron: Path) -> None:
    before = cron_daemons()
    done = booted.script("boot-on")
    if not before and not cron_daemons():
        assert "no cron daemon is running" in done.stdout
    daemon = subprocess.Popen(["bash", "-c", "exec -a crond sleep 60"])
    try:
        while b"crond\0" not in Path(f"/proc/{daemon.pid}/cmdline").read_bytes():
            pass
        assert "no cron daemon is running" not in booted.script("boot-on").stdout
    finally:
        daemon.kill()
        daemon.wait()


@pytest.mark.parametrize("cron_like", ["vixie", "BusyBox"])
def test_the_line_runs_the_start_whatever_is_in_the_paths(cron_like: str, booted: Shell, cron: Path) -> None:
    """As cron hands it to the shell: most crons turn \\% into %, BusyBox leaves it to the shell."""
    base = booted.home / "b 100% '模型' \"q\" $HOME \\x"
    booted.settings["ENV_FILE"] = base / "a %b.env"
    base.mkdir()
    (base / "a %b.env").write_text(
        f"BASE_DIR='{str(base).replace(chr(92), chr(92) * 2).replace(chr(39), chr(92) + chr(39))}'\nPROFILE=cpu\n"
    )
    done = booted.script("boot-on")
    assert done.returncode == 0, done.stderr
    line = cron.read_bytes().decode(errors="replace").splitlines()[-1]
    command = line.removeprefix("@reboot ")
    if cron_like == "vixie":
        assert not re.search(r"(?<!\\)%", command.rsplit("# vllm-runbook", 1)[0])
        command = command.replace("\\%", "%")
    (file,) = base.rglob("*.boot")
    file.write_text('echo "it ran: $0"\n')
    ran = booted.run("env", "-i", "PATH=/usr/bin:/bin", "sh", "-c", command)
    assert ran.stdout == f"it ran: {file}\n", ran.stderr
    file.unlink()
    booted.stand_in("sleep", "echo slept")
    late = booted.run("sh", "-c", command)
    assert late.returncode == 1
    assert late.stdout.count("slept") == 30
    assert "E86 " in late.stdout


def test_the_user_gets_a_unit_for_this_machine_and_gives_it_back(booted: Shell, user: Path) -> None:
    user.parent.mkdir(parents=True)
    old = user.with_name("vllm-runbook-vllm-qwen3.service")  # of earlier versions: for every machine, without a mark
    old.write_text("[Unit]\nDescription=vllm-runbook, vllm-qwen3\n")
    theirs = user.with_name("vllm-runbook-vllm-qwen3-elsewhere.service")
    mark = f"# vllm-runbook {booted.home}/base/run/vllm-qwen3\n"
    theirs.write_text(f"{mark}[Unit]\nConditionHost=|elsewhere\n")
    done = booted.script("boot-on")
    assert done.returncode == 0, done.stderr
    text = user.read_text()
    assert text.startswith(mark)
    assert f"\nConditionHost=|{HOST}\n" in text
    assert "Environment=" not in text
    assert "Type=oneshot" not in text
    assert str(user) in done.stdout
    calls = (booted.home / "calls").read_text()
    assert f"systemctl --user enable {user.name}" in calls
    assert "loginctl enable-linger me" in calls
    assert not old.exists()
    assert booted.script("boot-off").returncode == 0
    assert not user.exists()
    assert theirs.exists(), "it starts the server on another machine"
    assert "not enabled" in booted.script("boot-off").stdout


def test_root_gets_a_unit_of_the_system(booted: Shell, root: Path) -> None:
    old = booted.home / ".config/systemd/user/vllm-runbook-vllm-qwen3.service"
    old.parent.mkdir(parents=True)
    old.write_text("[Unit]\nDescription=vllm-runbook, vllm-qwen3\n")
    done = booted.script("boot-on")
    assert done.returncode == 0, done.stderr
    text = root.read_text()
    for line in ("User=root", "After=network-online.target remote-fs.target", "WantedBy=multi-user.target"):
        assert f"\n{line}\n" in text
    assert root.stat().st_mode & 0o777 == 0o644
    calls = (booted.home / "calls").read_text()
    assert f"systemctl enable {root.name}" in calls
    assert "linger" not in calls
    assert not old.exists()
    assert booted.script("boot-off").returncode == 0
    assert not root.exists()


@pytest.mark.parametrize("text", ["[Unit]\nDescription=own\n", "# vllm-runbook /other/run/vllm-qwen3\n"])
def test_a_unit_of_somebody_else_is_left_alone(text: str, booted: Shell, root: Path) -> None:
    root.parent.mkdir(parents=True)
    root.write_text(text)
    done = booted.script("boot-on")
    assert done.returncode == 1
    assert "E84 " in done.stderr
    assert booted.script("boot-off").returncode == 0
    assert root.read_text() == text


def test_a_unit_that_systemd_refuses_is_taken_back(booted: Shell) -> None:
    with_systemd(booted, "user", booted.home / "config/systemd/user", "bad-setting")
    done = booted.script("boot-on")
    assert done.returncode == 1
    assert "LoadState=bad-setting" in done.stderr
    assert not [*(booted.home / "config/systemd/user").glob("*.service")]


@pytest.mark.parametrize(("kind", "which"), [("user", 0), ("root", 1)])
def test_the_units_on_the_page_are_those_that_are_written(
    kind: str, which: int, booted: Shell, request: pytest.FixtureRequest
) -> None:
    unit: Path = request.getfixturevalue(kind)
    assert booted.script("boot-on").returncode == 0
    shown = re.findall(r"```ini\n(.*?)\n```", (ROOT / "docs/en/4.3-boot-on.md").read_text(), re.DOTALL)[which]
    text = re.sub(r"(ConditionHost=\|)[0-9a-f]{32}", r"\1MACHINE-ID", unit.read_text().strip())
    text = text.replace(f"|{HOST}\n", "|my-machine\n").replace(f"{booted.home}/base", "/home/me/vllm-runbook")
    text = text.replace(f"/run/{MACHINE}/", "/run/my-machine-MACHINE-ID/")
    if "ConditionHost=|MACHINE-ID" not in text:  # a container may have none
        shown = shown.replace("ConditionHost=|MACHINE-ID\n", "")
    assert text == shown


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd here")
@pytest.mark.parametrize("kind", ["user", "root"])
def test_systemd_itself_reads_the_unit_as_it_is_meant(
    kind: str, booted: Shell, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    unit: Path = request.getfixturevalue(kind)
    base = tmp_path / "b 100% '模型' $HOME"
    booted.settings |= {"ENV_FILE": tmp_path / "a.env"}
    (tmp_path / "a.env").write_text(f"PROFILE=cpu\nBASE_DIR='{str(base).replace(chr(39), chr(92) + chr(39))}'\n")
    assert booted.script("boot-on").returncode == 0
    whose = ["--user"] if kind == "user" else []
    verified = booted.run("systemd-analyze", *whose, "verify", unit, XDG_RUNTIME_DIR=tmp_path)
    assert unit.name not in verified.stderr, verified.stderr
    assert verified.returncode == 0, verified.stderr


def test_lingering_that_is_on_is_not_asked_for(booted: Shell, user: Path) -> None:
    booted.stand_in("loginctl", "[[ $1 == show-user ]] || exit 1; echo Linger=yes")
    done = booted.script("boot-on")
    assert done.returncode == 0, done.stderr


def test_lingering_refused_is_told(booted: Shell, user: Path) -> None:
    booted.stand_in("loginctl", "exit 1")
    done = booted.script("boot-on")
    assert done.returncode == 1
    assert "sudo loginctl enable-linger" in done.stderr
    assert "E37 " in done.stderr


def test_a_container_has_neither(booted: Shell) -> None:
    path = booted.home / "only"
    path.mkdir()
    tools = "bash env dirname realpath grep sed awk id cut python3 cat basename uname xargs sort echo"
    for tool in tools.split():
        (path / tool).symlink_to(str(shutil.which(tool)))
    done = booted.run(path / "bash", ROOT / "scripts/boot-on.sh", PATH=path)
    assert done.returncode == 1
    assert "E38 " in done.stderr, done.stderr


def test_a_dry_run_shows_and_writes_nothing(booted: Shell, cron: Path) -> None:
    cron.write_text("5 4 * * * backup\n" * 5000)  # more than a pipe holds
    before = cron.read_text()
    done = booted.script("boot-on", RUNBOOK_DRY=1)
    assert done.returncode == 0, done.stderr
    assert "$ crontab -" in done.stdout
    assert cron.read_text() == before
    assert not (booted.home / "base").exists()


@pytest.mark.parametrize("door", ["script", "inv"])
def test_settings_of_the_environment_would_be_lost(door: str, booted: Shell, cron: Path) -> None:
    run = booted.script if door == "script" else booted.inv
    done = run("boot-on", PORT=29999, API_KEY="k3y-of-now", RUNBOOK_LANG="en")
    assert done.returncode == 1
    assert "E85 " in done.stderr, done.stderr
    assert re.search(r"does not have: (PORT API_KEY|API_KEY PORT)\.", done.stderr), done.stderr
    assert "k3y-of-now" not in done.stderr + done.stdout
    assert cron.read_bytes() == OTHERS
    same = run("boot-on", PROFILE="cpu")
    assert same.returncode == 0, "the file says the same: " + same.stderr


def at_boot(shell: Shell) -> Done:
    (file,) = boot_files(shell)
    return shell.run("env", "-i", f"HOME={shell.home}", "PATH=/usr/bin:/bin", "sh", file)


def test_at_boot_nothing_is_made_in_place_of_what_is_not_mounted(booted: Shell, cron: Path) -> None:
    booted.stand_in("sleep", "exit 0")
    assert booted.script("boot-on").returncode == 0
    done = at_boot(booted)
    log = (booted.home / "base/logs" / MACHINE / "boot.log").read_text()
    assert done.returncode == 1
    assert log.count("E86 ") == 7, "it is tried again"
    assert f"MODEL_DIR={booted.home}/base/models/SmolLM2-135M-Instruct" in log
    assert not (booted.home / "base/models").exists()
    assert "E86 " in done.stdout, "the journal, or the mail of cron, has it too"


def test_at_boot_a_gpu_that_comes_late_is_waited_for(booted: Shell, cron: Path) -> None:
    env_file = booted.home / "server.env"
    env_file.write_text(env_file.read_text() + "PROFILE=auto\nMODEL_DIR=" + str(booted.home / "base") + "\n")
    (booted.home / "base/.venv").mkdir(parents=True)
    booted.cards((40000, 40960))
    booted.stand_in("sleep", "exit 0")
    assert booted.script("boot-on").returncode == 0
    ready = (booted.home / "stand-ins/nvidia-smi").read_text()
    booted.stand_in("nvidia-smi", "exit 9")
    booted.stand_in("sleep", f"cp '{booted.home}/ready' '{booted.home}/stand-ins/nvidia-smi'")
    (booted.home / "ready").write_text(ready)
    (booted.home / "ready").chmod(0o755)
    with socket.create_server(("127.0.0.1", 0)) as taken:  # the start itself need not go far
        env_file.write_text(f"{env_file.read_text()}PORT={taken.getsockname()[1]}\n")
        at_boot(booted)
    log = (booted.home / "base/logs" / MACHINE / "boot.log").read_text()
    assert log.count("E86 ") == 1
    assert "a GPU in nvidia-smi" in log
    assert log.count("E07 ") == 6, "then it is started"


LOGIND = {"KillUserProcesses": "b true", "KillExcludeUsers": "as 0", "KillOnlyUsers": "as 0"}


@pytest.mark.parametrize(
    ("said", "lingers", "row"),
    [
        ({}, False, "!"),
        ({}, True, "✓"),
        ({"KillUserProcesses": "b false"}, False, None),
        ({"KillUserProcesses": "b false", "KillOnlyUsers": 'as 1 "me"'}, False, "!"),
        ({"KillOnlyUsers": 'as 1 "them"'}, False, None),
        ({"KillExcludeUsers": 'as 2 "you" "me"'}, False, None),
    ],
)
def test_preflight_tells_what_a_logout_ends(
    said: dict[str, str], lingers: bool, row: str | None, booted: Shell
) -> None:
    answers = "\n".join((LOGIND | said).values())
    booted.stand_in("busctl", f"printf '%s\\n' {shlex.quote(answers)}")
    booted.stand_in("loginctl", f"echo Linger={'yes' if lingers else 'no'}")
    out = booted.script("preflight", LOGNAME="me").stdout
    found = re.findall(r"^ +(\S) logout", out, re.MULTILINE)
    assert found == ([row] if row else []), out
    assert ("loginctl enable-linger me" in out) is (row == "!")


@pytest.mark.parametrize("lingers", [True, False])
def test_that_a_logout_ends_the_server_is_said_at_the_start(lingers: bool, booted: Shell) -> None:
    booted.stand_in("busctl", "printf 'b true\\nas 0\\nas 0\\n'")
    booted.stand_in("loginctl", f"echo Linger={'yes' if lingers else 'no'}")
    booted.stand_in("systemctl", "exit 0")
    done = booted.script("tmux-start", RUNBOOK_DRY=1, XDG_RUNTIME_DIR=booted.home)
    assert "tmux new-session" in done.stdout, done.stderr
    assert ("Warning: the system ends the server at logout" in done.stdout) is not lingers


@pytest.mark.parametrize(("session", "scope"), [("true", "systemd-run --user --scope --quiet"), ("false", "")])
def test_in_a_session_that_logind_ends_the_server_gets_a_scope_of_its_own(
    session: str, scope: str, booted: Shell
) -> None:
    booted.stand_in("systemctl", "exit 0")
    booted.stand_in("loginctl", "echo Linger=yes")
    script = f"""
      for name in settings server logind; do source "$0/$name.sh"; done
      killed_at_logout() {{ true; }}
      in_session() {{ {session}; }}
      survive_logout
      echo "scope=${{SCOPE[*]}}"
    """
    done = booted.run("bash", "-c", script, ROOT / "scripts/lib", XDG_RUNTIME_DIR=booted.home)
    words = f"env XDG_RUNTIME_DIR={booted.home} {scope}" if scope else ""
    assert f"scope={words}\n" in done.stdout, done.stderr


def test_a_stop_ends_the_tries_at_boot(booted: Shell, cron: Path) -> None:
    booted.stand_in("sleep", f"env -u RUNBOOK_BOOTING bash '{ROOT}/scripts/stop.sh'")  # somebody stops it meanwhile
    assert booted.script("boot-on").returncode == 0
    assert at_boot(booted).returncode == 0
    assert (booted.home / "base/logs" / MACHINE / "boot.log").read_text().count("E86 ") == 1
