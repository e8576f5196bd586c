"""A table of checks: what was found, and what to do about it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from runbook.messages import tr

State = Literal["ok", "warn", "fail"]
MARKS: dict[State, str] = {"ok": "✓", "warn": "!", "fail": "✗"}


@dataclass(frozen=True)
class Row:
    """One check: its name, its state, what was found, and what to do if it is not ok."""

    name: str
    state: State
    found_zh: str
    found_en: str
    todo_zh: str = ""
    todo_en: str = ""

    @property
    def found(self) -> str:
        """What was found, in the reader's language."""
        return tr(self.found_zh, self.found_en)

    @property
    def todo(self) -> str:
        """What to do, in the reader's language."""
        return tr(self.todo_zh, self.todo_en)


def show(rows: Iterable[Row]) -> int:
    """Print the table. Return the exit code: 3 if a check failed."""
    failed = False
    for one in rows:
        print(f"    {MARKS[one.state]} {one.name:<11}{one.found}")
        if one.todo and one.state != "ok":
            print(f"      {'':<11}→ {one.todo}")
        failed = failed or one.state == "fail"
    return 3 if failed else 0
