"""Download a model with ModelScope's own client, so that MODEL_DIR contains exactly the files that the site lists.

Usage: python -m runbook.model.download DIRECTORY MODEL REVISION [--verify], in the serving environment. --verify hashes
every file and downloads nothing. The client (modelscope-hub) transfers, resumes and compares hashes. This module adds
what the client lacks: checks of the listing and disk space, retries while bytes arrive, one progress, the manifest.
"""

import argparse
import errno
import logging
import os
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from getpass import getuser
from pathlib import Path, PurePosixPath
from typing import Any

from runbook.doctor.known import classed
from runbook.messages import Fault, masked, run, tr
from runbook.messages.progress import ProgressBar
from runbook.model.directory import (
    MANIFEST,
    Files,
    foreign,
    is_of,
    named,
    proven,
    read_manifest,
    set_aside,
    sha256,
    write_manifest,
)
from runbook.model.partial_files import bytes_on_disk, partial_files, split_merged
from runbook.model.source import unservable

# The client's own settings, which it reads when it is imported. A variable that the user has set stays.
TUNING: dict[str, int | str] = {
    "PARALLEL_WORKERS": 16,  # its maximum: sites limit a connection (0.1 to 4 MB/s), not a machine
    "PARALLEL_THRESHOLD_MB": 32,
    "PART_SIZE_MB": 16,
    "TIMEOUT": 20,  # seconds without a byte, after which a connection is given up
    "RETRY_MAX_DELAY_SECONDS": 3,
    "TOTAL_TIMEOUT": 30 * 86400,  # seconds for a file; the default of an hour is too short for 4 GB on a slow line
    "FILE_LOCK": "false",  # download.sh has a lock for the whole directory
    "PATIENCE_SECONDS": 120,  # our own setting: seconds without a byte on any connection
}
DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}
# Faults of the network with a fix of their own: certificate, proxy, DNS, too many requests, an error of the site.
NETWORK = ("E137", "E138", "E139", "E141", "E142")
GIB = 2**30


def tuned(name: str) -> float:
    """Return the current value of a setting in TUNING."""
    return float(os.environ.get(f"MODELSCOPE_DOWNLOAD_{name}", TUNING[name]))


def is_large(size: int) -> bool:
    """Return whether a file of `size` bytes is downloaded over many connections."""
    return size > tuned("PARALLEL_THRESHOLD_MB") * 2**20


def safe(directory: Path, path: object) -> bool:
    """Return whether a listed path stays inside the directory, links included, and is not our own manifest."""
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
    return (directory / path).resolve().is_relative_to(directory.resolve())


def checked_listing(directory: Path, entries: list[Any], model: str) -> Files:
    """Return the listing as {path: {size in bytes, sha256 or None, mtime_ns None}}. Raises Fault E32."""
    files: Files = {}
    for entry in entries:
        if entry.is_dir:
            continue
        digest = (entry.sha256 or "").lower() or None
        if not safe(directory, entry.path):
            problem = tr(f"路径 {entry.path!r} 会写到目录之外", f"the path {entry.path!r} would leave the directory")
        elif entry.path in files:
            problem = tr(f"{entry.path} 出现两次", f"it lists {entry.path} twice")
        elif entry.size < 0 or (digest and (len(digest) != 64 or set(digest) - set("0123456789abcdef"))):
            problem = tr(f"{entry.path} 的大小或哈希不可用", f"the size or hash of {entry.path} is not valid")
        else:
            files[entry.path] = {"size": entry.size, "sha256": digest, "mtime_ns": None}
            continue
        raise Fault("E32", model=model, problem=problem)
    if not files:
        raise Fault("E32", model=model, problem=tr("没有列出任何文件", "it lists no file"))
    return files


