#!/usr/bin/env bash
# Start the server in its tmux session and wait until it answers.
# 在 tmux 会话中启动服务，等到它能应答为止。
set -euo pipefail
source "$(dirname "$0")/lib/settings.sh"
source "$ROOT/scripts/lib/server.sh"

limit=1800 # seconds; a start that dies is told at once, this is for one that hangs
began=$SECONDS

logged() { tail -c "+$((offset + 1))" "$SERVER_LOG" 2>/dev/null || true; } # since this start

phase() { # vLLM's own phase
  logged | awk -v zh="$([[ $(lang) == zh ]] && echo 1)" '
    /non-default args: /                            { p = zh ? "读取参数" : "reading its options" }
    /Resolved architecture: /                       { p = zh ? "检查模型" : "looking at the model" }
    /Initializing a V1 LLM engine/                  { p = zh ? "初始化引擎" : "starting the engine" }
    /Starting to load model|Loading model from scratch/ { p = zh ? "加载权重" : "loading the weights" }
    /Loading weights took/                          { p = zh ? "权重已加载" : "weights loaded" }
    /Starting torch\.compile|torch\.compile took|Warming up model/ { p = zh ? "编译与预热" : "compiling and warming up" }
    /KV cache size: /                               { p = zh ? "分配 KV 缓存" : "making room for the KV cache" }
    /Capturing CUDA graphs/                         { p = zh ? "捕获 CUDA 图" : "capturing CUDA graphs" }
    /Starting vLLM server on/                       { p = zh ? "打开接口" : "opening the interface" }
    END { print p ? p : (zh ? "启动 Python 与 vLLM" : "starting Python and vLLM") }'
}

reason() { # the first error of this start: what follows it is mostly its echo
  local found
  found=$(logged | awk '
    found != "" || / (INFO|WARNING) / || /validation errors? for/ { next }
    match($0, /[A-Za-z_.]*(Error|Exception): .+|Value error, .+|error: .+|✗ .+/) { found = substr($0, RSTART, RLENGTH) }
    END { print found }')
  if [[ -n $found ]]; then echo "$found"; else pick "没有留下错误信息" "it left no error message"; fi
}

wait_ready() {
  local now last='' told=0
  until server_ready; do
    session_serves || server_main || die E14 "reason=$(reason)" "log=$SERVER_LOG"
    ((SECONDS - began < limit)) || die E15 "seconds=$limit" "port=$PORT" "log=$SERVER_LOG"
    now=$(phase)
    if [[ $now != "$last" ]] || ((SECONDS - told >= 30)); then
      printf '    %4d s  %s\n' $((SECONDS - began)) "$now"
      last=$now told=$SECONDS
    fi
    sleep 1
  done
  say "$((SECONDS - began)) 秒后就绪：$(base_url)/v1" "ready after $((SECONDS - began)) s: $(base_url)/v1"
}

settings_of_now() { # as ENV_FILE of the session, which serves exactly these
  local key text
  for key in "${KEYS[@]}"; do
    text=${!key//\\/\\\\}
    printf "%s='%s'\n" "$key" "${text//\'/\\\'}"
  done
}

changed() { # the settings that are not those of the running server, as far as they matter to it
  [[ ! -f $SERVER_ID.env ]] || settings_of_now | { grep -vxFf "$SERVER_ID.env" || true; } | cut -d= -f1 |
    { grep -vE '^(RAGFLOW_|RUNBOOK_LANG|PIP_INDEX_URL|TORCH_FIND_LINKS|MODELSCOPE_|MODEL_REVISION)' || true; } | xargs
}

offset=$(stat -c %s "$SERVER_LOG" 2>/dev/null || echo 0)
if [[ -n $(server_pids) ]] && ! session_serves && ! server_main; then
  say "先清理上次崩溃留下的进程" "What an earlier crash has left is ended first"
  bash "$ROOT/scripts/stop.sh" || exit 1
fi
if ! session_serves && server_main; then die E26 "pids=$(server_pids | xargs)"; fi
if [[ -n $(server_pids) ]] || session_serves; then
  keys=$(changed)
  [[ -z $keys ]] || die E25 "keys=$keys"
  say "服务已在启动或运行" "the server is up already, or on its way"
else
  if session_exists; then
    session_ours || dry || die E08 "session=$TMUX_SESSION"
    run tmux kill-session -t "=$TMUX_SESSION" # empty but for windows that somebody opened
  fi
  if ! dry && port_taken; then die E07 "port=$PORT" "owner=$(port_owner)" "other=$(next_free_port)"; fi
  dry || [[ -n $API_KEY ]] || exec bash "$ROOT/scripts/lib/env-file.sh" bash "$ROOT/scripts/tmux-start.sh"
  run mkdir -p "$BASE_DIR/run" "$LOG_DIR"
  settings_of_now | write "$SERVER_ID.env"
  say "会话中运行：" "In the session runs:"
  RUNBOOK_TASK=tmux-start RUNBOOK_DRY=1 bash "$ROOT/scripts/serve.sh" || exit 1
  start=(tmux new-session -d -s "$TMUX_SESSION" -x 160 -y 50
    bash "$ROOT/scripts/lib/pane.sh" "$SERVER_ID.env" "$SERVER_LOG" ';' set-option -t "=$TMUX_SESSION:" @runbook "$SERVER_ID")
  # The session outlives this shell: none of our settings, the key least of all, stays in tmux's environment.
  (unset "${KEYS[@]}" ENV_FILE RUNBOOK_TASK && run "${start[@]}")
fi
dry || wait_ready
