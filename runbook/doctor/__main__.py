"""Name the cause of a failure, from the settings, the machine, the server and its log. Reads only.

Usage: python -m runbook.doctor [--log FILE | --recent] [--json]. doctor.sh runs it, with the settings and the server's
state in the environment. The cause is found by the log's structure (structure.py, cause.py); an entry of faults.toml
answers only if it matches that cause. Another cause is shown as it stands, and said not to be known.
"""

import argparse
import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from runbook.doctor import machine
from runbook.doctor.cause import Cause, cause_of, cut_off, failure, hang, refusals
from runbook.doctor.known import advice, known
from runbook.doctor.log import clean, read_file, read_input
from runbook.doctor.structure import Start
from runbook.messages import end_with_the_reader, fault_text, page_of, run, tr

SILENT = 600  # seconds without a line, after which a start hangs; compiling may take minutes
MOST_REQUESTS = 3  # kinds of refused requests that are shown
UNKNOWN = ("E66", "E100", "E101", "E102")  # the faults of which the cause is not known


@dataclass(frozen=True)
class Finding:
    """One fault: its code in faults.toml, the evidence, and the values for its texts."""

    code: str
    evidence: str
    values: dict[str, str] = field(default_factory=dict)
    told: dict[str, str] = field(default_factory=dict)  # what and fix as a script has reported them in the log
    cause: Cause | None = None

    def text(self, part: str) -> str:
        """Return the title, what or fix in the reader's language."""
        if part in self.told:
            return self.told[part]
        values = {key.lower(): value for key, value in os.environ.items()}
        values |= {"folder": values["model_dir"], "model": values["model_id"], "revision": values["model_revision"]}
        values |= {"problem": self.evidence.rstrip("."), "reason": self.evidence, "log": values["server_log"]}
        values |= {"endpoint": tr("模型站点", "the model site")}
        gone = tr("已经退出的程序", "a program that has ended in the meantime")
        values |= {"owner": values.get("port_owner") or gone, "other": values.get("next_port", "")}
        return fault_text(self.code, part, values | self.values)

    def row(self) -> dict[str, object]:
        """Return the finding for --json."""
        cause = self.cause
        return {
            "code": self.code,
            "title": self.text("title"),
            "evidence": self.evidence,
            "fix": self.text("fix"),
            "cause": self.text("what"),
            "process": cause.process if cause else "",
            "place": cause.place if cause else "",
            "line": cause.line.number if cause else None,
            "known": self.code not in UNKNOWN,
        }


def finding(cause: Cause) -> Finding:
    """Return what to say of a cause."""
    evidence = clean(cause.line.text)
    code = known(cause)
    if code is None:
        code = {"died": "E66", "unfinished": "E102", "request": "E101"}.get(cause.kind, "E100")
    after = f" → {clean(cause.after)}" if cause.after else ""
    place = ", ".join(part for part in (cause.process, cause.place) if part)
    values = {
        "error": evidence + after,
        "place": f" ({place})" if place else "",
        "line": str(cause.line.number),
        "advice": advice(evidence, clean(cause.after)),
        "seconds": str(cause.seconds),
    }
    return Finding(code, evidence, values, cause=cause)


def hint(start: Start, ended: bool) -> Cause | None:
    """Return what may tell why a start without an error has not got to its end, or why another program failed.

    ended: no process of the server is left, or only the log is known.
    """
    if cut := cut_off(start):
        return cut
    handled = [unit for unit in start.units if unit.ignored and any(error.lines for error in unit.errors)]
    if handled:  # logged as a warning, and nothing else is in the log
        return cause_of(handled[0])
    if start.suspects and (ended or not start.vllm):
        suspect = start.suspects[0]
        return Cause("failure", suspect, suspect.process, "", [suspect.text.strip()])
    last = start.progress or start.last
    if start.vllm and ended and last:
        return Cause("unfinished", last, last.process, "", [last.text.strip()])
    return None