def compare(directory: Path, files: Files, names: list[str]) -> list[str]:
    """Hash these files, set mtime_ns of the correct ones, and return the others, including absent files."""
    sizes = {name: files[name]["size"] for name in names if (directory / name).is_file()}
    shown, read, wrong = ProgressBar(tr("校验", "hashing"), sum(sizes.values()), 0), 0, []

    def count(size: int) -> None:
        nonlocal read
        read += size
        shown.update(read)

    for name in names:
        entry, path = files[name], directory / name
        known, entry["mtime_ns"] = entry["mtime_ns"], None
        if name in sizes and (entry["size"] or not entry["sha256"]) and path.stat().st_size != entry["size"]:
            wrong.append(name)
        elif name in sizes and (found := sha256(path, count)) == (entry["sha256"] or found):
            entry |= {"size": path.stat().st_size, "mtime_ns": path.stat().st_mtime_ns}
            entry.pop("spoilt_ns", None)
        else:
            wrong.append(name)
            if name in sizes and path.stat().st_mtime_ns == known:
                entry["spoilt_ns"] = known
    shown.close()
    return wrong


def ours(path: Path, entry: dict[str, Any]) -> bool:
    """Return whether a recorded file was downloaded here and is unchanged since."""
    dates = (entry["mtime_ns"], entry.get("spoilt_ns"))
    return not entry.get("copied") and path.is_file() and path.stat().st_mtime_ns in dates


def in_the_way(directory: Path, files: Files) -> list[str]:
    """Return the paths that are not a file where the listing has a file, or not a directory where it needs one."""
    found = [name for name in files if os.path.lexists(directory / name) and not (directory / name).is_file()]
    above = {str(parent) for name in files for parent in PurePosixPath(name).parents if parent.name}
    return found + [name for name in above if os.path.lexists(directory / name) and not (directory / name).is_dir()]


def is_copy(directory: Path, files: Files, wrong: list[str]) -> bool:
    """Return whether a directory without a manifest contains this model, complete or not, or counts as empty.

    README, LICENSE and the tokenizer are the same in many models, so they prove nothing.
    """
    there = {name for name in files if (directory / name).is_file()}
    if not there and foreign(directory, "demo") is None:
        return True
    right = there - set(wrong)
    shards = {name for name in there if name.endswith(".safetensors")}
    if "config.json" in wrong:
        return False
    if shards & right:
        return True
    begun = "config.json" in right or any(True for name in files for _ in partial_files(directory / name))
    return begun and all((directory / name).stat().st_size < files[name]["size"] for name in shards)


def space(directory: Path, needed: int, failed: bool = False) -> None:
    """Raise Fault E31 unless the directory's disk has `needed` bytes free; always if a write has `failed`."""
    found = os.statvfs(directory)
    free = found.f_bavail * found.f_frsize
    if needed > free or failed:
        mount = directory.resolve()
        while not mount.is_mount():
            mount = mount.parent
        raise Fault("E31", folder=directory, disk=mount, free=f"{free / GIB:.2f}", needed=f"{needed / GIB:.2f}")


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and the errors that caused it."""
    while error:
        yield error
        error = error.__cause__ or error.__context__


def network_fault(texts: list[str]) -> Fault | None:
    """Return the Fault that the texts of a network error are, innermost first, after showing the text; None if none."""
    code = classed(texts, NETWORK)
    if code is None:
        return None
    shown = next((text for text in texts if classed([text], (code,))), texts[0])
    print(f"    {masked(' '.join(shown.split()))[:300]}", flush=True)
    return Fault(code)


class LastWarning(logging.Handler):
    """Keeps the last warning of the client, which tells why it tries again; prints none."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the text of the record."""
        self.text = record.getMessage()


