"""What the programs beside this file share: the reader's language, and how a known fault reaches the calling script."""

import os
import re
import signal
import sys
import tomllib
from functools import cache
from pathlib import Path
from typing import Any, NoReturn


def tr(zh: str, en: str) -> str:
    """The one of the two that the reader reads; the script says which in RUNBOOK_LANG."""
    return zh if os.environ.get("RUNBOOK_LANG") == "zh" else en


@cache
def texts() -> dict[str, Any]:
    """texts.toml: what the programs say, as {program: {key: {"zh" | "en": text}}}."""
    return tomllib.loads((Path(__file__).parent / "texts.toml").read_text("utf-8"))


def text(key: str, **values: object) -> str:
    """The text `program.key` in the reader's language, with {names} filled in."""
    program, name = key.split(".")
    entry = texts()[program][name]
    words = tr(entry["zh"], entry["en"]).format(**values)
    return re.sub("(?<=[一-鿿]) (?=[一-鿿])", "", words)  # a value that is Chinese itself needs no space around it


def end_with_the_reader() -> None:
    """Where nobody reads on (`… | head`), end as every command does. To be called when the network is done with."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)


def fail(code: str, **values: object) -> NoReturn:
    """End with a known fault of faults.toml: told on descriptor 3, where the script reads it; exit code 1 at once."""
    lines = [code, *(f"{key}={' '.join(str(value).split())}" for key, value in values.items())]
    sys.stdout.flush()
    try:
        os.write(3, "\n".join(lines).encode())
    except OSError:  # run by hand, without a script
        print(*lines, sep="\n", file=sys.stderr)
    sys.stderr.flush()
    os._exit(1)  # transfers that still run in threads are not waited for
