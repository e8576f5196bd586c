#!/usr/bin/env bash
# Resolve requirements/*.in into full locks with hashes, for Python 3.11 and later on Linux.
# 将 requirements/*.in 解析为带哈希的完整锁定文件。
# torch+cpu comes from TORCH_FIND_LINKS, or from find-links in pip's own configuration.
set -euo pipefail
source "$(dirname "$0")/../lib/settings.sh"
source "$ROOT/scripts/lib/packages.sh"

run source "$ROOT/scripts/lib/caches.sh"
cd "$ROOT/requirements"
torch=$TORCH_FIND_LINKS
[[ -n $torch ]] || torch=$(pip_setting find-links | tail -n 1)
[[ -n $torch ]] || torch=https://download.pytorch.org/whl/cpu/torch/
have_uv || die E09 lock=requirements/
compile=("$UV" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate
  --custom-compile-command "inv dev.lock")
run "${compile[@]}" cuda.in -o cuda.txt
run "${compile[@]}" docs.in -o docs.txt
run export "UV_FIND_LINKS=$torch" # it may contain a password, and a command line is public
run "${compile[@]}" --no-emit-package torch --no-emit-package torchvision \
  --no-emit-package torchaudio --no-emit-package torchcodec cpu.in -o cpu.txt
# Both are installed together, so the default torch must use the versions of cpu.txt, except for triton.
run "${compile[@]}" -c <(grep -E '^[a-z].*==' cpu.txt | grep -v '^triton' | sed 's/ .$//') cpu-torch-index.in -o cpu-torch-index.txt
