"""Known faults: a code, one sentence, what mends it, and the page. The texts are data: faults.toml."""

import os
import shlex
import tomllib
from collections.abc import Iterable
from difflib import get_close_matches
from functools import cache
from typing import Any

from invoke.exceptions import Exit

from runbook import ROOT

_settings: dict[str, str] = {}


def speak(chosen: str) -> None:
    """What the settings say of the language: zh, en, or empty for the locale's."""
    _settings["RUNBOOK_LANG"] = chosen


def inv(words: str) -> str:
    """The command ./inv WORDS for the server of this ENV_FILE, and not for the first one."""
    named = os.environ.get("ENV_FILE")
    if not named or os.path.abspath(named) == str(ROOT / ".env"):
        return f"./inv {words}"
    return f"ENV_FILE={shlex.quote(os.path.abspath(named))} ./inv {words}"


def lang() -> str:
    """zh or en: RUNBOOK_LANG, else what the locale says."""
    chosen = os.environ.get("RUNBOOK_LANG") or _settings.get("RUNBOOK_LANG")
    if chosen in ("zh", "en"):
        return chosen
    locale = next((os.environ[key] for key in ("LC_ALL", "LC_MESSAGES", "LANG") if os.environ.get(key)), "")
    return "zh" if locale.startswith("zh") else "en"


def tr(zh: str, en: str) -> str:
    """The one of the two that the reader reads."""
    return zh if lang() == "zh" else en


def near(word: str, known: Iterable[str]) -> str:
    """Did you mean …, where one of the known words is like it; else nothing."""
    found = get_close_matches(word, list(known), 1)
    return tr(f"（是不是 {found[0]}？）", f" (did you mean {found[0]}?)") if found else ""


@cache
def texts() -> dict[str, dict[str, dict[str, str]]]:
    """Every fault as {code: {"title" | "what" | "fix": {"zh" | "en": text}}}."""
    return tomllib.loads((ROOT / "runbook" / "faults.toml").read_text("utf-8"))


class Fault(Exit):
    """A known fault. Invoke prints it without a traceback and exits with 1."""

    def __init__(self, code: str, **values: Any) -> None:
        self.fault, self.values = code, values
        what, fix = (texts()[code][part][lang()] for part in ("what", "fix"))
        fix = fix.replace("./inv ", inv(""))
        for name, value in values.items():
            what, fix = (text.replace("{" + name + "}", str(value)) for text in (what, fix))
        page = f"docs/{lang()}/troubleshooting.md#{code.lower()}"
        super().__init__(f"✗ {what}\n  → {fix}\n  {code} {page}", code=1)