class Fetch:
    """The download of one model into one directory."""

    def __init__(self, directory: Path, model: str, revision: str) -> None:
        from modelscope_hub import HubApi
        from modelscope_hub.config import HubConfig
        from modelscope_hub.constants import DEFAULT_ENDPOINT

        # The client may read a login in the home directory, but not write its session or change modes there.
        HubConfig.get_session_id = lambda _: uuid.uuid4().hex
        HubConfig._repair_credential_permissions = lambda _: None
        self.directory, self.model, self.revision = directory, model, revision
        self.hub = HubApi()
        self.endpoint = os.environ.get("MODELSCOPE_ENDPOINT") or DEFAULT_ENDPOINT
        self.missing = 0  # bytes still to download
        self.last = ""  # the last connection error
        self.warned = LastWarning()
        log = logging.getLogger("modelscope_hub")  # no line for every connection error
        log.setLevel(logging.WARNING)
        log.handlers, log.propagate = [self.warned], False

    def explain(self, error: BaseException, file: str = "") -> None:
        """Raise the Fault for an error of the site, the connection or the disk; raise any other error unchanged."""
        from modelscope_hub import errors

        chain = list(causes(error))
        numbers = {item.errno for item in chain if isinstance(item, OSError) and item.errno}
        known = {"model": self.model, "revision": self.revision, "endpoint": self.endpoint}
        if numbers & DISK:
            space(self.directory, self.missing, failed=True)
        texts = [f"{type(item).__name__}: {item}" for item in reversed(chain)]  # a certificate has the errno of EPERM
        for item in chain:
            if isinstance(item, errors.RateLimitError) and item.retry_after:
                texts.insert(0, f"429 Too Many Requests, Retry-After: {item.retry_after:g} s")
        if fault := network_fault(texts):
            raise fault
        if numbers & READ_ONLY:
            raise Fault("E06", folder=self.directory, user=getuser(), key="MODEL_DIR")
        for item in chain:
            if isinstance(item, errors.AuthenticationError | errors.PermissionDeniedError):
                raise Fault("E28", **known)
            if isinstance(item, errors.NotExistError):
                if not file:
                    raise Fault("E27", **known)
                problem = tr(f"有 {file}，下载时却说没有", f"it lists {file}, which the site does not have")
                raise Fault("E32", model=self.model, problem=problem)
            if isinstance(item, errors.FileIntegrityError):
                raise Fault("E33", file=file, **known)
        for item in chain:
            if isinstance(item, errors.NetworkError | errors.ServerError | errors.RateLimitError):
                raise Fault("E29", reason=str(item)[:200], **known)
        raise error

    def listing(self) -> Files:
        """Return the site's current listing, checked. Raises Fault."""
        from modelscope_hub.errors import HubError

        try:
            entries = self.hub.list_repo_files(self.model, "model", revision=self.revision)
        except (HubError, OSError) as error:
            self.explain(error)
            raise
        return checked_listing(self.directory, entries, self.model)

    def one(self, path: str, entry: dict[str, Any]) -> None:
        """Download a file, and retry after a connection error. Raises HubError or OSError for any other error."""
        from modelscope_hub.errors import HubError

        target = self.directory / path
        split_merged(target, entry["size"])
        while True:
            try:
                self.hub.download_file(
                    self.model, "model", path, revision=self.revision, local_dir=self.directory,
                    expected_sha256=entry["sha256"], file_size=entry["size"] or None,
                )  # fmt: skip
                return
            except HubError as error:
                lost = {item.errno for item in causes(error) if isinstance(item, OSError)} & (DISK | READ_ONLY)
                if lost or not error.retryable or type(error).__name__ == "FileIntegrityError":
                    raise
                self.last = f"{type(error).__name__}: {error}"
                asked = getattr(error, "retry_after", None) or 1  # seconds
                time.sleep(min(float(asked), tuned("PATIENCE_SECONDS")))

    def all(self, files: Files, todo: list[str], done: Callable[[], None]) -> None:
        """Download the files in `todo`, large ones one after the other over many connections. Raises Fault."""
        large = {name for name in todo if is_large(files[name]["size"])}
        sizes = {name: files[name]["size"] for name in todo}
        base = sum(entry["size"] for name, entry in files.items() if name not in sizes)
        here = {name: bytes_on_disk(self.directory / name, size) for name, size in sizes.items()}
        shown = ProgressBar(tr("下载", "downloading"), base + sum(sizes.values()), base + sum(here.values()))
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
                path = self.directory / name
                with path.open("rb") as file:  # on the disk before it is recorded
                    os.fsync(file.fileno())
                files[name] |= {"size": path.stat().st_size, "mtime_ns": path.stat().st_mtime_ns, "copied": False}
                done()
            now = {name: bytes_on_disk(self.directory / name, size) for name, size in sizes.items()}
            if now != here or finished:
                here, grown = now, time.monotonic()
            elif time.monotonic() - grown > tuned("PATIENCE_SECONDS"):
                shown.close()
                reason = self.last or self.warned.text
                if classed([reason], ("E141",)) and (fault := network_fault([reason])):
                    raise fault
                known = {"model": self.model, "seconds": f"{tuned('PATIENCE_SECONDS'):.0f}", "endpoint": self.endpoint}
                raise Fault("E30", reason=reason[:200] or tr("没有数据", "no data"), **known)
            shown.update(base + sum(here.values()))
        shown.close()


