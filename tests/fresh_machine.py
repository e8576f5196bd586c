"""A fresh machine: a minimal Debian in a container of systemd-nspawn, booted with its own systemd.

Its packages come from where this machine's own apt takes them, and pip in it sees the package index as pip here does;
nothing else of this machine is in it. It shares the network, so its server needs a port that is free here.
"""

import ast
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from configparser import ConfigParser
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.conftest import BUSY, Done, copy_checkout

SUITE = "bookworm"
# What the README names, git, by which the project comes there, and the init system that every real machine has.
PACKAGES = "ca-certificates curl git iproute2 python3 python3-venv tmux"
INIT = "systemd-sysv dbus dbus-user-session libpam-systemd"
CERTIFICATES = ("SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE")
PROJECT = "/root/project"


def why_not() -> str:
    """Why there can be none here; empty where there can."""
    if os.geteuid() != 0:
        return "only root can start a container"
    tools = {"debootstrap": "debootstrap", "systemd-nspawn": "systemd-container", "nsenter": "util-linux"}
    if lacking := [package for tool, package in tools.items() if not shutil.which(tool)]:
        return f"apt-get install -y {' '.join(lacking)}"
    return ""


def quiet(*words: object, timeout: float = 600, **more: str) -> Done:
    """A command of this machine."""
    env = {**os.environ, "LC_ALL": "C.UTF-8", **more}
    return subprocess.run(
        [str(word) for word in words],
        env=env,
        capture_output=True,
        encoding="utf-8",
        timeout=timeout * BUSY,
        check=False,
    )


def mirror() -> str:
    """Where apt of this machine takes Debian from; else Debian's own address."""
    found = quiet("apt-get", "indextargets", "--format", "$(REPO_URI)", "Identifier: Packages").stdout.split()
    return next((url for url in found if re.search(r"/debian/?$", url)), "http://deb.debian.org/debian")


def tree(target: Path) -> str:
    """Put the system there; gives what went wrong. RUNBOOK_TEST_MACHINES: a directory that keeps one for next time."""
    kept = os.environ.get("RUNBOOK_TEST_MACHINES")
    made = Path(kept) / SUITE if kept else target
    if not (made / "etc/os-release").exists():
        new = made.with_name(f"{made.name}.new.{os.getpid()}")
        packages = ",".join([*PACKAGES.split(), *INIT.split()])
        done = quiet("debootstrap", "--variant=minbase", f"--include={packages}", SUITE, new, mirror())
        if done.returncode:
            shutil.rmtree(new, ignore_errors=True)
            return f"debootstrap: {(done.stdout + done.stderr).strip().splitlines()[-1]}"
        new.rename(made)
    if made != target:
        done = quiet("cp", "-a", "--reflink=auto", made, target)
    return done.stderr if made != target and done.returncode else ""


def pip_settings() -> dict[str, dict[str, str]]:
    """What pip here is told by its files and its environment, by section."""
    found: dict[str, dict[str, str]] = {"global": {}}
    lines = quiet(sys.executable, "-m", "pip", "config", "list").stdout.splitlines()
    for line in sorted(lines, key=lambda line: line.startswith(":env:")):  # the environment goes before the files
        name, _, value = line.partition("=")
        section, _, key = name.partition(".")
        if words := ast.literal_eval(value):
            found.setdefault("global" if section == ":env:" else section, {})[key] = words
    return found


def local_paths(text: str) -> Iterator[Path]:
    """The files and directories of this machine that a setting names."""
    for word in re.split(r"[\s,]+", text):
        path = Path(word.removeprefix("file://"))
        if path.is_absolute() and path.exists():
            # The files of an index lie beside its pages.
            yield path.parent if path.name == "simple" and len(path.parts) > 3 else path


@dataclass
class Machine:
    """One that runs the project in PROJECT as root, and can be switched off and on."""

    root: Path
    running: subprocess.Popen[bytes] | None = None
    binds: list[str] = field(default_factory=list)
    environ: dict[str, str] = field(default_factory=lambda: {"LANG": "C.UTF-8", "TERM": "xterm", "PIP_INDEX_URL": ""})

    def carry(self) -> None:
        """The project, and this machine's way to the package indexes."""
        copy_checkout(self.root / PROJECT[1:])
        settings = pip_settings()
        config = ConfigParser(interpolation=None)
        config.read_dict(settings)
        with (self.root / "etc/pip.conf").open("w", encoding="utf-8") as file:
            config.write(file)
        texts = [words for keys in settings.values() for words in keys.values()]
        self.environ |= {key: os.environ[key] for key in CERTIFICATES if os.environ.get(key)}
        self.environ |= {key: value for key, value in os.environ.items() if key.lower().endswith("_proxy")}
        for path in {path for text in [*texts, *self.environ.values()] for path in local_paths(text)}:
            if path.is_dir():
                self.binds.append(f"--bind-ro={path}")
            else:
                (self.root / path.relative_to("/")).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, self.root / path.relative_to("/"))
        shutil.copy("/etc/hosts", self.root / "etc/hosts")
        acquire = re.findall(r"^Acquire::https?::.*", quiet("apt-config", "dump").stdout, re.MULTILINE)
        (self.root / "etc/apt/apt.conf.d/90acquire").write_text("\n".join([*acquire, ""]))
        done = quiet("git", "-C", self.root / PROJECT[1:], "init", "-q")
        assert done.returncode == 0, done.stderr

    def boot(self) -> str:
        """Switch it on and wait until its systemd has started everything; gives what went wrong."""
        words = ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--resolv-conf=bind-host"]
        words += ["--console=pipe", "--boot", "--directory", str(self.root), *self.binds]
        env = {**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"}
        with (self.root.parent / "console").open("wb") as console:
            self.running = subprocess.Popen(
                words, env=env, stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True
            )
        until = time.monotonic() + 60 * BUSY
        while time.monotonic() < until and self.running.poll() is None:
            if self.init():
                state = quiet(*self.inside(), "systemctl", "is-system-running").stdout.strip()
                if state in ("running", "degraded"):
                    return ""
            time.sleep(0.5)
        said = (self.root.parent / "console").read_text("utf-8", "replace").strip().splitlines()
        return f"it does not boot: {said[-1] if said else 'no word'}"

    def init(self) -> int | None:
        """Its first process, as this machine numbers it."""
        assert self.running
        try:
            return next(
                (one.pid for one in psutil.Process(self.running.pid).children() if one.name() == "systemd"), None
            )
        except psutil.Error:
            return None

    def inside(self) -> list[object]:
        return ["nsenter", "-t", self.init(), "-a", "/usr/bin/env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"]

    def run(self, command: str, timeout: float = 120) -> Done:
        """As root would type it after a login, in the project's directory."""
        given = [f"--setenv={key}={value}" for key, value in self.environ.items()]
        words = ["systemd-run", "--quiet", "--pipe", "--wait", "--collect", "-p", "PAMName=login", "-p", "User=root"]
        words += ["-p", f"WorkingDirectory={PROJECT}", *given, "/bin/bash", "-c", command]
        return quiet(*self.inside(), *words, timeout=timeout)

    def power_off(self) -> None:
        """In order, as `poweroff` does it; what does not end is ended."""
        if self.running and self.running.poll() is None:
            quiet(*self.inside(), "systemctl", "poweroff")
            try:
                self.running.wait(90 * BUSY)
            except subprocess.TimeoutExpired:
                self.running.kill()
                self.running.wait(30)
