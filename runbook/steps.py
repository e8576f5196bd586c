"""The task runner: a step is checked, run and checked again; deploy runs all the steps in order."""

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import invoke
from invoke import Context
from invoke.exceptions import Exit
from invoke.parser.parser import ParseMachine

from runbook import ROOT
from runbook.messages import Fault, inv, language, near, tr
from runbook.settings import Settings, load, rules

# In the order of deploy. False: the step only checks, shows or asks, and runs every time.
STEPS = {
    "preflight": False,
    "mkdirs": True,
    "venv": True,
    "install": True,
    "download": True,
    "port-check": False,
    "tmux-start": True,
    "curl-test": False,
    "ragflow-notes": False,
}


_preview = False


def preview(dry: bool) -> None:
    """Set whether the task is a preview. dry: Invoke's run.dry (-R or --dry before the task, INVOKE_RUN_DRY)."""
    global _preview
    _preview = dry or bool(os.environ.get("RUNBOOK_DRY"))


def dry_wanted() -> bool:
    """Return whether this task is a preview, by Invoke's configuration or RUNBOOK_DRY; deploy also has its own flag."""
    return _preview


class Task(invoke.Task[Any]):
    """A task that is a preview if Invoke runs dry: -R, --dry before the task, INVOKE_RUN_DRY, invoke.yaml."""

    def __call__(self, c: Context, *args: Any, **flags: Any) -> Any:
        preview(c.config.run.dry)
        try:
            done = super().__call__(c, *args, **flags)
        except Fault as fault:
            raise Exit(str(fault), code=1) from None
        if dry_wanted() and self.name != "deploy":  # deploy prints it itself
            print(unchanged(), file=sys.stderr)  # a program may read the standard output
        return done


task = partial(invoke.task, klass=Task)


def _end_of_task(machine: ParseMachine, end: Callable[[ParseMachine], None] = ParseMachine.complete_context) -> None:
    """Give a positional argument that may be left out an empty value: to Invoke every one is required."""
    wants_help = machine.initial and machine.initial.flags["--help"].value
    for argument in machine.context.missing_positional_args if machine.context else ():
        if argument.optional or wants_help:
            argument.value = ""
    end(machine)


def _positional(machine: ParseMachine, word: str, take: Callable[..., None] = ParseMachine.see_positional_arg) -> None:
    """Let `inv TASK --help` and `inv TASK --dry` be Invoke's own options, not the value of a positional argument."""
    if word in ("-h", "--help"):
        machine.initial.flags["--help"].value = machine.context.name
    elif word in machine.initial.flags:
        machine.switch_to_flag(word)
    else:
        take(machine, word)


ParseMachine.complete_context = _end_of_task  # type: ignore[method-assign, assignment]
ParseMachine.see_positional_arg = _positional  # type: ignore[method-assign, assignment]


class Interrupted(Exit):
    """Ctrl-C, with the shell's exit code for it, 130."""

    def __init__(self, again: str) -> None:
        super().__init__(str(Fault("E98", again=again)), code=130)


def purpose(name: str) -> str:
    """Return the purpose of a step: line 2 or 3 of its script, by the reader's language."""
    lines = (ROOT / "scripts" / f"{name}.sh").read_text("utf-8").splitlines()
    return tr(lines[2], lines[1]).removeprefix("# ")


def environ(name: str, settings: Settings | None, dry: bool) -> dict[str, str]:
    """Return the environment of a script. dry: several steps are previewed, see `planned` in commands.sh."""
    env = os.environ | (settings or {})
    if settings and not Path(settings["ENV_FILE"]).is_file():  # the scripts use the same default
        del env["ENV_FILE"]
    return env | {
        "RUNBOOK_TASK": name,
        "RUNBOOK_GIVEN": os.environ.get("RUNBOOK_GIVEN", " ".join(key for key in rules() if key in os.environ)),
        "RUNBOOK_DRY": "1" if dry else "alone" if dry_wanted() else "",
        "RUNBOOK_BIN": str(Path(sys.executable).parent),
    }


def run_script(
    name: str, *args: str, settings: Settings | None = None, dry: bool = False, again: str = "", patience: float = 0
) -> None:
    """Run scripts/NAME.sh directly on the terminal, with the settings in its environment.

    patience: seconds that the script may need after Ctrl-C to end its own processes.
    Raises Exit if it fails (the script itself has reported why) and Interrupted at Ctrl-C.
    """
    import sh

    sys.stdout.flush()
    env = environ(name, settings, dry)
    again = again or inv(name)
    try:
        sh.bash(str(ROOT / "scripts" / f"{name}.sh"), *args, _env=env, _fg=True)
    except sh.ErrorReturnCode as error:
        raise (Interrupted(again) if error.exit_code in (130, -signal.SIGINT) else Exit(code=1)) from None
    except KeyboardInterrupt:
        _end_children(patience)
        raise Interrupted(again) from None


