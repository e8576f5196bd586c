"""Name the cause of a failure, from the settings, the machine, the server and its log. Reads only.

Usage: python -m runbook.doctor [--log FILE | --recent] [--json]. doctor.sh runs it, with the settings and the server's
state in the environment. It knows the entries of faults.toml that have a `pattern`; causes (rank 0) come before their
consequences. If none of them matches, it shows the first error of the log and does not guess.
"""

import argparse
import json
import os
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from runbook.doctor.log import MILD, READY, first_error, read_file, read_input
from runbook.machine.gpus import query
from runbook.machine.memory import GIB
from runbook.messages import end_with_the_reader, fault_text, faults, page_of, run, tr

CODE = re.compile(r"(^|[\])] )\s*raise ")  # a source line in a traceback


@dataclass(frozen=True)
class Finding:
    """One fault: its code in faults.toml, the evidence, and the values for its texts."""

    code: str
    evidence: str
    values: dict[str, str] = field(default_factory=dict)
    told: dict[str, str] = field(default_factory=dict)  # what and fix as a script has reported them in the log

    def text(self, part: str) -> str:
        """Return the title, what or fix in the reader's language."""
        if part in self.told:
            return self.told[part]
        values = {key.lower(): value for key, value in os.environ.items()}
        values |= {"folder": values["model_dir"], "model": values["model_id"], "revision": values["model_revision"]}
        values |= {"problem": self.evidence.rstrip("."), "reason": self.evidence, "log": values["server_log"]}
        gone = tr("已经退出的程序", "a program that has ended in the meantime")
        values |= {"owner": values.get("port_owner") or gone, "other": values.get("next_port", "")}
        return fault_text(self.code, part, values | self.values)


def known(lines: list[str]) -> list[Finding]:
    """Return the known faults in the log: the first one of the lowest rank, and those of refused requests."""
    ready = max((number for number, line in enumerate(lines) if READY in line), default=-1)
    seen: list[tuple[int, int, bool, Finding]] = []
    for code, entry in faults().items():
        if not entry.get("pattern"):
            continue
        search = re.compile("|".join(f"(?:{one})" for one in entry["pattern"])).search
        level, least = entry.get("level"), entry.get("least", 1)
        hits = [number for number, line in enumerate(lines) if search(line) and not CODE.search(line)]
        # Lines before a successful start are no faults; nor are vLLM's INFO and WARNING lines.
        hits = [one for one in hits if (level == "any" or one > ready) and (level or not MILD.search(lines[one][:60]))]
        if len(hits) >= least and not (level == "start" and ready >= 0):
            finding = Finding(code, lines[hits[0]], {"seconds": str(60 * len(hits))})
            seen.append((entry.get("rank", 0), hits[0], level == "any", finding))
    causes = sorted((row for row in seen if not row[2]), key=lambda row: row[:2])[:1]
    clients = [row for row in seen if row[2] and (ready >= 0 or not causes)]
    return [row[3] for row in [*causes, *sorted(clients, key=lambda row: row[1])]]


def refused(lines: list[str]) -> list[Finding]:
    """Return the fault that serve.sh itself has reported: its three lines ✗, → and code."""
    found = re.search(r"✗ (.+)\n→ (.+)\n(E\d\d) docs/", "\n".join(lines))
    return [Finding(found[3], f"✗ {found[1]}", told={"what": found[1], "fix": found[2]})] if found else []


def on_this_machine() -> list[Finding]:
    """Return the faults of the machine: a used port, processes of a crashed server, a full disk, a missing GPU."""
    found = []
    port, own, owner = os.environ["PORT"], os.environ.get("SERVER_PIDS", ""), os.environ.get("PORT_OWNER")
    if not own and owner:
        zh = f"端口 {port} 由 {owner} 监听，而本服务没有运行"
        found.append(Finding("E07", tr(zh, f"port {port} is held by {owner}, and this server is not running")))
    if os.environ.get("LEFTOVERS"):
        zh = f"进程 {own} 带有本服务的标记，其中没有 vllm serve"
        en = f"processes {own} carry this server's mark, and none of them is vllm serve"
        found.append(Finding("E67", tr(zh, en), {"pids": own}))
    for directory in (Path(os.environ["BASE_DIR"]), Path(os.environ.get("TMPDIR", "/tmp")), Path("/dev/shm")):
        there = next(one for one in (directory, *directory.parents) if one.exists())
        if (free := shutil.disk_usage(there).free) < GIB / 10:
            zh = f"{there} 所在磁盘只剩 {free // 2**20} MiB"
            found.append(Finding("E62", tr(zh, f"{free // 2**20} MiB are left on the disk of {there}")))
            break
    if os.environ["PROFILE"] == "gpu" and not query("--query-gpu=index,name"):
        found.append(Finding("E24", tr("nvidia-smi 没有列出任何 GPU", "nvidia-smi lists no GPU")))
    return found


def diagnose(log: Path, recent: bool, whole: bool) -> list[Finding]:
    """Return all faults, the cause in the log first; each code once.

    recent: read what a step has added to the log, on standard input. whole: read all of the log, and only the log.
    """
    lines = read_input() if recent else read_file(log, whole)
    found = refused(lines) or known(lines)
    ready, running = any(READY in line for line in lines), os.environ.get("SERVER_PIDS")
    if not found and not ready and not recent and (whole or not running) and (error := first_error(lines)):
        found = [Finding("E14", error)]
    codes, machine = {one.code for one in found}, [] if whole else on_this_machine()
    # A failed step has itself reported ports and GPUs, but perhaps not a full disk.
    return found + [one for one in machine if one.code not in codes and (not recent or one.code == "E62")]


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
        rows = [
            {"code": one.code, "title": one.text("title"), "evidence": one.evidence, "fix": one.text("fix")}
            for one in found
        ]
        print(json.dumps(rows, ensure_ascii=False))
    for one in [] if asked.json else found:
        print(
            f"✗ {one.text('title')}\n  {one.text('what')}\n    {one.evidence}\n  → {one.text('fix')}\n  "
            f"{page_of(one.code)}"
        )
    if not found and not asked.json and not asked.recent:
        zh = f"✓ 没有发现问题（设置、本机，以及 {log} 中最近一次启动）"
        print(tr(zh, f"✓ Nothing wrong was found: the settings, this machine, and the last start in {log}"))
    return 1 if found else 0


if __name__ == "__main__":
    run(main)
