"""What a log says has failed: the cause by its structure, the requests that were refused, a hang, or nothing."""

import re
from dataclasses import dataclass, field

from runbook.doctor.lines import Line
from runbook.doctor.structure import Error, Start, Unit
from runbook.doctor.wording import CAUSED, COMPILER, COMPILER_ECHO, FRAME, LATE, NESTED, REQUEST

ENGINE = re.compile(r"(?i)engine|worker|rank")
VAGUE = re.compile(r"^(?:[\w.]*\.)?(?:KeyError|StopIteration|AttributeError|LookupError|IndexError)\b")
GENERIC = re.compile(
    r"[:\[({]$|raised:$|validation errors? for|^\S*(?:Error|Exception)\s*$|Ninja build failed|"
    r"Command .* (?:returned|died)|^\S*CalledProcessError|Ninja output|exit (?:code|status)"
)
BUILD = re.compile(
    r"[Cc]ompile error|Ninja build failed|Error (?:building|compiling)|returned non-zero exit|CalledProcessError"
)
CHILD = 30  # lines after the parent's error, within which the traceback of its child begins
HANG = 5  # vLLM repeats the message of a wait every minute


@dataclass
class Cause:
    """What failed first. texts: what a known fault may match, innermost first; line: the line that shows it."""

    kind: str  # failure, statement (of another program), request, died, hang, unfinished
    line: Line
    process: str = ""
    place: str = ""
    texts: list[str] = field(default_factory=list)
    after: str = ""  # the outer error, where the innermost alone tells little
    seconds: int = 0


def core(error: Error) -> Line:
    """Return the line that tells most: the compiler's own, the innermost of a nested message, or the first."""
    head, rest = error.lines[0], [line for line in error.lines[1:] if line.text.strip()]
    if error.kind == "signal":
        return next((line for line in rest if "what(): " in line.text), head)
    if chain := [line for line in rest if (found := CAUSED.match(line.text)) and found[1]]:
        return chain[-1]
    for line in rest:
        if COMPILER.search(line.text.strip()) and not COMPILER_ECHO.search(line.text.strip()):
            return line
    if GENERIC.search(head.text.strip()):
        for line in rest:
            if NESTED.match(line.text):
                return line
        for line in rest if len(head.text.strip()) < 60 or "validation error" in head.text else ():
            text = line.text.strip()
            if not FRAME.match(text) and len(text) > 12 and not text.startswith(("[", "ninja: Entering", "FAILED")):
                return line
    return head


def cause_of(unit: Unit, kind: str = "failure") -> Cause:
    """Return the cause that a unit shows."""
    chain = [error for error in unit.errors if error.lines]
    error = unit.cause or chain[0]
    line, after = core(error), ""
    if BUILD.search(error.head):  # the output of the compiler may stand in the errors that came from it
        said = (core(one) for one in chain if one.kind == "exception")
        line = next((one for one in said if COMPILER.search(one.text.strip())), line)
    later = [one for one in chain[chain.index(error) + 1 :] if one.kind == "exception"]
    if later and VAGUE.match(line.text.strip()):
        after = core(later[0]).text.strip()
    texts = [one.text for one in chain[chain.index(error) :]]
    return Cause(kind, line, unit.process, error.place or unit.place, texts, after)


