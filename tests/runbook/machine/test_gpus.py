"""Seeing GPUs: what nvidia-smi lists, every known way in which it fails, and never the CPU without a word."""

import os
import random
from collections.abc import Callable
from dataclasses import asdict
from typing import Any
from unittest.mock import patch

import pytest

from runbook import ROOT
from runbook.machine import gpus, preflight
from runbook.machine.gpus import Gpu, look, profile
from runbook.machine.memory import GIB
from runbook.plan.planner import Plan
from tests.conftest import Shell
from tests.smi import Smi, answer

NOWHERE = "http://127.0.0.1:9"
MISMATCH = "Failed to initialize NVML: Driver/library version mismatch"
NO_DRIVER = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."
FAILURES = [
    (MISMATCH, 18, "reboot"),
    (NO_DRIVER, 9, "modprobe nvidia"),
    ("Failed to initialize NVML: Insufficient Permissions", 4, "group"),
    ("Failed to initialize NVML: Unknown Error", 255, "reboot"),
    ("No devices were found", 6, "Run nvidia-smi"),
    ("Segmentation fault", 139, "Run nvidia-smi"),
]


def settings(shell: Shell, **more: object) -> dict[str, str]:
    """The settings as preflight.sh and plan.sh give them."""
    base = shell.home / "base"
    given = {"PROFILE": "gpu", "MODEL_ID": "Qwen/Qwen3-4B-Instruct-2507", "MODEL_DIR": base / "none", "BASE_DIR": base}
    given |= {"VENV_DIR": base / ".venv", "GPU": "auto", "GPU_MEMORY_UTILIZATION": "auto", "MAX_MODEL_LEN": "auto"}
    given |= {"TMUX_SESSION": "gpus", "VLLM_EXTRA_ARGS": "", "RUNBOOK_LANG": "en", "GPU_KEEP_FREE_GIB": "auto"}
    return shell.environ(**{**given, "MODELSCOPE_ENDPOINT": NOWHERE, **more})


@pytest.fixture
def on(shell: Shell) -> Callable[..., Any]:
    """Runs a function on a machine with this nvidia-smi, without signs of a real GPU."""

    def run(smi: Smi | None, do: Callable[[], Any], **more: object) -> Any:
        if smi:
            smi.install(shell)
        elif (there := shell.home / "stand-ins/nvidia-smi").exists():
            there.unlink()
        for remembered in (gpus.ask, gpus.look, gpus.holders):
            getattr(remembered, "cache_clear", lambda: None)()
        nothing = shell.home / "nothing"
        with (
            patch.dict(os.environ, settings(shell, **more), clear=True),
            patch.multiple(gpus, PROC=nothing, DEV=nothing, PCI=nothing, WSL=str(nothing)),
        ):
            return do()

    return run


def test_without_any_sign_of_a_gpu_it_is_the_cpu(on: Callable[..., Any]) -> None:
    assert on(None, profile) == "cpu"
    assert on(None, look) == gpus.Seen()


@pytest.mark.parametrize(("says", "code", "todo"), FAILURES)
def test_a_failure_is_told_and_is_never_the_cpu(says: str, code: int, todo: str, on: Callable[..., Any]) -> None:
    smi = Smi(broken=says, code=code)
    assert on(smi, profile) == "gpu"
    seen = on(smi, look)
    assert (seen.gpus, says in seen.trouble, todo in seen.todo) == ((), True, True)
    rows = on(smi, lambda: list(preflight.gpus()))
    assert [(row.name, row.state) for row in rows] == [("gpu", "fail")]
    record = on(smi, lambda: Plan().record)
    assert record["fits"] is None
    assert says in record["reason"]


def test_one_that_hangs_is_given_up(on: Callable[..., Any]) -> None:
    with patch.object(gpus, "LIMIT", 1):
        seen = on(Smi(delay=60).add(24564), look)
        assert on(Smi(delay=60).add(24564), profile) == "gpu"
    assert "did not answer within 1 s" in seen.trouble
    assert "nvidia-smi -pm 1" in seen.todo


