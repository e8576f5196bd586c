"""How a step runs: is it done already, do it, prove it. And deploy, which is all of them in order."""

import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

from invoke.exceptions import Exit

from runbook import ROOT
from runbook.checks import STEPS
from runbook.faults import Fault, inv, near, tr
from runbook.settings import Settings, load, rules


def dry_wanted() -> bool:
    """Whether --dry was said anywhere: before a task it is Invoke's own, and must not do the real thing either."""
    return bool({"--dry", "-R"} & set(sys.argv[1:]))


class Interrupted(Exit):
    """Ctrl-C, with the shell's own exit code for it."""

    def __init__(self, again: str) -> None:
        super().__init__(Fault("E98", again=again).message, code=130)


def purpose(name: str) -> str:
    """What the step is for: the first comment lines of its script, in the reader's language."""
    lines = (ROOT / "scripts" / f"{name}.sh").read_text("utf-8").splitlines()
    return tr(lines[2], lines[1]).removeprefix("# ")


def environ(name: str, settings: Settings | None, dry: bool) -> dict[str, str]:
    """What a script finds in its environment."""
    env = os.environ | (settings.env() if settings else {})
    return env | {
        "RUNBOOK_TASK": name,
        "RUNBOOK_DRY": "1" if dry else "",
        "RUNBOOK_BIN": str(Path(sys.executable).parent),
    }


def script(name: str, *args: str, settings: Settings | None = None, dry: bool = False, again: str = "") -> None:
    """Run scripts/NAME.sh on the terminal as it is, with the settings in its environment.

    Raises Exit when it fails (the script itself has said what is wrong) and Interrupted at Ctrl-C.
    """
    import sh

    sys.stdout.flush()
    env = environ(name, settings, dry or dry_wanted())
    again = again or inv(name)
    try:
        sh.bash(str(ROOT / "scripts" / f"{name}.sh"), *args, _env=env, _fg=True)
    except sh.ErrorReturnCode as error:
        raise (Interrupted(again) if error.exit_code in (130, -signal.SIGINT) else Exit(code=1)) from None
    except KeyboardInterrupt:
        _end_children()
        raise Interrupted(again) from None


def _end_children() -> None:
    """After Ctrl-C: what did not get the signal from the terminal gets it from us."""
    import psutil

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # once is enough
    _, alive = psutil.wait_procs(psutil.Process().children(recursive=True), timeout=3)
    for number in (signal.SIGINT, signal.SIGTERM):
        for child in alive:
            child.send_signal(number)
        _, alive = psutil.wait_procs(alive, timeout=10)


def settle() -> Settings:
    """The settings; at the first use the env file is made, and a key in it."""
    settings = load()
    if not settings.env_file.is_file() or not settings.api_key:
        script("lib/env-file", settings=settings)
        settings = load()
    return settings


def run(name: str, *args: str, place: str = "", again: str = "") -> None:
    """One step: say that it is done already, or do it and prove it; with args for its script, do it. Raises Exit."""
    again = again or inv(" ".join((name, *args)))
    try:
        _run(name, *args, place=place, again=again)
    except KeyboardInterrupt:
        raise Interrupted(again) from None


def _run(name: str, *args: str, place: str, again: str) -> None:
    settings, check, began = settle(), None if dry_wanted() else STEPS[name], time.monotonic()

    def line(mark: str, words: str) -> str:
        return f"{place}{name:<14}{mark} {time.monotonic() - began:5.1f} s  {words}".rstrip()

    if check and not args and (found := check(settings)):
        print(line("✓", tr("已完成：", "already done: ") + found))
        return
    print(f"{place}{name} · {purpose(name)}")
    log = settings.log_dir / "vllm.log"
    begin = log.stat().st_size if log.is_file() else 0
    try:
        script(name, *args, settings=settings, again=again)
        found = check(settings) if check else ""
        if found is None:
            raise Fault("E23", step=name)
    except Interrupted:
        raise
    except Exit as error:
        if name in ("install", "download", "tmux-start"):  # what the log has gained, and the disk, may say why
            with suppress(Exit):
                script("doctor", "--from", str(begin), settings=settings)
        words = tr(f"解决后再运行 {again}", f"mend it and run {again}")
        words += tr("，会从这里继续", ": it goes on from here") if place else ""
        raise Exit("\n".join(filter(None, [error.message, line("✗", words)])), code=1) from None
    print(line("✓", found))


def opening(settings: Settings) -> None:
    """What deploy says first: for which server, and what the environment has said."""
    given = " ".join(key for key in rules() if key in os.environ)
    print(f"{settings.served_model_name} · {settings.profile} · {settings.host}:{settings.port} · {settings.env_file}")
    if given:
        print(tr(f"来自环境变量：{given}", f"from the environment: {given}"))


def closing(dry: bool, last: str | None, began: float) -> None:
    """What deploy says last."""
    took = time.monotonic() - began
    if dry:
        print(tr("以上只是预览：什么都没有改变。", "That was the plan: nothing has been changed."))
    elif last is None:
        print(
            tr(
                f"部署完成（{took:.0f} 秒）。停止：{inv('stop')}",
                f"Deployed in {took:.0f} s. To stop it: {inv('stop')}",
            )
        )


def chosen(first: str | None, last: str | None) -> list[str]:
    """The steps from first to last, both included. Raises Fault E17."""
    names = list(STEPS)
    for name in (first, last):
        if name and name not in STEPS:
            raise Fault("E17", step=name + near(name, names), steps=" ".join(names))
    picked = names[names.index(first or names[0]) : names.index(last or names[-1]) + 1]
    if not picked:
        raise Fault("E17", step=f"--from {first} --to {last}", steps=" ".join(names))
    return picked


def deploy(dry: bool, first: str | None, last: str | None) -> None:
    """Every step in order; those that are done only say so. Raises Exit at the first that fails."""
    dry = dry or dry_wanted()
    names, settings, began = chosen(first, last), load(), time.monotonic()
    opening(settings)
    for name in names:
        place = f"[{list(STEPS).index(name) + 1}/{len(STEPS)}] "
        if not dry:
            run(name, place=place, again=inv("deploy"))
            continue
        print(f"{place}{name} · {purpose(name)}")
        try:
            script(name, settings=settings, dry=True)
        except Exit as error:  # what would fail is told; the rest is still shown
            if isinstance(error, Interrupted):
                raise
    closing(dry, last, began)


def flags(**given: bool | int | str) -> list[str]:
    """A task's words as its script reads them: --name where it is True, --name VALUE where it has one."""
    pairs = ((f"--{name.replace('_', '-')}", value) for name, value in given.items() if value)
    return [word for name, value in pairs for word in ([name] if value is True else [name, str(value)])]


def foreground(name: str, *args: str) -> None:
    """A script that is no step of deploy; Ctrl-C is the way to end it. Raises Exit."""
    try:
        script(name, *args, settings=load())
    except Interrupted:
        print(tr("已结束。", "Ended."))


def tool(name: str, *args: str) -> None:
    """A script that is no step of deploy and comes to an end by itself; its words go with it. Raises Exit."""
    script(name, *args, settings=load())