def fetch(directory: Path, model: str, revision: str, verify: bool) -> None:
    """Make the directory match the site's listing; with `verify`, only check it. Raises Fault."""
    manifest = read_manifest(directory)
    before: Files = manifest["files"] if manifest else {}  # perhaps of another revision
    made = {name for name, entry in before.items() if ours(directory / name, entry)}
    files = before if manifest and is_of(manifest, model, revision) else {}

    def keep(complete: bool) -> None:
        try:
            write_manifest(directory, model, revision, files, complete)
        except OSError as error:
            if not complete or error.errno not in READ_ONLY:  # a correct directory may be read-only
                raise

    if files and manifest and manifest["complete"]:  # no request to the site while the files are correct
        suspects = [name for name, entry in files.items() if verify or not proven(directory / name, entry)]
        wrong = compare(directory, files, suspects)
        keep(complete=True)
        if not wrong:
            return
        if verify:
            raise Fault("E13", folder=directory, problem=tr("哈希不符：", "wrong hash: ") + ", ".join(wrong))
        print(tr(f"    重新下载：{', '.join(wrong)}", f"    downloading again: {', '.join(wrong)}"), flush=True)
    job = Fetch(directory, model, revision)
    files = job.listing()
    if why := unservable(files):
        raise Fault("E208", model=model, why=why)
    if strange := in_the_way(directory, files):
        raise Fault("E79", folder=directory, found=named(strange), model=model)
    for name in set(before) & set(files):
        old = before[name]
        if all(old[key] == files[name][key] for key in ("size", "sha256")):
            files[name] = old if proven(directory / name, old) else {**old, "mtime_ns": None}
    open_ones = [name for name, entry in files.items() if entry["mtime_ns"] is None]
    todo = compare(directory, files, [name for name in open_ones if (directory / name).is_file()])
    if not manifest:
        for name in set(open_ones) - set(todo):
            if (directory / name).is_file():
                files[name]["copied"] = True
    if verify:
        missing = [name for name in open_ones if not (directory / name).is_file()]
        if manifest or not (todo or missing):  # do not mark a directory of somebody else that differs
            keep(complete=not (todo or missing))
        if todo or missing:
            raise Fault(
                "E13",
                folder=directory,
                problem=tr("缺少或哈希不符：", "missing or wrong: ") + ", ".join(missing + todo),
            )
        return
    if not (manifest or is_copy(directory, files, todo)):
        raise Fault(
            "E79", folder=directory, found=named(sorted(path.name for path in directory.iterdir())), model=model
        )
    for name in todo:  # a file that was not downloaded here, or was changed since, may be somebody else's
        if name in made:
            (directory / name).unlink()
        else:
            set_aside(directory / name)
    todo = [name for name in open_ones if files[name]["mtime_ns"] is None]
    space(
        directory,
        sum(files[name]["size"] - bytes_on_disk(directory / name, files[name]["size"]) for name in todo) + (64 << 20),
    )
    keep(complete=False)
    job.all(files, todo, lambda: keep(complete=False))
    for name in files:
        for part in list(partial_files(directory / name)):  # of another part size, or of a transfer that was given up
            if part.relative_to(directory).as_posix() not in files:
                part.unlink()
    for name in made - set(files):  # of the previous revision
        (directory / name).unlink()
    keep(complete=True)


def main() -> None:
    """Read the command line and download. Raises Fault for every known failure."""
    parser = argparse.ArgumentParser()
    for name in ("directory", "model", "revision"):
        parser.add_argument(name)
    parser.add_argument("--verify", action="store_true")
    given = parser.parse_args()
    directory = Path(os.path.abspath(given.directory))
    for name, value in TUNING.items():
        os.environ.setdefault(f"MODELSCOPE_DOWNLOAD_{name}", str(value))
    os.environ["TQDM_DISABLE"] = "1"  # one progress for all files
    try:
        fetch(directory, given.model, given.revision, given.verify)
    except OSError as error:
        if error.errno in DISK:
            space(directory, 0, failed=True)
        if error.errno in READ_ONLY:
            raise Fault("E06", folder=directory, user=getuser(), key="MODEL_DIR") from None
        raise


if __name__ == "__main__":
    run(main)
