"""Check whether a model directory is complete: by its manifest, else by its config, index and headers of weights.

python -m runbook.model.directory check DIRECTORY MODEL REVISION
    prints what is there or what is wrong. Exit code 0: complete, 1: incomplete, 3: it contains another model, whose
    name is printed, 4: it contains other files, whose names are printed, and must not be changed.
python -m runbook.model.directory claim DIRECTORY MODEL REVISION
    writes an incomplete manifest, which marks the directory as ours.
python -m runbook.model.directory adopt DIRECTORY MODEL REVISION NEW
    moves the files of the directory NEW into DIRECTORY, then completes the manifest.

The manifest is a file in the directory: {"model", "revision", "complete": bool, "files": {path: {"size": bytes,
"sha256": hex or null, "mtime_ns": int or null}}}. "mtime_ns": with this modification time the file had this hash;
"spoilt_ns": with this modification time the file no longer had the hash it once had; "copied": the file was not
downloaded here but found, and is never deleted.
"""

import hashlib
import itertools
import json
import os
import re
import sys
import time
from collections.abc import Callable
from getpass import getuser
from pathlib import Path
from typing import Any

from runbook.messages import Fault, run, tr

MANIFEST = ".runbook-manifest.json"
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "tekken.json")
# A directory with only these counts as empty: files of the system and of other downloaders.
NEGLIGIBLE = {".DS_Store", "Thumbs.db", "desktop.ini", "lost+found", ".cache", "._____temp", ".mdl", ".msc", ".mv"}
WEIGHTS = r"config\.json|.*\.(safetensors|incomplete)|.*\.safetensors_\d+_\d+"
Files = dict[str, dict[str, Any]]


def read_manifest(directory: Path) -> dict[str, Any] | None:
    """Return the manifest, or None if there is none that can be read."""
    try:
        manifest = json.loads((directory / MANIFEST).read_text("utf-8"))
        if all(isinstance(entry["size"], int) for entry in manifest["files"].values()) and manifest["model"]:
            return dict(manifest)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    return None


def write_manifest(directory: Path, model: str, revision: str, files: Files, complete: bool) -> None:
    """Write the manifest atomically: to a temporary file, then renamed. Raises OSError."""
    beside = directory / f"{MANIFEST}.new"
    content = {"model": model, "revision": revision, "complete": complete, "files": files}
    try:
        beside.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")
        beside.replace(directory / MANIFEST)
    except OSError:
        beside.unlink(missing_ok=True)
        raise


def foreign(directory: Path, model: str) -> str | None:
    """Return the foreign files if the directory is certainly not this model's, else None; does not ask the site."""
    if not directory.is_dir():
        if not (directory.exists() or directory.is_symlink()):
            return None
        dangling = tr("链接的目标不存在", "a link whose target does not exist")
        return tr("它不是目录", "it is not a directory") if directory.exists() else dangling
    if (directory / MANIFEST).is_file():
        return None
    found = sorted(path.name for path in directory.iterdir() if path.name not in NEGLIGIBLE)
    # The embedded model gets a manifest before its files: without a manifest it cannot be there.
    begun = "/" in model and any(name in TOKENIZERS or re.fullmatch(WEIGHTS, name) for name in found)
    if begun or not found:
        return None
    return named(found)


def named(paths: list[str]) -> str:
    """Return the first three of these paths, and the number of the others."""
    more = tr(f" 等，另有 {len(paths) - 3} 项", f" and {len(paths) - 3} more") if len(paths) > 3 else ""
    return ", ".join(paths[:3]) + more


def set_aside(path: Path) -> None:
    """Rename a file that is not ours to NAME.replaced-DATE. Raises OSError."""
    stem = f"{path.name}.replaced-{time.strftime('%Y%m%d-%H%M%S')}"
    free = (path.with_name(name) for name in itertools.chain([stem], (f"{stem}-{n}" for n in itertools.count(2))))
    aside = next(one for one in free if not os.path.lexists(one))
    path.rename(aside)
    name, new = path.name, aside.name
    print(tr(f"    原来的 {name} 保留为 {new}", f"    {name} is kept as {new}"), flush=True)


def is_of(manifest: dict[str, Any], model: str, revision: str) -> bool:
    """Return whether a manifest is of this revision; the embedded model has only one."""
    return manifest["model"] == model and (manifest["revision"] == revision or "/" not in model)


def proven(path: Path, entry: dict[str, Any]) -> bool:
    """Return whether the file is unchanged since its hash was compared, by size and modification time."""
    try:
        found = path.stat()
    except OSError:
        return False
    return (found.st_size, found.st_mtime_ns) == (entry["size"], entry["mtime_ns"])


