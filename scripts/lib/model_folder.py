"""Whether a model folder is whole: its config, its tokenizer, its index, and every shard by its safetensors header.

Run as `python3 model_folder.py FOLDER`: prints what is there and exits 0, or what is wrong and exits 1.
Reads a few kilobytes a shard, so it is quick on any size; it does not compare hashes.
"""

import json
import sys
from pathlib import Path
from typing import Any

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "tekken.json")


def header(path: Path) -> dict[str, Any]:
    """The tensors of a safetensors file: 8 bytes of length (little-endian), then this JSON. Raises ValueError."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(path.stat().st_size - 8, 100_000_000):
            raise ValueError(f"{path.name} is not a safetensors file")
        try:
            found: dict[str, Any] = json.loads(file.read(length))
            data = max((item["data_offsets"][1] for name, item in found.items() if name != "__metadata__"), default=0)
        except (ValueError, TypeError, KeyError, AttributeError):
            raise ValueError(f"{path.name} has a damaged header") from None
    if path.stat().st_size != 8 + length + int(data):
        raise ValueError(f"{path.name} has {path.stat().st_size} bytes instead of {8 + length + int(data)}")
    return found


def shard_problem(path: Path) -> str | None:
    """What is wrong with one safetensors file."""
    if not path.is_file():
        return f"{path.name} is missing"
    try:
        header(path)
    except ValueError as problem:
        return str(problem)
    return None


def shards(folder: Path) -> list[Path]:
    """The safetensors files that the index names, or those that lie there."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return sorted(folder.glob("*.safetensors"))
    return sorted({folder / name for name in json.loads(index.read_text("utf-8"))["weight_map"].values()})


def check(folder: Path) -> tuple[bool, str]:
    """(True, what is there) or (False, what is wrong)."""
    if not (folder / "config.json").is_file():
        return False, "config.json is missing"
    try:
        json.loads((folder / "config.json").read_text("utf-8"))
        files = shards(folder)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return False, f"config.json or the index cannot be read ({error})"
    if not files:
        return False, "there is no *.safetensors file"
    problem = next(filter(None, map(shard_problem, files)), None)
    if problem:
        return False, problem
    if not any((folder / name).is_file() for name in TOKENIZERS):
        return False, "the tokenizer is missing"
    gib = sum(file.stat().st_size for file in files) / 2**30
    return True, f"{len(files)} safetensors, {gib:.2f} GiB"


if __name__ == "__main__":
    whole, words = check(Path(sys.argv[1]))
    print(words)
    sys.exit(0 if whole else 1)