def test_one_that_is_slow_is_waited_for(on: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    seen = on(Smi(delay=2.5).add(24564), look)
    assert [one.index for one in seen.gpus] == ["0"]
    assert "waiting for nvidia-smi: 2 s" in capsys.readouterr().err


@pytest.mark.parametrize("sign", ["device", "driver", "pci", "wsl"])
def test_a_sign_of_a_gpu_without_nvidia_smi(sign: str, shell: Shell) -> None:
    places = {name: shell.home / name for name in ("proc", "dev", "pci")}
    wsl = shell.home / "wsl"
    match sign:
        case "device":
            (places["dev"] / "nvidia0").mkdir(parents=True)
        case "driver":
            (places["proc"] / "gpus/0000:01:00.0").mkdir(parents=True)
        case "pci":
            (places["pci"] / "0000:01:00.0").mkdir(parents=True)
            (places["pci"] / "0000:01:00.0/vendor").write_text("0x10de\n")
            (places["pci"] / "0000:01:00.0/class").write_text("0x030200\n")
        case "wsl":
            wsl.write_text("")
    found: dict[str, Any] = {"PROC": places["proc"], "DEV": places["dev"], "PCI": places["pci"], "WSL": str(wsl)}
    with patch.dict(os.environ, settings(shell), clear=True), patch.multiple(gpus, **found):
        assert profile() == "gpu"
        assert "nvidia-smi is not" in look().trouble
        assert "PROFILE=cpu" in look().todo


def test_the_scripts_see_a_card_without_nvidia_smi(shell: Shell) -> None:
    """They ask Python only if there is a trace of NVIDIA: here a PCI device, in a mount namespace of its own."""
    script = """mount -t tmpfs none /sys/bus/pci/devices && mkdir /sys/bus/pci/devices/0000:01:00.0 || exit 77
        cd /sys/bus/pci/devices/0000:01:00.0 && echo 0x10de >vendor && echo 0x030200 >class
        source "$1/scripts/lib/settings.sh" && echo "$PROFILE" """
    done = shell.run("unshare", "-rm", "bash", "-c", script, "-", ROOT, BASE_DIR=shell.home, PROFILE="auto")
    if done.returncode == 77 or "unshare:" in done.stderr:
        pytest.skip("no mount namespace here")
    assert done.stdout.split()[-1] == "gpu", done.stderr


@pytest.mark.parametrize(("vendor", "kind"), [("0x1002", "0x030000"), ("0x10de", "0x040300")])
def test_another_vendors_card_and_nvidias_sound_are_no_sign(vendor: str, kind: str, shell: Shell) -> None:
    place = shell.home / "pci/0000:01:00.0"
    place.mkdir(parents=True)
    (place / "vendor").write_text(vendor)
    (place / "class").write_text(kind)
    nothing = shell.home / "nothing"
    found: dict[str, Any] = {"PROC": nothing, "DEV": nothing, "PCI": place.parent, "WSL": str(nothing)}
    with patch.dict(os.environ, settings(shell), clear=True), patch.multiple(gpus, **found):
        assert profile() == "cpu"


def test_the_program_of_wsl_is_used_where_it_is_not_on_the_path(shell: Shell) -> None:
    program = Smi().add(24564).install(shell)
    without = settings(shell) | {"PATH": "/usr/bin:/bin"}
    with patch.dict(os.environ, without, clear=True), patch.object(gpus, "WSL", str(program)):
        assert [one.name for one in look().gpus] == ["NVIDIA L4"]


def test_sizes_are_those_that_cuda_reports(on: Callable[..., Any]) -> None:
    """Seen on an H200 with driver 580: 143,771 MiB in all, 616 reserved; CUDA reports 143,155."""
    (one,) = on(Smi().add(143771, 143156, reserved=616), look).gpus
    assert one.total == 143155 * 2**20
    assert one.free == 143156 * 2**20 - gpus.CONTEXT
    (one,) = on(Smi().add(40960, reserved="[N/A]"), look).gpus
    assert 39.3 * GIB < one.total < 39.5 * GIB


def test_an_old_nvidia_smi_gives_what_it_knows(on: Callable[..., Any]) -> None:
    (one,) = on(Smi(unknown=["compute_cap", "memory.reserved"]).add(24564), look).gpus
    assert one.capability == 0
    assert one.total > 23 * GIB


def test_a_gpu_without_memory_of_its_own_uses_the_ram(on: Callable[..., Any]) -> None:
    (one,) = on(Smi().add("[N/A]", name="NVIDIA GB10", capability="12.1", reserved="[N/A]"), look).gpus
    assert one.unified
    assert one.total == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < one.free < one.total


def test_the_parts_of_a_gpu_that_mig_divides(on: Callable[..., Any]) -> None:
    smi = Smi().add(81559, mig=(("2g.20gb", "MIG-1", 37, 20096), ("3g.40gb", "MIG-2", 9000, 40320)))
    first, second = on(smi, look).gpus
    assert (first.index, first.name) == ("MIG-1", "NVIDIA L4 MIG 2g.20gb")
    assert first.total == 20096 * 2**20
    assert second.free == (40320 - 9000) * 2**20 - gpus.CONTEXT
    assert on(smi, lambda: Plan().record)["gpu_index"] == "MIG-2"
    assert on(smi, lambda: Plan().record, GPU="MIG-1")["gpu_index"] == "MIG-1"


def test_a_lost_gpu_does_not_take_the_others_with_it(on: Callable[..., Any]) -> None:
    smi = Smi().add(24564, lost=True).add(24564).add(24564, 20000)
    seen = on(smi, look)
    assert [(one.index, one.total > 0) for one in seen.gpus] == [("1", True), ("2", True)]
    assert "0000:00:00.0" in seen.trouble
    assert "reboot" in seen.todo
    record, lines = on(smi, lambda: (lambda plan: (plan.record, plan.lines))(Plan()))
    assert record["gpu_index"] == 1
    assert "0000:00:00.0" in lines[-1]
    rows = on(smi, lambda: list(preflight.gpus()))
    assert (rows[0].name, rows[0].state) == ("gpu", "warn")


@pytest.mark.parametrize(
    ("mode", "apps", "usable"),
    [
        ("Default", [], True),
        ("Exclusive_Process", [], True),
        ("Exclusive_Process", [("GPU-00000000-aaaa", 1, 700)], False),
        ("Prohibited", [], False),
    ],
)
def test_the_compute_mode(mode: str, apps: list[Any], usable: bool, on: Callable[..., Any]) -> None:
    smi = Smi(apps=apps).add(40960, mode=mode)
    record = on(smi, lambda: Plan().record)
    assert record["fits"] is usable, record["reason"]
    if not usable:
        assert mode in record["reason"]
        assert "-c 0" in record["reason"]
        assert "GPU_KEEP_FREE_GIB" not in record["reason"], "that would not help"
    smi.add(20000)
    assert on(smi, lambda: Plan().record)["gpu_index"] == (0 if usable else 1)


@pytest.mark.parametrize(
    ("visible", "index"),
    [("1", 1), ("GPU-10000000-aaaa", 1), ("GPU-1000", 1), ("0,1", 0), ("1,0", 0), ("7", None), ("", None)],
)
def test_what_a_scheduler_has_given(visible: str, index: int | None, on: Callable[..., Any]) -> None:
    smi = Smi().add(40960, 40000).add(40960, 30000)
    record = on(smi, lambda: Plan().record, CUDA_VISIBLE_DEVICES=visible)
    assert record["gpu_index"] == index, record["reason"]
    if index is None:
        assert "CUDA_VISIBLE_DEVICES=" in record["reason"]
    assert on(smi, lambda: Plan().record, CUDA_VISIBLE_DEVICES=visible, GPU="0")["gpu_index"] == 0, (
        "the setting decides"
    )


def test_processes_without_a_size_are_known_all_the_same(on: Callable[..., Any]) -> None:
    smi = Smi(apps=[("GPU-00000000-aaaa", os.getpid(), "[N/A]")]).add(24564)
    (one,) = on(smi, look).gpus
    assert on(smi, lambda: gpus.held(one, set(), ours=False)) == [(0, os.getpid())]


def machine(number: int) -> tuple[Smi | None, bool]:
    """A machine by its number, and whether it has a GPU that vLLM can use."""
    chance = random.Random(number)
    if chance.random() < 0.1:
        return None, False
    smi = Smi(pause=chance.choice((0, 0, 0.002)))
    if chance.random() < 0.25:
        smi.broken, smi.code, _ = chance.choice(FAILURES)
    for _ in range(chance.randint(0 if smi.broken else 1, 8)):
        total = chance.choice((8192, 12288, 24564, 40960, 81559, 143771, "[N/A]", "[Unknown Error]"))
        free = chance.randint(0, total) if isinstance(total, int) else "[N/A]"
        smi.add(
            total,
            free,
            capability=chance.choice(("7.0", "7.5", "8.0", "8.6", "8.9", "9.0", "12.0", "[N/A]")),
            lost=chance.random() < 0.1,
            mode=chance.choice(("Default",) * 6 + ("Exclusive_Process", "Prohibited")),
            mig=(("1g.10gb", f"MIG-{number}", 10, 9856),) if chance.random() < 0.1 else (),
            reserved=chance.choice((0, 600, "[N/A]")),
        )
    for card in smi.cards:
        if chance.random() < 0.4:
            smi.apps.append((card["uuid"], chance.randint(2, 99999), chance.choice((512, 9000, "[N/A]"))))
    if chance.random() < 0.1:
        smi.unknown = ["compute_cap"]
    return smi, bool(smi.cards) and not smi.broken


@pytest.mark.parametrize("number", range(200))
def test_two_hundred_machines(number: int, on: Callable[..., Any]) -> None:
    """Never the CPU in silence, never a traceback, and no plan on a GPU that cannot run it."""
    smi, able = machine(number)
    real = number % 50 == 0  # else the program's words without the program, which takes a while to start

    def said(*words: str) -> tuple[int, str]:
        code, lines = answer(asdict(smi), list(words)) if smi else (127, [])
        return code, "".join(f"{line}\n" for line in lines)

    with patch.object(gpus, "ask", gpus.ask if real else said):
        judge(smi, able, on)


def judge(smi: Smi | None, able: bool, on: Callable[..., Any]) -> None:
    assert on(smi, profile) == ("gpu" if smi else "cpu")
    rows = on(smi, lambda: list(preflight.gpus()))
    record = on(smi, lambda: Plan().record, PROFILE="gpu")
    assert record["profile"] == "gpu"
    if not able:
        assert rows[0].state == "fail"
        assert record["fits"] is None
    if record["fits"]:
        index = record["gpu_index"]
        card = next((one for one in smi.cards if one["index"] == index), {}) if smi else {}
        fields = card.get("fields", {})
        assert not card.get("lost")
        if smi and not smi.unknown:  # an old one does not tell
            assert fields.get("compute_cap") != "7.0"
            assert fields.get("compute_mode") != "Prohibited"
    else:
        assert record["reason"]


def test_a_gpu_is_named_by_its_index_or_the_beginning_of_its_uuid() -> None:
    one = Gpu("1", "GPU-12345678-aaaa", "x")
    assert [gpus.is_named(one, name) for name in ("1", "GPU-12", "GPU-12345678-aaaa", "0", "GPU-", "11")] == [
        True, True, True, False, False, False,
    ]  # fmt: skip


@pytest.mark.parametrize("script", ["preflight", "plan", "serve"])
def test_the_scripts_on_a_machine_whose_driver_was_updated(script: str, shell: Shell) -> None:
    """Each resolves PROFILE=auto by itself."""
    Smi(broken=MISMATCH, code=18).install(shell)
    more: dict[str, Any] = {
        "BASE_DIR": shell.home / "base",
        "PROFILE": "auto",
        "RUNBOOK_LANG": "en",
        "MODELSCOPE_ENDPOINT": NOWHERE,
    }
    done = shell.script(script, RUNBOOK_DRY="1" if script == "serve" else "", **more)
    said = done.stdout + done.stderr
    assert "mismatch" in said
    assert "reboot" in said
    assert "SmolLM2" not in said
    assert "vllm serve" not in said
    assert "Traceback" not in said
    assert done.returncode == {"preflight": 1, "plan": 0, "serve": 1}[script]
