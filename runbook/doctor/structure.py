"""The structure of a log: its starts, processes, tracebacks and compiler errors, and what failed first.

A log of vLLM repeats one failure many times: the worker's traceback, the engine's, the API server's. The cause is the
innermost exception, or the compiler's own error, of the process that failed first; the rest are its echoes.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from runbook.doctor.lines import Line

START = re.compile(r"^==> |^ +\$ \S*/?vllm serve |non-default args: ")
STOP = re.compile(
    r"\bshutdown triggered|received signal=SIG(?!KILL)|^KeyboardInterrupt|Received (?:signal )?SIG(?:INT|TERM)|"
    r"^Shutting down$|^\^C"
)
READY = "Application startup complete"
SERVES = re.compile(r'Application startup complete|HTTP/1\.\d" 2\d\d|Avg prompt throughput:')
VLLM = re.compile(r"vllm serve |non-default args: |Resolved architecture|V1 LLM engine|Started server process|/vllm/|vllm\.")

TRACEBACK = re.compile(r"^\s*(?:[+|] )*(?:Exception Group |[^\"']{0,200}: )?Traceback \(most recent call last\):")
FRAME = re.compile(r'^\s*File "([^"]*)", line (\d+)(?:, in (.+))?$')
CHAINED = re.compile(r"^\s*(?:During handling of the above|The above exception was the direct cause)")
GROUP = re.compile(r"^\s*(?:\| ?|\+-[+ -]*[\d-]* ?-*\s?)+")
SUFFIX = r"(?:Error|Exception|Failure|Failed|Fault|Timeout|Interrupt|Exit|Abort|Unavailable|NotFound|Refused|Group|Invalid)"
EXCEPTION = re.compile(
    rf"^(?:Error: |Caused by: )?((?:[A-Za-z_]\w*\.)*(?:[A-Z]\w*{SUFFIX}\w*|NVMLError\w*))(\(.*\))?(?:: ?(.*)|\s*)$"
)
ANY_EXCEPTION = re.compile(r"^[A-Za-z_][\w.<>]*(?:: .*|:?\s*)$")
NESTED = re.compile(rf"^\s*(?:[A-Za-z_]\w*\.)*[A-Z]\w*{SUFFIX}\w*: \S|^\s*Value error, ")
COMPILER = re.compile(
    r"^(?:nvcc|ptxas|nvlink|cicc|cudafe\+\+)\s+(?:fatal|error)\s*:|"
    r"^\S+[:(]\d+[:)](?:\d+:)?\s*(?:fatal |catastrophic )?error\b ?[:#]|"
    r"^(?:\S*/)?(?:ld|gcc|g\+\+|cc1plus|cc1|cc|c\+\+|clang|as)(?:\.\w+)?: .*(?:cannot find|error:|No such file|undefined|not found|fatal)|"
    r"^(?:/bin/)?(?:sh|bash|env): (?:\d+: |line \d+: )?\S*(?:nvcc|ninja|gcc|g\+\+|cc|ptxas|cmake)\S*: (?:command )?[Nn]ot found|"
    r"^CMake Error\b|^fatal error: |^error: command |undefined reference to|"
    r"^ninja: (?:error|fatal): |^(?:Error|error): ptxas|^\S+: error: "
)
COMPILER_ECHO = re.compile(r"^ninja: build stopped|^collect2: error|^FAILED: |^make(?:\[\d+\])?: \*\*\*|returned non-zero exit")
SIGNAL = re.compile(
    r"\b(?:Illegal instruction|Segmentation fault|Bus error|Aborted)\b\s*(?:\(core dumped\)|$|\S+ )|"
    r"^(?:\S+: line \d+: +\d+ )?Killed\b|Segfault encountered|^Fatal Python error: |SIG(?:SEGV|ABRT|BUS|ILL|FPE)\b|"
    r"Signals?\.SIG(?:KILL|SEGV|ABRT|ILL|BUS)|terminate called after throwing|what\(\):  |(?:free|malloc)\(\): |"
    r"double free or corruption|corrupted (?:size|double)|OOMKilled|Out of memory: Killed process|Memory cgroup out of memory|"
    r"oom-kill|segfault at |traps: .* (?:trap|invalid)|NVRM: Xid|exit(?:ed with)?[ _-]?(?:code|status)[:= ]*(?:-9|-11|-4|-6|-7|137|139|132|134)\b|"
    r"exit code: SIG|stack smashing detected|core dumped"
)
# Errors that only repeat that something else failed.
ECHO = re.compile(
    r"Engine core initialization failed|See root cause above|WorkerProc initialization failed|EngineCore failed to start|"
    r"WorkerProc failed to start|WorkerProc hit an exception|EngineCore encountered (?:a fatal error|an issue)|"
    r"EngineCore hit an exception|AsyncLLM output_handler failed|Executor failed\.|EngineDeadError|EngineGenerateError|"
    r"[Ww]orker proc .* died unexpectedly|Engine core proc .* died unexpectedly|Failed core proc|Error executing method|"
    r"Engine (?:process|loop) (?:failed to start|is not running|is dead|has died|is already dead)|AsyncEngineDeadError|MQEngineDeadError|"
    r"Background loop (?:has errored|is stopped)|Engine background task failed|Got error from engine|ASGI callable returned without|"
    r"Exception in ASGI application|Application startup failed|^Process \S+:$|Traceback \(most recent|ChildFailedError|"
    r"Error in (?:model execution|call to collective_rpc)|cancelled|Dumping (?:input data|scheduler)|V1 LLM engine .* config|"
    r"Task exception was never retrieved|Future exception was never retrieved|Exception in (?:thread|callback|worker)|"
    r"shutting down(?: executor)?\.?$|force killing|leaked \w+ objects|destroy_process_group|Invoking remote function|"
    r"GPU OOM recovery|^Error happened|For debugging consider|Compile with|CUDA kernel errors might|uncaught (?:worker )?exception$|"
    r"Error occurred during (?:initialization|engine)|response error$|subprocess-exited-with-error|metadata-generation-failed|legacy-install-failure|"
    r"Failed (?:building|to build)|did not run successfully|Encountered error while|The build backend returned an error|"
    r"Call to .* failed|fatal signal from worker|[Ss]ee stack trace above|^exit code: |^Worker failed with error|Batch failed with error|^Error details:|LLM call failed:?$"
)
ECHO_TYPES = re.compile(
    r"^(?:[\w.]+\.)?(?:KeyboardInterrupt|SystemExit|CancelledError|EngineDeadError|RayTaskError|GeneratorExit|ExceptionGroup|"
    r"BaseExceptionGroup|ChildFailedError|MQEngineDeadError|AsyncEngineDeadError|EngineGenerateError|ProcessRaisedException)$"
)
# Errors of a process whose peer went: another process tells why.
PEER = re.compile(
    r"Connection (?:closed|reset) by peer|connection closed|remote process exited|Broken pipe|EOFError|BrokenPipeError|"
    r"ConnectionResetError|Connection refused|TCPStore|sendBytes failed|recvValue failed|wait timeout after|"
    r"Watchdog caught|ncclRemoteError|ActorDiedError|The actor (?:is dead|died)|RPC call to|worker died|"
    r"process \d+ terminated|Some NCCL operations have failed|failed to be sent|Process group watchdog|Aborted!?$"
)
HANDLED = re.compile(r"^Exception ignored in|Ignoring |ignored\b|^Failed to load plugin|will be (?:skipped|ignored)")
# An import that failed with a WARNING, and the later error that it leads to.
FATAL_WARNING = re.compile(r"Failed to import (?:from )?\S*vllm\S*.*?(?:ImportError|ModuleNotFoundError|OSError|with)\W?(.*)")
LATE = re.compile(r"_OpNamespace|object has no attribute|No module named 'vllm\._|is not defined|could not find op|not registered")
STATEMENT = re.compile(
    r"^(?:[Ee]rror:? |ERROR\b|[Ff]atal:? |FATAL\b|✗ |× |docker: |Error response from daemon|Cannot |Could not |Failed to |failed to |"
    r"Unable to |E: |npm ERR|usage error|RuntimeError|panic: |\*\*ERROR\*\*|.*\*\*ERROR\*\*|Fail to |Timeout accessing |[A-Z][\w ()/.-]{0,60}(?:failed: |not authorized)|OpenBLAS blas_thread_init|"
    r"\S+: error: |\S+: (?:symbol lookup error|error while loading)|curl: \(\d+\)|wget: |.*: No such file or directory$|.*: command not found$|"
    r".*: Permission denied$|NCCL WARN|NVIDIA-SMI has failed|Failed to initialize NVML|.*nvidia-container-cli|Traceback)"
)
SUSPECT = re.compile(
    r"\b(?:[Ee]rrors?|ERRORS?|[Ff]ail(?:ed|ure)|FAIL(?:ED)?|[Ff]atal|[Ee]xceptions?|[Dd]enied|[Rr]efused|[Tt]imed out|[Cc]annot|[Uu]nable to|"
    r"[Nn]ot (?:found|supported|enough)|[Nn]o such|[Ii]nvalid|[Cc]rash\w*|[Aa]bort\w*|[Kk]illed|unexpectedly|DO NOT MATCH)\b"
)
REQUEST = re.compile(r'"(?P<what>[A-Z]+ (?P<path>/[^ ?"]*)[^"]*) HTTP/[\d.]+" (?P<status>[45]\d\d)')
BODY = re.compile(
    r"Error code: (?P<code>[45]\d\d)|'(?:code|status_code)': (?P<number>[45]\d\d)|\"code\": ?(?P<json>[45]\d\d)|"
    r"HTTP(?: status)?(?: code)?[ :]+(?P<status>[45]\d\d)\b"
)
SCANNED = re.compile(r"favicon|robots\.txt|\.(?:php|env|git|ico|txt|xml)\b|^/$|^/v1/?$|/tokenize$|apple-touch|/\.well-known")
WAITING = re.compile(r"No available shared memory broadcast block found|Waiting for \d+ (?:local|remote|core)|Did not finish loading")
PROGRESS = re.compile(
    r"vLLM is using nccl|Resolved architecture|V1 LLM engine|[Ll]oad(?:ing)? (?:model|weights|safetensors)|torch\.compile|"
    r"Warming up|KV cache|Capturing CUDA graph|custom_all_reduce|init_process_group|world_size=|Starting vLLM server|backend=nccl"
)
MAX_MESSAGE = 400  # lines of one error's message


@dataclass
class Error:
    """One exception of a chain, or the error of a compiler or program. lines: its message; place: the innermost frame."""

    lines: list[Line] = field(default_factory=list)
    place: str = ""
    kind: str = ""  # exception, compiler, signal, statement, handled

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
        if PEER.search(error.head) or error.kind in ("statement", "handled"):
            return 1
        return 0

    @property
    def cause(self) -> Error | None:
        """The innermost error of the chain that is no echo."""
        return next((one for one in self.errors if one.lines and not is_echo(one)), None)


def is_echo(error: Error) -> bool:
    """Return whether an error only tells that something else failed."""
    head = error.head
    found = EXCEPTION.match(head) if error.kind == "exception" else None
    if error.kind in ("compiler", "signal"):
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
        if text.startswith("==> ") or (known and (now.vllm or now.ready)):
            if now.last is not None and (now.vllm or text.startswith("==> ")):
                self.starts.append(Start())
                self.open, self.latest = {}, {}
        self.now.vllm = True

    def read(self, line: Line) -> None:
        """Take one line into account."""
        text, now = line.text, self.now
        if line.level in ("INFO", "DEBUG") and line.key not in self.open:
            if '" 200' in text or not text:
                if not now.serves and SERVES.search(text):
                    now.serves = True
                if text:
                    now.last = line
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
        if not line.headed or line.level in ("ERROR", "CRITICAL", "WARNING"):
            if self.error(line):
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

    def close(self, key: str) -> None:
        """End the unit that a process has been writing."""
        self.open.pop(key, None)

    def introduce(self, line: Line) -> None:
        """Let the statement before an exception of the same record count no more: it only introduces it."""
        before = self.latest.get(line.key)
        if before and before.errors[0].kind == "statement" and line.number - before.line < 4:
            if (before.place == line.place and before.level == line.level) or not line.headed:
                before.ignored = True

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
        made = Unit(line.number, line.process, line.key, line.level, [Error([line], line.place, kind)], place=line.place)
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
        if current and line.headed and (line.level, line.place) != (current.level, current.place):
            if current.active.lines or line.level in ("ERROR", "CRITICAL"):
                self.close(key)
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
            if current is None or (current.paused and current.active.lines):
                current = self.unit(line, "exception")
            elif current.active.lines and current.active.kind != "exception":
                current = self.unit(line, "exception")
            elif current.active.lines:  # a traceback in the message of another, which is the outer one
                current.errors.insert(current.at, Error(kind="exception"))
            where = f" in {frame[3]}" if frame[3] else ""
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
        if current and not current.paused:
            message = current.active.lines
            same = line.headed == message[0].headed if message else True
            if same and current.errors[0].kind != "statement" and len(message) < MAX_MESSAGE:
                if not (not line.headed and EXCEPTION.match(body) and current.active.kind != "exception"):
                    if current.active.kind == "signal" or not (SIGNAL.search(stripped) or START.search(text)):
                        message.append(line)
                        return True
        self.special(line, stripped)
        return True

    def special(self, line: Line, stripped: str) -> bool:
        """Take a line that is an error by itself. Return whether it is."""
        if COMPILER_ECHO.match(stripped):
            return False
        if COMPILER.search(stripped) and not re.match(r"^\S*vllm\S*: error|^vllm serve: error", stripped):
            self.alone(line, "compiler")
        elif SIGNAL.search(stripped) and line.level != "INFO":
            self.alone(line, "signal")
        elif stripped.startswith("Value error, ") and line.level != "WARNING":
            self.alone(line, "exception")
        elif (found := EXCEPTION.match(stripped)) and not found[1].endswith("Warning") and line.level != "WARNING":
            self.alone(line, "exception")
        elif line.level in ("ERROR", "CRITICAL") or (line.process == "NCCL" and line.level == "WARNING"):
            self.alone(line, "statement")
        elif not line.level and (STATEMENT.match(stripped) or BODY.search(stripped)):
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
