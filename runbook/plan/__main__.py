"""Print the plan. plan.sh and serve.sh run it, with the settings in the environment.

Usage: python -m runbook.plan [--json | --choose]. Exit code 1: the model does not fit.
"""

import json
import sys

from runbook.messages import end_with_the_reader, run
from runbook.plan.planner import choose, gpu_setting, make_plan


def main() -> int:
    """Print the plan as text, as JSON, or in one line for serve.sh. Return the exit code."""
    mode = "".join(sys.argv[1:])
    end_with_the_reader()
    if mode == "--choose":
        print(*choose())
        return 0
    record, lines = make_plan()
    if mode == "--json":
        print(json.dumps(record, ensure_ascii=False))
    else:
        mark = {True: "✓", False: "✗", None: "?"}[record["fits"]]
        if record["fits"]:
            gpu = f"GPU={gpu_setting(record)} " if record["gpu_index"] is not None else ""
            share, context = record["gpu_memory_utilization"], record["max_model_len"]
            lines.append(f"{gpu}GPU_MEMORY_UTILIZATION={share:g} MAX_MODEL_LEN={context}")
        print("\n".join([*(f"    {line}" for line in lines), f"{mark} {record['reason']}"]))
    return 1 if record["fits"] is False else 0


if __name__ == "__main__":
    run(main)