def sha256(path: Path, count: Callable[[int], None] = lambda size: None) -> str:
    """Return the file's SHA-256 in hex; calls `count` with the bytes of each block."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(8 << 20):
            digest.update(block)
            count(len(block))
    return digest.hexdigest()


def header(path: Path) -> dict[str, Any]:
    """Return the header of a safetensors file: 8 bytes of length (little-endian), then this JSON. Raises ValueError."""
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
    """Return what is wrong with one safetensors file, or None."""
    if not path.is_file():
        return tr(f"缺少 {path.name}", f"{path.name} is missing")
    try:
        header(path)
    except ValueError as problem:
        return str(problem)
    return None


def weights(directory: Path) -> list[Path]:
    """Return the safetensors files that the index names, or those in the directory."""
    index = directory / "model.safetensors.index.json"
    if not index.is_file():
        return sorted(directory.glob("*.safetensors"))
    return sorted({directory / name for name in json.loads(index.read_text("utf-8"))["weight_map"].values()})


def structure(directory: Path) -> tuple[bool, str]:
    """Return (True, what is there) or (False, what is wrong), without comparing hashes."""
    if not (directory / "config.json").is_file():
        return False, tr("缺少 config.json", "config.json is missing")
    try:
        json.loads((directory / "config.json").read_text("utf-8"))
        files = weights(directory)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return False, tr(
            f"无法读取 config.json 或索引（{error}）", f"config.json or the index cannot be read ({error})"
        )
    if not files:
        return False, tr("没有 *.safetensors 文件", "there is no *.safetensors file")
    problem = next(filter(None, map(shard_problem, files)), None)
    if problem:
        return False, problem
    if not any((directory / name).is_file() for name in TOKENIZERS):
        return False, tr("缺少分词器", "the tokenizer is missing")
    gib = sum(file.stat().st_size for file in files) / 2**30
    return True, f"{len(files)} safetensors, {gib:.2f} GiB"


def check(directory: Path, model: str, revision: str) -> tuple[int, str]:
    """Return the exit code and its text. Reads a few kilobytes of each file, so it is fast at any size."""
    manifest = read_manifest(directory)
    whole, words = structure(directory)
    if manifest is None:
        if not whole and (strange := foreign(directory, model)):
            return 4, strange
        words += tr("；没有下载清单，未比对哈希", "; no manifest, hashes not compared") if whole else ""
        return (0 if whole else 1), words
    if manifest["model"] != model:
        return 3, manifest["model"]
    if not is_of(manifest, model, revision):
        found = manifest["revision"]
        return 1, tr(f"清单中的版本是 {found}，不是 {revision}", f"its revision is {found}, not {revision}")
    if not manifest["complete"]:
        return 1, tr("下载尚未完成", "the download is not complete")
    changed = [path for path, entry in manifest["files"].items() if not proven(directory / path, entry)]
    if changed:
        names = ", ".join(changed[:3])
        return 1, tr(f"{names} 与下载时不同", f"{names}: changed since the download")
    if whole:
        words += tr("；与下载清单一致", "; matches its manifest")
    return (0 if whole else 1), words


def record(directory: Path, model: str, revision: str, names: list[str]) -> None:
    """Write a complete manifest with the current hashes of these files."""
    files: Files = {}
    for path in (directory / name for name in names):
        found = path.stat()
        files[path.relative_to(directory).as_posix()] = {
            "size": found.st_size,
            "sha256": sha256(path),
            "mtime_ns": found.st_mtime_ns,
        }
    write_manifest(directory, model, revision, files, complete=True)


def adopt(directory: Path, model: str, revision: str, new: Path) -> None:
    """Move the files of `new`, on the same disk, into the directory, config.json last; any other file there stays."""
    manifest = read_manifest(directory)
    before: Files = manifest["files"] if manifest else {}
    files = (path.relative_to(new).as_posix() for path in new.rglob("*") if path.is_file())
    names = sorted(files, key=lambda name: (name == "config.json", name))
    for name in names:
        if os.path.lexists(directory / name) and not (name in before and proven(directory / name, before[name])):
            set_aside(directory / name)
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (new / name).replace(directory / name)
    for name in set(before) - set(names):  # of an earlier conversion
        if proven(directory / name, before[name]):
            (directory / name).unlink()
    record(directory, model, revision, names)


def main() -> int:
    """Check, claim or adopt a directory."""
    place = Path(os.path.abspath(sys.argv[2]))
    if sys.argv[1] == "claim":
        old = read_manifest(place) or {"files": {}}
        try:
            write_manifest(place, sys.argv[3], sys.argv[4], old["files"], complete=False)
        except OSError:
            raise Fault("E06", folder=place, user=getuser(), key="MODEL_DIR") from None
    elif sys.argv[1] == "adopt":
        adopt(place, sys.argv[3], sys.argv[4], Path(sys.argv[5]))
    else:
        code, found = check(place, *sys.argv[3:])
        print(found)
        return code
    return 0


if __name__ == "__main__":
    run(main)
