"""Filter the server's log on standard input: --since SECONDS (of the epoch), --errors.

A line without a time belongs to the one before. vLLM writes no year: it is the latest one that is not in the future.
"""

import argparse
import re
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta

TIME = re.compile(r"(?:(\d{4})-)?(\d\d)-(\d\d) (\d\d):(\d\d):(\d\d)")
LEVEL = re.compile(r"\b(DEBUG|INFO|WARNING|ERROR|CRITICAL)\b")
BAD = re.compile(r"Traceback|(?:Error|Exception): |\berror: |✗|^==== (?!\d)")


def moment(line: str, now: datetime) -> datetime | None:
    """Return the time in a line, if any."""
    found = TIME.search(line[:120])
    if not found:
        return None
    year, month, day, hour, minute, second = (int(part) if part else 0 for part in found.groups())
    for candidate in (year or now.year, now.year - 1):
        try:
            at = datetime(candidate, month, day, hour, minute, second)
        except ValueError:
            continue
        if at <= now + timedelta(days=1):
            return at
    return None


def chosen(lines: Iterator[str], since: float, errors: bool) -> Iterator[str]:
    """Yield the lines since a time (in seconds of the epoch; 0: all lines), with `errors` only those of errors."""
    first = datetime.fromtimestamp(since)
    recent, bad = not since, False
    for line in lines:
        at = moment(line, datetime.now())
        if at and since:
            recent = at >= first
        level = LEVEL.search(line[:120])
        if level or line.startswith("===="):
            bad = bool(level and level[1] in ("ERROR", "CRITICAL"))
        if recent and (not errors or bad or (not level and BAD.search(line))):
            yield line


def main() -> None:
    """Filter standard input."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--since", type=float, default=0)
    parser.add_argument("--errors", action="store_true")
    given = parser.parse_args()
    for line in chosen(iter(sys.stdin.readline, ""), given.since, given.errors):
        sys.stdout.write(line)
        sys.stdout.flush()


if __name__ == "__main__":
    sys.stdin.reconfigure(encoding="utf-8", errors="replace")  # type: ignore[union-attr]
    try:
        main()
    except (BrokenPipeError, KeyboardInterrupt):
        sys.stderr.close()
