"""Print what status.sh has found and left in the environment, for a person or with --json for a program."""

import json
import os
import sys
from datetime import timedelta
from typing import Any

from words import end_with_the_reader, tr


def found() -> dict[str, Any]:
    """The contract's keys; None for what is not known."""
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
    }


def table(values: dict[str, Any]) -> None:
    """One line a key that is known, in the reader's language."""
    states = {"stopped": "停止", "starting": "启动中", "ready": "就绪", "failed": "失败"}
    titles = ["状态", "阶段", "进程", "端口", "地址", "模型", "运行设备", "重启次数", "运行时间", "日志"]
    for title, (key, value) in zip(titles, values.items(), strict=True):
        if value in (None, []):
            continue
        if key == "state":
            value = tr(states[value], value)
        elif key == "uptime_s":
            value = timedelta(seconds=value)
        elif key == "models":
            value = ", ".join(value)
        wide = title.ljust(4, "\u3000")  # as wide as a Chinese character
        print(f"    {tr(wide, key.removesuffix('_s').ljust(8))}  {value}")


if __name__ == "__main__":
    end_with_the_reader()
    known = found()
    if "--json" in sys.argv[1:]:
        print(json.dumps(known, ensure_ascii=False, indent=2))
    else:
        table(known)
