"""Fetch a model with ModelScope's own client, so that what lies in the folder afterwards is what the site lists.

Usage: fetch_model.py FOLDER MODEL REVISION [--verify], in the serving environment. --verify hashes every file and
fetches nothing. The client (modelscope-hub) does the transfers, its resuming and the comparing of hashes; here is
what it leaves open: the listing, the disk, going on as long as bytes come, one progress for all, the manifest.
"""

import argparse
import errno
import logging
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path, PurePosixPath
from typing import Any

from model_folder import MANIFEST, Files, is_of, proven, read_manifest, sha256, write_manifest
from parts import arrived, part_names, salvage
from progress import Shown
from words import fail, tr

# The client's own settings, which it reads when it is imported. What somebody has set himself stays.
TUNING: dict[str, int | str] = {
    "PARALLEL_WORKERS": 16,  # its maximum: sites limit a connection (0.1 to 4 MB/s), not a machine
    "PARALLEL_THRESHOLD_MB": 32,
    "PART_SIZE_MB": 16,
    "TIMEOUT": 20,  # seconds without a byte: a connection that has died is given up soon
    "RETRY_MAX_DELAY_SECONDS": 3,
    "TOTAL_TIMEOUT": 30 * 86400,  # an hour a file by default: too short for 4 GB on a slow line
    "FILE_LOCK": "false",  # download.sh holds one lock for the folder, on a local disk
    "PATIENCE_SECONDS": 120,  # ours: without a single byte
}
DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}
GIB = 2**30


def tuned(name: str) -> float:
    """One of the client's settings, as it is now."""
    return float(os.environ.get(f"MODELSCOPE_DOWNLOAD_{name}", TUNING[name]))


def is_large(size: int) -> bool:
    """Whether a file of so many bytes comes over many connections."""
    return size > tuned("PARALLEL_THRESHOLD_MB") * 2**20


def safe(folder: Path, path: object) -> bool:
    """Whether a listed path stays inside the folder, links included, and is not our own manifest."""
    if not isinstance(path, str) or not path or "\\" in path or any(ord(char) < 32 for char in path):
        return False
    parts = PurePosixPath(path)
    if (
        not parts.parts
        or parts.is_absolute()
        or ".." in parts.parts
        or parts.as_posix() != path
        or path.startswith(MANIFEST)
    ):
        return False
    return (folder / path).resolve().is_relative_to(folder.resolve())


def checked_listing(folder: Path, entries: list[Any], model: str) -> Files:
    """The listing as {path: {size in bytes, sha256 or None, mtime_ns None}}. Fails with E32 where it cannot be used."""
    files: Files = {}
    for entry in entries:
        if entry.is_dir:
            continue
        digest = (entry.sha256 or "").lower() or None
        if not safe(folder, entry.path):
            problem = tr(f"路径 {entry.path!r} 会写到目录之外", f"the path {entry.path!r} would leave the folder")
        elif entry.path in files:
            problem = tr(f"{entry.path} 出现两次", f"it names {entry.path} twice")
        elif entry.size < 0 or (digest and (len(digest) != 64 or set(digest) - set("0123456789abcdef"))):
            problem = tr(f"{entry.path} 的大小或哈希不可用", f"the size or hash of {entry.path} makes no sense")
        else:
            files[entry.path] = {"size": entry.size, "sha256": digest, "mtime_ns": None}
            continue
        fail("E32", model=model, problem=problem)
    if not files:
        fail("E32", model=model, problem=tr("一个文件也没有", "it names no file at all"))
    return files


def compare(folder: Path, files: Files, names: list[str]) -> list[str]:
    """Hash these files; right ones get their mtime_ns, the others are given back. Absent files are wrong."""
    sizes = {name: files[name]["size"] for name in names if (folder / name).is_file()}
    shown, read, wrong = Shown(tr("校验", "hashing"), sum(sizes.values()), 0), 0, []

    def count(size: int) -> None:
        nonlocal read
        read += size
        shown.at(read)

    for name in names:
        entry, path = files[name], folder / name
        entry["mtime_ns"] = None
        if name in sizes and (entry["size"] or not entry["sha256"]) and path.stat().st_size != entry["size"]:
            wrong.append(name)
        elif name in sizes and (found := sha256(path, count)) == (entry["sha256"] or found):
            entry |= {"size": path.stat().st_size, "mtime_ns": path.stat().st_mtime_ns}
        else:
            wrong.append(name)
    shown.close()
    return wrong


