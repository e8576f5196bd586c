"""A model's sizes from the site, before its download: config.json and the headers of its weights, by range requests.

The protocol is ModelScope's: GET …/repo/files lists, GET …/repo?FilePath=… sends a file. Reads only.
"""

import json
import os
import sys
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import PurePosixPath
from threading import Timer
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import Request, urlopen

from runbook.machine.memory import UnknownError
from runbook.messages import tr

SITE = "https://www.modelscope.cn"
LIMIT = 10  # seconds for one answer
HEADER = 2**17  # bytes of a safetensors file that hold most headers


def unservable(names: Iterable[str]) -> str:
    """Return why vLLM cannot serve a model with these files, by their formats; an empty text if it can."""
    paths = [PurePosixPath(name) for name in names]
    suffixes = {path.suffix.lower() for path in paths}
    if ".safetensors" not in suffixes and ".gguf" in suffixes:
        return tr(
            "只有 GGUF 文件，本项目的 vLLM 不能用它提供服务：换用名称中没有 -GGUF 的仓库，"
            "或它的 -FP8、-AWQ、-GPTQ 版本",
            "it holds only GGUF files, which are not served here: take the repository without -GGUF, or one of its "
            "-FP8, -AWQ or -GPTQ versions",
        )
    if not any(str(path) == "config.json" for path in paths):
        if "adapter_config.json" in map(str, paths):
            return tr(
                "它是 LoRA 适配器，不是完整的模型：MODEL_ID 应为它的基础模型",
                "it is a LoRA adapter, not a whole model: set MODEL_ID to its base model",
            )
        return tr("它没有 config.json，不是 vLLM 的模型", "it has no config.json, so it is no model for vLLM")
    if ".safetensors" not in suffixes:
        found = " ".join(sorted(suffixes & {".bin", ".pt", ".pth", ".onnx", ".msgpack", ".h5"})) or "-"
        return tr(
            f"它没有 *.safetensors（只有 {found}）：换用含 safetensors 的版本或转换后的仓库",
            f"it has no *.safetensors (only {found}): take a revision or a repository that has them",
        )
    return ""


def get(url: str, start: int = 0, end: int = 0) -> bytes:
    """Return the body of an answer, or its bytes from `start` to `end`. Raises OSError, HTTPException or ValueError."""
    asked = Request(url)
    if token := os.environ.get("MODELSCOPE_API_TOKEN"):
        asked.add_unredirected_header("Authorization", f"Bearer {token}")
    if end:
        asked.add_header("Range", f"bytes={start}-{end - 1}")
    with urlopen(asked, timeout=LIMIT) as answer:
        whole: bytes = answer.read(end - start) if end else answer.read()
        ranged = answer.status == 206 or answer.headers.get("Content-Range")
    if end and start and not ranged:
        raise ValueError("the site ignores ranges")
    return whole


class Site:
    """A model on the site."""

    def __init__(self, model: str, revision: str) -> None:
        endpoint = (os.environ.get("MODELSCOPE_ENDPOINT") or SITE).rstrip("/")
        self.model, self.repo = model, f"{endpoint}/api/v1/models/{model}/repo"
        self.revision = quote(revision, safe="")

    def sizes(self) -> dict[str, int]:
        """Return {path: bytes} of the model's files. Raises as `get`."""
        found = json.loads(get(f"{self.repo}/files?Revision={self.revision}&Recursive=true"))
        files = found["Data"]["Files"]
        return {str(entry["Path"]): int(entry.get("Size") or 0) for entry in files if entry.get("Type") != "tree"}

    def url(self, path: str) -> str:
        """Return the address of a file."""
        return f"{self.repo}?Revision={self.revision}&FilePath={quote(path, safe='')}"

    def header(self, path: str) -> Mapping[str, Any]:
        """Return the header of a safetensors file. Raises as `get`."""
        begin = get(self.url(path), 0, HEADER)
        length = int.from_bytes(begin[:8], "little")
        if length > 2**27:
            raise ValueError(f"{path}: no safetensors header")
        if len(begin) < 8 + length:
            begin += get(self.url(path), len(begin), 8 + length)
        found: Mapping[str, Any] = json.loads(begin[8 : 8 + length])
        return found

    def read(self) -> tuple[dict[str, Any], list[Mapping[str, Any]]]:
        """Return config.json and the headers of all weights. Raises UnknownError with the reason."""
        text = tr(
            f"    正在从模型站点读取 {self.model} 的大小", f"    reading the sizes of {self.model} from the model site"
        )
        told = Timer(2, lambda: print(text, file=sys.stderr, flush=True))
        told.daemon = True
        told.start()
        try:
            names = self.sizes()
            if why := unservable(names):
                raise UnknownError(f"{self.model}: {why}")
            config: dict[str, Any] = json.loads(get(self.url("config.json")))
            weights = sorted(name for name in names if name.endswith(".safetensors") and "/" not in name)
            with ThreadPoolExecutor(8) as pool:
                return config, list(pool.map(self.header, weights))
        except (OSError, HTTPException, ValueError, KeyError, TypeError) as error:
            missing = isinstance(error, HTTPError) and error.code == 404
            why = tr("站点上没有它", "the site has no such model") if missing else str(getattr(error, "reason", error))
            zh = f"无法从模型站点读取 {self.model} 的大小（{why}）；下载后即可规划：./inv download"
            en = f"the sizes of {self.model} cannot be read from the model site ({why}); "
            en += "it is planned after ./inv download"
            raise UnknownError(tr(zh, en)) from None
        finally:
            told.cancel()
