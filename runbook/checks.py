"""For every step: is it done already? The answer says what was found, or is None. Reads only."""

import hashlib
import os
import sys
from collections.abc import Callable

import sh

from runbook import ROOT, server
from runbook.faults import lang, tr
from runbook.settings import Settings

Check = Callable[[Settings], str | None]


def mkdirs(settings: Settings) -> str | None:
    """The folders are there and can be written."""
    base = settings.base_dir
    folders = [base / "models", settings.modelscope_cache, settings.log_dir, base / "run"]
    return str(base) if all(folder.is_dir() and os.access(folder, os.W_OK) for folder in folders) else None


def venv(settings: Settings) -> str | None:
    """The environment's own Python runs, is one that vLLM supports, and has pip."""
    code = "import pip, sys; v = sys.version_info; print('Python %d.%d.%d' % v[:3] if (3, 11) <= v < (3, 15) else '')"
    try:
        found = str(sh.Command(str(settings.venv_dir / "bin" / "python"))("-c", code)).strip()
    except (sh.CommandNotFound, sh.ErrorReturnCode):
        return None
    return f"{settings.venv_dir}, {found}" if found else None


def install(settings: Settings) -> str | None:
    """What was installed last, and whole, is what is locked today."""
    stamp = settings.venv_dir / ".runbook-lock"
    locks = ["cuda.txt"] if settings.profile == "gpu" else ["cpu-torch.txt", "cpu.txt"]
    wanted = hashlib.sha256(b"".join((ROOT / "requirements" / lock).read_bytes() for lock in locks)).hexdigest()
    if (
        not stamp.is_file()
        or stamp.read_text().split()[:1] != [wanted]
        or not (settings.venv_dir / "bin/vllm").exists()
    ):
        return None
    return tr("与锁定文件一致：", "as locked: ") + " ".join(locks)


def download(settings: Settings) -> str | None:
    """The model folder is whole, by the manifest of its download, else by its config, index and safetensors headers."""
    program = ROOT / "scripts" / "lib" / "model_folder.py"
    check = sh.Command(sys.executable).bake(program, "check", _env={**os.environ, "RUNBOOK_LANG": lang()})
    try:
        found = check(settings.model_dir, settings.model_id, settings.model_revision)
        return f"{settings.model_dir}, {str(found).strip()}"
    except (sh.ErrorReturnCode_1, sh.ErrorReturnCode_3):
        return None


def tmux_start(settings: Settings) -> str | None:
    """This very server is ready, in tmux, with the settings of now."""
    ready = server.in_tmux(settings) and not server.changed(settings) and server.state(settings) == "ready"
    return f"{server.base_url(settings)}/v1" if ready else None


# In the order of deploy. None: the step only looks, tells or asks, and runs every time.
STEPS: dict[str, Check | None] = {
    "preflight": None,
    "mkdirs": mkdirs,
    "venv": venv,
    "install": install,
    "download": download,
    "port-check": None,
    "tmux-start": tmux_start,
    "curl-test": None,
    "ragflow-notes": None,
}
