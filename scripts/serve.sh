#!/usr/bin/env bash
# Serve the model with vLLM in the foreground; Ctrl-C stops it.
# 在前台用 vLLM 启动服务；Ctrl-C 停止。
set -euo pipefail
source "$(dirname "$0")/lib/settings.sh"
source "$ROOT/scripts/lib/server.sh"
source "$ROOT/scripts/lib/environment.sh"
drain=30 # seconds for requests in flight when the server is stopped

run_in_foreground() { # run_in_foreground COMMAND…: run it until it ends; Ctrl-C or closing the terminal stops it
  local code=0
  printf '    $ %s\n' "$(quote "$@")"
  # Ctrl-C reaches the whole process group of the terminal, and vLLM's workers would drop the requests in flight. So the
  # server gets its own group, and only the API server gets the signal.
  set -m
  "$@" </dev/null &
  server=$! limit=''
  set +m
  export -n RUNBOOK_SERVER # commands that this shell runs later are not the server
  trap stop_server INT TERM HUP
  wait "$server" || code=$?
  [[ -n $limit ]] || exit "$code"
  gone_within "$limit" || kill_server
  code=0
  wait "$server" || code=$?
  exit "$code"
}

stop_server() { # the first call stops the server in order, the second one kills it
  if [[ -n $limit ]]; then
    exec 2>/dev/null # bash prints a line for every job that is killed
    kill_server
  elif limit=20 && server_ready; then
    limit=$((drain + 15))
    say "正在停止：处理中的请求最多还有 $drain 秒；再按一次 Ctrl-C 立即结束。" \
      "Stopping: requests in flight get up to $drain s; press Ctrl-C again to end at once." || true
  fi
  kill -INT "$server" 2>/dev/null || true
}

dry || printf '==> %(%F %T)T serve.sh\n' # the doctor reads the log from this line
planned || [[ -x $VENV_DIR/bin/vllm ]] || die E21 "missing=$VENV_DIR/bin/vllm" step=install
planned || [[ -f $MODEL_DIR/config.json ]] || die E21 "missing=$MODEL_DIR/config.json" step=download
if ! planned && [[ -n $(main_pid) ]]; then die E26 "pids=$(server_pids | xargs)"; fi
if ! planned && port_taken; then die E07 "port=$PORT" "owner=$(port_owner)" "other=$(next_free_port)"; fi
# Without a key anybody on the network could use the server: create one, then run this script again.
dry || [[ -n $API_KEY ]] || exec bash "$ROOT/scripts/support/env-file.sh" bash "$ROOT/scripts/serve.sh"

# The directory comes first, because --served-model-name takes several values. Both names are served.
args=("$MODEL_DIR" --served-model-name "$SERVED_MODEL_NAME" "$MODEL_DIR" --host "$HOST" --port "$PORT")
# With auto, vLLM reduces the context length to what fits: Qwen3's 262144 tokens need 36 GiB.
args+=(--max-model-len "$MAX_MODEL_LEN")
# Every route except /health needs the API key; requests in flight may finish when the server is stopped.
args+=(--middleware runbook.server.middleware.ApiKeyMiddleware --disable-fastapi-docs --shutdown-timeout "$drain")
args+=(--disable-access-log-for-endpoints '/health,/metrics') # the watchdog requests them every five seconds
[[ $TRUST_REMOTE_CODE == false ]] || args+=(--trust-remote-code)
kind=$(model_kind) || exit 1
if [[ $kind != chat ]]; then
  options=$(model_kind options) || exit 1
  mapfile -t options <<<"$options"
  [[ -z ${options[0]} ]] || args+=("${options[@]}")
elif [[ -n $(tool_parser) && $VLLM_EXTRA_ARGS != *tool-c* ]]; then # agents need it; the user's own options have precedence
  args+=(--enable-auto-tool-choice --tool-call-parser "$(tool_parser)")
fi

chosen=''
[[ $GPU_MEMORY_UTILIZATION != auto && ($GPU != auto || $PROFILE != gpu) ]] || chosen=1 # at least one of them is auto
python=$(find_python) || exit 1
plan=$(SERVER_PIDS=$(server_pids | xargs) module "$python" plan --choose) || exit 1
read -r fits GPU GPU_MEMORY_UTILIZATION dtype seqs reason <<<"$plan"
((seqs == 0)) || args+=(--max-num-seqs "$seqs")
if [[ -n $chosen ]]; then
  [[ $fits != no ]] || planned || die E50 "reason=$reason"
  say "规划：$reason" "plan: $reason"
