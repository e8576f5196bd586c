"""The locks by the resolver, and the command lines for cards by vLLM's own option parser. No card is needed."""

import subprocess

from runbook import ROOT
from tests.conftest import Shell
from tests.e2e.conftest import Deployment
from tests.scripts.test_serve import ROWS, served

PARSE = """
import sys
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = make_arg_parser(FlexibleArgumentParser())
for line in sys.stdin.read().split("\\n"):
    words = line.split("\\0")
    args = parser.parse_args(words[1:])
    print(args.model_tag, args.port, args.served_model_name, args.gpu_memory_utilization, args.tensor_parallel_size)
"""


def test_the_cuda_lock_is_what_a_resolver_accepts(deployed: Deployment) -> None:
    """With every dependency followed, for the platform of a machine with a card; nothing is installed."""
    uv = deployed.shell.root / ".uv/uv"
    done = deployed.shell.run(
        *(uv, "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--python-version", "3.11"),
        *("--python-platform", "x86_64-manylinux_2_28"),
        *("-c", ROOT / "requirements/cuda.txt", ROOT / "requirements/cuda.in"),
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    resolved = {line.split(" ")[0] for line in done.stdout.splitlines() if "==" in line}
    lock = {line.split(" ")[0] for line in (ROOT / "requirements/cuda.txt").read_text().splitlines() if "==" in line}
    assert "vllm==0.32.0" in resolved
    assert resolved <= lock


def test_every_command_line_is_accepted_by_vllm(deployed: Deployment, shell: Shell) -> None:
    lines = ["\0".join(served(shell, row)[0]) for row in ROWS]
    python = deployed.base / ".venv/bin/python"
    done = subprocess.run(
        [python, "-c", PARSE], input="\n".join(lines), env=shell.environ(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("/models/M") >= len(ROWS)


def test_the_runbooks_own_flag_is_an_error_today(deployed: Deployment, shell: Shell) -> None:
    """Why serve.sh differs from the runbook: if vLLM takes the flag again, the docs have to change."""
    folder = deployed.model
    done = shell.run(deployed.base / ".venv/bin/vllm", "serve", folder, "--model", folder, timeout=120)
    assert done.returncode == 2
    assert "unrecognized arguments" in done.stderr
