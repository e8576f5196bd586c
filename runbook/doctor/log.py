"""Read the server's log: the lines of the last start, and the first error in them.

python -m runbook.doctor.log    prints the first error of the log on standard input
"""

import os
import re
import sys
from pathlib import Path

from runbook.messages import masked, tr

START = re.compile(r"^==> |^ +\$ \S*/?vllm serve |non-default args: ")
STOP = re.compile(r"shutdown triggered|received signal=SIG|KeyboardInterrupt")
MILD = re.compile(r"\b(INFO|WARNING|DEBUG)\b")
ERROR = re.compile(r"[A-Za-z_.]*(Error|Exception|Interrupt): .+|Value error, .+|error: .+|✗ .+")
FRAME = re.compile(r"validation errors? for|See root cause above")
READY = "Application startup complete"
NEWEST = 20_000_000  # bytes that are read from the end of a log


def clean(line: str) -> str:
    """Return the line without colours, overwritten progress bars, the API key and passwords."""
    line = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", line).split("\r")[-1].strip()
    key = os.environ.get("API_KEY")
    return masked(line.replace(key, "***") if key else line)[:300]


def read_input() -> list[str]:
    """Return the relevant lines on standard input."""
    return relevant(sys.stdin.buffer.read().decode("utf-8", "replace").splitlines())


def read_file(path: Path, whole: bool) -> list[str]:
    """Return the relevant lines of the last start in a log; with `whole`, of all starts."""
    if not path.is_file():
        return []
    with path.open("rb") as file:
        file.seek(0 if whole else max(path.stat().st_size - NEWEST, 0))
        lines = file.read().decode("utf-8", "replace").splitlines()
    if not whole:
        starts = [number for number, line in enumerate(lines) if START.search(line)]
        marks = [number for number in starts if lines[number].startswith("==> ")]
        lines = lines[(marks or starts or [0])[-1] :]
    return relevant(lines)


def relevant(lines: list[str]) -> list[str]:
    """Return the lines, cleaned, without those of a server that is being stopped, which show no fault."""
    kept, stopping = [], False
    for line in lines:
        stopping = not START.search(line) and (stopping or bool(STOP.search(line)))
        if not stopping:
            kept.append(clean(line))
    return kept


def first_error(lines: list[str]) -> str | None:
    """Return the first error in the lines; later ones are mostly its consequences."""
    for line in lines:
        if not MILD.search(line[:60]) and not FRAME.search(line) and (match := ERROR.search(line)):
            return match[0]
    return None


if __name__ == "__main__":
    print(first_error(read_input()) or tr("没有留下错误信息", "it left no error message"))
