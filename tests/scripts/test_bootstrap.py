"""What ./inv and the first steps need of a machine: the processor, the C library, a Python, uv, tools and libraries."""

import http.server
import io
import shutil
import subprocess
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from runbook import ROOT
from tests.conftest import BUSY, Shell, copy_checkout, executable


@pytest.mark.parametrize(
    ("tool", "body", "found"),
    [
        ("uname", "[[ $1 == -s ]] && echo Darwin || echo x86_64", "Darwin"),
        ("uname", "[[ $1 == -s ]] && echo Linux || echo riscv64", "riscv64"),
        ("getconf", "echo glibc 2.17", "glibc 2.17"),
        ("getconf", "exit 1", "no glibc (perhaps musl)"),
    ],
)
def test_a_machine_that_no_package_can_help_is_told_first(tool: str, body: str, found: str, shell: Shell) -> None:
    shell.stand_in(tool, body)
    shell.stand_in("python3", "exit 1")  # missing as well, but of no use to know
    done = shell.script("preflight")
    assert done.returncode == 1
    assert f"this machine has: {found}." in done.stderr
    assert done.stderr.count("✗") == 1
    assert "E87 " in done.stderr


def test_tools_and_libraries_are_named_together_in_one_command(shell: Shell) -> None:
    shell.stand_in("ldconfig", "echo ' libc.so.6 (libc6,x86-64) => /lib/libc.so.6'")
    managers = {
        "apt-get": "apt-get install -y tmux libnuma1",
        "dnf": "dnf install -y tmux numactl-libs",
        "yum": "yum install -y tmux numactl-libs",
        "zypper": "zypper install -y tmux libnuma1",
        "pacman": "pacman -S --noconfirm tmux numactl",
    }
    only = shell.home / "only"
    only.mkdir()
    tools = {tool.name: tool for folder in shell.environ()["PATH"].split(":")[::-1] for tool in Path(folder).glob("*")}
    for name in set(tools) - {"tmux", *managers}:
        (only / name).symlink_to(tools[name])
    for manager, command in managers.items():
        executable(only / manager, "exit 0")
        done = shell.run("env", f"PATH={only}", "bash", shell.root / "scripts/preflight.sh")
        (only / manager).unlink()
        assert done.returncode == 1
        assert "does not have: tmux libnuma.so.1." in done.stderr
        assert command in done.stderr
        assert "E04 " in done.stderr


@pytest.mark.parametrize(
    ("system", "command"),
    [
        ("debian 11", "OTHERWISE"),
        ("debian 12", "python3"),
        ("ubuntu 20.04", "OTHERWISE"),
        ("ubuntu 22.04", "apt-get install -y python3.11"),
        ("ubuntu 24.04", "python3"),
        ("rocky 8.10", "dnf install -y python3.12"),
        ("rhel 9.4", "dnf install -y python3.12"),
        ("opensuse-leap 15.6", "zypper install -y python311"),
        ("", "OTHERWISE"),
    ],
)
def test_the_command_that_brings_a_python_fits_the_distribution(system: str, command: str, shell: Shell) -> None:
    words = f"source '{ROOT}/scripts/lib/common.sh'; distribution() {{ echo '{system}'; }}; python_command OTHERWISE"
    assert shell.run("bash", "-c", words).stdout.strip().endswith(command)


PIP_CONF = """
# extra-index-url = http://commented/
[global]
index-url = http://one/simple
extra-index-url =
    http://two/simple
    http://three/simple
[install]
find-links: /wheels /more
[download]
index-url = http://other/
"""


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("index-url", "http://one/simple"),
        ("extra-index-url", "http://two/simple http://three/simple"),
        ("find-links", "/from/environment /wheels /more"),
        ("trusted-host", ""),
    ],
)
def test_pips_own_configuration_is_read_without_pip(name: str, values: str, shell: Shell) -> None:
    (shell.home / "pip.conf").write_text(PIP_CONF)
    script = (
        f"source '{ROOT}/scripts/lib/settings.sh'; source '{ROOT}/scripts/lib/packages.sh'; pip_setting {name} | xargs"
    )
    shell.settings |= {"PIP_CONFIG_FILE": shell.home / "pip.conf", "HOME": shell.home, "XDG_CONFIG_HOME": "/x"}
    found = shell.run("bash", "-c", script, PIP_FIND_LINKS="/from/environment", PIP_EXTRA_INDEX_URL="").stdout.split()
    assert found[: len(values.split())] == values.split(), "what the machine's own files say comes after"


@pytest.fixture
def index(tmp_path: Path) -> Iterator[str]:
    """A package index on loopback: uv's page with a relative link, and a wheel that is not the locked one."""
    pages = tmp_path / "index"
    name = "uv-0.13.9-py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64.whl"
    (pages / "simple/uv").mkdir(parents=True)
    (pages / "packages").mkdir()
    (pages / "simple/pip").mkdir()  # asked first: does the index answer
    with zipfile.ZipFile(pages / "packages" / name, "w") as wheel:
        wheel.writestr("uv-0.13.9.data/scripts/uv", "#!/bin/sh\ntouch /tmp/harm\n")
    (pages / "simple/uv/index.html").write_text(f'<a href="../../packages/{name}#sha256=00">{name}</a>')

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(pages))  # type: ignore[arg-type]

        def log_message(self, *_: object) -> None:
            asked.append(self.path)

    asked: list[str] = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/simple/"
        server.shutdown()
    assert f"/packages/{name}" in asked, "the relative link was followed"


