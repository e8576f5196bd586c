"""The download step with the real ModelScope client, against a loopback hub that can be told to misbehave."""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from runbook import ROOT
from runbook.model.partial_files import bytes_on_disk
from tests.conftest import BUSY, Done, Shell, snapshot
from tests.hub import Hub, chaos, hub

MODEL = "acme/Tiny"
MIB = 1 << 20
SMALL = ["README.md", "config.json", "sub/notes.txt", "tokenizer.json"]


def make_model(folder: Path, *sizes: int) -> Path:
    """A folder with everything a model has, its weights random bytes of these sizes."""
    (folder / "sub").mkdir(parents=True)
    for name in SMALL:
        (folder / name).write_text(json.dumps({"name": name}))
    owner = {}
    for index, size in enumerate(sizes):
        name = f"model-{index + 1:05}-of-{len(sizes):05}.safetensors"
        header = json.dumps({f"w{index}": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
        (folder / name).write_bytes(len(header).to_bytes(8, "little") + header + noise(index, size))
        owner[f"w{index}"] = name
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": owner}))
    return folder


def noise(seed: int, size: int) -> bytes:
    dice = random.Random(seed)
    return b"".join(dice.randbytes(min(MIB, size - start)) for start in range(0, size, MIB))


@dataclass
class Download:
    """The step against one hub, into one folder."""

    shell: Shell
    hub: Hub
    environ: dict[str, object] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return Path(str(self.shell.settings["BASE_DIR"])) / "models/Tiny"

    @property
    def size(self) -> int:
        return sum(path.stat().st_size for path in self.hub.paths())

    @property
    def sent(self) -> int:
        return sum(self.hub.sent.values())

    @property
    def on_disk(self) -> int:
        """The bytes that have come and stay after a kill; what is on the way is not among them."""
        return sum(
            bytes_on_disk(self.folder / path.relative_to(self.hub.folder), path.stat().st_size)
            for path in self.hub.paths()
        )

    def run(self, *words: object, timeout: float = 120, **more: object) -> Done:
        return self.shell.script("download", *words, timeout=timeout, **{**self.environ, **more})

    def start(self, **more: object) -> subprocess.Popen[str]:
        """In a process group of its own, so that a kill is one for all."""
        return subprocess.Popen(
            ["bash", self.shell.root / "scripts/download.sh"],
            env=self.shell.environ(**{**self.environ, **more}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def identical(self) -> bool:
        """Every file as the hub has it, and nothing besides but the manifest."""
        theirs = {path.relative_to(self.hub.folder).as_posix(): path.read_bytes() for path in self.hub.paths()}
        ours = {
            path.relative_to(self.folder).as_posix(): path.read_bytes()
            for path in self.folder.rglob("*")
            if path.is_file() and path.name != ".runbook-manifest.json"
        }
        return theirs == ours


def kill(process: subprocess.Popen[str], number: int = signal.SIGKILL) -> str:
    """The whole group at once, as a machine that goes down would; gives what was printed."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
    return process.communicate(timeout=60 * BUSY)[0]


@pytest.fixture(scope="session")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the client in its locked version, made once."""
    lock = (ROOT / "requirements/cpu.txt").read_text()
    pins = re.findall(r"^((?:modelscope-hub|rich)==\S+)", lock, re.MULTILINE)
    folder = tmp_path_factory.mktemp("client") / "venv"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    subprocess.run([folder / "bin/python", "-m", "pip", "install", "-q", *pins], check=True)
    return folder


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("hub") / "model", 12 * MIB, 3 * MIB, 100_000)


@pytest.fixture
def download(shell: Shell, client: Path, source: Path) -> Iterator[Download]:
    """Parts of 1 MiB: what happens to the gigabytes of a real model happens to megabytes here."""
    with hub(source, MODEL) as served:
        environ = {
            "MODEL_ID": MODEL,
            "MODELSCOPE_ENDPOINT": served.endpoint,
            "VENV_DIR": client,
            "HOME": shell.home,
            "MODELSCOPE_HOME": shell.home / "modelscope",
            "NO_PROXY": "127.0.0.1",
            "MODELSCOPE_DOWNLOAD_INTRA_CLOUD": "false",
            "MODELSCOPE_DOWNLOAD_PARALLEL_THRESHOLD_MB": 2,
            "MODELSCOPE_DOWNLOAD_PART_SIZE_MB": 1,
            "MODELSCOPE_DOWNLOAD_RETRY_MAX_DELAY_SECONDS": 1,
            "MODELSCOPE_DOWNLOAD_TIMEOUT": 20,
            "MODELSCOPE_DOWNLOAD_PATIENCE_SECONDS": 30,
        }
        yield Download(shell, served, environ)


def test_what_lies_there_afterwards_is_what_the_site_lists(download: Download, measured: Callable[[str], None]) -> None:
    done = download.run()
    assert done.returncode == 0, done.stderr
    assert "3 safetensors" in done.stdout
    assert "matches its manifest" in done.stdout
    assert download.identical()
    assert download.sent == download.size, "every byte came once"
    download.hub.asked.clear()
    began = time.monotonic()
    again = download.run()
    assert "already done: " in again.stdout
    assert not download.hub.asked, "a folder that is proven needs no network"
    measured(f"proven again in {time.monotonic() - began:.2f} s, the shell's start included")


def test_a_site_that_answers_ranges_with_200(download: Download) -> None:
    download.hub.status_200 = True
    assert download.run().returncode == 0
    assert download.identical()
    assert download.hub.requests["model-00001-of-00003.safetensors"] >= 12, "in parts"


@pytest.mark.parametrize("seed", range(20))
def test_a_bad_line_and_kills_change_nothing(seed: int, download: Download, measured: Callable[[str], None]) -> None:
    """Random cuts, stalls, server errors, wrong bytes and kill -9, until it is through: byte for byte the same."""
    dice, began = random.Random(seed), time.monotonic()
    download.hub.rate, download.hub.trouble = 2 * MIB, chaos(seed, often=0.3)
    kills = 0
    for round_ in range(12):
        had, before = download.on_disk, download.sent
        process = download.start(MODELSCOPE_DOWNLOAD_TIMEOUT=1)
        try:
            output = process.communicate(timeout=dice.uniform(0.8, 4) if round_ < 3 else 200)[0]
        except subprocess.TimeoutExpired:
            kill(process)
            kills += 1
            assert download.on_disk >= had or download.hub.corrupted
            continue
        if process.returncode == 0:
            break
        # The one fault that a run may end with: a wrong byte in each of three tries of one file.
        assert "E33 " in output, output[-2000:]
    assert process.returncode == 0, output
    assert download.identical()
    wrong = sum(count for name, count in download.hub.corrupted.items())
    twice = (download.sent - before) - (download.size - had)
    measured(
        f"seed {seed}: {kills} kills, {time.monotonic() - began:.0f} s, the last run fetched twice"
        f" {twice / MIB:.2f} of {download.size / MIB:.0f} MiB, of that after a wrong byte at most {wrong / MIB:.2f}"
    )
    assert twice - wrong < download.size * 0.15, "what was on a line that broke, and no more"


def test_a_kill_while_the_parts_are_merged_loses_nothing(download: Download, tmp_path: Path) -> None:
    big = make_model(tmp_path / "big", 300 * MIB)
    download.hub.folder = big
    merged = download.folder / "model-00001-of-00001.safetensors.parallel_tmp"

    def size() -> int:
        return merged.stat().st_size if merged.exists() else 0

    for _ in range(5):  # the merge takes half a second: on a busy machine the kill can come too late
        process = download.start()
        while process.poll() is None and size() < 20 * MIB:
            time.sleep(0.001)
        kill(process)
        if 0 < (left := size()) < 300 * MIB:
            break
        shutil.rmtree(download.folder)
    assert 0 < left < 300 * MIB, "too late: it was merged already"
    before = download.sent
    done = download.run()
    assert done.returncode == 0, done.stderr
    assert download.identical()
    assert download.sent - before < 2 * MIB, f"{left / MIB:.0f} MiB had been merged"


def test_ctrl_c_keeps_what_has_come(download: Download) -> None:
    download.hub.rate = MIB
    process = download.start()
    wait_for(lambda: download.on_disk > 3 * MIB)
    output = kill(process, signal.SIGINT)
    assert process.returncode == 130
    assert "E98 " in output
    assert "Traceback" not in output
    kept, before = download.on_disk, download.sent
    assert 3 * MIB < kept < download.size
    download.hub.rate = 0
    assert download.run().returncode == 0
    assert download.identical()
    again = (download.sent - before) - (download.size - kept)
    assert again < MIB, "a block of each connection was still on its way"


def test_two_at_once_one_works_and_the_other_uses_it(download: Download) -> None:
    download.hub.rate = MIB / 8
    first = download.start()
    wait_for(lambda: download.sent > MIB)
    second = download.start()
    assert second.stdout
    for line in iter(second.stdout.readline, ""):
        if "waiting for it" in line:
            break
    else:
        pytest.fail("the second did not wait")
    download.hub.rate = 0
    outputs = [process.communicate(timeout=120 * BUSY)[0] for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), outputs
    assert "Another download has completed it" in outputs[1]
    assert download.identical()
    assert download.sent == download.size


def test_the_second_goes_on_when_the_first_is_killed(download: Download) -> None:
    download.hub.rate = MIB
    first = download.start()
    wait_for(lambda: download.on_disk > 3 * MIB)
    second = download.start()
    time.sleep(1)
    kill(first)
    download.hub.rate = 0
    output = second.communicate(timeout=120 * BUSY)[0]
    assert second.returncode == 0, output
    assert download.identical()


def listed(*paths: str, **more: Any) -> Callable[[list[dict[str, Any]]], object]:
    """The true listing and these files besides."""
    return lambda files: {"Files": [*files, *({"Path": path, "Type": "blob", **more} for path in paths)]}


FAULTS: dict[str, tuple[str, str, dict[str, Any], dict[str, object]]] = {
    "unknown model": ("E27", "revision master of the model acme/None", {}, {"MODEL_ID": "acme/None"}),
    "unknown revision": ("E27", "revision v9 of the model acme/Tiny", {}, {"MODEL_REVISION": "v9"}),
    "no token": ("E28", "MODELSCOPE_API_TOKEN", {"token": "s3cret-token"}, {}),
    "wrong token": ("E28", "denied access to", {"token": "s3cret-token"}, {"MODELSCOPE_API_TOKEN": "wrong-token"}),
    "nobody answers": ("E29", "http://127.0.0.1:9", {}, {"MODELSCOPE_ENDPOINT": "http://127.0.0.1:9"}),
    "connections reset": ("E29", "acme/Tiny", {"down": True}, {}),
    "empty listing": ("E32", "it lists no file", {"listing": lambda files: {"Files": []}}, {}),
    "failed listing": (
        "E32",
        "it lists no file",
        {"envelope": {"Code": 500, "Success": False}, "listing": lambda files: None},
        {},
    ),
    "path out of the folder": ("E32", "'../evil.txt'", {"listing": listed("../evil.txt", Size=4)}, {}),
    "absolute path": ("E32", "'/tmp/evil.txt'", {"listing": listed("/tmp/evil.txt", Size=4)}, {}),
    "file listed twice": ("E32", "config.json twice", {"listing": listed("config.json", Size=4)}, {}),
    "hash that is none": ("E32", "hash of a.bin", {"listing": listed("a.bin", Size=4, Sha256="zz")}, {}),
    "file that is not there": ("E32", "it lists a.bin, which", {"listing": listed("a.bin", Size=4)}, {}),
    "disk too small": ("E31", "still needs", {"listing": listed("a.bin", Size=10**15)}, {}),
    "server errors": (
        "E30",
        "No data of",
        {"trouble": lambda path, size: ("status", 503)},
        {"MODELSCOPE_DOWNLOAD_PATIENCE_SECONDS": 4},
    ),
    "a line that is dead": (
        "E30",
        "for 4 s",
        {"trouble": lambda path, size: ("stall", 0)},
        {"MODELSCOPE_DOWNLOAD_PATIENCE_SECONDS": 4, "MODELSCOPE_DOWNLOAD_TIMEOUT": 1},
    ),
    "always wrong": (
        "E33",
        "model-00001-of-00003.safetensors",
        {"trouble": lambda path, size: ("corrupt", 7) if path.startswith("model-00001") else None},
        {},
    ),
    "always wrong, one connection": (
        "E33",
        "tokenizer.json",
        {"trouble": lambda path, size: ("corrupt", 7) if path == "tokenizer.json" else None},
        {},
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_fails_says_what_and_what_to_do(name: str, download: Download) -> None:
    code, words, broken, settings = FAULTS[name]
    for key, value in broken.items():
        setattr(download.hub, key, value)
    done = download.run(timeout=90, **settings)
    assert done.returncode == 1
    assert f"{code} docs/en/troubleshooting.md#{code.lower()}" in done.stderr, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert "-token" not in done.stdout + done.stderr
    assert not (download.shell.home / "base/models/evil.txt").exists()
    if code == "E33":
        assert not (download.folder / words).exists()
        download.hub.trouble = lambda path, size: None
        assert download.run().returncode == 0, "and it can be mended"
        assert download.identical()


def test_the_right_token_opens(download: Download) -> None:
    download.hub.token = "s3cret-token"
    done = download.run(MODELSCOPE_API_TOKEN="s3cret-token")
    assert done.returncode == 0, done.stderr
    assert "s3cret" not in done.stdout + done.stderr
    assert download.identical()


def mounted(download: Download, options: str) -> Done:
    """The step in a mount namespace of its own, with a small disk where the model goes."""
    download.folder.mkdir(parents=True)
    script = f'mount -t tmpfs {options} "$1" && exec bash "$2"'
    words = ["unshare", "-rm", "bash", "-c", script, "-", download.folder, ROOT / "scripts/download.sh"]
    done = download.shell.run(*words, timeout=120, **download.environ)
    if "unshare:" in done.stderr or "mount:" in done.stderr:
        pytest.skip("this machine lets nobody mount")
    return done


def test_a_disk_that_fills_up_on_the_way(download: Download) -> None:
    """The listing says that it fits: the sizes of the shards are not known beforehand."""

    def unknown_sizes(files: list[dict[str, Any]]) -> object:
        return {"Files": [{**file, "Size": 0} for file in files]}

    download.hub.listing = unknown_sizes
    done = mounted(download, "-o size=10m none")
    assert done.returncode == 1
    assert "E31 " in done.stderr, done.stderr
    assert str(download.folder) in done.stderr


def test_a_full_disk_names_the_disk(download: Download) -> None:
    done = mounted(download, "-o size=20m none")
    assert done.returncode == 1
    assert "E31 " in done.stderr, done.stderr
    assert f"its disk {download.folder} has only 0.02 GiB free" in done.stderr


def test_a_read_only_folder(download: Download) -> None:
    done = mounted(download, "-o ro none")
    assert done.returncode == 1
    assert "E06 " in done.stderr, done.stderr
    assert "MODEL_DIR" in done.stderr


def test_verify_finds_a_flipped_bit_and_download_mends_it(download: Download) -> None:
    assert download.run().returncode == 0
    shard = download.folder / "model-00002-of-00003.safetensors"
    status, content = shard.stat(), bytearray(shard.read_bytes())
    content[2 * MIB] ^= 1
    shard.write_bytes(content)
    os.utime(shard, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert "already done: " in download.run().stdout, "a bit that rots leaves no trace but its hash"
    download.hub.down = True
    found = download.run("--verify")
    assert found.returncode == 1
    assert "E13 " in found.stderr
    assert shard.name in found.stderr
    assert "model-00001" not in found.stderr
    download.hub.down = False
    before = download.sent
    mended = download.run()
    assert mended.returncode == 0, mended.stderr
    assert download.identical()
    assert download.sent - before < 4 * MIB, "only that shard"
    assert download.run("--verify").returncode == 0


def test_a_copy_with_new_dates_is_proven_by_its_hashes(download: Download) -> None:
    assert download.run().returncode == 0
    for path in download.folder.rglob("*"):
        os.utime(path)
    download.hub.asked.clear()
    done = download.run()
    assert done.returncode == 0, done.stderr
    assert not download.hub.asked
    assert "already done: " in download.run().stdout


def test_what_somebody_has_changed_is_kept_aside(download: Download) -> None:
    assert download.run().returncode == 0
    (download.folder / "config.json").write_text('{"mine": 1}')
    done = download.run()
    assert done.returncode == 0, done.stderr
    aside = re.search(r"config\.json is kept as (\S+)", done.stdout)
    assert aside
    assert (download.folder / aside[1]).read_text() == '{"mine": 1}'
    assert (download.folder / "config.json").read_bytes() == (download.hub.folder / "config.json").read_bytes()


def test_another_revision_fetches_only_what_differs(download: Download, tmp_path: Path) -> None:
    assert download.run().returncode == 0
    newer = Path(shutil.copytree(download.hub.folder, tmp_path / "v2"))
    (newer / "README.md").write_text("new words")
    (newer / "sub/notes.txt").unlink()
    download.hub.folder, download.hub.revision = newer, "v2"
    before = download.sent
    done = download.run(MODEL_REVISION="v2")
    assert done.returncode == 0, done.stderr
    assert download.identical()
    assert download.sent - before == len("new words")


def test_a_folder_copied_in_by_hand(download: Download) -> None:
    """No manifest, no network: as far as it can be known."""
    copied = Path(shutil.copytree(download.hub.folder, download.shell.home / "copied"))
    download.hub.down = True
    done = download.run(MODEL_DIR=copied)
    assert done.returncode == 0, done.stderr
    assert "no manifest, hashes not compared" in done.stdout
    with (copied / "model-00001-of-00003.safetensors").open("r+b") as file:
        file.truncate(10 * MIB)
    cut = download.run(MODEL_DIR=copied)
    assert cut.returncode == 1
    assert "E29 " in cut.stderr
    download.hub.down = False
    (copied / "model-00001-of-00003.safetensors").unlink()
    shutil.copy(download.hub.folder / "model-00001-of-00003.safetensors", copied)
    before = download.sent
    mine = (copied / "config.json").read_bytes()
    (copied / "config.json").write_bytes(mine + b"\n")
    differs = download.run("--verify", MODEL_DIR=copied)
    assert differs.returncode == 1
    assert "config.json" in differs.stderr
    assert not (copied / ".runbook-manifest.json").exists(), "somebody's own folder stays accepted as it is"
    (copied / "config.json").write_bytes(mine)
    verified = download.run("--verify", MODEL_DIR=copied)
    assert verified.returncode == 0, verified.stderr
    assert download.sent == before, "compared with the listing, nothing fetched"
    assert "matches its manifest" in verified.stdout


@pytest.mark.parametrize("kind", ["another model", "fine-tuned", "only what all models have"])
def test_the_directory_of_another_model_is_left_alone(kind: str, download: Download) -> None:
    """No manifest, names as the site lists them, and other contents."""
    theirs = download.shell.home / "theirs"
    if kind == "fine-tuned":
        shutil.copytree(download.hub.folder, theirs)
        (theirs / "tokenizer.json").unlink()
        for path in theirs.glob("*.safetensors"):
            path.write_bytes(path.read_bytes()[:-1] + b"?")
    else:
        theirs.mkdir()
        shutil.copy(download.hub.folder / "tokenizer.json", theirs)
        if kind == "another model":
            (theirs / "config.json").write_text('{"mine": 1}')
            (theirs / "pytorch_model.bin").write_text("mine")
    before = snapshot(theirs)
    done = download.run(MODEL_DIR=theirs)
    assert done.returncode == 1
    assert "E79 " in done.stderr, done.stderr
    assert f"MODEL_DIR={theirs} is not empty" in done.stderr
    assert snapshot(theirs) == before
    assert download.sent == 0


def test_a_partial_copy_is_completed_and_nothing_of_it_is_deleted(download: Download) -> None:
    theirs = Path(shutil.copytree(download.hub.folder, download.shell.home / "theirs"))
    cut = (theirs / "model-00001-of-00003.safetensors").read_bytes()[: 10 * MIB]
    (theirs / "model-00001-of-00003.safetensors").write_bytes(cut)
    (theirs / "model-00003-of-00003.safetensors").unlink()
    (theirs / "README.md").write_text("mine")
    (theirs / "notes.txt").write_text("mine")
    done = download.run(MODEL_DIR=theirs)
    assert done.returncode == 0, done.stdout + done.stderr
    kept = [path for path in theirs.iterdir() if ".replaced-" in path.name]
    assert sorted(path.read_bytes() for path in kept) == sorted([cut, b"mine"])
    assert (theirs / "notes.txt").read_text() == "mine"
    for path in download.hub.paths():
        assert (theirs / path.relative_to(download.hub.folder)).read_bytes() == path.read_bytes()
    newer = Path(shutil.copytree(download.hub.folder, download.shell.home / "v2"))
    (newer / "sub/notes.txt").unlink()  # it was copied, not fetched
    download.hub.folder, download.hub.revision = newer, "v2"
    assert download.run(MODEL_DIR=theirs, MODEL_REVISION="v2").returncode == 0
    assert (theirs / "sub/notes.txt").is_file()


def test_weights_that_somebody_has_written_since_are_kept_aside(download: Download) -> None:
    assert download.run().returncode == 0
    shard = download.folder / "model-00002-of-00003.safetensors"
    mine = shard.read_bytes()[:-1] + b"?"
    shard.write_bytes(mine)
    assert download.run().returncode == 0
    (kept,) = download.folder.glob("*.replaced-*")
    assert kept.read_bytes() == mine


def test_what_is_in_the_way_of_a_file_stays(download: Download) -> None:
    assert download.run().returncode == 0
    (download.folder / "README.md").unlink()
    (download.folder / "README.md").mkdir()
    done = download.run()
    assert done.returncode == 1
    assert "E79 " in done.stderr, done.stderr
    assert (download.folder / "README.md").is_dir()


def test_an_unfinished_download_is_never_taken_for_a_copied_folder(download: Download) -> None:
    """All the weights are there, the rest is not: a folder without the manifest would pass for whole."""
    download.hub.trouble = lambda path, size: ("stall", 0) if path == "README.md" else None
    process = download.start()
    wait_for(lambda: all((download.folder / path.name).exists() for path in download.hub.folder.glob("*.*s*")))
    kill(process)
    assert not (download.folder / "README.md").exists()
    found = download.run(MODELSCOPE_ENDPOINT="http://127.0.0.1:9")
    assert found.returncode == 1
    assert "E29 " in found.stderr


def wait_for(ready: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds * BUSY
    while not ready():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.05)
