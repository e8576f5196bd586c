"""What the programs beside this file share: the reader's language, and how a known fault reaches the calling script."""

import os
import sys
from typing import NoReturn


def tr(zh: str, en: str) -> str:
    """The one of the two that the reader reads; the script says which in RUNBOOK_LANG."""
    return zh if os.environ.get("RUNBOOK_LANG") == "zh" else en


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
