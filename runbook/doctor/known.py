"""Whether a cause is a known fault, and what to say of one that is not.

An entry of faults.toml answers only if its pattern matches the cause itself, not merely some line of the log.
pattern: in the text of the cause, or of the errors that it led to; at: in its place in the code and its text, for when
the words alone tell little; request: METHOD PATH STATUS of a refused request; hang: in the last progress before a hang;
rank: 1 or more for a text that many faults have in common.
"""

import re
from functools import cache
from typing import Any
from urllib.parse import quote_plus

from runbook.doctor.cause import Cause
from runbook.doctor.wording import REQUEST
from runbook.messages import faults, tr


@cache
def _entries(key: str) -> list[tuple[str, int, list[re.Pattern[str]]]]:
    """Return (code, rank, patterns) of every fault that has this key."""
    found: list[tuple[str, int, list[re.Pattern[str]]]] = []
    for code, entry in faults().items():
        patterns: list[Any] = entry.get(key, [])
        if patterns:
            found.append((code, entry.get("rank", 0), [re.compile(one, re.MULTILINE) for one in patterns]))
    return found


def known(cause: Cause) -> str | None:
    """Return the code of the known fault that this cause is: of the lowest rank, the innermost, the longest match."""
    hits: list[tuple[int, int, int, str]] = []

    def look(key: str, text: str, depth: int) -> None:
        for code, rank, patterns in _entries(key):
            for pattern in patterns:
                if found := pattern.search(text):
                    hits.append((rank, depth, -len(found[0]), code))

    if cause.kind == "hang":
        look("hang", cause.line.text, 0)
        return min(hits)[3] if hits else "E15"
    request = REQUEST.search(cause.line.text)
    if request:
        look("request", f"{request['what']} {request['status']}", 1 if request["reason"] else 0)
    for depth, text in enumerate([] if request and not request["reason"] else cause.texts):
        look("pattern", text, depth)
    if cause.place:
        look("at", f"{cause.place} {cause.texts[0]}", -1)
    return min(hits)[3] if hits else None


def classed(texts: list[str], codes: tuple[str, ...]) -> str | None:
    """Return which of these faults the texts of an error are, innermost first."""
    hits = [
        (rank, depth, -len(found[0]), code)
        for code, rank, patterns in _entries("pattern")
        if code in codes
        for depth, text in enumerate(texts)
        for pattern in patterns
        if (found := pattern.search(text))
    ]
    return min(hits)[3] if hits else None


TOPICS = [
    (
        r"nvcc|ninja|ptxas|\bgcc\b|g\+\+|\bld:|error: |\.cu\b|\.so\b|triton|inductor|flashinfer|compil",
        "这是编译或加载内核时的错误：检查 nvcc --version、gcc --version 与 CUDA 是否匹配，清空 "
        "~/.cache/flashinfer、~/.triton 和 ~/.cache/vllm，再加 --enforce-eager 试一次。",
        "This is an error of compiling or loading kernels: check that nvcc --version and gcc --version fit the "
        "CUDA version, clear ~/.cache/flashinfer, ~/.triton and ~/.cache/vllm, and try --enforce-eager.",
    ),
    (
        r"(?i)nccl|gloo|c10d|tcpstore|all_?reduce|rank",
        "这是多个 GPU 或多台机器之间通信的错误：先用一个 GPU 启动，再执行 export NCCL_DEBUG=INFO 后重试，查看 "
        "NCCL 的输出。",
        "This is an error of the communication between GPUs or machines: start with one GPU first, then export "
        "NCCL_DEBUG=INFO, try again and read NCCL's output.",
    ),
    (
        r"(?i)cuda|cublas|cudnn|nvml|driver|device",
        "这是 CUDA 的错误：运行 nvidia-smi 检查驱动和 GPU，执行 export CUDA_LAUNCH_BLOCKING=1 后重试，"
        "可以看到准确的位置。",
        "This is a CUDA error: check the driver and the GPU with nvidia-smi; export CUDA_LAUNCH_BLOCKING=1 and "
        "try again to see the exact place.",
    ),
    (
        r"(?i)https?|connect|ssl|certificate|proxy|resolve|timed? ?out|download",
        "这是网络错误：用 curl -v 请求同一地址，检查代理（https_proxy）、证书和防火墙。",
        "This is a network error: request the same address with curl -v; check the proxy (https_proxy), "
        "certificates and the firewall.",
    ),
    (
        r"(?i)config|weight|tokenizer|quant|rope|architecture|shape|size mismatch|model|template",
        "错误与模型有关：核对模型目录（./inv download --verify），并在 vLLM "
        "支持的模型列表中查找该模型所需的版本和参数。",
        "The error concerns the model: verify its directory (./inv download --verify), and check which version and "
        "options vLLM's list of supported models names for it.",
    ),
    (
        r"(?i)permission|no such file|not found|denied|directory",
        "检查这个路径是否存在、当前用户是否可以读写。",
        "Check that this path exists and that the current user can read and write it.",
    ),
]


def search_term(text: str) -> str:
    """Return the words of an error that other reports share: without paths, addresses and numbers of this machine."""
    text = re.sub(r"/\S*/|0x[0-9a-fA-F]+|\b[0-9a-f]{12,}\b|\bpid=\d+|\d+\.\d+\.\d+\.\d+(?::\d+)?", " ", text)
    text = re.sub(r"\d{4,}|[\"'`(){}\[\]<>=]", " ", text)
    return " ".join(text.split())[:100].strip(" :,.")


def advice(text: str, outer: str = "") -> str:
    """Return what to try in general for an unknown error. outer: the error that it led to, if that tells more.

    Of a refused request only the reason tells something.
    """
    if request := REQUEST.search(text):
        text = request["reason"] or ""
        if not text:
            return ""
    found = next((tr(zh, en) for pattern, zh, en in TOPICS if re.search(pattern, f"{text} {outer}")), "")
    term = search_term(outer or text)
    address = f"https://github.com/vllm-project/vllm/issues?q={quote_plus(term)}"
    zh = f"用这些词搜索同样的报告：{term} （{address}）；也可以换一个较新的 vLLM 版本，或去掉 VLLM_EXTRA_ARGS 再试。"
    en = f"Search for reports with these words: {term} ({address}); or try a newer vLLM, or without VLLM_EXTRA_ARGS."
    return " ".join(part for part in (found, tr(zh, en)) if part)
