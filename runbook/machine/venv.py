"""Find who made the virtual environment VENV_DIR, and whether one that we did not make is usable. Reads only.

Usage: python -m runbook.machine.venv DIRECTORY LOCK [--run]: prints what is there. With --run it runs vllm, which takes
seconds; otherwise it reads the metadata. Exit code 0: made by venv.sh, or empty (nothing is printed), 3: made by
somebody else and complete, to be used unchanged, 4: something else, which must not be changed.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

from runbook.messages import run, tr

# venv.sh writes .runbook-venv first; environments of earlier versions have only the other marks.
MARKS = (".runbook-venv", ".runbook-lock", ".runbook-installing")
NEGLIGIBLE = {".DS_Store", "lost+found"}


def is_ours(directory: Path) -> bool:
    """Return whether this project made the virtual environment."""
    return any((directory / mark).is_file() for mark in MARKS)


def is_free(directory: Path) -> bool:
    """Return whether the directory is missing or empty."""
    if not directory.is_dir():
        return not os.path.lexists(directory)
    return {path.name for path in directory.iterdir()} <= NEGLIGIBLE


def locked(lock: Path) -> str:
    """Return the version of vLLM that a lock file pins."""
    found = re.search(r"^vllm(?:-cpu)?==([^\s\\+]+)", lock.read_text("utf-8"), re.MULTILINE)
    return found[1] if found else "?"


def version(directory: Path, execute: bool) -> str | None:
    """Return the version of vLLM in an environment, without +cpu; None if there is none, or it does not run."""
    code = "from importlib.metadata import version; print(version('vllm'))"
    words = [str(directory / "bin/vllm"), "--version"] if execute else [str(directory / "bin/python"), "-I", "-c", code]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = done.stdout.split()
    return lines[-1].split("+")[0] if done.returncode == 0 and lines else None


def lacks(directory: Path, wanted: str, execute: bool) -> str | None:
    """Return why an environment that is not ours is unusable, or None. wanted: the version of vLLM."""
    if not directory.is_dir():
        return tr("它不是目录", "it is not a directory")
    if not (directory / "bin/python").exists():
        return tr("其中没有虚拟环境", "it contains no virtual environment")
    for name in ("vllm", "ms-hub", "supervisord"):
        if not os.access(directory / "bin" / name, os.X_OK):
            return tr(f"其中没有 bin/{name}", f"it has no bin/{name}")
    found = version(directory, execute)
    if found != wanted:
        zh = f"vLLM 的版本是 {found}，需要 {wanted}" if found else "其中的 vLLM 无法运行"
        return tr(zh, f"its vLLM is {found}, not {wanted}" if found else "its vLLM does not run")
    return None


def main() -> int:
    """Print what is there. Return the exit code."""
    directory = Path(sys.argv[1])
    if is_ours(directory) or is_free(directory):
        return 0
    if why := lacks(directory, locked(Path(sys.argv[2])), "--run" in sys.argv):
        print(why)
        return 4
    print(tr("不是本项目建立的，原样使用", "not made by this project, used as it is"))
    return 3


if __name__ == "__main__":
    run(main)
