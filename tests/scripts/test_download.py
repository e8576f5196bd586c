"""What surrounds the client in the download step: listing, parts, manifest. The transfers are in tests/e2e."""

import os
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import Shell

SIZE = 10_000
PART = 1_000
piece = st.sampled_from(["..", ".", "", "a", "b.txt", "\u202e", "链接", "x\\y", "\n", "~", ".git", "link", "a_0_1"])
paths = st.one_of(st.text(max_size=20), st.lists(piece, max_size=5).map("/".join), st.none())


@dataclass
class Listed:
    """An entry as the client gives it."""

    path: Any
    size: int = 4
    sha256: str | None = None
    is_dir: bool = False


@given(path=paths)
def test_no_listed_path_leaves_the_folder(path: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    from runbook.model.download import safe

    folder = tmp_path_factory.getbasetemp() / "listed"
    folder.mkdir(exist_ok=True)
    if not (folder / "link").is_symlink():
        (folder / "link").symlink_to("/")
    if safe(folder, path):
        place = (folder / path).resolve()
        assert place.is_relative_to(folder.resolve())
        assert place != folder.resolve()
        assert Path(os.path.normpath(folder / path)) == folder / path, "one spelling for one file"
        assert not path.startswith("link"), "through a link is outside"


@pytest.mark.parametrize(
    "path", ["config.json", "sub/model.safetensors", ".gitattributes", "名称 有空格.txt", "..a", "a..b"]
)
def test_ordinary_paths_are_taken(path: str, tmp_path: Path) -> None:
    from runbook.model.download import checked_listing

    files = checked_listing(tmp_path, [Listed("sub", is_dir=True), Listed(path, 7, "AB" * 32)], "a/b")
    assert files == {path: {"size": 7, "sha256": "ab" * 32, "mtime_ns": None}}


@given(seed=st.integers(0, 10**6), merged=st.integers(0, SIZE), size=st.integers(SIZE - PART + 1, SIZE))
def test_what_a_kill_leaves_of_a_merge_becomes_parts_again(
    seed: int, merged: int, size: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Some parts are merged and gone, one may be half merged and still there, the others wait."""
    import sys
    import types

    constants = types.ModuleType("modelscope_hub.constants")
    constants.DOWNLOAD_PART_SIZE = PART  # type: ignore[attr-defined]
    sys.modules |= {"modelscope_hub": types.ModuleType("modelscope_hub"), "modelscope_hub.constants": constants}
    try:
        from runbook.model.partial_files import bytes_on_disk, partial_files, split_merged

        folder = tmp_path_factory.mktemp("parts")
        content, target = random.Random(seed).randbytes(size), folder / "m.safetensors"
        merged = min(merged, size)
        (folder / "m.safetensors.parallel_tmp").write_bytes(content[:merged])
        for start in range(0, size, PART):
            end = min(start + PART, size)
            if end > merged:  # deleted only when all of it is in
                (folder / f"m.safetensors_{start}_{end - 1}").write_bytes(content[start:end])
        split_merged(target, size)
        assert bytes_on_disk(target, size) == size
        for part in partial_files(target):
            start, end = map(int, part.name.split("_")[1:])
            assert part.read_bytes() == content[start : end + 1]
    finally:
        del sys.modules["modelscope_hub"], sys.modules["modelscope_hub.constants"]


@pytest.fixture
def recorded(shell: Shell) -> Path:
    from runbook.model.directory import record

    folder = shell.home / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    record(folder, "acme/Tiny", "v1", sorted(path.name for path in folder.iterdir()))
    return folder


def check(
    shell: Shell, folder: Path, model: str = "acme/Tiny", revision: str = "v1", lang: str = ""
) -> tuple[int, str]:
    words = ("-m", "runbook.model.directory", "check", folder, model, revision)
    done = shell.run("python3", *words, RUNBOOK_LANG=lang, PYTHONPATH=shell.root)
    assert not done.stderr
    return done.returncode, done.stdout.strip()


def test_a_recorded_folder_is_whole_until_a_file_changes(shell: Shell, recorded: Path) -> None:
    assert check(shell, recorded) == (0, "1 safetensors, 0.00 GiB; matches its manifest")
    assert check(shell, recorded, lang="zh")[1].endswith("；与下载清单一致")
    os.utime(recorded / "config.json")
    assert check(shell, recorded) == (1, "config.json: changed since the download")
    (recorded / "config.json").unlink()
    assert check(shell, recorded)[0] == 1


def test_another_revision_or_model_is_told_from_a_whole_folder(shell: Shell, recorded: Path) -> None:
    assert check(shell, recorded, revision="v2") == (1, "its revision is v1, not v2")
    assert check(shell, recorded, model="acme/Other") == (3, "acme/Tiny")


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"files": {}}', '{"model": "a/b", "files": {"x": {}}}', '{"files": 1}']
)
def test_a_manifest_that_cannot_be_read_is_none(content: str, shell: Shell, recorded: Path) -> None:
    (recorded / ".runbook-manifest.json").write_text(content)
    assert check(shell, recorded) == (0, "1 safetensors, 0.00 GiB; no manifest, hashes not compared")


def test_another_model_in_the_folder_is_left_alone(shell: Shell, recorded: Path) -> None:
    before = {path: path.read_bytes() for path in recorded.iterdir()}
    for model in ("acme/Other", "demo"):
        done = shell.script("download", MODEL_DIR=recorded, MODEL_ID=model, MODEL_REVISION="v1")
        assert done.returncode == 1
        assert f"holds acme/Tiny, but the settings ask for {model}" in done.stderr
        assert "E34 " in done.stderr
    assert before == {path: path.read_bytes() for path in recorded.iterdir()}


def test_the_token_is_never_shown(shell: Shell) -> None:
    done = shell.script("download", MODELSCOPE_API_TOKEN="two words")
    assert done.returncode == 1
    assert "MODELSCOPE_API_TOKEN=*** is invalid" in done.stderr
    assert "two words" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("texts", "code"),
    [
        (["SSLCertVerificationError: [SSL: CERTIFICATE_VERIFY_FAILED] self-signed", "NetworkError: failed"], "E137"),
        (["OSError: Could not find a suitable TLS CA certificate bundle, invalid path: /x"], "E137"),
        (["ProxyError: Unable to connect to proxy", "NetworkError: failed"], "E138"),
        (["InvalidSchema: Missing dependencies for SOCKS support."], "E138"),
        (["gaierror: [Errno -2] Name or service not known", "NetworkError: failed"], "E139"),
        (["RateLimitError: [429] slow down", "FileDownloadError: 1 file"], "E141"),
        (["ServerError: 502 Server Error: Bad Gateway for url"], "E142"),
        (["OSError: [Errno 28] No space left on device"], None),
        (["ConnectionRefusedError: [Errno 111] Connection refused"], None),
    ],
)
def test_an_error_of_the_network_is_classed_by_what_it_is(texts: list[str], code: str | None) -> None:
    from runbook.model.download import network_fault

    found = network_fault(texts)
    assert (found.code if found else None) == code
