"""Print the checks before a start as a table: ok, a warning or a failure, with what to do. Reads only.

preflight.sh runs it, with the settings in the environment, and has already checked the tools and this Python.
Exit code 3: something must be fixed first. The network checks run in parallel, for about a second.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from base64 import b64encode
from collections import defaultdict
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from getpass import getuser
from http.client import HTTPException
from pathlib import Path
from threading import Thread
from urllib.error import HTTPError
from urllib.parse import unquote_to_bytes, urlsplit, urlunsplit

from runbook import ROOT
from runbook.machine.gpus import given, is_named, look, server_pids
from runbook.machine.memory import GIB
from runbook.machine.table import Row, State, show
from runbook.machine.venv import is_free, is_ours, lacks, locked
from runbook.messages import end_with_the_reader, masked, run, tr
from runbook.model.directory import check
from runbook.plan.planner import make_plan
from runbook.plan.rules import LEAST, unusable

DRIVER = 580  # of NVIDIA, for CUDA 13, which the locked vLLM is built with; CUDA 12 and vLLM 0.19 need 525
# Measured disk space in GiB: the virtual environment, the model. The size of any other model is in its listing.
NEEDS = {"gpu": 9.0, "cpu": 4.0}
MODELS = {"demo": 0.6, "demo-embedding": 0.2, "Qwen/Qwen3-4B-Instruct-2507": 8.0}


def system() -> Iterator[Row]:
    """Check Python, glibc, tmux, shared memory, memory, proxy settings and logout."""
    yield Row(
        "python",
        "ok",
        f"{platform.python_version()}（{sys.executable}）",
        f"{platform.python_version()} ({sys.executable})",
    )
    libc = platform.libc_ver()[1] or "-"
    yield Row(
        "glibc",
        "ok" if tuple(map(int, re.findall(r"\d+", libc)[:2])) >= (2, 28) else "fail",
        f"{libc}（vLLM 需要 2.28 以上）",
        f"{libc} (vLLM needs 2.28 or newer)",
        "系统太旧，或不是 glibc 系统：请换用 Debian 10、Ubuntu 20.04、RHEL 8 或更新的系统，或在这样的容器里运行",
        "This system is too old, or has another C library: use Debian 10, Ubuntu 20.04, RHEL 8 or newer, or a "
        "container of one",
    )
    tmux = subprocess.run(["tmux", "-V"], capture_output=True, text=True)
    seen = tmux.stdout.strip() or tmux.stderr.strip()
    yield Row(
        "tmux",
        "ok" if tmux.returncode == 0 else "fail",
        seen,
        seen,
        "tmux 无法运行，请重新安装",
        "tmux does not run: install it again",
    )
    shm = shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else 0
    several = "," in os.environ["GPU"]
    yield Row(
        "shm",
        "warn" if shm < (GIB if several else GIB / 16) else "ok",
        f"/dev/shm 空闲 {shm / GIB:.1f} GiB（共享内存）",
        f"{shm / GIB:.1f} GiB free in /dev/shm (shared memory)",
        "进程之间用它通信，多张 GPU 时用得更多：请用 --shm-size=8g 启动容器",
        "The processes communicate through it, with several GPUs all the more: start the container with --shm-size=8g",
    )
    free = re.search(r"MemAvailable: +(\d+)", Path("/proc/meminfo").read_text())
    ram = int(free[1]) / 2**20 if free else 0
    yield Row(
        "ram",
        "warn" if ram < 4 and not server_pids() else "ok",
        f"内存空闲 {ram:.1f} GiB",
        f"{ram:.1f} GiB of RAM free",
        "vLLM 的三个进程和加载中的权重约需 4 GiB：请先停掉别的程序",
        "vLLM's three processes and the weights during loading need about 4 GiB: end other programs first",
    )
    proxy = next((key for key in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY") if os.environ.get(key)), "")
    spared = os.environ.get("no_proxy", "") + os.environ.get("NO_PROXY", "")
    if proxy:
        yield Row(
            "proxy",
            "ok" if "127.0.0.1" in spared or spared == "*" else "warn",
            f"已设置 {proxy}；本项目访问本机时不走代理",
            f"{proxy} is set; this project does not use it for this machine itself",
            "别的程序（如你自己的 curl、RAGFlow）访问本机也会走代理：export no_proxy=127.0.0.1,localhost",
            "Other programs (your own curl, RAGFlow) would use it for this machine too: export "
            "no_proxy=127.0.0.1,localhost",
        )
    if logout := os.environ.get("RUNBOOK_LOGOUT"):  # set only if logind ends a user's processes at logout
        user = getuser()
        yield Row(
            "logout",
            "ok" if logout == "ok" else "warn",
            f"用户 {user} 注销时，系统会结束其登录会话中的所有进程（logind 的 KillUserProcesses=yes）；"
            "服务用 systemd-run --user --scope 启动，不在登录会话中",
            f"When {user} logs out, the system ends all processes of the login session (KillUserProcesses=yes of "
            "logind); the server is started outside of it, with systemd-run --user --scope",
            f"要使服务在注销后继续运行，还需执行：loginctl enable-linger {user}",
            f"The server survives logout only after: loginctl enable-linger {user}",
        )


def environment() -> tuple[Path, bool, str | None]:
    """Return VENV_DIR, whether it is ours or empty, and why it is unusable if somebody else made it."""
    directory = Path(os.environ["VENV_DIR"])
    if is_ours(directory) or is_free(directory):
        return directory, True, None
    lock = ROOT / "requirements" / ("cuda.txt" if os.environ["PROFILE"] == "gpu" else "cpu.txt")
    return directory, False, lacks(directory, locked(lock), execute=False)


def inherited() -> Iterator[Row]:
    """Report what the server does not inherit, and what would harm it: the findings of environment.sh, and noexec."""
    for line in os.environ.get("RUNBOOK_FOUND", "").splitlines():
        found, _, todo = line.partition("\t")
        yield Row("environ", "warn" if todo else "ok", found, found, todo, todo)
    if os.environ["PROFILE"] != "gpu":  # the CPU build compiles nothing
        return
    cache = f"{os.environ['BASE_DIR']}/cache"  # as in caches.sh
    for setting, default in {
        "TRITON_CACHE_DIR": os.environ.get("TRITON_HOME") or cache,
        "VLLM_CACHE_ROOT": cache,
    }.items():
        directory = Path(os.environ.get(setting) or default).absolute()
        there = next(one for one in (directory, *directory.parents) if one.exists())
        if os.statvfs(there).f_flag & os.ST_NOEXEC:
            yield Row(
                "environ",
                "warn",
                f"{directory} 所在的文件系统以 noexec 挂载，编译出的内核无法从那里加载",
                f"{directory} is on a file system mounted noexec: compiled kernels cannot be loaded from it",
                f"换到别的文件系统：export {setting}=目录，再执行 ./inv restart",
                f"Use a directory on another file system: export {setting}=DIRECTORY, then run ./inv restart",
            )


def installed() -> bool:
    """Return whether the packages are installed, or the environment is somebody else's."""
    directory, own, _ = environment()
    return not own or (directory / ".runbook-lock").is_file()