def of_log(starts: list[Start], whole: bool, running: bool) -> list[Finding]:
    """Return what a log tells: why its last start (or, while that goes on, the one before) failed; refused requests."""
    unfinished: Cause | None = None
    for start in reversed(starts):
        if start.own:
            what, fix, code = start.own
            return [Finding(code, f"✗ {what}", told={"what": what, "fix": fix})]
        cause = failure(start)
        if cause and cause.kind == "died":
            cause = cut_off(start) or cause
        if cause and (start.vllm or cause.kind != "statement"):
            return [finding(cause)]
        if cause:  # the errors of another program stand for themselves: what is known of them, else the first
            all_of_them = [finding(one) for one in refusals(start, "failure")]
            known_ones = {one.code: one for one in reversed(all_of_them) if one.code not in UNKNOWN}
            return list(known_ones.values())[::-1][:MOST_REQUESTS] or all_of_them[:1]
        if cause := hang(start):
            return [finding(cause)]
        if start.ready or start.serves or start.stopped or start.requests:
            found: dict[str, Finding] = {}
            for cause in refusals(start):
                one = finding(cause)
                if one.code == "E101" and found and cause.kind == "request" and not cause.texts:
                    continue  # the line of a request of which the error is already told
                found.setdefault(one.code, one)
            return list(found.values())[:MOST_REQUESTS]
        if unfinished is None:
            unfinished = hint(start, whole or not running)
    return [finding(unfinished)] if unfinished else []


def silence(start: Start, log: Path) -> Cause | None:
    """Return where the start of a running server hangs: it has not got ready, and writes nothing more."""
    seconds = int(time.time() - log.stat().st_mtime) if log.is_file() else 0
    line = start.progress or start.last
    if start.ready or start.serves or line is None or seconds < SILENT:
        return None
    return Cause("hang", line, line.process, line.place, [line.text], seconds=seconds)


def diagnose(log: Path, recent: bool, whole: bool) -> list[Finding]:
    """Return all faults, the cause in the log first; each code once.

    recent: read what a step has added to the log, on standard input. whole: read all of the log, and only the log.
    """
    starts = read_input() if recent else read_file(log, whole)
    running = bool(os.environ.get("SERVER_PIDS"))
    found = of_log(starts, whole, running)
    if not (found or whole or recent) and running and (cause := silence(starts[-1], log)):
        found = [finding(cause)]
    if recent:  # a failed step has itself shown what is not known
        found = [one for one in found if one.code not in UNKNOWN]
    codes, here = {one.code for one in found}, [] if whole else machine.on_this_machine()
    # A failed step has itself reported ports and GPUs, but perhaps not a full disk.
    more = [Finding(*one) for one in here if one[0] not in codes and (not recent or one[0] == "E62")]
    return found + more


def healthy(log: Path, whole: bool) -> str:
    """Return what can be said of a log without an error."""
    if not whole:
        zh = f"✓ 没有发现问题（设置、本机，以及 {log} 中最近一次启动）"
        return tr(zh, f"✓ Nothing wrong was found: the settings, this machine, and the last start in {log}")
    start = read_file(log, True)[-1]
    if start.ready or start.stopped or start.serves:
        return tr(f"✓ 没有发现问题（{log}）", f"✓ Nothing wrong was found in {log}")
    zh = f"{log} 中没有错误，但其中也没有 vLLM 的启动过程，因此无法判断服务是否正常。"
    return tr(zh, f"{log} contains no error, but no start of vLLM either: it does not show whether the server works.")


def main() -> int:
    """Print the faults. Return the exit code: 1 if there are any."""
    parser = argparse.ArgumentParser(description="Name the cause of a failure")
    parser.add_argument("--log", type=Path)
    parser.add_argument(
        "--recent", action="store_true", help="read what a step has added to the log, on standard input"
    )
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    end_with_the_reader()
    log = asked.log or Path(os.environ["SERVER_LOG"])
    found = diagnose(log, asked.recent, bool(asked.log))
    if asked.json:
        print(json.dumps([one.row() for one in found], ensure_ascii=False))
    for one in [] if asked.json else found:
        print(
            f"✗ {one.text('title')}\n  {one.text('what')}\n    {one.evidence}\n  → {one.text('fix')}\n  "
            f"{page_of(one.code)}"
        )
    if not asked.log and not asked.recent and not asked.json and any(one.code in UNKNOWN for one in found):
        for line in machine.circumstances():
            print(tr("  本机：", "  on this machine: ") + clean(line))
    if not found and not asked.json and not asked.recent:
        print(healthy(log, bool(asked.log)))
    return 1 if found else 0


if __name__ == "__main__":
    run(main)
