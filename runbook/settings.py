"""The settings: environment, then ENV_FILE (.env), then .env.example, as one frozen record.

scripts/lib/settings.sh does the same in the shell. A line that the two could read differently is refused by both.
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

from dotenv.parser import parse_stream

from runbook import ROOT
from runbook.faults import Fault, speak, tr

EXAMPLE = ROOT / ".env.example"
GPU_MODEL = "Qwen/Qwen3-4B-Instruct-2507"
DEMO_NAME = "SmolLM2-135M-Instruct"

_ASSIGNMENT = re.compile(r"\s*(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_]*)[ \t]*=")
_REFERENCE = re.compile(r"\$\{([^}:]*)(?::-([^}]*))?\}")
# Control characters and the spaces beyond ASCII, the full-width one among them.
_UNUSUAL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]")


@dataclass(frozen=True)
class Settings:
    """Every setting with its type; `auto` for profile, model and names is resolved already."""

    base_dir: Path
    profile: str
    model_id: str
    model_revision: str
    model_dir: Path
    served_model_name: str
    modelscope_cache: Path
    modelscope_endpoint: str
    modelscope_api_token: str
    log_dir: Path
    venv_dir: Path
    pip_index_url: str
    torch_find_links: str
    host: str
    port: int
    api_key: str
    gpu: str
    gpu_memory_utilization: str
    max_model_len: str
    trust_remote_code: bool
    vllm_extra_args: str
    tmux_session: str
    ragflow_url: str
    ragflow_api_key: str
    runbook_lang: str
    env_file: Path

    def env(self) -> dict[str, str]:
        """What a script gets: every setting as text under its own name."""
        text = {key.upper(): str(value) for key, value in asdict(self).items()}
        text["TRUST_REMOTE_CODE"] = text["TRUST_REMOTE_CODE"].lower()
        if not self.env_file.is_file():  # not made yet: the scripts use the default as well
            del text["ENV_FILE"]
        return text


@cache
def rules() -> dict[str, tuple[str, str, str]]:
    """Every key's (pattern, allowed values in Chinese, in English), from the file that the shell reads too."""
    found = {}
    for line in (ROOT / "scripts" / "lib" / "settings.rules").read_text("utf-8").splitlines():
        if line and not line.startswith("#"):
            key, pattern, words = line.split(maxsplit=2)
            zh, en = words.split(" | ")
            found[key] = (pattern.replace("[:space:]", r"\s"), zh, en)
    return found


def read_file(path: Path) -> dict[str, str]:
    """KEY → value as written, before ${NAME} is filled in. Raises Fault E01 or E02."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Fault("E01", file=path, line=error.object[: error.start].count(b"\n") + 1) from None
    values: dict[str, str] = {}
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        if not line.strip(" \t\v\f\r") or line.lstrip(" \t\v\f\r").startswith("#"):
            continue
        named = _ASSIGNMENT.match(line)
        if not named or _UNUSUAL.search(line):
            raise Fault("E01", file=path, line=number)
        if named[1] not in rules():
            raise Fault("E02", key=named[1], file=path, allowed=" ".join(rules()))
        value = next(parse_stream(StringIO(line))).value
        if value is None or any(ord(char) < 32 for char in value):
            raise Fault("E01", file=path, line=number)
        values[named[1]] = value
        if named[1] == "RUNBOOK_LANG":  # what is wrong further down is told in it already
            speak(value)
    return values


def _fill(key: str, raw: Mapping[str, str], environ: Mapping[str, str], busy: tuple[str, ...] = ()) -> str:
    """The value of a key with ${NAME} and ${NAME:-default} filled in. Raises Fault E20."""
    if environ.get(key) or (key in environ and key != "API_KEY"):  # an empty key must not hide the one in the file
        return environ[key]
    if key in busy:
        raise Fault("E20", key=key, name=key)

    def referred(match: re.Match[str]) -> str:
        name, default = match[1], match[2]
        if name in rules():
            return _fill(name, raw, environ, (*busy, key))
        if name in environ:
            return environ[name]
        if default is None:
            raise Fault("E20", key=key, name=name)
        return default

    return _REFERENCE.sub(referred, raw.get(key, ""))


def raw_settings(environ: Mapping[str, str]) -> tuple[dict[str, str], Path]:
    """Every setting as text, checked, with `auto` still in it; and the env file. Raises Fault."""
    named = environ.get("ENV_FILE")
    env_file = Path(os.path.abspath(named)) if named else ROOT / ".env"
    if named and not env_file.is_file():
        raise Fault("E18", file=named)
    raw = read_file(EXAMPLE) | (read_file(env_file) if env_file.is_file() else {})
    values = {}
    for key, (pattern, zh, en) in rules().items():
        value = _fill(key, raw, environ)
        if not re.fullmatch(pattern, value, re.ASCII) or any(ord(char) < 32 or ord(char) == 127 for char in value):
            shown = "***" if key.endswith(("API_KEY", "TOKEN")) else value or "''"
            raise Fault("E03", key=key, value=shown, allowed=tr(zh, en))
        # One spelling for one folder: the server's processes are known by it.
        values[key] = "/" + os.path.normpath(value).lstrip("/") if value.startswith("/") and "/.+" in pattern else value
    if values["VENV_DIR"] == str(ROOT / ".venv"):  # that is the tasks' own environment
        raise Fault("E03", key="VENV_DIR", value=values["VENV_DIR"], allowed=tr(*rules()["VENV_DIR"][1:]))
    return values, env_file


def has_card() -> bool:
    """Whether nvidia-smi lists a card. Facts about cards come from there and from nowhere else."""
    import sh

    try:
        return any(line.startswith("GPU ") for line in str(sh.Command("nvidia-smi")("-L")).splitlines())
    except (sh.CommandNotFound, sh.ErrorReturnCode):
        return False


def load(environ: Mapping[str, str] | None = None) -> Settings:
    """The settings of now, with the profile, the model, its folder and its name resolved. Raises Fault."""
    values, env_file = raw_settings(os.environ if environ is None else environ)
    profile = values["PROFILE"]
    if profile == "auto":
        profile = "gpu" if has_card() else "cpu"
    model_id = values["MODEL_ID"]
    if model_id == "auto":
        model_id = GPU_MODEL if profile == "gpu" else "demo"
    name = DEMO_NAME if model_id == "demo" else model_id.split("/")[-1]
    if values["MODEL_ID"] == "auto" and values["MODEL_DIR"]:  # the folder was chosen, not the model
        name = os.path.basename(values["MODEL_DIR"].rstrip("/")) or name
    text = {key.lower(): value for key, value in values.items()} | {
        "profile": profile,
        "model_id": model_id,
        "model_dir": values["MODEL_DIR"] or f"{values['BASE_DIR']}/models/{name}",
        "served_model_name": values["SERVED_MODEL_NAME"] or name,
        "env_file": str(env_file),
    }
    typed: dict[Any, Callable[[str], Any]] = {Path: Path, int: int, bool: "true".__eq__, str: str}
    return Settings(**{field.name: typed[field.type](text[field.name]) for field in fields(Settings)})
