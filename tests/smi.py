"""A stand-in for nvidia-smi whose words were recorded from real ones: any GPUs, and every known way to fail."""

import json
import sys
from dataclasses import asdict, dataclass, field
from inspect import getsource
from pathlib import Path
from typing import Any

from tests.conftest import Shell, executable


def answer(now: dict[str, Any], words: list[str]) -> tuple[int, list[str]]:
    """Its exit code, and the lines that it writes."""
    cards = now["cards"]
    if now["broken"]:
        return now["code"], [now["broken"]]
    wanted = words[words.index("-i") + 1].split(",") if "-i" in words else None
    chosen = [card for card in cards if not wanted or card["uuid"] in wanted or str(card["index"]) in wanted]
    handle = "Unable to determine the device handle for GPU {bus}: Unknown Error"
    lost = [handle.format(**card) for card in chosen if card["lost"]]
    asked = next((word.split("=", 1)[1].split(",") for word in words if word.startswith("--query-gpu=")), None)
    if asked:
        unknown = [name for name in asked if name in now["unknown"]]
        if unknown:
            return 2, [f'Field "{unknown[0]}" is not a valid field to query.']
        if lost:
            return 15, lost[:1]
        return 0, [", ".join(str(card["fields"].get(name, "[N/A]")) for name in asked) for card in chosen]
    if any(word.startswith("--query-compute-apps") for word in words):
        return 0, [", ".join(map(str, row)) for row in now["apps"]]
    lines = [] if "-L" in words else ["| NVIDIA-SMI 580.95.05   Driver Version: 580.95.05   CUDA Version: 13.0 |"]
    for card in cards:
        index, parts = card["index"], list(enumerate(card["mig"]))
        if "-L" not in words:
            lines += [
                f"|  {index}    {n + 3}   0   {n}  | {used:>12}MiB / {all_}MiB |" for n, (_, _, used, all_) in parts
            ]
        elif card["lost"]:
            lines.append(handle.format(**card))
        else:
            lines.append(f"GPU {index}: {card['name']} (UUID: {card['uuid']})")
            lines += [f"  MIG {profile}     Device  {n}: (UUID: {uuid})" for n, (profile, uuid, _, _) in parts]
    return (15 if any(card["lost"] for card in cards) else 0), lines


PROGRAM = """
import json, sys, time
from typing import Any
now = json.loads({state!r})
{source}
time.sleep(now["delay"])
code, lines = answer(now, sys.argv[1:])
for line in lines:
    print(line, flush=True)
    time.sleep(now["pause"])
sys.exit(code)
"""


@dataclass
class Smi:
    """What nvidia-smi finds, and how it behaves. Sizes are in MiB."""

    cards: list[dict[str, Any]] = field(default_factory=list)
    apps: list[tuple[str, int, object]] = field(default_factory=list)
    broken: str = ""  # it says this, and fails
    code: int = 9
    pause: float = 0  # seconds after each line
    delay: float = 0  # seconds before the first
    unknown: list[str] = field(default_factory=list)  # fields that an older one does not know

    def add(
        self,
        total: object,
        free: object = None,
        *,
        name: str = "NVIDIA L4",
        capability: str = "8.9",
        lost: bool = False,
        mode: str = "Default",
        mig: tuple[tuple[str, str, int, int], ...] = (),
        reserved: object = 0,
        driver: str = "580.95.05",
    ) -> "Smi":
        """Add a GPU; free: all of it."""
        index = len(self.cards)
        uuid, bus = f"GPU-{index}0000000-aaaa", f"0000:{index:02x}:00.0"
        fields = {"index": index, "uuid": uuid, "name": name, "driver_version": driver, "memory.total": total}
        fields |= {"memory.free": total if free is None else free, "memory.reserved": reserved}
        fields |= {
            "compute_cap": capability,
            "compute_mode": mode,
            "mig.mode.current": "Enabled" if mig else "Disabled",
        }
        self.cards.append(
            {"index": index, "uuid": uuid, "name": name, "bus": bus, "lost": lost, "mig": mig, "fields": fields}
        )
        return self

    def install(self, shell: Shell) -> Path:
        """Put it on the PATH of a shell."""
        program = shell.home / "smi.py"
        program.write_text(PROGRAM.format(state=json.dumps(asdict(self)), source=getsource(answer)))
        folder = shell.home / "stand-ins"
        folder.mkdir(exist_ok=True)
        shell.stand_in("cc", "exit 1")  # what Triton compiles with: a minimal machine has neither
        (folder / "Python.h").touch()
        shell.settings["CPATH"] = folder
        if folder not in shell.path:
            shell.path.append(folder)
        return executable(folder / "nvidia-smi", f"exec '{sys.executable}' -S '{program}' \"$@\"")
