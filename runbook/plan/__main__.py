"""Print the plan. plan.sh and serve.sh run it, with the settings in the environment.

Usage: python -m runbook.plan [--all] [--json] | --choose. Exit code 1: the model, or one of them, does not fit.
"""

import json
import sys
from typing import Any

from runbook.messages import end_with_the_reader, run, tr
from runbook.plan.planner import choose, gpu_setting, make_all, make_plan

MARK = {True: "✓", False: "✗", None: "?"}


def line(record: dict[str, Any]) -> str:
    """Return the settings of a plan that fits, as they are written into .env."""
    gpu = f"GPU={gpu_setting(record)} " if record["gpu_index"] is not None else ""
    return f"{gpu}GPU_MEMORY_UTILIZATION={record['gpu_memory_utilization']:g} MAX_MODEL_LEN={record['max_model_len']}"


def show_all(as_json: bool) -> int:
    """Print the plan of every server of ours on this machine, and whether they fit together."""
    found = make_all()
    if as_json:
        print(json.dumps([record | {"server": one.name} for one, record in found], ensure_ascii=False))
    for one, record in found if not as_json else ():
        state = tr("运行中", "running") if one.pids else tr("未运行", "not running")
        print(f"    {one.name} ({state}, {one.settings['SERVED_MODEL_NAME']})")
        if record["fits"]:
            print(f"      {line(record)}")
        print(f"    {MARK[record['fits']]} {record['reason']}")
    return 1 if any(record["fits"] is False for _, record in found) else 0


def main() -> int:
    """Print the plan as text, as JSON, or in one line for serve.sh. Return the exit code."""
    words = set(sys.argv[1:])
    end_with_the_reader()
    if "--choose" in words:
        print(*choose())
        return 0
    if "--all" in words:
        return show_all("--json" in words)
    record, lines = make_plan()
    if "--json" in words:
        print(json.dumps(record, ensure_ascii=False))
    else:
        if record["fits"]:
            lines.append(line(record))
        print("\n".join([*(f"    {one}" for one in lines), f"{MARK[record['fits']]} {record['reason']}"]))
    return 1 if record["fits"] is False else 0


if __name__ == "__main__":
    run(main)
