"""What can be known before a start: a table of checks, each ok, a warning or a failure, with what to do. Reads only.

Run by preflight.sh, which puts the settings into the environment and has looked for the tools and this Python already.
Exit code 3 where something must be mended first. The network is asked in parallel, a second at most.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from threading import Thread
from typing import Literal
from urllib.error import HTTPError

from machine import GIB, holder, leftovers, listener, ours, smi
from model_folder import check as whole
from plan import make_plan
from words import end_with_the_reader, text

State = Literal["ok", "warn", "fail"]
DRIVER = 580  # of NVIDIA, for CUDA 13, with which the locked vLLM is built; CUDA 12 and vLLM 0.19 want 525
CAPABILITY = 7.5  # the least that the locked vLLM runs on; bfloat16 wants 8.0
# GiB on the disk, measured: the environment, the model; another model is not known before it is listed.
NEEDS = {"gpu": 9.0, "cpu": 4.0}
MODELS = {"demo": 0.6, "Qwen/Qwen3-4B-Instruct-2507": 8.0}


@dataclass(frozen=True)
class Row:
    """One check: its name, how it stands, what was seen, and what to do where it is not ok."""

    name: str
    state: State
    seen: str
    todo: str = ""


def row(name: str, state: State, key: str = "", **values: object) -> Row:
    """The texts are preflight.NAME (or KEY) and, where it is not ok, the same with -todo."""
    key = f"preflight.{key or name}"
    return Row(name, state, text(key, **values), "" if state == "ok" else text(f"{key}-todo", **values))


def system() -> Iterator[Row]:
    """Python, glibc, tmux, memory, shared memory and the settings of a proxy."""
    yield row("python", "ok", version=platform.python_version(), path=sys.executable)
    libc = platform.libc_ver()[1]
    numbers = tuple(map(int, re.findall(r"\d+", libc)[:2]))
    yield row("glibc", "ok" if numbers >= (2, 28) else "fail", version=libc or "-")
    tmux = subprocess.run(["tmux", "-V"], capture_output=True, text=True)
    yield row("tmux", "ok" if tmux.returncode == 0 else "fail", version=tmux.stdout.strip() or tmux.stderr.strip())
    shm = shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else 0
    several = "," in os.environ["GPU"]
    yield row("shm", "warn" if shm < (GIB if several else GIB / 16) else "ok", size=f"{shm / GIB:.1f}")
    free = re.search(r"MemAvailable: +(\d+)", Path("/proc/meminfo").read_text())
    ram = int(free[1]) / 2**20 if free else 0
    yield row("ram", "warn" if ram < 4 and not ours() else "ok", size=f"{ram:.1f}")
    proxy = next((key for key in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY") if os.environ.get(key)), "")
    spared = os.environ.get("no_proxy", "") + os.environ.get("NO_PROXY", "")
    if proxy:
        yield row("proxy", "ok" if "127.0.0.1" in spared or spared == "*" else "warn", setting=proxy)


def installed() -> bool:
    return (Path(os.environ["VENV_DIR"]) / ".runbook-lock").is_file()


def downloaded() -> bool:
    folder, model, revision = (os.environ[key] for key in ("MODEL_DIR", "MODEL_ID", "MODEL_REVISION"))
    return whole(Path(folder), model, revision)[0] == 0


def disks() -> Iterator[Row]:
    """Room for what is still to come; what lies on one disk is added up."""
    needs = [] if installed() else [("VENV_DIR", NEEDS[os.environ["PROFILE"]])]
    if not downloaded():
        needs.append(("MODEL_DIR", MODELS.get(os.environ["MODEL_ID"], 0.1)))
    by_disk: dict[int, list[tuple[str, Path, float]]] = defaultdict(list)
    for key, size in needs:
        folder = Path(os.environ[key])
        there = next(one for one in (folder, *folder.parents) if one.exists())
        by_disk[there.stat().st_dev].append((key, there, size))
    for rows in by_disk.values():
        free, size = shutil.disk_usage(rows[0][1]).free / GIB, sum(size for _, _, size in rows)
        keys = " ".join(key for key, _, _ in rows)
        state: State = "fail" if free < size else "warn" if free < size + 1 else "ok"
        yield row("disk", state, keys=keys, folder=rows[0][1], free=f"{free:.1f}", size=f"{size:g}")


def ask(key: str, url: str, replies: dict[str, float | str | None]) -> None:
    """Into replies: by how many seconds this clock is off the site's, None where it does not tell, or why no answer."""
    try:
        headers = urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=1).headers
    except HTTPError as error:  # an answer too
        headers = error.headers
    except OSError as error:
        replies[key] = str(getattr(error, "reason", error))
        return
    sent = headers["Date"]
    replies[key] = time.time() - parsedate_to_datetime(sent).timestamp() if sent else None


