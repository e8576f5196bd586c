"""The servers of a deployment for retrieval, `./inv deploy --rag`: chat, embedding, and a reranker if there is one.

The chat server has the settings file of the user. Each other one has a settings file beside it, which follows it.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from invoke.exceptions import Exit

from runbook.messages import inv, tr
from runbook.settings import Settings, load, rules
from runbook.steps import dry_wanted, run_script, run_step

KINDS = ("embed", "rerank")
STEPS = ("download", "port-check", "tmux-start", "curl-test")  # what a further server needs besides the chat server


def file_of(env_file: Path, kind: str) -> Path:
    """Return the settings file of a member: .env → rag-embed.env, x.env → x-embed.env."""
    return env_file.with_name(f"{env_file.name.removesuffix('.env') or 'rag'}-{kind}.env")


def existing(settings: Settings) -> list[Path]:
    """Return the settings files of the members that were deployed besides the chat server."""
    files = (file_of(Path(settings["ENV_FILE"]), kind) for kind in KINDS)
    return [file for file in files if file.is_file()]


@contextmanager
def environment(file: Path) -> Iterator[None]:
    """Use a member's settings file in this process. It contains the settings of the environment already."""
    before = dict(os.environ)
    for key in rules():
        if key != "RUNBOOK_LANG":
            os.environ.pop(key, None)
    os.environ["ENV_FILE"] = str(file)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def write_files(dry: bool = False) -> Iterator[tuple[str, Path]]:
    """Write the settings files of the members besides the chat server; yield (kind, file) of each. Raises Exit."""
    settings = load()
    for kind in ("embed", *(["rerank"] if settings["RERANK_MODEL_ID"] else [])):
        file = file_of(Path(settings["ENV_FILE"]), kind)
        print(f"{file.name}")
        run_script("support/member-file", kind, str(file), settings=settings, dry=dry, again=inv("deploy --rag"))
        yield kind, file


def prepare(dry: bool) -> None:
    """Write the settings files before the chat server starts: its plan keeps room for the others. Raises Exit."""
    if not (dry or dry_wanted()):
        list(write_files())


def deploy(dry: bool) -> None:
    """Deploy the members besides the chat server, which is deployed. Raises Exit at the first failure."""
    for kind, file in write_files(dry):
        if dry and not file.is_file():
            steps = " ".join(STEPS)
            print(tr(f"    然后以这个设置文件执行：{steps}", f"    then, with this settings file: {steps}"))
            continue
        with environment(file):
            for name in STEPS:
                if dry:
                    run_script(name, settings=load(), dry=True)
                else:
                    run_step(name, place=f"[{kind}] ", again=inv("deploy --rag"))


def run(all_of_them: bool, act: Callable[[], None], backwards: bool = False) -> None:
    """Run a task for the server of the settings, or for every server of the deployment. Raises Exit.

    All of them run even if one fails; the first failure is raised at the end. backwards: the last one first.
    """
    settings = load()
    others = existing(settings) if all_of_them else []
    if not others:
        act()
        return
    failed: Exit | None = None
    places = [Path(settings["ENV_FILE"]), *others]
    for file in places[::-1] if backwards else places:
        print(f"{file.name}:", flush=True)
        try:
            with environment(file) if file in others else nullcontext():
                act()
        except Exit as error:
            if error.code == 130:
                raise
            if error.message:
                print(error.message)
            failed = failed or error
    if failed:
        raise Exit(code=failed.code)
