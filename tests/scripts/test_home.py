"""Nothing outside BASE_DIR, the project and what boot-on names is changed: a whole home directory, before and after."""

import hashlib
import sys
from pathlib import Path

import pytest

from runbook import ROOT
from tests.conftest import Shell, copy_checkout, executable
from tests.home import fingerprint, furnish
from tests.scripts.test_scripts import model

# Answers as the server does, and keeps something wherever the real one and its libraries would.
SERVER = """#!{python}
import json, os, re, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

def keep(variable, *defaults):
    place = Path(os.environ.get(variable) or Path.home().joinpath(*defaults))
    place.mkdir(parents=True, exist_ok=True)
    (place / "kept").touch()

cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
for name in ("vllm", "huggingface", "torch", "uv", "pip"):
    (Path(cache) / name).mkdir(parents=True, exist_ok=True)
keep("VLLM_CONFIG_ROOT", ".config", "vllm")
keep("TRITON_HOME", ".triton")
keep("FLASHINFER_WORKSPACE_BASE", ".cache", "flashinfer")
keep("TVM_FFI_CACHE_DIR", ".cache", "tvm-ffi")
keep("TILELANG_CACHE_DIR", ".tilelang")
keep("CUDA_CACHE_PATH", ".nv", "ComputeCache")
keep("MPLCONFIGDIR", ".config", "matplotlib")
keep("TORCHINDUCTOR_CACHE_DIR", "..", "tmp", "torchinductor_me")
keep("CUTE_DSL_CACHE_DIR", "..", "tmp", "me", "cutlass_python_cache")

class Handler(BaseHTTPRequestHandler):
    def answer(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        choices = [{{"message": {{"content": "Hi"}}}}]
        body = json.dumps({{"data": [{{"id": "m", "max_model_len": 4096}}], "choices": choices}})
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())
    do_GET = do_POST = answer
    def log_message(self, *words): pass

if "serve" in sys.argv:
    port = int(sys.argv[sys.argv.index("--port") + 1])
    ThreadingHTTPServer(("0.0.0.0", port), Handler).serve_forever()
"""


@pytest.mark.slow
def test_a_whole_life_changes_nothing_else_in_the_home(shell: Shell) -> None:
    home = furnish(shell.home / "home")
    base, root, temporary = home / "vllm-runbook", home / "vllm-runbook-project", shell.home / "tmp"
    temporary.mkdir()
    copy_checkout(root)
    (root / ".venv").symlink_to(ROOT / ".venv")
    bin_dir = base / ".venv/bin"
    for name in ("python", "supervisord"):
        has_pip = '[[ $* != *"import pip"* ]] || { echo Python 3.12.0 && exit; }'
        executable(bin_dir / name, f'{has_pip}\nexec "{Path(sys.executable).parent / name}" "$@"')
    executable(bin_dir / "vllm", "")
    (bin_dir / "vllm").write_text(SERVER.format(python=sys.executable))
    locks = [ROOT / "requirements" / name for name in ("cpu-torch.txt", "cpu.txt")]
    wanted = hashlib.sha256(b"".join(lock.read_bytes() for lock in locks)).hexdigest()
    (base / ".venv/.runbook-lock").write_text(f"{wanted}  -\n")
    model(base / "models/SmolLM2-135M-Instruct")
    table = shell.home / "table"
    table.write_text("5 4 * * * backup\n")
    own = Shell(shell.home, root, {**shell.settings, "HOME": home, "BASE_DIR": base, "TMPDIR": temporary})
    own.keep_settings()
    own.stand_in("systemctl", "exit 1")
    replace = f'cat >"{table}.new"; mv "{table}.new" "{table}"'
    own.stand_in("crontab", f'if [[ $1 == -l ]]; then cat "{table}"; else {replace}; fi')
    before = fingerprint(home, base, root)
    try:
        life = ["deploy", "status", "curl-test", "doctor", "boot-on", "boot-off", "export", "--output"]
        done = own.inv(*life, base / "deploy.sh", "ragflow-notes", timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Hi" in done.stdout
    finally:
        stopped = own.inv("stop", timeout=60)
        own.run("tmux", "kill-server")
    assert stopped.returncode == 0, stopped.stderr
    assert fingerprint(home, base, root) == before
    assert (base / "cache/vllm-config/kept").is_file()
    assert (base / "cache/huggingface").is_dir()
    assert table.read_text() == "5 4 * * * backup\n"
    left = {path.name for path in temporary.rglob("*")}
    assert not left, left


def test_a_place_that_somebody_has_chosen_stays(shell: Shell) -> None:
    words = f"source '{ROOT}/scripts/lib/settings.sh'; source '{ROOT}/scripts/lib/caches.sh'; env"
    done = shell.run("bash", "-c", words, UV_CACHE_DIR="/data/uv", TRITON_HOME="")
    base = shell.settings["BASE_DIR"]
    assert "UV_CACHE_DIR=/data/uv" in done.stdout.splitlines()
    assert f"TRITON_HOME={base}/cache" in done.stdout.splitlines()
    assert f"XDG_CACHE_HOME={base}/cache" in done.stdout.splitlines()


@pytest.mark.parametrize("script", ["serve", "install", "download", "bench"])
def test_whatever_starts_the_environment_sets_the_places(script: str) -> None:
    assert 'run source "$ROOT/scripts/lib/caches.sh"' in (ROOT / f"scripts/{script}.sh").read_text("utf-8")
