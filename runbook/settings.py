"""The settings: environment, then ENV_FILE (.env), then .env.example.

scripts/lib/settings.sh does the same in the shell. Both refuse a line that they could read differently.
"""

import os
import re
from collections.abc import Mapping
from functools import cache
from io import StringIO
from pathlib import Path
from types import MappingProxyType

from dotenv.parser import parse_stream

from runbook import ROOT
from runbook.machine.gpus import profile
from runbook.messages import Fault, set_language, tr

Settings = Mapping[str, str]  # every key as text, and ENV_FILE, the settings file, which may not exist yet
EXAMPLE = ROOT / ".env.example"
GPU_MODEL = "Qwen/Qwen3-4B-Instruct-2507"
# The embedded models, which the package index carries.
EMBEDDED = {"demo": "SmolLM2-135M-Instruct", "demo-embedding": "all-MiniLM-L6-v2"}

_ASSIGNMENT = re.compile(r"\s*(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_]*)[ \t]*=")
_REFERENCE = re.compile(r"\$\{([^}:]*)(?::-([^}]*))?\}")
# Control characters and the spaces beyond ASCII, the full-width one among them.
_UNUSUAL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]")


@cache
def rules() -> dict[str, tuple[str, str, str]]:
    """Return every key's (pattern, allowed values in Chinese, in English), from the file that the shell reads too."""
    found = {}
    for line in (ROOT / "runbook" / "settings.rules").read_text("utf-8").splitlines():
        if line and not line.startswith("#"):
            key, pattern, words = line.split(maxsplit=2)
            zh, en = words.split(" | ")
            found[key] = (pattern.replace("[:space:]", r"\s"), zh, en)
    return found


def read_file(path: Path) -> dict[str, str]:
    """Return KEY → value as written, before ${NAME} is expanded. Raises Fault E01 or E02."""
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
        if named[1] == "RUNBOOK_LANG":  # an error further down is reported in this language
            set_language(value)
    return values


def _fill(key: str, raw: Mapping[str, str], environ: Mapping[str, str], busy: tuple[str, ...] = ()) -> str:
    """Return the value of a key with ${NAME} and ${NAME:-default} expanded. Raises Fault E20."""
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
    """Return every setting as text, checked, `auto` not resolved, and the settings file. Raises Fault."""
    named = environ.get("ENV_FILE")
    env_file = Path(os.path.abspath(named)) if named else ROOT / ".env"
    if named and not env_file.is_file():
        raise Fault("E18", file=named)
    raw = read_file(EXAMPLE) | (read_file(env_file) if env_file.is_file() else {})
    values = {}
    for key, (pattern, zh, en) in rules().items():
        value = _fill(key, raw, environ)
        if not re.fullmatch(pattern, value, re.ASCII) or any(ord(char) < 32 or ord(char) == 127 for char in value):
            secret = key.endswith(("API_KEY", "TOKEN")) or ("@" in value and "https" in pattern)
            shown = "***" if secret else value or "''"
            raise Fault("E03", key=key, value=shown, allowed=tr(zh, en))
        # One spelling for each directory, because paths identify the server's processes.
        values[key] = "/" + os.path.normpath(value).lstrip("/") if value.startswith("/") and "/.+" in pattern else value
    if values["VENV_DIR"] == str(ROOT / ".venv"):  # the virtual environment of the tasks
        raise Fault("E03", key="VENV_DIR", value=values["VENV_DIR"], allowed=tr(*rules()["VENV_DIR"][1:]))
    return values, env_file


def load(environ: Mapping[str, str] | None = None) -> Settings:
    """Return the current settings, with the profile, the model, its directory and its name resolved. Raises Fault."""
    values, env_file = raw_settings(os.environ if environ is None else environ)
    chosen, directory = values["MODEL_ID"], values["MODEL_DIR"]
    if values["PROFILE"] == "auto":
        values["PROFILE"] = profile()
    if chosen == "auto":
        values["MODEL_ID"] = GPU_MODEL if values["PROFILE"] == "gpu" else "demo"
    name = EMBEDDED.get(values["MODEL_ID"]) or values["MODEL_ID"].split("/")[-1]
    if chosen == "auto" and directory:  # the directory was chosen, not the model
        name = os.path.basename(directory) or name
    values["MODEL_DIR"] = directory or f"{values['BASE_DIR']}/models/{name}"
    # RAGFlow cuts a name at ___, as ModelScope's cache writes a dot, and separates parts of a name with @.
    safe = re.sub(r"[@ ]", "-", name.replace("___", ".")).lstrip("-")
    values["SERVED_MODEL_NAME"] = values["SERVED_MODEL_NAME"] or safe or name
    return MappingProxyType(values | {"ENV_FILE": str(env_file)})
