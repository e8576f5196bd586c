"""Read a log for the doctor: the lines of the last start, or of a whole file.

python -m runbook.doctor.log    prints the cause in the log on standard input
"""

import os
import re
import sys
from pathlib import Path

from runbook.doctor.cause import failure, refusals
from runbook.doctor.lines import COLOUR, parsed
from runbook.doctor.structure import Start, read
from runbook.messages import masked, tr

EXCEPTION_INSIDE = re.compile(r"\b(?:\w+\.)*[A-Z]\w*(?:Error|Exception): .+")
NEWEST = 20_000_000  # bytes that are read from the end of the server's own log


def clean(line: str) -> str:
    """Return the line without colours, overwritten progress bars, the API key and passwords."""
    line = COLOUR.sub("", line).split("\r")[-1].strip()
    key = os.environ.get("API_KEY")
    line = masked(line.replace(key, "***") if key else line)
    return re.sub(r"\b(hf_|ms-|sk-)[A-Za-z0-9-]{16,}", r"\1***", line)[:300]


def read_text(text: str) -> list[Start]:
    """Return the starts in a text."""
    return read(parsed(text.split("\n")))


def read_input() -> list[Start]:
    """Return the starts on standard input."""
    return read_text(sys.stdin.buffer.read().decode("utf-8", "replace"))


def read_file(path: Path, whole: bool) -> list[Start]:
    """Return the starts in a log; with `whole`, from its beginning, however long it is."""
    if not path.is_file():
        return [Start()]
    with path.open("rb") as file:
        file.seek(0 if whole else max(path.stat().st_size - NEWEST, 0))
        data = file.read()
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):  # as PowerShell's > writes it
        return read_text(data.decode("utf-16", "replace"))
    return read_text(data.decode("utf-8", "replace"))


def first_error(starts: list[Start]) -> str | None:
    """Return the text of the cause in the last start that has one: its own, or what a script has reported of it."""
    for start in reversed(starts):
        if start.own:
            return clean(start.own[0])
        cause = failure(start) or next(iter(refusals(start)), None)
        if cause and cause.kind != "died":
            text = clean(cause.line.text)
            exception = EXCEPTION_INSIDE.search(text)
            return exception[0] if exception else text
    return None


if __name__ == "__main__":
    print(first_error(read_input()) or tr("没有留下错误信息", "it left no error message"))
