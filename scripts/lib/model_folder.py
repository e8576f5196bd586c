"""Whether a model folder is whole: by the manifest of its download, else by its config, index and weights' headers.

Run as `python3 model_folder.py check FOLDER MODEL REVISION`: prints what is there or what is wrong.
Exit code 0: whole, 1: not whole, 3: it holds another model, whose name is printed.
`python3 model_folder.py record FOLDER MODEL REVISION` hashes what lies there and writes the manifest.

The manifest lies in the folder: {"model", "revision", "complete": bool, "files": {path: {"size": bytes,
"sha256": hex or null, "mtime_ns": int or null}}}. An mtime_ns says that the file, so old, had that hash.
"""

import hashlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from words import tr

MANIFEST = ".runbook-manifest.json"
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "tekken.json")
Files = dict[str, dict[str, Any]]


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest, or None where there is none that can be read."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
        if all(isinstance(entry["size"], int) for entry in manifest["files"].values()) and manifest["model"]:
            return dict(manifest)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    return None


def write_manifest(folder: Path, model: str, revision: str, files: Files, complete: bool) -> None:
    """Whole or not at all. Raises OSError."""
    beside = folder / f"{MANIFEST}.new"
    content = {"model": model, "revision": revision, "complete": complete, "files": files}
    beside.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")
    beside.replace(folder / MANIFEST)


def is_of(manifest: dict[str, Any], model: str, revision: str) -> bool:
    """Whether a manifest speaks of this revision; the embedded model has but one."""
    return manifest["model"] == model and (manifest["revision"] == revision or model == "demo")


def proven(path: Path, entry: dict[str, Any]) -> bool:
    """Whether nothing has touched the file since its hash was compared."""
    try:
        found = path.stat()
    except OSError:
        return False
    return (found.st_size, found.st_mtime_ns) == (entry["size"], entry["mtime_ns"])


def sha256(path: Path, count: Callable[[int], None] = lambda size: None) -> str:
    """The file's SHA-256 in hex; count is told of the bytes as they are read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(8 << 20):
            digest.update(block)
            count(len(block))
    return digest.hexdigest()


def header(path: Path) -> dict[str, Any]:
    """The tensors of a safetensors file: 8 bytes of length (little-endian), then this JSON. Raises ValueError."""
    name, size = path.name, path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(size - 8, 100_000_000):
            raise ValueError(tr(f"{name} 不是 safetensors 文件", f"{name} is not a safetensors file"))
        try:
            found: dict[str, Any] = json.loads(file.read(length))
            data = max((item["data_offsets"][1] for key, item in found.items() if key != "__metadata__"), default=0)
            expected = 8 + length + int(data)
        except (ValueError, TypeError, KeyError, AttributeError, IndexError):
            raise ValueError(tr(f"{name} 的文件头已损坏", f"{name} has a damaged header")) from None
    if size != expected:
        raise ValueError(
            tr(f"{name} 有 {size} 字节，应为 {expected}", f"{name} has {size} bytes instead of {expected}")
        )
    return found


def shard_problem(path: Path) -> str | None:
    """What is wrong with one safetensors file."""
    if not path.is_file():
        return tr(f"缺少 {path.name}", f"{path.name} is missing")
    try:
        header(path)
    except ValueError as problem:
        return str(problem)
    return None


def weights(folder: Path) -> list[Path]:
    """The safetensors files that the index names, or those that lie there."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return sorted(folder.glob("*.safetensors"))
    return sorted({folder / name for name in json.loads(index.read_text("utf-8"))["weight_map"].values()})


def structure(folder: Path) -> tuple[bool, str]:
    """(True, what is there) or (False, what is wrong), as far as that can be known without hashes."""
    if not (folder / "config.json").is_file():
        return False, tr("缺少 config.json", "config.json is missing")
    try:
        json.loads((folder / "config.json").read_text("utf-8"))
        files = weights(folder)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return False, tr(f"config.json 或索引读不懂（{error}）", f"config.json or the index cannot be read ({error})")
    if not files:
        return False, tr("没有 *.safetensors 文件", "there is no *.safetensors file")
    problem = next(filter(None, map(shard_problem, files)), None)
    if problem:
        return False, problem
    if not any((folder / name).is_file() for name in TOKENIZERS):
        return False, tr("缺少分词器", "the tokenizer is missing")
    gib = sum(file.stat().st_size for file in files) / 2**30
    return True, f"{len(files)} safetensors, {gib:.2f} GiB"


def check(folder: Path, model: str, revision: str) -> tuple[int, str]:
    """The exit code and its words. Reads a few kilobytes a file, so it is quick on any size."""
    manifest = read_manifest(folder)
    whole, words = structure(folder)
    if manifest is None:
        words += tr("；没有下载清单，未比对哈希", "; no manifest, hashes not compared") if whole else ""
        return (0 if whole else 1), words
    if manifest["model"] != model:
        return 3, manifest["model"]
    if not is_of(manifest, model, revision):
        found = manifest["revision"]
        return 1, tr(f"清单中的版本是 {found}，不是 {revision}", f"it is of revision {found}, not {revision}")
    if not manifest["complete"]:
        return 1, tr("下载尚未完成", "the download has not come to its end")
    changed = [path for path, entry in manifest["files"].items() if not proven(folder / path, entry)]
    if changed:
        names = ", ".join(changed[:3])
        return 1, tr(f"{names} 与下载时不同", f"{names}: not as it was downloaded")
    if whole:
        words += tr("；与下载清单一致", "; as in its manifest")
    return (0 if whole else 1), words


def record(folder: Path, model: str, revision: str) -> None:
    """Take what lies in the folder for right, and write the manifest."""
    files: Files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != MANIFEST:
            found = path.stat()
            entry = {"size": found.st_size, "sha256": sha256(path), "mtime_ns": found.st_mtime_ns}
            files[path.relative_to(folder).as_posix()] = entry
    write_manifest(folder, model, revision, files, complete=True)


if __name__ == "__main__":
    place = Path(os.path.abspath(sys.argv[2]))
    if sys.argv[1] == "record":
        record(place, *sys.argv[3:])
    else:
        code, said = check(place, *sys.argv[3:])
        print(said)
        sys.exit(code)
