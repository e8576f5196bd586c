"""ragflow-preflight: every check with its answers, by a stand-in for Docker."""

import pytest

from runbook.ragflow import preflight
from tests.conftest import Shell
from tests.ragflow import Ragflow, ragflow

DOCKER = """case "$*" in
*Server.Version*) {server} ;;
"compose version --short") {compose} ;;
*DockerRootDir*) echo / ;;
esac"""
GOOD = {"server": "echo 27.3.1", "compose": "echo 2.29.7"}


def rows(shell: Shell, **more: str) -> dict[str, str]:
    """Each row by its name: its mark and what was found."""
    shell.stand_in("docker", DOCKER.format(**{**GOOD, **more}))
    done = shell.script("ragflow-preflight", RUNBOOK_LANG="en")
    assert done.returncode in (0, 1), done.stderr
    assert ("E206 " in done.stderr) == (done.returncode == 1)
    found = {line[6:17].strip(): line[4] + line[17:] for line in done.stdout.splitlines() if line[4:5] in "✓!✗"}
    assert (done.returncode == 1) == any(text.startswith("✗") for text in found.values())
    return found


def test_every_requirement_is_named(shell: Shell) -> None:
    found = rows(shell)
    assert list(found) == ["cpu", "ram", "disk", "maps", "docker", "compose", "images", "port 80", "port 9380", "reach"]
    assert found["docker"] == "✓27.3.1 (24 or newer is needed)"
    assert found["compose"] == "✓2.29.7 (2.26.1 or newer is needed)"


@pytest.mark.parametrize(
    ("row", "more", "text"),
    [
        ("docker", {"server": "echo 20.10.24"}, "✗20.10.24"),
        ("docker", {"server": "echo 'permission denied while trying to connect' >&2; exit 1"}, "✗permission denied"),
        ("compose", {"compose": "echo 2.20.0"}, "✗2.20.0"),
        ("compose", {"compose": "echo unknown flag >&2; exit 1"}, "✗none"),
    ],
)
def test_what_is_too_old_or_does_not_run(row: str, more: dict[str, str], text: str, shell: Shell) -> None:
    assert rows(shell, **more)[row].startswith(text)


def test_a_server_for_this_machine_only_is_not_reached_from_a_container(shell: Shell) -> None:
    shell.settings["HOST"] = "127.0.0.1"
    assert rows(shell)["reach"].startswith("!HOST=127.0.0.1: a container cannot reach this server")


@pytest.mark.parametrize(("value", "state"), [(4, "ok"), (3, "warn"), (2, "warn"), (1, "fail")])
def test_the_limits(value: float, state: str) -> None:
    assert preflight.at_least(value, 4, 2) == state


def test_a_ragflow_that_runs_is_known() -> None:
    with ragflow(Ragflow()) as url:
        assert preflight.answers(url)
    assert not preflight.answers("http://127.0.0.1:9")
