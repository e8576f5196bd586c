"""Print the server's state, which status.sh puts into the environment: for people, or with --json as JSON."""

import json
import os
import sys
from datetime import timedelta
from typing import Any

from runbook.messages import end_with_the_reader, run, tr


def found() -> dict[str, Any]:
    """Return the state by its keys; None for what is unknown."""
    e = os.environ
    listed = json.loads(e["MODELS"] or '{"data": []}')["data"]
    return {
        "state": e["STATE"],
        "phase": e["PHASE"] or None,
        "pid": int(e["PID"]) if e["PID"] else None,
        "port": int(e["PORT"]),
        "base_url": e["URL"],
        "models": [item["id"] for item in listed],
        "profile": e["PROFILE"],
        "restarts": max(0, int(e["STARTS"]) - 1),
        "uptime_s": int(e["UPTIME"]) if e["UPTIME"] else None,
        "log": e["LOG"],
        "other_machines": [
            {"machine": machine, "base_url": url or None, "seen_s": int(seconds)}
            for machine, seconds, url in (line.split(" ", 2) for line in e["ELSEWHERE"].splitlines())
        ],
    }


def elsewhere(other: dict[str, Any]) -> str:
    """Return where the same server runs, by its heartbeat of the last 60 s, or where it was last seen."""
    machine, url, seconds = other["machine"], other["base_url"] or "?", other["seen_s"]
    if seconds < 60:
        return tr(f"在 {machine} 上运行：{url}", f"it runs on {machine}: {url}")
    ago = timedelta(seconds=seconds)
    return tr(f"{ago} 前在 {machine} 上运行：{url}", f"it was last seen on {machine} {ago} ago: {url}")


def table(values: dict[str, Any]) -> None:
    """Print one line for each key with a value, in the reader's language."""
    states = {"stopped": "停止", "starting": "启动中", "ready": "就绪", "failed": "失败"}
    titles = ["状态", "阶段", "进程", "端口", "地址", "模型", "运行设备", "重启次数", "运行时间", "日志", "其他机器"]
    for title, (key, value) in zip(titles, values.items(), strict=True):
        if value in (None, []):
            continue
        if key == "state":
            value = tr(states[value], value)
        elif key == "uptime_s":
            value = timedelta(seconds=value)
        elif key == "models":
            value = ", ".join(value)
        elif key == "other_machines":
            key, value = "others", "; ".join(map(elsewhere, value))
        wide = title.ljust(4, "\u3000")  # as wide as a Chinese character
        print(f"    {tr(wide, key.removesuffix('_s').ljust(8))}  {value}")


def main() -> None:
    """Print the state."""
    end_with_the_reader()
    known = found()
    if "--json" in sys.argv[1:]:
        print(json.dumps(known, ensure_ascii=False, indent=2))
    else:
        table(known)


if __name__ == "__main__":
    run(main)