fi

preload=''
if [[ $PROFILE == gpu ]]; then
  [[ -z $chosen ]] || say "GPU=$GPU GPU_MEMORY_UTILIZATION=$GPU_MEMORY_UTILIZATION" "GPU=$GPU GPU_MEMORY_UTILIZATION=$GPU_MEMORY_UTILIZATION"
  commas=${GPU//[^,]/}
  ((${#commas} == 0)) || args+=(--tensor-parallel-size $((${#commas} + 1)))
  args+=(--gpu-memory-utilization "$GPU_MEMORY_UTILIZATION")
  run export CUDA_DEVICE_ORDER=PCI_BUS_ID "CUDA_VISIBLE_DEVICES=$GPU" # the same indices as in nvidia-smi
else
  args+=(--enforce-eager) # compiling takes minutes at every start and gains little on a CPU
  [[ $dtype == auto ]] || args+=(--dtype "$dtype")
  if [[ $GPU_MEMORY_UTILIZATION == auto ]]; then # vLLM's default share would be most of the RAM; 2 GiB are enough for the embedded model
    say "GPU_MEMORY_UTILIZATION=auto → KV 缓存 2 GiB 内存" "GPU_MEMORY_UTILIZATION=auto → 2 GiB of RAM for the KV cache"
    args+=(--kv-cache-memory-bytes 2G)
  else
    args+=(--gpu-memory-utilization "$GPU_MEMORY_UTILIZATION")
  fi
  # vLLM reserves one core, which is too much if there are only a few.
  (($(nproc) > 4)) || run export VLLM_CPU_NUM_OF_RESERVED_CPU=0
  # Preload the faster OpenMP and, if installed, the faster malloc; by name, because a path in LD_PRELOAD cannot have a space.
  [[ $(/sbin/ldconfig -p 2>/dev/null) != *libtcmalloc_minimal.so.4* ]] || preload+=" libtcmalloc_minimal.so.4"
  [[ ! -f $VENV_DIR/lib/libiomp5.so ]] || preload+=" libiomp5.so"
fi
if [[ -n $VLLM_EXTRA_ARGS ]]; then
  words=$(xargs printf '%s\n' <<<"$VLLM_EXTRA_ARGS" 2>/dev/null) ||
    die E03 key=VLLM_EXTRA_ARGS "value=$VLLM_EXTRA_ARGS" "allowed=$(pick "引号成对的参数" "words with matching quotes")"
  mapfile -t extra <<<"$words"
  args+=("${extra[@]}")
fi

only_inherited "${KEYS[@]}" ENV_FILE 'RUNBOOK_*' 'SERVER_*'
[[ -z $preload ]] || run export "LD_LIBRARY_PATH=$VENV_DIR/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" "LD_PRELOAD=${preload# }"
run source "$ROOT/scripts/lib/caches.sh"          # vLLM's caches are below BASE_DIR
run export HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1 # the model is local: vLLM needs no internet
# Longer than clients use an idle connection (OpenAI's 5 s, LiteLLM's 120 s): no request meets one that vLLM is closing.
run export "VLLM_HTTP_TIMEOUT_KEEP_ALIVE=${VLLM_HTTP_TIMEOUT_KEEP_ALIVE:-180}"
run export "RUNBOOK_SERVER=$SERVER_ID" SPT_NOENV=1 # marks every process of this server; SPT_NOENV keeps the mark readable
# shellcheck disable=SC2016 # shown as it would be typed
printf '    $ export PATH=%s:"$PATH"\n' "$(quote "$VENV_DIR/bin")" # FlashInfer runs ninja from there
export PATH=$VENV_DIR/bin:$PATH
run export "PYTHONPATH=$ROOT" # for the middleware
if [[ $API_KEY == none ]]; then
  loopback || say "警告：API_KEY=none，网络上的任何人都能使用 $HOST:$PORT。" "Warning: API_KEY=none: anybody on the network can use $HOST:$PORT."
else # in the environment: every user of the machine can read a command line
  printf '    $ export VLLM_API_KEY=%s\n' "\"\$API_KEY\""
  export VLLM_API_KEY=$API_KEY
fi
command=("$VENV_DIR/bin/vllm" serve "${args[@]}")
export -n "${KEYS[@]}" ENV_FILE RUNBOOK_{TASK,DRY,BIN} # vLLM does not need our settings
if dry || [[ -n ${RUNBOOK_SUPERVISOR:-} ]]; then become "${command[@]}"; else run_in_foreground "${command[@]}"; fi