def test_a_uv_with_another_hash_is_not_used(shell: Shell, index: str) -> None:
    root = copy_checkout(shell.home / "clone")
    shell.stand_in("uname", "[[ $1 == -s ]] && echo Linux || echo x86_64")
    script = (
        f"source '{root}/scripts/lib/settings.sh'; source '{root}/scripts/lib/packages.sh'; package_index; fetch_uv"
    )
    done = shell.run("bash", "-c", script, PIP_INDEX_URL=index, no_proxy="127.0.0.1")
    assert done.returncode == 1
    assert not list((root / ".uv").iterdir()), "nothing of it is kept"


@pytest.mark.slow
def test_inv_sets_itself_up_again_after_an_upgrade_of_the_system_and_only_once_for_two(shell: Shell) -> None:
    """Two first calls at once; then a Python that is gone, and one that was replaced by another version."""
    root = copy_checkout(shell.home / "clone")
    own = Shell(shell.home, root, shell.settings)
    both = [
        subprocess.Popen([root / "inv", "--list"], env=own.environ(), stdout=subprocess.PIPE, text=True) for _ in "ab"
    ]
    said = [one.communicate(timeout=300 * BUSY)[0] for one in both]
    assert [one.returncode for one in both] == [0, 0]
    assert all("port-check" in words for words in said)
    assert sum(words.count("pip install") for words in said) == 1
    python = root / ".venv/bin/python"
    target = python.readlink()
    for change in ("/usr/bin/python3.0", "bash", "/usr/bin/python3.1"):
        python.unlink()
        if change == "/usr/bin/python3.1":  # made by an earlier version, which did not note its Python
            (root / ".venv/.python").unlink()
        python.symlink_to(change if change[0] == "/" else str(shutil.which(change)))
        done = own.inv("--list", timeout=300)
        assert done.returncode == 0, done.stderr
        assert "pip install" in done.stdout
    assert python.readlink() == target


@pytest.mark.slow
def test_uv_brings_a_python_where_the_system_has_none(shell: Shell, tmp_path: Path) -> None:
    """The real uv and a mirror on the disk, with this machine's own Python as the file."""
    import hashlib
    import json
    import platform
    import sys

    root = copy_checkout(shell.home / "clone")
    own = Shell(shell.home, root, shell.settings, shell.path)
    version, prefix = platform.python_version(), Path(sys.base_prefix)
    short = "{}.{}".format(*version.split("."))
    program = root / "scripts/lib/packages.sh"  # the file is of this machine's version, and so has to be the request
    program.write_text(program.read_text("utf-8").replace("--no-bin 3.12", f"--no-bin {short}"), "utf-8")
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz", compresslevel=1) as tar:
        tar.add(Path(sys.executable).resolve(), f"python/bin/python{short}")
        link = tarfile.TarInfo("python/bin/python3")
        link.type, link.linkname = tarfile.SYMTYPE, f"python{short}"
        tar.addfile(link)
        skip = {"test", "site-packages", "dist-packages", "__pycache__", "idlelib"}
        tar.add(
            prefix / f"lib/python{short}",
            f"python/lib/python{short}",
            filter=lambda item: None if Path(item.name).name in skip else item,
        )
        for library in prefix.glob(f"lib/libpython{short}.so*"):
            tar.add(library, f"python/lib/{library.name}")
    name = f"20260101/cpython-{short}.tar.gz"
    (tmp_path / "mirror/20260101").mkdir(parents=True)
    (tmp_path / "mirror" / name).write_bytes(archive.getvalue())
    major, minor, patch = (int(part) for part in version.split("."))
    entry = {
        "name": "cpython",
        "arch": {"family": platform.machine(), "variant": None},
        "os": "linux",
        "libc": "gnu",
        "major": major,
        "minor": minor,
        "patch": patch,
        "prerelease": "",
        "url": f"https://github.com/astral-sh/python-build-standalone/releases/download/{name}",
        "sha256": hashlib.sha256(archive.getvalue()).hexdigest(),
        "variant": None,
        "build": "20260101",
    }
    (tmp_path / "downloads.json").write_text(json.dumps({f"cpython-{version}-linux": entry}))
    for name in ("python3", "python3.14", "python3.13", "python3.12", "python3.11"):  # an old one, that can unzip
        own.stand_in(
            name,
            f"""case "$*" in
          --version) echo Python 3.9.2 ;;
          *sys.version_info*) exit 1 ;;
          *) exec {sys.executable} "$@" ;;
        esac""",
        )
    given = {"UV_PYTHON_DOWNLOADS_JSON_URL": (tmp_path / "downloads.json").as_uri()}
    done = own.script("support/bring-python", timeout=300, PYTHON_MIRROR=(tmp_path / "mirror").as_uri(), **given)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{shell.home}/base/python/cpython-{short}" in done.stdout.splitlines()[-1]
    again = own.script("lib/python")
    assert "uv gets one" not in again.stdout, "it is found from now on"
    assert again.returncode == 0
