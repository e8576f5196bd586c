"""The heads of a log's lines: who wrote the line, how serious it calls it, and what is left.

Knows vLLM (`(EngineCore pid=1) ERROR 01-02 03:04:05 [core.py:1]`), Ray, torch (`[rank0]:[E…]`), uvicorn, Python's
logging, loguru, pip, uv, NCCL, docker compose, Kubernetes and journald, nested in any order.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from string import ascii_lowercase, ascii_uppercase, digits

LONGEST = 2000  # characters of a line that are read
LEVEL = "DEBUG|INFO|WARNING|WARN|ERROR|CRITICAL|FATAL"
DATE = r"\d{4}[-/]\d\d[-/]\d\d[ T]\d\d:\d\d:\d\d(?:[.,]\d+)?"
LETTERS = {"D": "DEBUG", "I": "INFO", "W": "WARNING", "E": "ERROR", "F": "CRITICAL", "C": "CRITICAL"}
# In the order in which they usually stand in a line, with the kinds of their first character (small letter, capital,
# digit, bracket), so that few are tried. Groups: process, pid, level, place.
HEADS = [
    (first, re.compile(pattern))
    for first, pattern in (
        ("a", r"(?P<process>[a-z][\w.-]{1,40})\s*\| "),  # docker compose
        (
            "d",
            r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:?\d\d)[ \t](?:std(?:out|err) [FP] )?",
        ),  # Kubernetes
        ("[", r"\[pod/(?P<process>[^\]]+)\] "),
        ("[", r"\[\d+\] (?=[\[(])"),  # a number that a viewer has put in front
        (
            "A",
            r"[A-Z][a-z]{2} +\d+ \d\d:\d\d:\d\d(?:\.\d+)? \S+ (?P<process>[\w.@/-]+)(?:\[(?P<pid>\d+)\])?: ",
        ),  # journald
        (
            "(",
            r"(?:\([A-Za-z][^()]{0,60}?\bpid=\d+[^()]{0,80}\) )*"
            r"\((?P<process>[A-Za-z][\w.:-]*)[^()]{0,40}?\bpid=(?P<pid>\d+)[^()]{0,80}\)(?: ?\[repeated[^\]]*\])? ?",
        ),
        ("[", r"\[(?P<process>rank ?\d+)\]: ?"),
        ("[", r"\[(?P<process>\d+,\d+)\]<std(?:err|out)>: ?"),
        (
            "A",
            rf"(?P<level>{LEVEL}) (?:\d{{4}}-)?\d\d-\d\d \d\d:\d\d:\d\d(?:[.,]\d+)? \[?(?P<place>[\w./<>-]+:\d+)\] ?",
        ),
        (
            "d[",
            rf"\[?{DATE}\]?(?: \d+)?[ \t]*(?:[|:-] ?)*(?:[\w.]+ - |[\w.]+: (?=\[))?"
            rf"\[?(?P<level>{LEVEL})\]?(?:[ \t]+\d+(?= |$))?(?:[ \t]*[|:-]+)?[ \t]?"
            r"(?:\[(?P<place>[\w./<>-]+\.py:\d+)\] ?)?",
        ),
        ("d[", rf"\[?{DATE}\]? (?=[\[(]|\S+:\d+:\d+ \[)"),
        ("d", r"\d\d:\d\d:\d\d \[(?P<level>" + LEVEL + r")\]:? ?"),
        (
            "A[",
            r"\[?(?P<letter>[IWEFCD])\d{3,4} \d\d:\d\d:\d\d[.\d]*(?: +\d+)? (?P<place>[\w./-]+:\d+)\] ?",
        ),  # glog, torch
        (
            "[",
            r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[,.]\d+ (?P<letter>[IWEFCD]) \d+ \d+\] (?P<place>[\w./-]+:\d+): ?",
        ),  # Ray
        ("[", r"\[(?P<letter>[IWEFCD]) (?P<place>[\w./-]+:\d+)\] ?"),
        ("[", r"\[(?P<place>[\w./<>-]+\.py:\d+)\] ?"),  # vLLM's, without the date in front
        ("aAd", r"[\w.-]+:\d+:(?P<pid>\d+) \[\d+\] (?:\S+ ){0,2}(?P<process>NCCL) (?P<level>INFO|WARN) "),
        ("A[", rf"\[?(?P<level>{LEVEL})\]?(?::[\w.]+)?:[ \t]*"),  # uvicorn, pip, Python's root logger
        ("a", r"(?P<level>warning|error|fatal)(?::[ \t]+|\t)"),  # uv, git
    )
]
MAY_BEGIN = re.compile(r"[\[(\dA-Za-z]")
FAST = re.compile(
    r"(?:\((\w[\w.:-]*)[^()]{0,40}?\bpid=(\d+)[^()]{0,40}\) )?"
    r"INFO(?: \d\d-\d\d \d\d:\d\d:\d\d \[[^\]]*\] ?|: +)"
)
COLOUR = re.compile(r"[\x1b\ufffd]\[[0-9;?]*[A-Za-z]|\[(?:\d{1,2};)?\d{1,2}m(?=\()|\[0(?:;0)?m")
LOGFMT = re.compile(r'(?:\S+ )?time="?[^" ]*"? level=(\w+) msg="((?:[^"\\]|\\.)*)"')


KINDS = dict.fromkeys(ascii_lowercase, "a") | dict.fromkeys(ascii_uppercase, "A") | dict.fromkeys(digits, "d")


@dataclass(slots=True)
class Line:
    """A line of a log without its head. number: from 1; level: empty if there is none; key: process and pid."""

    number: int
    process: str
    key: str
    level: str
    place: str
    text: str
    headed: bool  # it has a level or a time of its own, so it begins a record


def parse(number: int, raw: str) -> Line:
    """Return a line, taken apart."""
    if "\x1b" in raw or "\ufffd" in raw or "[0m" in raw or "[0;0m" in raw:
        raw = COLOUR.sub("", raw)
    if "level=" in raw and (found := LOGFMT.match(raw)):  # what a program writes is INFO there, whatever it says
        inner = parse(number, found[2].replace('\\"', '"').replace("\\n", " ").replace("\\\\", "\\"))
        if found[1] in ("error", "fatal", "warning") and not inner.level:
            inner.level = {"fatal": "CRITICAL"}.get(found[1], found[1].upper())
        return inner
    if raw.startswith("> ") or raw.lstrip().startswith("| "):  # a quotation; docker compose without a name
        raw = raw.lstrip()[2:]
    if "\r" in raw:
        raw = next((part for part in reversed(raw.split("\r")) if part), "")
    if found := FAST.match(raw):
        process = found[1] or ""
        return Line(number, process, f"{process}{found[2] or ''}", "INFO", "", raw[found.end() :], True)
    process = pid = level = place = ""
    headed, text, start = False, raw.rstrip(), 0
    kind = KINDS.get(text[:1], text[:1])
    for first, pattern in HEADS if MAY_BEGIN.match(text) else ():
        if kind not in first:
            continue
        found = pattern.match(text, start)
        if not found or found.end() == start:
            continue
        groups = found.groupdict()
        process, pid = groups.get("process") or process, groups.get("pid") or pid
        named = groups.get("level") or LETTERS.get(groups.get("letter") or "", "")
        if named and level:  # the first level is that of the record; a second one belongs to the message
            break
        level, place = named.upper() or level, groups.get("place") or place
        headed = headed or bool(named)
        start = found.end()
        if start == len(text):
            break
        kind = KINDS.get(text[start], text[start])
    level = {"WARN": "WARNING", "FATAL": "CRITICAL"}.get(level, level)
    return Line(number, process, f"{process}{pid}", level, place, text[start:], headed)


def parsed(lines: Iterable[str]) -> Iterator[Line]:
    """Yield every line, taken apart; of many lines in a row that tell of served requests, only the first."""
    served = False
    for number, raw in enumerate(lines, 1):
        again, served = served, raw.endswith('" 200 OK') or "Avg prompt throughput:" in raw
        if not (served and again):
            yield parse(number, raw[:LONGEST])
