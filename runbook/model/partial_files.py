"""The partial files that ModelScope's client (modelscope-hub 0.5.1) keeps on the disk during a download.

NAME.incomplete: a prefix, from one connection. NAME_START_END: a range, from one of many. NAME.parallel_tmp: the merged
ranges, each deleted after it is merged. At the end, the client compares the hash and renames the file to NAME.
"""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path


def partial_files(target: Path) -> Iterator[Path]:
    """Yield the partial files beside a file that is being downloaded."""
    for suffix in (".incomplete", ".parallel_tmp"):
        if (found := target.with_suffix(target.suffix + suffix)).is_file():
            yield found
    span = re.compile(re.escape(target.name) + r"_\d+_\d+")
    yield from (found for found in target.parent.glob("*") if span.fullmatch(found.name))


def bytes_on_disk(target: Path, size: int) -> int:
    """Return the bytes of a file on the disk, complete or in partial files; a `size` of 0 means unknown."""
    with contextlib.suppress(OSError):
        if target.is_file():
            found = target.stat().st_size
        else:
            found = sum(part.stat().st_size for part in partial_files(target))
        return min(size, found) if size else found
    return 0  # a partial file has just been renamed


def split_merged(target: Path, size: int) -> None:
    """Split the merged file of a killed client into ranges again; otherwise the client would start over."""
    from modelscope_hub.constants import DOWNLOAD_PART_SIZE as part_size

    merged = target.with_suffix(target.suffix + ".parallel_tmp")
    if not merged.is_file():
        return
    with merged.open("r+b") as file:
        for start in reversed(range(0, merged.stat().st_size, part_size)):
            part = target.with_name(f"{target.name}_{start}_{min(start + part_size, size) - 1}")
            if not part.exists():
                file.seek(start)
                part.write_bytes(file.read(part_size))
            file.truncate(start)
    merged.unlink()
