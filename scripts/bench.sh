#!/usr/bin/env bash
# Measure how fast the running server is.
# 测量正在运行的服务有多快。
# Usage: bench.sh [--requests N] [--concurrency N] [--input TOKENS] [--output TOKENS]
set -euo pipefail
source "$(dirname "$0")/lib/settings.sh"
source "$ROOT/scripts/lib/server.sh"
source "$ROOT/scripts/lib/ragflow.sh" # server_context

declare -A of=([requests]=8 [concurrency]=4 [input]=256 [output]=64) found=(['Successful requests']=0)
while (($#)); do
  [[ $1 =~ ^--(requests|concurrency|input|output)$ && ${2:-} =~ ^[1-9][0-9]{0,6}$ ]] ||
    die E70 "script=bench" "word=$*" "usage=./inv bench --requests 8 --concurrency 4 --input 256 --output 64"
  of[${1#--}]=$2
  shift 2
done
dry || [[ -x $VENV_DIR/bin/vllm ]] || die E21 "missing=$VENV_DIR/bin/vllm" step=install
as_started
dry || must_be_ready

args=(--backend openai-chat --endpoint /v1/chat/completions) # the door that RAGFlow uses
args+=(--base-url "$(base_url)" --model "$SERVED_MODEL_NAME" --tokenizer "$MODEL_DIR")
args+=(--dataset-name random --random-input-len "${of[input]}" --random-output-len "${of[output]}" --ignore-eos)
args+=(--temperature 0 --num-prompts "${of[requests]}" --max-concurrency "${of[concurrency]}")
[[ $TRUST_REMOTE_CODE == false ]] || args+=(--trust-remote-code)
printf '    $ export OPENAI_API_KEY=%s\n' "\"\$API_KEY\"" # in the environment: a command line is public
run export HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1 'no_proxy=*' PYTHONUNBUFFERED=1 TQDM_MININTERVAL=2
run unset PYTHONDONTWRITEBYTECODE
export OPENAI_API_KEY=$API_KEY
RUNBOOK_DRY=1 run "$VENV_DIR/bin/vllm" bench serve "${args[@]}"
dry && exit
say "载入 vLLM（约 20 秒），然后提出 ${of[requests]} 个请求，${of[concurrency]} 个同时进行：" \
  "Loading vLLM (about 20 s), then ${of[requests]} requests, ${of[concurrency]} at a time:"

table='' in_table='' error=''
while IFS= read -r line; do # of all that vLLM and its libraries say: the progress, the table and the first error
  [[ $line != *%\|* ]] || printf '    %s\n' "$line"
  [[ $line != *Result\ ==* ]] || in_table=1
  [[ -z $in_table ]] || table+="    $line"$'\n'
  [[ ! $line =~ ^=+$ ]] || in_table=''
  [[ ! $line =~ ^([A-Z][^:]*):\ +([0-9.]+) ]] || found[${BASH_REMATCH[1]}]=${BASH_REMATCH[2]}
  [[ ! $line =~ Error[^:]*:\ *(.+) ]] || error=${error:-${BASH_REMATCH[1]}}
done < <("$VENV_DIR/bin/vllm" bench serve "${args[@]}" 2>&1 | stdbuf -o0 tr '\r' '\n')

[[ ${found['Successful requests']} == "${of[requests]}" ]] ||
  die E74 "failed=$((of[requests] - found['Successful requests']))" "reason=${error:-?}" "context=$(server_context)"
printf '%s' "$table"
speed=${found['Output token throughput (tok/s)']} first=${found['Mean TTFT (ms)']} next=${found['Mean TPOT (ms)']}
first=$(awk -v ms="$first" 'BEGIN { printf "%.1f", ms / 1000 }')
say "${of[concurrency]} 个请求同时进行：每秒共 $speed 个 token；平均 $first 秒后出现第一个字，此后每个 token 需 $next 毫秒" \
  "${of[concurrency]} at a time: $speed tokens a second in all; on average the first word after $first s, then a token every $next ms"
