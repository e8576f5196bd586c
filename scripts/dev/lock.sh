#!/usr/bin/env bash
# Resolve requirements/*.in into full locks with hashes, for Python 3.11 and later on Linux.
# 将 requirements/*.in 解析为带哈希的完整锁定文件。
# torch+cpu is looked for in TORCH_FIND_LINKS, or where pip's own configuration says.
set -euo pipefail
source "$(dirname "$0")/../lib/settings.sh"

cd "$ROOT/requirements"
links=$TORCH_FIND_LINKS
[[ -n $links ]] || links=$(python3 -m pip config list | sed -n "s/^[^=]*\.find-links='\(.*\)'\$/\1/p" | tail -n 1)
[[ -n $links ]] || links=https://download.pytorch.org/whl/cpu/torch/
compile=("${RUNBOOK_BIN:-$ROOT/.venv/bin}/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate
  --custom-compile-command "inv dev.lock")
run "${compile[@]}" cuda.in -o cuda.txt
run "${compile[@]}" docs.in -o docs.txt
run "${compile[@]}" --find-links "$links" --no-emit-package torch --no-emit-package torchvision \
  --no-emit-package torchaudio --no-emit-package torchcodec cpu.in -o cpu.txt
