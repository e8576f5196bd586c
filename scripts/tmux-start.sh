#!/usr/bin/env bash
# Start the server in its tmux session and wait until it answers.
# 在 tmux 会话中启动服务，等到它能应答为止。
set -euo pipefail
source "$(dirname "$0")/lib/settings.sh"
source "$ROOT/scripts/lib/server.sh"

limit=1800 # seconds; a start that dies is told at once, this is for one that hangs
began=$SECONDS

give_up() { # the first start has died: its settings are at fault, trying them again would only take time
  local why
  why=$(reason "$offset")
  bash "$ROOT/scripts/stop.sh" >/dev/null 2>&1 || true
  echo "$why" >"$SERVER_ID.failed"
  die E14 "reason=$why" "log=$SERVER_LOG"
}

show() { # the session outlives this shell: none of our settings, the key least of all, stays in tmux's environment
  printf '    $ %s\n' "$(quote tmux new-session -d -s "$TMUX_SESSION" bash "$ROOT/scripts/lib/pane.sh" "$SERVER_ID.env")"
  dry || (session=$TMUX_SESSION && unset "${KEYS[@]}" ENV_FILE RUNBOOK_TASK && show_in_tmux "$session")
}

wait_ready() {
  local now last='' told=0
  until server_ready; do
    if [[ -n ${fresh:-} ]] && { (($(count_of crashes) > 1)) || ! session_serves; }; then give_up; fi
    [[ ! -f $SERVER_ID.failed ]] || die E14 "reason=$(cat "$SERVER_ID.failed")" "log=$SERVER_LOG"
    session_serves || [[ $(server_state) != stopped ]] || die E14 "reason=$(reason "$offset")" "log=$SERVER_LOG"
    ((SECONDS - began < limit)) || die E15 "seconds=$limit" "port=$PORT" "log=$SERVER_LOG"
    now=$(phase "$(count_of offset)")
    if [[ $now != "$last" ]] || ((SECONDS - told >= 30)); then
      printf '    %4d s  %s\n' $((SECONDS - began)) "$now"
      last=$now told=$SECONDS
    fi
    sleep 1
  done
  say "$((SECONDS - began)) 秒后就绪：$(base_url)/v1" "ready after $((SECONDS - began)) s: $(base_url)/v1"
}

offset=$(stat -c %s "$SERVER_LOG" 2>/dev/null || echo 0)
if in_foreground; then die E26 "pids=$(server_pids | xargs)"; fi
if [[ -n $(all_pids) && -z $(supervisor_pid) ]] && ! session_serves; then
  say "先清理上次崩溃留下的进程" "What an earlier crash has left is ended first"
  bash "$ROOT/scripts/stop.sh" || exit 1
fi
if [[ -n $(supervisor_pid) ]] || session_serves; then
  keys=$(changed)
  [[ -z $keys ]] || die E25 "keys=$keys"
  say "服务已在启动或运行" "the server is up already, or on its way"
  session_serves || show # its session was lost
else
  if session_exists; then
    session_ours || dry || die E08 "session=$TMUX_SESSION"
    run tmux kill-session -t "=$TMUX_SESSION" # empty but for windows that somebody opened
  fi
  if ! dry && port_taken; then die E07 "port=$PORT" "owner=$(port_owner)" "other=$(next_free_port)"; fi
  other=$(log_owner)
  dry || [[ -z $other ]] || die E39 "log=$SERVER_LOG" "owner=$other" "env=$ENV_FILE" "other=$LOG_DIR/$TMUX_SESSION"
  dry || [[ -n $API_KEY ]] || exec bash "$ROOT/scripts/lib/env-file.sh" bash "$ROOT/scripts/tmux-start.sh"
  run mkdir -p "$BASE_DIR/run" "$LOG_DIR"
  settings_of_now | write "$SERVER_ID.env"
  say "会话中运行：" "In the session runs:"
  RUNBOOK_TASK=tmux-start RUNBOOK_DRY=1 bash "$ROOT/scripts/serve.sh" || exit 1
  dry || { rm -f "$SERVER_ID".{failed,crashes,pauses,starts,why} && echo "$offset" >"$SERVER_ID.offset"; }
  show
  fresh=1
fi
dry || wait_ready
