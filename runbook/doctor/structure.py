"""The structure of a log: its starts, processes, tracebacks and compiler errors, and what failed first.

A log of vLLM repeats one failure many times: the worker's traceback, the engine's, the API server's. The cause is the
innermost exception, or the compiler's own error, of the process that failed first; the rest are its echoes.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from runbook.doctor.lines import Line
from runbook.doctor.wording import (
    ABORTED,
    ANY_EXCEPTION,
    BODY,
    CAUSED,
    CHAINED,
    COMPILER,
    COMPILER_ECHO,
    ECHO,
    ECHO_TYPES,
    EXCEPTION,
    FATAL_WARNING,
    FRAME,
    GROUP,
    HANDLED,
    PEER,
    PROGRESS,
    READY,
    REQUEST,
    SCANNED,
    SERVES,
    SIGNAL,
    START,
    STATEMENT,
    STOP,
    SUSPECT,
    TRACEBACK,
    VLLM,
    WAITING,
)

BAD = ("ERROR", "CRITICAL", "WARNING")
MAX_MESSAGE = 400  # lines of one error's message


@dataclass
class Error:
    """One exception of a chain, or another error. lines: its message; place: the innermost frame."""

    lines: list[Line] = field(default_factory=list)
    place: str = ""
    kind: str = ""  # exception, compiler, signal, statement
    frame: Line | None = None  # the innermost frame

    @property
    def head(self) -> str:
        """The first line of the message."""
        return self.lines[0].text.strip() if self.lines else ""

    @property
    def text(self) -> str:
        """The whole message."""
        return "\n".join(line.text.strip() for line in self.lines)


@dataclass
class Unit:
    """What belongs together: a traceback with its chain, innermost first; a compiler's error; a refused request."""

    line: int
    process: str
    key: str
    level: str
    errors: list[Error] = field(default_factory=list)
    ignored: bool = False
    place: str = ""  # of the logger
    at: int = 0  # the error that is being read
    indent: int = 0  # of the traceback, in the output of pip for example
    framed: bool = False  # the line before was the head of a frame
    paused: bool = False

    @property
    def active(self) -> Error:
        """The error whose lines are being read."""
        return self.errors[self.at]

    @property
    def weight(self) -> int:
        """0: may be a cause; 1: a peer's end or a statement; 2: an echo."""
        if self.ignored or not any(error.lines for error in self.errors):
            return 3
        error = self.cause
        if error is None:
            return 2
        if self.level in ("INFO", "DEBUG", "WARNING"):
            return 3
        if PEER.search(error.head) or error.kind == "statement":
            return 1
        return 0

    @property
    def cause(self) -> Error | None:
        """The innermost error of the chain that is no echo."""
        return next((one for one in self.errors if one.lines and not is_echo(one)), None)


def is_exception(text: str) -> bool:
    """Return whether a line is the end of a traceback, or stands for one."""
    found = EXCEPTION.match(text)
    return text.startswith("Value error, ") or bool(found and not found[1].endswith("Warning"))


def is_echo(error: Error) -> bool:
    """Return whether an error only tells that something else failed."""
    head = error.head
    found = EXCEPTION.match(head) if error.kind == "exception" else None
    if error.kind == "signal":  # a process aborts itself after an error that it has reported
        return bool(ABORTED.search(head))
    if error.kind == "compiler":
        return False
    return bool((found and ECHO_TYPES.match(found[1])) or ECHO.search(head))


def short(path: str) -> str:
    """Return the path of a frame, from the package on."""
    return re.sub(r"^.*?/(?:site|dist)-packages/", "", path)


@dataclass
class Start:
    """The lines of one start of a server, or of a whole log without starts."""

    units: list[Unit] = field(default_factory=list)
    requests: list[Line] = field(default_factory=list)
    warnings: list[Line] = field(default_factory=list)
    suspects: list[Line] = field(default_factory=list)
    waits: list[Line] = field(default_factory=list)
    ready: int = 0  # the line
    serves: bool = False
    stopped: int = 0
    progress: Line | None = None
    last: Line | None = None
    vllm: bool = False
    before_wait: Line | None = None
    own: tuple[str, str, str] | None = None  # what, fix and code, as a script of this project has reported them