def failure(start: Start) -> Cause | None:
    """Return why a start, or a server that was ready, has failed; None if nothing of it has."""
    units = [unit for unit in start.units if unit.line > start.ready]
    echoes = [unit for unit in units if unit.weight == 2]
    strong = [unit for unit in units if unit.weight == 0]
    weak = [unit for unit in units if unit.weight == 1]
    if start.ready or start.serves:
        fatal = next((unit for unit in echoes if died(unit)), None)
        signals = [unit for unit in strong if unit.errors[0].kind == "signal"]
        if not fatal and not signals:
            return None
        inside = [unit for unit in strong if ENGINE.search(unit.process)]
        near = [unit for unit in strong if fatal and fatal.line - 60 < unit.line]
        strong = inside or signals or near
        weak = [unit for unit in weak if ENGINE.search(unit.process)]
    if strong:
        first = min(strong, key=lambda unit: unit.line)
        if BUILD.search("\n".join(one.text for one in first.errors)):  # what the compiler has said may stand below
            first = next((one for one in strong if one.errors[0].kind == "compiler" and one.key == first.key), first)
        return from_warning(start, with_nccl(cause_of(from_child(first, strong)), weak))
    if weak:
        # The statement that is nearest before the end of the engine; else the first one.
        first = next((unit for unit in weak if unit.errors[0].kind != "statement"), weak[0])
        kind = "statement" if first.errors[0].kind == "statement" and not start.vllm else "failure"
        return from_warning(start, cause_of(first, kind))
    if echoes:
        return from_warning(start, cause_of(echoes[0], "died"))
    return None


def from_child(unit: Unit, units: list[Unit]) -> Unit:
    """Return the traceback of a subprocess that its parent has logged, if a unit only tells that it failed."""
    if not unit.cause or "CalledProcessError" not in unit.cause.head:
        return unit
    following = (one for one in units if unit.line < one.line < unit.line + CHILD and one.key == unit.key)
    return next((one for one in following if one.errors[0].kind == "exception"), unit)


def died(unit: Unit) -> bool:
    """Return whether an echo tells of the end of the engine, not only of a request."""
    return bool(re.search(r"(?i)engine|worker|executor|background loop", "\n".join(one.text for one in unit.errors)))


def with_nccl(cause: Cause, weak: list[Unit]) -> Cause:
    """Let NCCL's own warning before an error of NCCL be what a known fault may match first."""
    if "NCCL" in cause.texts[0] or "nccl" in cause.texts[0]:
        said = [unit for unit in weak if unit.process == "NCCL" and unit.line < cause.line.number]
        if said:
            cause.texts = [unit.errors[0].text for unit in said] + cause.texts
            cause.line = said[0].errors[0].lines[0]
    return cause


def from_warning(start: Start, cause: Cause) -> Cause:
    """Return the failed import that an error comes from, if vLLM has only warned of it before."""
    if start.warnings and LATE.search("\n".join(cause.texts)):
        line = start.warnings[0]
        return Cause("failure", line, line.process, line.place, [line.text, *cause.texts])
    return cause


def hang(start: Start) -> Cause | None:
    """Return where a start hangs: vLLM has repeated for minutes that it waits."""
    if start.ready or len(start.waits) < HANG:
        return None
    line = start.before_wait or start.waits[0]
    return Cause("hang", line, line.process, line.place, [line.text], seconds=60 * len(start.waits))


def refusals(start: Start, kind: str = "request") -> list[Cause]:
    """Return the errors of single requests: what the server, or a client of it, says, and the refused requests."""
    found, seen = [], set()
    for unit in start.units:
        if unit.line < start.ready or unit.weight > 1:
            continue
        cause = cause_of(unit, kind)
        mark = re.sub(r"\d+|0x[0-9a-f]+|'[^']*'", "", cause.line.text)[:120]
        if mark not in seen:
            seen.add(mark)
            found.append(cause)
    requests = [(line, match) for line in start.requests if (match := REQUEST.search(line.text))]
    explained = {match["path"] + match["status"] for _, match in requests if match["reason"]}
    for line, match in requests:
        mark = match["path"] + match["status"]
        if mark in explained:
            if not match["reason"]:
                continue
            mark += re.sub(r"\d+|'[^']*'", "", match["reason"])
        if mark not in seen:
            seen.add(mark)
            found.append(Cause("request", line, line.process, "", [match["reason"]] if match["reason"] else []))
    return found


def cut_off(start: Start) -> Cause | None:
    """Return the place in a traceback of which the log does not hold the end."""
    for unit in start.units:
        frame = unit.errors[-1].frame
        if frame and not unit.errors[-1].lines:
            return Cause("failure", frame, unit.process, unit.errors[-1].place, [frame.text.strip()])
    return None
