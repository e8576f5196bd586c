"""What ModelScope's client (modelscope-hub 0.5.1) keeps on the disk while it fetches a file into its place.

NAME.incomplete: a prefix, from one connection. NAME_START_END: a range, from one of many. NAME.parallel_tmp: the ranges
as they are merged, each deleted when it is in. At the end of either the hash is compared and the file renamed to NAME.
"""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path


def part_names(target: Path) -> Iterator[Path]:
    """What the client keeps beside a file that it is fetching."""
    for suffix in (".incomplete", ".parallel_tmp"):
        if (found := target.with_suffix(target.suffix + suffix)).is_file():
            yield found
    span = re.compile(re.escape(target.name) + r"_\d+_\d+")
    yield from (found for found in target.parent.glob("*") if span.fullmatch(found.name))


def arrived(target: Path, size: int) -> int:
    """Bytes of a file that are on the disk, in parts or whole; a size of 0 means that it is not known."""
    with contextlib.suppress(OSError):
        found = target.stat().st_size if target.is_file() else sum(part.stat().st_size for part in part_names(target))
        return min(size, found) if size else found
    return 0  # a part has just been renamed


def salvage(target: Path, size: int) -> None:
    """Make parts again of what a kill during the client's merging has left; the client itself would start over."""
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