def model_state() -> tuple[int, str]:
    """Return what the model's directory contains: see runbook.model.directory.check."""
    return check(Path(os.environ["MODEL_DIR"]), os.environ["MODEL_ID"], os.environ["MODEL_REVISION"])


def not_ours() -> Iterator[Row]:
    """Report directories of somebody else, which the steps refuse."""
    directory, _, lacking = environment()
    if lacking:
        yield Row(
            "venv",
            "fail",
            f"VENV_DIR={directory} 不是本项目建立的环境：{lacking}",
            f"VENV_DIR={directory} was not made by this project: {lacking}",
            "在 .env 中把 VENV_DIR 改为一个空的或尚不存在的目录（E80）",
            "Set VENV_DIR in .env to a directory that is empty or does not exist (E80)",
        )
    code, found = model_state()
    if code == 4:
        model = os.environ["MODEL_DIR"]
        yield Row(
            "model",
            "fail",
            f"MODEL_DIR={model} 中是别的内容：{found}",
            f"MODEL_DIR={model} holds something else: {found}",
            "在 .env 中把 MODEL_DIR 改为一个空目录，或留空（E79）",
            "Set MODEL_DIR in .env to an empty directory, or leave it empty (E79)",
        )


def disks() -> Iterator[Row]:
    """Check the space for what is not there yet; the needs on one disk are added up."""
    needs = [] if installed() else [("VENV_DIR", NEEDS[os.environ["PROFILE"]])]
    if model_state()[0] != 0:
        needs.append(("MODEL_DIR", MODELS.get(os.environ["MODEL_ID"], 0.1)))
    by_disk: dict[int, list[tuple[str, Path, float]]] = defaultdict(list)
    for key, size in needs:
        directory = Path(os.environ[key])
        there = next(one for one in (directory, *directory.parents) if one.exists())
        by_disk[there.stat().st_dev].append((key, there, size))
    for rows in by_disk.values():
        place, total = rows[0][1], sum(size for _, _, size in rows)
        free, keys = shutil.disk_usage(place).free / GIB, " ".join(key for key, _, _ in rows)
        yield Row(
            "disk",
            "fail" if free < total else "warn" if free < total + 1 else "ok",
            f"{place} 空闲 {free:.1f} GiB，{keys} 还需 {total:g} GiB",
            f"{free:.1f} GiB free in {place}; {keys} still needs {total:g} GiB",
            "请清理这块磁盘，或在 .env 中把 BASE_DIR 改到别处",
            "Free space on this disk, or set BASE_DIR in .env to another one",
        )


