"""Measure the download of a large shard with a limited rate per connection, against ModelScope's own client.

Usage: .venv/bin/python bench/download.py VENV [MiB] [MB/s of a connection]
VENV is a serving environment (VENV_DIR). Both runs, one after the other, fetch the same model from the same loopback
hub. It prints seconds and their ratio. Only figures of the same run are comparable, not those of two machines.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tests.e2e.test_modelscope import MODEL, make_model
from tests.hub import hub


def seconds(words: list[Path | str], environ: dict[str, str]) -> float:
    """Run a command and return its duration in seconds. Raises CalledProcessError."""
    began = time.monotonic()
    command = [str(word) for word in words]
    subprocess.run(command, env=environ, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.monotonic() - began


def main() -> None:
    """Run the downloads and print their durations."""
    venv, size, rate = Path(sys.argv[1]).resolve(), int((sys.argv[2:] or ["200"])[0]), float((sys.argv[3:] or ["4"])[0])
    root = Path(__file__).resolve().parent.parent
    with (
        tempfile.TemporaryDirectory() as temporary,
        hub(make_model(Path(temporary) / "hub", size << 20), MODEL) as served,
    ):
        served.rate = rate * 1e6
        base = Path(temporary)
        common = {"NO_PROXY": "127.0.0.1", "MODELSCOPE_HOME": str(base / "home"), "HOME": str(base)}
        environ = (
            os.environ | common | {"MODELSCOPE_ENDPOINT": served.endpoint, "MODELSCOPE_CACHE": str(base / "cache")}
        )
        plain = seconds([venv / "bin/ms-hub", "download", MODEL, "--local-dir", base / "plain"], environ)
        ours = environ | {"BASE_DIR": str(base / "ours"), "VENV_DIR": str(venv), "MODEL_ID": MODEL, "PIP_INDEX_URL": ""}
        step = seconds(["bash", root / "scripts/download.sh"], ours)
        again = seconds(["bash", root / "scripts/download.sh"], ours)
        verify = seconds(["bash", root / "scripts/download.sh", "--verify"], ours)
    print(f"{size} MiB, each connection limited to {rate:g} MB/s")
    print(f"  ModelScope's client, its defaults  {plain:6.1f} s")
    print(f"  ./inv download                     {step:6.1f} s   {plain / step:.1f} times as fast")
    print(f"  ./inv download again               {again:6.2f} s")
    print(f"  ./inv download --verify            {verify:6.2f} s")


if __name__ == "__main__":
    main()
