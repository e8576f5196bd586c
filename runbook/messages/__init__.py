"""Messages: the reader's language, and the reports of known faults. Standard library only.

A text is written where it is used, in Chinese and English: tr(zh, en). Only the faults are data (faults.toml), because
the shell reports them too, even if there is no Python yet (scripts/lib/messages.sh).
"""

import os
import re
import shlex
import signal
import sys
import tomllib
import traceback
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from runbook import ROOT

_settings: dict[str, str] = {}


def set_language(chosen: str) -> None:
    """Set the language of the settings: zh, en, or empty for the locale's."""
    _settings["RUNBOOK_LANG"] = chosen


def language() -> str:
    """Return the reader's language, zh or en: RUNBOOK_LANG, else the locale's."""
    chosen = os.environ.get("RUNBOOK_LANG") or _settings.get("RUNBOOK_LANG")
    if chosen in ("zh", "en"):
        return chosen
    locale = next((os.environ[key] for key in ("LC_ALL", "LC_MESSAGES", "LANG") if os.environ.get(key)), "")
    return "zh" if locale.startswith("zh") else "en"


def tr(zh: str, en: str) -> str:
    """Return the text in the reader's language."""
    return zh if language() == "zh" else en


def inv(words: str) -> str:
    """Return the command `./inv WORDS`, with ENV_FILE in front if it is not .env."""
    named = os.environ.get("ENV_FILE")
    if not named or os.path.abspath(named) == str(ROOT / ".env"):
        return f"./inv {words}"
    return f"ENV_FILE={shlex.quote(os.path.abspath(named))} ./inv {words}"


def near(word: str, known: Iterable[str]) -> str:
    """Return `(did you mean …?)` if one of the known words is similar, else an empty text."""
    found = get_close_matches(word, list(known), 1)
    return tr(f"（是不是 {found[0]}？）", f" (did you mean {found[0]}?)") if found else ""


def masked(text: str) -> str:
    """Return the text without the passwords in its addresses: https://user:***@host/."""
    return re.sub(r"://([^/:@\s]*:)?[^/\s]*@", r"://\1***@", text)


@cache
def faults() -> dict[str, dict[str, Any]]:
    """Return every known fault: {code: {"title" | "what" | "fix": {"zh" | "en": text}, "pattern": …}}."""
    return tomllib.loads(Path(__file__).with_name("faults.toml").read_text("utf-8"))


def fault_text(code: str, part: str, values: dict[str, Any]) -> str:
    """Return the title, what or fix of a fault in the reader's language, with its {names} replaced by `values`."""
    text: str = faults()[code][part][language()].replace("./inv ", inv(""))
    for name, value in values.items():
        text = text.replace("{" + name + "}", str(value))
    return masked(text)


def page_of(code: str) -> str:
    """Return the code of a fault and its page."""
    return f"{code} docs/{language()}/troubleshooting.md#{code.lower()}"


class Fault(Exception):
    """A known fault: its text says what happened, what fixes it, its code and its page."""

    def __init__(self, code: str, **values: Any) -> None:
        self.code, self.values = code, values
        one_line = {name: " ".join(str(value).splitlines()) for name, value in values.items()}
        what, fix = (fault_text(code, part, one_line) for part in ("what", "fix"))
        super().__init__(f"✗ {what}\n  → {fix}\n  {page_of(code)}")


def end_with_the_reader() -> None:
    """Let SIGPIPE end the process, as in `… | head`. Call it when the network is no longer used."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)


def run(main: Callable[[], int | None]) -> NoReturn:
    """Run a program that a script starts.

    Exit code: main's; 1 for a Fault, which is reported; 130 for Ctrl-C; 70 for any other exception, with its traceback.
    """
    code = 70
    for stream in (sys.stdout, sys.stderr):  # the name of a process may be cut within a character
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        sys.exit(main())
    except Fault as fault:
        print(fault, file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        code = 130
    except Exception:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # do not wait for transfers that still run in threads