def _end_children(patience: float) -> None:
    """After Ctrl-C: wait for the script, then for its processes, and end those that remain. patience: seconds."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ignore a second Ctrl-C, which the terminal sends to the script
    import psutil

    if patience:
        scripts = psutil.Process().children()
        if not _in_foreground():
            for child in scripts:
                child.send_signal(signal.SIGINT)
        psutil.wait_procs(scripts, timeout=patience)
    _, alive = psutil.wait_procs(psutil.Process().children(recursive=True), timeout=3)
    for number in (signal.SIGINT, signal.SIGTERM):
        for child in alive:
            child.send_signal(number)
        _, alive = psutil.wait_procs(alive, timeout=10)


def _in_foreground() -> bool:
    """Return whether Ctrl-C in the terminal reaches this process group, and so the script as well."""
    try:
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except (OSError, ValueError):  # no terminal
        return False


def settings_with_key() -> Settings:
    """Return the settings; at the first use, create the settings file with an API key in it."""
    settings = load()
    if not Path(settings["ENV_FILE"]).is_file() or not settings["API_KEY"]:
        run_script("support/env-file", settings=settings)
        settings = load()
    return settings


def already_done(name: str, settings: Settings) -> str | None:
    """Return what `scripts/NAME.sh --check` has found, or None if the step is not done."""
    import sh

    env = {**environ(name, settings, dry=False), "RUNBOOK_LANG": language()}
    try:
        found = sh.bash(ROOT / "scripts" / f"{name}.sh", "--check", _env=env, _tty_out=False)
    except sh.ErrorReturnCode:
        return None
    return str(found).strip()


def run_step(name: str, *args: str, place: str = "", again: str = "") -> None:
    """Run a step and check the result, or report that it is already done; with args, always run it. Raises Exit."""
    again = again or inv(" ".join((name, *args)))
    settings, began = settings_with_key(), time.monotonic()

    def line(mark: str, words: str) -> str:
        return f"{place}{name:<14}{mark} {time.monotonic() - began:5.1f} s  {words}".rstrip()

    def check() -> str | None:
        return already_done(name, settings) if STEPS[name] and not dry_wanted() else ""

    try:
        if not args and (found := check()):
            print(line("✓", tr("已完成：", "already done: ") + found))
            return
        print(f"{place}{name} · {purpose(name)}")
        begin = log_position(settings)
        try:
            run_script(name, *args, settings=settings, again=again)
            if (found := check()) is None:
                raise Fault("E23", step=name)
        except Interrupted:
            raise
        except (Exit, Fault) as error:
            if name in ("install", "download", "tmux-start", "curl-test") and not dry_wanted():
                with suppress(Exit):  # the new lines of the log, and the disk, may show why
                    run_script("doctor", "--from", begin, settings=settings)
            words = tr(f"解决后再运行 {again}", f"Fix this, then run {again} again")
            words += tr("，会从这里继续", "; it continues from this step") if place else ""
            raise Exit("\n".join(filter(None, [str(error), line("✗", words)])), code=1) from None
    except KeyboardInterrupt:
        raise Interrupted(again) from None
    if not dry_wanted():
        print(line("✓", found))


def log_position(settings: Settings) -> str:
    """Return the current end of the server's log, as logs.sh prints it."""
    import sh

    path = str(ROOT / "scripts" / "logs.sh")
    return str(sh.bash(path, "--position", _env=environ("logs", settings, dry=False), _tty_out=False)).strip()


def opening(settings: Settings) -> None:
    """Print the server that deploy starts, and the settings from the environment."""
    given = " ".join(key for key in rules() if key in os.environ)
    print("{SERVED_MODEL_NAME} · {PROFILE} · {HOST}:{PORT} · {ENV_FILE}".format_map(settings))
    if given:
        print(tr(f"来自环境变量：{given}", f"from the environment: {given}"))


def unchanged() -> str:
    """Return the last line of a preview."""
    return tr("以上只是预览：什么都没有改变。", "This was a preview: nothing has been changed.")


def closing(dry: bool, last: str | None, began: float) -> None:
    """Print the last line of deploy. began: time.monotonic() at its start."""
    took = time.monotonic() - began
    if dry:
        print(unchanged())
    elif last is None:
        print(
            tr(
                f"部署完成（{took:.0f} 秒）。停止：{inv('stop')}",
                f"Deployed in {took:.0f} s. To stop it: {inv('stop')}",
            )
        )


def chosen(first: str | None, last: str | None) -> list[str]:
    """Return the steps from first to last, both included. Raises Fault E17."""
    names = list(STEPS)
    for name in (first, last):
        if name and name not in STEPS:
            raise Fault("E17", step=name + near(name, names), steps=" ".join(names))
    picked = names[names.index(first or names[0]) : names.index(last or names[-1]) + 1]
    if not picked:
        raise Fault("E17", step=f"--from {first} --to {last}", steps=" ".join(names))
    return picked


def nothing_more(dry: bool) -> None:
    """Deploy no further server."""


def deploy(dry: bool, first: str | None, last: str | None, more: Callable[[bool], None] = nothing_more) -> None:
    """Run every step in order; those that are done are only reported. Raises Exit at the first failure.

    more(dry): deploys further servers, see members.py.
    """
    dry = dry or dry_wanted()
    names, settings, began = chosen(first, last), load(), time.monotonic()
    opening(settings)
    for name in names:
        place = f"[{list(STEPS).index(name) + 1}/{len(STEPS)}] "
        if not dry:
            run_step(name, place=place, again=inv("deploy"))
            continue
        print(f"{place}{name} · {purpose(name)}")
        try:
            run_script(name, settings=settings, dry=True)
        except Exit as error:  # the failure is reported; show the other steps too
            if isinstance(error, Interrupted):
                raise
    more(dry)
    closing(dry, last, began)


def flags(**given: bool | int | str) -> list[str]:
    """Return the options of a task for its script: --name for True, --name VALUE for a value."""
    pairs = ((f"--{name.replace('_', '-')}", value) for name, value in given.items() if value)
    return [word for name, value in pairs for word in ([name] if value is True else [name, str(value)])]


def run_until_ctrl_c(name: str, *args: str, patience: float = 0) -> None:
    """Run a script that Ctrl-C ends in order, see run_script. Raises Exit."""
    try:
        run_script(name, *args, settings=load(), patience=patience)
    except Interrupted:
        print(tr("已结束。", "Ended."))