class Reader:
    """Reads the lines of a log one after the other and builds its starts."""

    def __init__(self) -> None:
        self.starts = [Start()]
        self.open: dict[str, Unit] = {}
        self.latest: dict[str, Unit] = {}
        self.previous: dict[str, str] = {}
        self.empty: dict[str, str] = {}  # the level of a head without a message, which the next line is
        self.told: list[str] = []  # the lines of a report of this project that is being read

    @property
    def now(self) -> Start:
        """The start that is being read."""
        return self.starts[-1]

    def begin(self, line: Line) -> None:
        """Begin another start if this line is the first of one."""
        text, now = line.text, self.now
        known = any(unit.weight < 3 for unit in now.units) or now.ready or now.stopped
        marked = text.startswith("==> ")
        if now.last is not None and (marked or (known and now.vllm)):
            self.starts.append(Start())
            self.open, self.latest = {}, {}
        self.now.vllm = True

    def read(self, line: Line) -> None:
        """Take one line into account."""
        text, now = line.text, self.now
        if line.level in ("INFO", "DEBUG") and line.key not in self.open and '" 200' in text:
            now.serves, now.last = True, line
            return
        if START.search(text) or (text.startswith("==> ")):
            self.begin(line)
            now = self.now
        if text:
            now.last = line
        if now.stopped or self.report(text.strip()):
            return
        if line.level != "ERROR" and STOP.search(text):
            now.stopped = line.number
            return
        if not now.vllm and VLLM.search(text):
            now.vllm = True
        if READY in text:
            now.ready, now.serves, now.waits = line.number, True, []
            return
        if line.level in ("INFO", "DEBUG") and REQUEST.search(text):
            self.request(line)
            return
        if (not line.headed or line.level in BAD) and self.error(line):
            return
        if line.level in ("INFO", "DEBUG", "") and SERVES.search(text):
            now.serves = True
        if WAITING.search(text):
            if not now.waits:
                now.before_wait = now.progress
            now.waits.append(line)
        elif line.level in ("INFO", "DEBUG") and PROGRESS.search(text):
            now.progress = line
            if not now.ready:
                now.waits = []
        elif line.level == "WARNING" and FATAL_WARNING.search(text):
            now.warnings.append(line)
        if line.level in ("INFO", "DEBUG") and BODY.search(text) and re.search(r"rror", text):
            self.alone(line, "statement")

    def report(self, text: str) -> bool:
        """Take a line of a report of this project: what failed, what fixes it, its code. Return whether it is one."""
        if text.startswith("✗ "):
            self.told = [text[2:]]
        elif len(self.told) == 1 and text.startswith("→ "):
            self.told.append(text[2:])
        elif len(self.told) == 2 and (found := re.match(r"(E\d{2,3}) docs/", text)):
            self.now.own = (self.told[0], self.told[1], found[1])
        else:
            self.told = []
        return bool(self.told)

    def request(self, line: Line) -> None:
        """Keep a refused request, unless a scanner or a browser asked for what no server has."""
        found = REQUEST.search(line.text)
        if found and not (found["status"] in ("404", "405", "401") and SCANNED.search(found["path"])):
            self.now.requests.append(line)

    def introduce(self, line: Line) -> None:
        """Let the statement before an exception of the same record count no more: it only introduces it."""
        before = self.latest.get(line.key)
        statement = before and before.errors[0].kind == "statement" and not is_echo(before.errors[0])
        if before and statement and line.number - before.line < 4:
            before.ignored |= not line.headed or (before.place, before.level) == (line.place, line.level)

    def unit(self, line: Line, kind: str) -> Unit:
        """Begin a unit."""
        self.introduce(line)
        made = Unit(line.number, line.process, line.key, line.level, [Error(kind=kind)], place=line.place)
        before = self.previous.get(line.key, "")
        made.ignored = bool(HANDLED.search(before)) or line.level in ("WARNING", "INFO", "DEBUG")
        self.now.units.append(made)
        self.open[line.key] = self.latest[line.key] = made
        return made

    def alone(self, line: Line, kind: str) -> None:
        """Add an error that is not part of a traceback; its next lines without a head may continue it."""
        error = Error([line], line.place, kind)
        made = Unit(line.number, line.process, line.key, line.level, [error], place=line.place)
        if kind == "exception":
            self.introduce(line)
        if kind in ("compiler", "signal"):
            made.level = "ERROR"
        if line.level in ("INFO", "DEBUG"):
            made.level = ""
        self.now.units.append(made)
        if kind != "statement" or line.level in ("ERROR", "CRITICAL", ""):
            self.open[line.key] = self.latest[line.key] = made

    def error(self, line: Line) -> bool:
        """Take a line that may belong to an error. Return whether it does."""
        text, key = line.text, line.key
        current = self.open.get(key)
        body = text
        if text.lstrip()[:1] in ("|", "+"):  # of an exception group
            body = line.text = GROUP.sub("", text)
        stripped = body.strip()
        before = self.previous.get(key, "")
        if stripped:
            self.previous[key] = stripped
        other = line.headed and current and (line.level, line.place) != (current.level, current.place)
        if current and other and (current.active.lines or line.level in ("ERROR", "CRITICAL")):
            self.open.pop(key)
            current = None
        if not stripped:
            if current and not line.headed:
                current.paused = True
            if line.level in ("ERROR", "CRITICAL"):
                self.empty[key] = line.level
            return bool(current)
        if key in self.empty and not line.headed:
            line.level = self.empty[key]
        self.empty.pop(key, None)
        if CHAINED.match(body):
            chained = current or self.latest.get(key)
            if chained:
                chained.errors.append(Error(kind="exception"))
                chained.at, chained.paused = len(chained.errors) - 1, False
                self.open[key] = chained
            return True
        if TRACEBACK.match(body):
            if current and not current.active.lines and not current.active.place:
                current.indent = len(body) - len(body.lstrip())
                return True  # the chain goes on
            made = self.unit(line, "exception")
            made.indent = len(body) - len(body.lstrip())
            made.ignored = made.ignored or bool(HANDLED.search(before))
            return True
        if frame := FRAME.match(body):
            over = current and current.active.lines and (current.paused or current.active.kind != "exception")
            if current is None or over:
                current = self.unit(line, "exception")
            elif current.active.lines:  # a traceback in the message of another, which is the outer one
                current.errors.insert(current.at, Error(kind="exception"))
            where = f" in {frame[3]}" if frame[3] else ""
            current.active.frame = line
            current.active.place, current.framed = f"{short(frame[1])}:{frame[2]}{where}", True
            return True
        if current and not current.active.lines:
            rest = body[current.indent :] if not body[: current.indent].strip() else body
            ends = EXCEPTION.match(rest) or (not current.framed and ANY_EXCEPTION.match(rest))
            current.framed = False
            if not ends or line.level == "INFO":
                if not line.headed and (COMPILER.search(stripped) or SIGNAL.search(stripped)):
                    self.alone(line, "compiler" if COMPILER.search(stripped) else "signal")
                return line.level != "INFO"
            current.active.lines.append(line)
            return True
        if current and not current.paused and self.continues(current, line, body):
            current.active.lines.append(line)
            return True
        self.special(line, stripped)
        return True

    @staticmethod
    def continues(unit: Unit, line: Line, body: str) -> bool:
        """Return whether a line without a head of its own goes on with the message of an error."""
        message, kind = unit.active.lines, unit.active.kind
        if kind == "statement":
            return bool(CAUSED.match(body))
        if len(message) >= MAX_MESSAGE or (message and line.headed != message[0].headed):
            return False
        if kind != "exception" and not line.headed and EXCEPTION.match(body):
            return False
        return kind == "signal" or not (SIGNAL.search(body) or START.search(body))

    def special(self, line: Line, stripped: str) -> bool:
        """Take a line that is an error by itself. Return whether it is."""
        if COMPILER_ECHO.match(stripped):
            return False
        if COMPILER.search(stripped) and not re.match(r"^\S*vllm\S*: error|^vllm serve: error", stripped):
            self.alone(line, "compiler")
        elif SIGNAL.search(stripped) and line.level != "INFO":
            self.alone(line, "signal")
        elif line.level != "WARNING" and is_exception(stripped):
            self.alone(line, "exception")
        elif (
            line.level in ("ERROR", "CRITICAL")
            or (line.process == "NCCL" and line.level == "WARNING")
            or (not line.level and (STATEMENT.match(stripped) or BODY.search(stripped)))
        ):
            self.alone(line, "statement")
        elif not line.level and SUSPECT.search(stripped):
            self.now.suspects.append(line)
            return False
        else:
            if line.level == "WARNING" and FATAL_WARNING.search(stripped):
                self.now.warnings.append(line)
            return False
        return True


def read(lines: Iterator[Line]) -> list[Start]:
    """Return the starts of a log."""
    reader = Reader()
    for line in lines:
        reader.read(line)
    return reader.starts
