#!/usr/bin/env bash
# Serve the model with vLLM in the foreground; Ctrl-C stops it.
# 在前台用 vLLM 启动服务；Ctrl-C 停止。
set -euo pipefail
source "$(dirname "$0")/lib/settings.sh"
source "$ROOT/scripts/lib/server.sh"

dry || printf '==> %(%F %T)T serve.sh\n' # where the doctor begins to read the log
dry || [[ -x $VENV_DIR/bin/vllm ]] || die E21 "missing=$VENV_DIR/bin/vllm" step=install
dry || [[ -f $MODEL_DIR/config.json ]] || die E21 "missing=$MODEL_DIR/config.json" step=download
if ! dry && [[ -n $(main_pid) ]]; then die E26 "pids=$(server_pids | xargs)"; fi
if ! dry && port_taken; then die E07 "port=$PORT" "owner=$(port_owner)" "other=$(next_free_port)"; fi
# Without a key anybody on the network could use the server: one is made, then this script starts over.
dry || [[ -n $API_KEY ]] || exec bash "$ROOT/scripts/lib/env-file.sh" bash "$ROOT/scripts/serve.sh"

# The folder stands first: --served-model-name takes several values and would swallow it. Both names are served.
args=("$MODEL_DIR" --served-model-name "$SERVED_MODEL_NAME" "$MODEL_DIR" --host "$HOST" --port "$PORT")
# auto lets vLLM shrink the context to what fits: Qwen3's own 262144 tokens want 36 GiB.
args+=(--max-model-len "$MAX_MODEL_LEN")
# The key on every route but /health; requests in flight get 30 s when it is stopped.
args+=(--middleware runbook_gate.Gate --disable-fastapi-docs --shutdown-timeout 30)
args+=(--disable-access-log-for-endpoints '/health,/metrics') # the watch asks them every five seconds
[[ $TRUST_REMOTE_CODE == false ]] || args+=(--trust-remote-code)
if embeds; then
  [[ $VLLM_EXTRA_ARGS == *--runner* ]] || args+=(--runner pooling)
elif [[ -n $(tool_parser) && $VLLM_EXTRA_ARGS != *tool-c* ]]; then # agents need it; the words of the user go before
  args+=(--enable-auto-tool-choice --tool-call-parser "$(tool_parser)")
fi

[[ $PROFILE != gpu ]] || has_card || die E24
if [[ $GPU_MEMORY_UTILIZATION == auto || ($GPU == auto && $PROFILE == gpu) ]] && python=$(find_python 2>/dev/null); then
  plan=$(RUNBOOK_LANG=$(lang) "$python" "$ROOT/scripts/lib/plan.py" --choose) # what is left to auto, by free memory
  read -r answer card share reason <<<"$plan"
  case $answer in
    yes) GPU=$card GPU_MEMORY_UTILIZATION=$share ;;
    no) dry || die E50 "reason=$reason" ;;
  esac # else the lines below choose
  say "规划：$reason" "plan: $reason"
fi

if [[ $PROFILE == gpu ]]; then
  if [[ $GPU == auto ]]; then
    GPU=$(nvidia-smi --query-gpu=index,memory.free --format=csv,noheader,nounits | sort -t, -k2,2nr -k1,1n | head -n 1 | cut -d, -f1)
    say "GPU=auto → $GPU（空闲显存最多）" "GPU=auto → $GPU (the most free memory)"
  fi
  cards=${GPU//[^,]/}
  ((${#cards} == 0)) || args+=(--tensor-parallel-size $((${#cards} + 1)))
  if [[ $GPU_MEMORY_UTILIZATION == auto ]]; then # what is free on the fullest chosen card, less a margin
    GPU_MEMORY_UTILIZATION=$(nvidia-smi -i "$GPU" --query-gpu=memory.free,memory.total --format=csv,noheader,nounits |
      awk -F, 'BEGIN { least = 0.92 } { share = $1 / $2 - 0.03; if (share < least) least = share } END { printf "%.2f", (least > 0.01 ? least : 0.01) }')
    say "GPU_MEMORY_UTILIZATION=auto → $GPU_MEMORY_UTILIZATION（按空闲显存）" "GPU_MEMORY_UTILIZATION=auto → $GPU_MEMORY_UTILIZATION (by free memory)"
  fi
  args+=(--gpu-memory-utilization "$GPU_MEMORY_UTILIZATION")
  run export CUDA_DEVICE_ORDER=PCI_BUS_ID "CUDA_VISIBLE_DEVICES=$GPU" # numbered as nvidia-smi numbers them
else
  args+=(--enforce-eager) # compiling costs minutes at every start and wins little on a CPU
  # Without bf16 instructions float32 is more than twice as fast.
  grep -qE 'avx512_bf16|amx_bf16' /proc/cpuinfo || args+=(--dtype float32)
  if [[ $GPU_MEMORY_UTILIZATION == auto ]]; then # a share of RAM would be most of the machine; 2 GiB serve the embedded model
    say "GPU_MEMORY_UTILIZATION=auto → KV 缓存 2 GiB 内存" "GPU_MEMORY_UTILIZATION=auto → 2 GiB of RAM for the KV cache"
    args+=(--kv-cache-memory-bytes 2G)
  else
    args+=(--gpu-memory-utilization "$GPU_MEMORY_UTILIZATION")
  fi
  # vLLM keeps one core back: of a few, that is too much.
  (($(nproc) > 4)) || run export VLLM_CPU_NUM_OF_RESERVED_CPU=0
  # The faster OpenMP and, where it is installed, the faster malloc. By name: LD_PRELOAD cannot carry a path with a space.
  preload=${LD_PRELOAD:-}
  ! /sbin/ldconfig -p 2>/dev/null | grep -qF libtcmalloc_minimal.so.4 || preload+=" libtcmalloc_minimal.so.4"
  [[ ! -f $VENV_DIR/lib/libiomp5.so ]] || preload+=" libiomp5.so"
  [[ -z $preload ]] || run export "LD_LIBRARY_PATH=$VENV_DIR/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" "LD_PRELOAD=${preload# }"
fi
if [[ -n $VLLM_EXTRA_ARGS ]]; then
  words=$(xargs printf '%s\n' <<<"$VLLM_EXTRA_ARGS" 2>/dev/null) ||
    die E03 key=VLLM_EXTRA_ARGS "value=$VLLM_EXTRA_ARGS" "allowed=$(pick "引号成对的参数" "words with matching quotes")"
  mapfile -t extra <<<"$words"
  args+=("${extra[@]}")
fi

run export HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1                            # the model is local: nothing is asked of the internet
run export "RUNBOOK_SERVER=$SERVER_ID" SPT_NOENV=1                           # marks every process of this server, readably
run unset PYTHONDONTWRITEBYTECODE                                            # with it every start compiles all of vLLM anew: a minute lost
run export "PYTHONPATH=$ROOT/scripts/lib/serving${PYTHONPATH:+:$PYTHONPATH}" # where the gate lies
unset VLLM_API_KEY
if [[ $API_KEY == none ]]; then
  loopback || say "警告：API_KEY=none，网络上的任何人都能使用 $HOST:$PORT。" "Warning: API_KEY=none: anybody on the network can use $HOST:$PORT."
else # in the environment and not in the command, which everybody on the machine can read
  printf '    $ export VLLM_API_KEY=%s\n' "\"\$API_KEY\""
  export VLLM_API_KEY=$API_KEY
fi
command=("$VENV_DIR/bin/vllm" serve "${args[@]}")
unset "${KEYS[@]}" ENV_FILE # our settings are not vLLM's
become "${command[@]}"
