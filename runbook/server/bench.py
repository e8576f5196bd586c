"""Print the result of `vllm bench serve`: python -m runbook.server.bench RESULT.json REQUESTS CONTEXT."""

import json
import sys
from pathlib import Path

from runbook.messages import Fault, run, tr

ROWS = {
    "completed": "Successful requests",
    "duration": "Benchmark duration (s)",
    "total_input_tokens": "Total input tokens",
    "total_output_tokens": "Total generated tokens",
    "total_input_sequences": "Total input sequences",
    "request_throughput": "Request throughput (req/s)",
    "output_throughput": "Output token throughput (tok/s)",
    "mean_ttft_ms": "Mean TTFT (ms)",
    "p99_ttft_ms": "P99 TTFT (ms)",
    "mean_tpot_ms": "Mean TPOT (ms)",
    "p99_tpot_ms": "P99 TPOT (ms)",
}


def main() -> None:
    """Print vLLM's figures under vLLM's names, and a summary. Raises Fault E74 if requests failed."""
    result, requests = json.loads(Path(sys.argv[1]).read_text("utf-8")), int(sys.argv[2])
    if result["completed"] != requests:
        errors = [error for error in result.get("errors", []) if error]
        reason = errors[0].strip().splitlines()[-1] if errors else "?"
        raise Fault("E74", failed=requests - result["completed"], reason=reason, context=sys.argv[3])
    for key, name in ROWS.items():
        if key not in result:  # an embedding model or a reranker writes nothing
            continue
        value = result[key]
        print(f"    {name + ':':<40}{value if isinstance(value, int) else f'{value:.2f}'}")
    several = result["max_concurrency"] or requests
    if "output_throughput" not in result:
        speed, texts = f"{result['total_token_throughput']:.0f}", f"{result['input_sequence_throughput']:.1f}"
        took = f"{sum(result['latencies']) / max(1, len(result['latencies'])) * 1000:.0f}"
        zh = f"{several} 个请求同时进行：每秒 {texts} 段文本，共 {speed} 个 token；平均 {took} 毫秒一个请求"
        print(
            "    "
            + tr(zh, f"{several} at a time: {texts} texts and {speed} tokens a second; a request takes {took} ms")
        )
        return
    speed = f"{result['output_throughput']:.2f}"
    first, following = f"{result['mean_ttft_ms'] / 1000:.1f}", f"{result['mean_tpot_ms']:.2f}"
    zh = f"{several} 个请求同时进行：每秒共 {speed} 个 token；平均 {first} 秒后出现第一个字，"
    en = f"{several} at a time: {speed} tokens a second in all; on average the first word after {first} s, "
    zh += f"此后每个 token 需 {following} 毫秒"
    print("    " + tr(zh, f"{en}then a token every {following} ms"))


if __name__ == "__main__":
    run(main)