def network() -> Iterator[Row | None]:
    """The package index and the model site, as far as they are still needed, and the clock by their answers.

    The first item, None, comes as soon as they are asked: what else there is to do can be done meanwhile.
    """
    sites = {}
    if not installed() or not downloaded():
        sites["PIP_INDEX_URL"] = os.environ["PIP_INDEX_URL"]
    if not downloaded() and os.environ["MODEL_ID"] != "demo":
        sites["MODELSCOPE_ENDPOINT"] = os.environ["MODELSCOPE_ENDPOINT"] or "https://www.modelscope.cn"
    replies: dict[str, float | str | None] = {}
    end = time.monotonic() + 1.2
    threads = [Thread(target=ask, args=(key, url, replies), daemon=True) for key, url in sites.items() if url]
    for thread in threads:
        thread.start()
    yield None
    for thread in threads:
        thread.join(max(end - time.monotonic(), 0))
    for key, url in sites.items():
        reply = replies.get(key, "timeout")  # a name server that does not answer keeps its thread for longer
        name: str = "mirror" if key == "PIP_INDEX_URL" else "site"
        if url:
            yield row(name, "warn" if isinstance(reply, str) else "ok", url=url, why=reply, setting=key)
    offs = [round(reply) for reply in replies.values() if isinstance(reply, float)]
    if offs:
        yield row("clock", "warn" if min(map(abs, offs)) > 300 else "ok", seconds=min(offs, key=abs))


def cards() -> Iterator[Row]:
    """The cards, their driver and what they can compute, against what the locked vLLM needs."""
    rows = smi("--query-gpu=index,name,driver_version")
    if not rows:
        yield row("card", "fail", "no-card")
        return
    yield row("card", "ok", cards=", ".join(f"{line[0]} {line[1]}" for line in rows))
    version = rows[0][2]
    major = int(version.split(".")[0]) if version.split(".")[0].isdigit() else 0
    compatible = os.environ.get("VLLM_ENABLE_CUDA_COMPATIBILITY") == "1"
    state: State = "ok" if major >= DRIVER else "warn" if compatible or not major else "fail"
    yield row("driver", state, version=version, older="0.19.x" if major >= 525 else "-")
    chosen = os.environ["GPU"].split(",")
    able = [line for line in smi("--query-gpu=index,compute_cap") if "auto" in chosen or line[0] in chosen]
    numbers = [float(line[1]) for line in able if re.fullmatch(r"\d+\.\d+", line[-1])]
    if numbers:
        least = min(numbers)
        yield row("capability", "ok" if least >= 8 else "warn" if least >= CAPABILITY else "fail", least=least)


def server() -> Iterator[Row]:
    """The port, what a crash has left, and whether the model fits into the memory that is free."""
    own, port = ours(), os.environ["PORT"]
    owner = listener(port)
    if leftovers(own):
        yield row("leftovers", "warn", pids=" ".join(map(str, sorted(own))))
    elif own:
        yield row("port", "ok", "port-ours", port=port)
    elif owner:
        yield row("port", "fail", "port-taken", port=port, **holder(port))
    else:
        yield row("port", "ok", port=port)
    record, _ = make_plan()
    # A server that runs has its memory, though a container may hide that it is the holder.
    states: dict[bool | None, State] = {True: "ok", False: "warn" if own else "fail"}
    states[None] = "warn" if downloaded() else "ok"
    if record["profile"] == "cpu" or smi("--query-gpu=index"):
        yield row("memory", states[record["fits"]], reason=record["reason"])


def main() -> int:
    """Print the table."""
    asked = network()
    next(asked)
    rows = [*system(), *disks(), *(cards() if os.environ["PROFILE"] == "gpu" else []), *server(), *filter(None, asked)]
    end_with_the_reader()
    marks = {"ok": "✓", "warn": "!", "fail": "✗"}
    for one in rows:
        print(f"    {marks[one.state]} {one.name:<11}{one.seen}")
        if one.todo:
            print(f"      {'':<11}→ {one.todo}")
    return 3 if any(one.state == "fail" for one in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