def space(folder: Path, needed: int, failed: bool = False) -> None:
    """Fail with E31 unless the folder's disk has so many bytes free, or when it has failed already."""
    found = os.statvfs(folder)
    free = found.f_bavail * found.f_frsize
    if needed > free or failed:
        mount = folder.resolve()
        while not mount.is_mount():
            mount = mount.parent
        fail("E31", folder=folder, disk=mount, free=f"{free / GIB:.2f}", needed=f"{needed / GIB:.2f}")


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that led to it."""
    while error:
        yield error
        error = error.__cause__ or error.__context__


class Fetch:
    """One model into one folder."""

    def __init__(self, folder: Path, model: str, revision: str) -> None:
        from modelscope_hub import HubApi
        from modelscope_hub.constants import DEFAULT_ENDPOINT

        self.folder, self.model, self.revision = folder, model, revision
        self.hub = HubApi()
        self.endpoint = os.environ.get("MODELSCOPE_ENDPOINT") or DEFAULT_ENDPOINT
        self.missing = 0  # bytes still to come
        self.last = ""  # what the line said when it broke last

    def explain(self, error: BaseException, file: str = "") -> None:
        """Fail with what the site, the line or the disk has said; anything unknown is raised."""
        from modelscope_hub import errors

        chain = list(causes(error))
        numbers = {item.errno for item in chain if isinstance(item, OSError) and item.errno}
        known = {"model": self.model, "revision": self.revision, "endpoint": self.endpoint}
        if numbers & DISK:
            space(self.folder, self.missing, failed=True)
        if numbers & READ_ONLY:
            fail("E06", folder=self.folder, user=os.environ.get("USER", os.getuid()), key="MODEL_DIR")
        for item in chain:
            if isinstance(item, errors.AuthenticationError | errors.PermissionDeniedError):
                fail("E28", **known)
            if isinstance(item, errors.NotExistError):
                if not file:
                    fail("E27", **known)
                problem = tr(f"有 {file}，下载时却说没有", f"it names {file}, which the site does not have")
                fail("E32", model=self.model, problem=problem)
            if isinstance(item, errors.FileIntegrityError):
                fail("E33", file=file, **known)
        for item in chain:
            if isinstance(item, errors.NetworkError | errors.ServerError | errors.RateLimitError):
                fail("E29", reason=str(item)[:200], **known)
        raise error

    def listing(self) -> Files:
        """What the site lists now, checked."""
        from modelscope_hub.errors import HubError

        try:
            entries = self.hub.list_repo_files(self.model, "model", revision=self.revision)
        except (HubError, OSError) as error:
            self.explain(error)
            raise
        return checked_listing(self.folder, entries, self.model)

    def one(self, path: str, entry: dict[str, Any]) -> None:
        """Fetch a file, again and again while the line breaks. Raises HubError or OSError for all else."""
        from modelscope_hub.errors import HubError

        target = self.folder / path
        salvage(target, entry["size"])
        while True:
            try:
                self.hub.download_file(
                    self.model, "model", path, revision=self.revision, local_dir=self.folder,
                    expected_sha256=entry["sha256"], file_size=entry["size"] or None,
                )  # fmt: skip
                return
            except HubError as error:
                lost = {item.errno for item in causes(error) if isinstance(item, OSError)} & (DISK | READ_ONLY)
                if lost or not error.retryable or type(error).__name__ == "FileIntegrityError":
                    raise
                self.last = str(error)
                time.sleep(1)

    def all(self, files: Files, todo: list[str], done: Callable[[], None]) -> None:
        """Fetch these files, the large ones one after the other over many connections. Fails when no byte comes."""
        large = {name for name in todo if is_large(files[name]["size"])}
        sizes = {name: files[name]["size"] for name in todo}
        base = sum(entry["size"] for name, entry in files.items() if name not in sizes)
        here = {name: arrived(self.folder / name, size) for name, size in sizes.items()}
        shown = Shown(tr("下载", "fetching"), base + sum(sizes.values()), base + sum(here.values()))
        small_ones, large_ones = ThreadPoolExecutor(4), ThreadPoolExecutor(1)
        running: dict[Future[None], str] = {
            (large_ones if name in large else small_ones).submit(self.one, name, files[name]): name for name in todo
        }
        grown = time.monotonic()
        while running:
            finished, _ = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
            self.missing = sum(sizes.values()) - sum(here.values())
            for future in finished:
                name = running.pop(future)
                if error := future.exception():
                    shown.close()
                    self.explain(error, name)
                path = self.folder / name
                with path.open("rb") as file:  # on the disk before it counts
                    os.fsync(file.fileno())
                files[name] |= {"size": path.stat().st_size, "mtime_ns": path.stat().st_mtime_ns}
                done()
            now = {name: arrived(self.folder / name, size) for name, size in sizes.items()}
            if now != here or finished:
                here, grown = now, time.monotonic()
            elif time.monotonic() - grown > tuned("PATIENCE_SECONDS"):
                shown.close()
                known = {"model": self.model, "seconds": f"{tuned('PATIENCE_SECONDS'):.0f}", "endpoint": self.endpoint}
                fail("E30", reason=self.last[:200] or tr("没有数据", "no data"), **known)
            shown.at(base + sum(here.values()))
        shown.close()


def fetch(folder: Path, model: str, revision: str, verify: bool) -> None:
    """Make the folder what the site lists; or, with verify, only say whether it is."""
    manifest = read_manifest(folder)
    files: Files = manifest["files"] if manifest and is_of(manifest, model, revision) else {}

    def keep(complete: bool) -> None:
        try:
            write_manifest(folder, model, revision, files, complete)
        except OSError as error:
            if not complete or error.errno not in READ_ONLY:  # a folder that is right may be read-only
                raise

    if files and manifest and manifest["complete"]:  # nothing is asked of the site as long as the files are right
        suspects = [name for name, entry in files.items() if verify or not proven(folder / name, entry)]
        wrong = compare(folder, files, suspects)
        keep(complete=True)
        if not wrong:
            return
        if verify:
            fail("E13", folder=folder, problem=tr("哈希不符：", "wrong hash: ") + ", ".join(wrong))
        print(tr(f"    重新下载：{', '.join(wrong)}", f"    to be fetched again: {', '.join(wrong)}"), flush=True)
    job = Fetch(folder, model, revision)
    before: Files = manifest["files"] if manifest else {}  # perhaps of another revision
    untouched = {name for name, entry in before.items() if proven(folder / name, entry)}
    files = job.listing()
    for name in untouched & set(files):
        if all(before[name][key] == files[name][key] for key in ("size", "sha256")):
            files[name] = before[name]
    open_ones = [name for name, entry in files.items() if entry["mtime_ns"] is None]
    todo = compare(folder, files, [name for name in open_ones if (folder / name).is_file()])
    if verify:
        missing = [name for name in open_ones if not (folder / name).is_file()]
        if manifest or not (todo or missing):  # a folder that is somebody's, and differs, stays as it is
            keep(complete=not (todo or missing))
        if todo or missing:
            fail("E13", folder=folder, problem=tr("缺少或哈希不符：", "missing or wrong: ") + ", ".join(missing + todo))
        return
    for name in todo:  # wrong ones are gone before their space is counted; a small one may hold somebody's changes
        if is_large(files[name]["size"]) or name in untouched:
            (folder / name).unlink()
        else:
            aside = f"{name}.replaced-{time.strftime('%Y%m%d-%H%M%S')}"
            (folder / name).rename(folder / aside)
            print(tr(f"    原来的 {name} 留作 {aside}", f"    {name} as it was is kept as {aside}"), flush=True)
    todo = [name for name in open_ones if files[name]["mtime_ns"] is None]
    space(folder, sum(files[name]["size"] - arrived(folder / name, files[name]["size"]) for name in todo) + (64 << 20))
    keep(complete=False)
    job.all(files, todo, lambda: keep(complete=False))
    for name in files:
        for part in list(part_names(folder / name)):  # of another split, or of a route that was given up
            if part.relative_to(folder).as_posix() not in files:
                part.unlink()
    for name in untouched - set(files):  # ours, of the revision before
        (folder / name).unlink()
    keep(complete=True)


def main() -> None:
    """Read the words of the command line; every known way to fail ends in a fault."""
    parser = argparse.ArgumentParser()
    for name in ("folder", "model", "revision"):
        parser.add_argument(name)
    parser.add_argument("--verify", action="store_true")
    given = parser.parse_args()
    folder = Path(os.path.abspath(given.folder))
    for name, value in TUNING.items():
        os.environ.setdefault(f"MODELSCOPE_DOWNLOAD_{name}", str(value))
    os.environ["TQDM_DISABLE"] = "1"  # there is one progress for all
    logging.getLogger("modelscope_hub").setLevel(logging.ERROR)  # every broken connection would be a line
    try:
        fetch(folder, given.model, given.revision, given.verify)
    except KeyboardInterrupt:
        os._exit(130)  # transfers in threads are not waited for: what has come stays
    except OSError as error:
        if error.errno in DISK:
            space(folder, 0, failed=True)
        if error.errno in READ_ONLY:
            fail("E06", folder=folder, user=os.environ.get("USER", os.getuid()), key="MODEL_DIR")
        raise


if __name__ == "__main__":
    main()
