#!/usr/bin/env bash
# Measure how fast the running server is.
# 测量正在运行的服务的速度。
# Usage: bench.sh [--requests N] [--concurrency N] [--input TOKENS] [--output TOKENS]
set -euo pipefail
source "$(dirname "$0")/lib/settings.sh"
source "$ROOT/scripts/lib/server.sh"
as_started tell
source "$ROOT/scripts/lib/ragflow.sh" # server_context

kind=$(model_kind) || exit 1
declare -A of=([requests]=8 [concurrency]=4 [input]=256 [output]=64)
[[ $kind == chat ]] || of[input]=200 # the embedded embedding model takes 256 with its own marks
while (($#)); do
  [[ $1 =~ ^--(requests|concurrency|input|output)$ && ${2:-} =~ ^[1-9][0-9]{0,6}$ ]] ||
    die E70 "script=bench" "word=$*" "usage=./inv bench --requests 8 --concurrency 4 --input 256 --output 64"
  of[${1#--}]=$2
  shift 2
done
planned || [[ -x $VENV_DIR/bin/vllm ]] || die E21 "missing=$VENV_DIR/bin/vllm" step=install
planned || must_be_ready

prompts=${of[requests]}
case $kind in # the routes that RAGFlow uses
  chat) args=(--backend openai-chat --endpoint /v1/chat/completions --dataset-name random) ;;
  embedding) args=(--backend openai-embeddings --endpoint /v1/embeddings --dataset-name random) ;;
  rerank)
    args=(--backend vllm-rerank --endpoint /v1/rerank --dataset-name random-rerank --random-batch-size 16)
    prompts=$((prompts * 16)) # passages: one request ranks 16
    ;;
esac
args+=(--base-url "$(base_url)" --model "$SERVED_MODEL_NAME" --tokenizer "$MODEL_DIR" --random-input-len "${of[input]}")
[[ $kind != chat ]] || args+=(--random-output-len "${of[output]}" --ignore-eos --temperature 0)
args+=(--num-prompts "$prompts" --max-concurrency "${of[concurrency]}")
[[ $TRUST_REMOTE_CODE == false ]] || args+=(--trust-remote-code)
printf '    $ export OPENAI_API_KEY=%s\n' "\"\$API_KEY\"" # in the environment: a command line is public
run source "$ROOT/scripts/lib/caches.sh"
run export HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1 'no_proxy=*' PYTHONUNBUFFERED=1 TQDM_MININTERVAL=2
run unset PYTHONDONTWRITEBYTECODE
export OPENAI_API_KEY=$API_KEY
RUNBOOK_DRY=1 run "$VENV_DIR/bin/vllm" bench serve "${args[@]}"
dry && exit
say "载入 vLLM（约 20 秒），然后提出 ${of[requests]} 个请求，${of[concurrency]} 个同时进行：" \
  "Loading vLLM (about 20 s), then ${of[requests]} requests, ${of[concurrency]} at a time:"

results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT
# Show only the progress of what vLLM and its libraries print.
"$VENV_DIR/bin/vllm" bench serve "${args[@]}" --save-result --save-detailed --result-dir "$results" --result-filename result.json 2>&1 |
  stdbuf -o0 tr '\r' '\n' | tee "$results/log" | sed -un '/%|/s/^/    /p' || true
python=$VENV_DIR/bin/python
[[ -f $results/result.json ]] ||
  die E74 "failed=${of[requests]}" "reason=$(module "$python" doctor.log <"$results/log")" "context=$(server_context)"
module "$python" server.bench "$results/result.json" "${of[requests]}" "$(server_context)" || exit 1