def request(url: str) -> urllib.request.Request:
    """Return a HEAD request; a user and a password in the URL go into a header, as in every other client."""
    parts = urlsplit(url)
    login, _, host = parts.netloc.rpartition("@")
    asked = urllib.request.Request(urlunsplit(parts._replace(netloc=host)), method="HEAD")
    if login:
        asked.add_unredirected_header("Authorization", f"Basic {b64encode(unquote_to_bytes(login)).decode()}")
    return asked


def ask(key: str, url: str, replies: dict[str, float | str | None]) -> None:
    """Set replies[key]: the seconds by which this clock is ahead of the site's, None if unknown, or the error."""
    try:
        headers = urllib.request.urlopen(request(url), timeout=1).headers
    except HTTPError as error:  # an error status is an answer too
        headers = error.headers
    except (OSError, HTTPException, ValueError) as error:  # the last two: an invalid address
        replies[key] = str(getattr(error, "reason", error))
        return
    sent = headers["Date"]
    replies[key] = time.time() - parsedate_to_datetime(sent).timestamp() if sent else None


def network() -> Iterator[Row | None]:
    """Check the package index and the model site, if they are still needed, and the clock by their answers.

    The first item, None, comes when the requests are sent; other checks can run meanwhile.
    """
    sites, whole = {}, model_state()[0] == 0
    if not installed() or not whole:
        sites["PIP_INDEX_URL"] = os.environ["PIP_INDEX_URL"]
    if not whole and "/" in os.environ["MODEL_ID"]:
        sites["MODELSCOPE_ENDPOINT"] = os.environ["MODELSCOPE_ENDPOINT"] or "https://www.modelscope.cn"
    replies: dict[str, float | str | None] = {}
    end = time.monotonic() + 1.2
    threads = [Thread(target=ask, args=(key, url, replies), daemon=True) for key, url in sites.items() if url]
    for thread in threads:
        thread.start()
    yield None
    for thread in threads:
        thread.join(max(end - time.monotonic(), 0))
    for key, url in ((key, masked(url)) for key, url in sites.items() if url):
        why = replies.get(key, "timeout")  # a name server that does not answer blocks its thread for longer
        state: State = "warn" if isinstance(why, str) else "ok"
        if key == "PIP_INDEX_URL":
            zh = f"无法连接（{why}）：会改用 pip 自己的配置；也可在 .env 中换一个 {key}"
            en = f"No answer ({why}): pip's own configuration will be used; or set another {key} in .env"
            yield Row("mirror", state, f"软件源 {url}", f"the package index {url}", zh, en)
        else:
            zh = f"无法连接（{why}）：请检查网络或代理；内网有镜像时在 .env 中设置 {key}"
            en = f"No answer ({why}): check the network or the proxy; if there is a mirror, set {key} in .env"
            yield Row("site", state, f"模型站点 {url}", f"the model site {url}", zh, en)
    offs = [round(reply) for reply in replies.values() if isinstance(reply, float)]
    if offs:
        off = min(offs, key=abs)
        yield Row(
            "clock",
            "warn" if abs(off) > 300 else "ok",
            f"时钟与网站相差 {off} 秒",
            f"{off} s off the clock of the sites",
            "差得太多时证书会被判为无效，下载失败：请校准系统时间（timedatectl set-ntp true）",
            "With a wrong clock certificates look invalid and downloads fail: timedatectl set-ntp true",
        )


def gpus() -> Iterator[Row]:
    """Check the GPUs, their driver and their compute capability against what the locked vLLM needs."""
    seen, visible = look(), given()
    if not seen.gpus:
        zh, en = seen.trouble or "nvidia-smi 没有列出任何 GPU", seen.trouble or "nvidia-smi lists no GPU"
        todo = tr("请运行 nvidia-smi 检查驱动", "Run nvidia-smi to check the driver")
        zh_cpu, en_cpu = "没有 GPU 时设置 PROFILE=cpu", "without a GPU set PROFILE=cpu"
        yield Row("gpu", "fail", zh, en, f"{seen.todo or todo}；{zh_cpu}", f"{seen.todo or todo}; {en_cpu}")
        return
    wanted = os.environ["GPU"].split(",") if os.environ["GPU"] != "auto" else visible
    used = [one for one in seen.gpus if wanted is None or any(is_named(one, name) for name in wanted)]
    problems = {one: unusable(one, server_pids()) for one in used}
    able = [one for one in used if not problems[one]]
    names = ", ".join(f"{one.index} {one.name}" for one in used)
    if not used:
        there, wished = " ".join(one.index for one in seen.gpus), ",".join(wanted or [])
        zh, en = f"{wished} 不在 nvidia-smi 列出的 GPU 中：{there}", f"nvidia-smi lists no {wished}, only: {there}"
        todo_zh, todo_en = "请在 .env 中把 GPU 改为其中之一，或设为 auto", "Set GPU in .env to one of these, or to auto"
        yield Row("gpu", "fail", zh, en, todo_zh, todo_en)
        return
    lost = seen.trouble and f"; {seen.trouble}"
    yield Row("gpu", "warn" if lost else "ok", names + lost, names + lost, seen.todo, seen.todo)
    for one, why in problems.items():
        if why and (not able or os.environ["GPU"] != "auto"):
            state: State = "fail"
        elif why:
            state = "warn"
        else:
            continue
        zh, en = "换一张 GPU（GPU=编号）或 PROFILE=cpu", "Another GPU (GPU=INDEX) or PROFILE=cpu"
        yield Row("usable", state, f"GPU {one.index}：{why}", f"GPU {one.index}: {why}", zh, en)
    if visible is not None and os.environ["GPU"] == "auto":
        text = f"CUDA_VISIBLE_DEVICES={os.environ['CUDA_VISIBLE_DEVICES']}"
        yield Row("given", "ok", f"{text}：只使用这些 GPU", f"{text}: only these GPUs are used")
    version = next((one.driver for one in seen.gpus if one.driver), "")
    major = int(version.split(".")[0]) if version.split(".")[0].isdigit() else 0
    compatible = os.environ.get("VLLM_ENABLE_CUDA_COMPATIBILITY") == "1"
    older = "0.19.x" if major >= 525 else "-"
    if version:
        yield Row(
            "driver",
            "ok" if major >= DRIVER else "warn" if compatible or not major else "fail",
            f"驱动 {version}（vLLM 0.32 基于 CUDA 13，需要 580 以上）",
            f"{version} (vLLM 0.32 is built for CUDA 13 and needs 580 or newer)",
            f"请升级驱动；数据中心级 GPU 可安装 cuda-compat 并 export VLLM_ENABLE_CUDA_COMPATIBILITY=1；"
            f"不升级时可用的旧版 vLLM：{older}",
            "Update the driver; a data-centre GPU can use cuda-compat with VLLM_ENABLE_CUDA_COMPATIBILITY=1; the "
            f"older vLLM that this driver runs: {older}",
        )
    if numbers := [one.capability for one in able if one.capability]:
        least = min(numbers) if os.environ["GPU"] != "auto" else max(numbers)
        yield Row(
            "capability",
            "ok" if least >= 8 else "warn",
            f"计算能力 {least}（需要 {LEAST} 以上；bfloat16 需要 8.0）",
            f"{least} ({LEAST} is needed, 8.0 for bfloat16)",
            "低于 8.0：vLLM 会改用 float16；设置 VLLM_EXTRA_ARGS='--dtype half' 可去掉日志中的提示",
            "Below 8.0 vLLM uses float16 instead; with VLLM_EXTRA_ARGS='--dtype half' it does not warn about that",
        )


def server() -> Iterator[Row]:
    """Check the port, processes of a crashed server, and whether the model fits into the free memory."""
    own, port, owner, other = (os.environ.get(key, "") for key in ("SERVER_PIDS", "PORT", "PORT_OWNER", "NEXT_PORT"))
    if os.environ.get("LEFTOVERS"):
        yield Row(
            "leftovers",
            "warn",
            f"上次崩溃留下的进程：{own}",
            f"processes of a crashed server: {own}",
            "./inv stop 会结束它们（tmux-start 启动前也会清理）",
            "./inv stop ends them (tmux-start does so too before it starts)",
        )
    elif own:
        yield Row("port", "ok", f"{port} 正由本服务使用", f"{port} is used by this server, which is running")
    elif owner:
        yield Row(
            "port",
            "fail",
            f"{port} 已被占用：{owner}",
            f"{port} is taken by {owner}",
            f"请在 .env 中换一个端口，如 PORT={other}；不要停掉别人的程序",
            f"Choose another port in .env, such as PORT={other}; do not stop the other program",
        )
    else:
        yield Row("port", "ok", f"{port} 空闲", f"{port} is free")
    record, _ = make_plan()
    # A running server has its memory, but in a container nvidia-smi may not show which process uses it.
    states: dict[bool | None, State] = {True: "ok", False: "warn" if own else "fail"}
    states[None] = "warn"
    if record["profile"] == "cpu" or look().gpus:
        yield Row(
            "memory",
            states[record["fits"]],
            record["reason"],
            record["reason"],
            "详情见 ./inv plan",
            "Details: ./inv plan",
        )


def main() -> int:
    """Print the table. Return the exit code."""
    asked = network()
    next(asked)
    of_gpus = gpus() if os.environ["PROFILE"] == "gpu" else []
    rows = [*system(), *inherited(), *not_ours(), *disks(), *of_gpus, *server(), *filter(None, asked)]
    end_with_the_reader()
    return show(rows)


if __name__ == "__main__":
    run(main)
