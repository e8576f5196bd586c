#!/usr/bin/env bash
# Start the server in a tmux session and wait until it answers.
# 在 tmux 会话中启动服务，等到它能应答。
# Usage: tmux-start.sh [--check | --stopped]    --check: only tell whether it is ready, in its session, with the current settings
#                                               --stopped: stop.sh has just run; in a preview a running server counts as stopped
set -euo pipefail
source "$(dirname "$0")/lib/settings.sh"
source "$ROOT/scripts/lib/server.sh"
source "$ROOT/scripts/lib/environment.sh"
source "$ROOT/scripts/lib/logind.sh"

if [[ -n $CHECK ]]; then
  session_serves && [[ -z $(changed) ]] && server_ready || exit 1
  already "$(base_url)/v1" "$(base_url)/v1"
fi
stopped=''
! dry || stopped=${1:-}
limit=1800 # seconds, for a start that hangs; one that dies is reported at once
began=$SECONDS

give_up() { # the first start died: with the same settings, another one would die too
  local why said=''
  [[ -f $SERVER_ID.starts ]] || said=$(supervisor_said) # vLLM was not started
  why=${said:-$(reason "$offset")}
  bash "$ROOT/scripts/stop.sh" >/dev/null 2>&1 || true
  echo "$why" >"$SERVER_ID.failed"
  [[ -z $said ]] || die E82 "said=$said" "file=$SERVER_ID.supervisord.out"
  die E14 "reason=$why" "log=$SERVER_LOG"
}

show() { # keep our settings, above all the key, out of tmux's environment, which outlives this shell
  printf '    $ %s\n' "$(quote "${SCOPE[@]}" tmux new-session -d -s "$TMUX_SESSION" bash "$ROOT/scripts/support/pane.sh" "$SERVER_ID.env")"
  dry || (session=$TMUX_SESSION && unset "${KEYS[@]}" ENV_FILE RUNBOOK_{TASK,DRY,BIN,BOOTING} && show_in_tmux "$session")
}

wait_ready() {
  local now last='' told=0 serves
  until server_ready; do
    serves=''
    ! session_serves || serves=1 # asked once: the pane may end at any moment
    if [[ -n ${fresh:-} ]] && { (($(count_of crashes) > 1)) || [[ -z $serves ]]; }; then give_up; fi
    [[ ! -f $SERVER_ID.failed ]] || die E14 "reason=$(cat "$SERVER_ID.failed")" "log=$SERVER_LOG"
    [[ -n $serves || $(server_state) != stopped ]] || die E14 "reason=$(reason "$offset")" "log=$SERVER_LOG"
    ((SECONDS - began < limit)) || die E15 "seconds=$limit" "port=$PORT" "log=$SERVER_LOG"
    now=$(phase "$(beginning)")
    if [[ $now != "$last" ]] || ((SECONDS - told >= 30)); then
      printf '    %4d s  %s\n' $((SECONDS - began)) "$now"
      last=$now told=$SECONDS
    fi
    sleep 1
  done
  say "$((SECONDS - began)) 秒后就绪：$(base_url)/v1" "Ready after $((SECONDS - began)) s: $(base_url)/v1"
}

survive_logout
offset=$(log_position)
if [[ -z $stopped ]] && in_foreground; then die E26 "pids=$(server_pids | xargs)"; fi
if [[ -z $stopped && -n $(all_pids) && -z $(supervisor_pid) ]] && ! session_serves; then
  say "先清理上次崩溃留下的进程" "Processes of a crashed server are ended first"
  bash "$ROOT/scripts/stop.sh" || exit 1
fi
if [[ -z $stopped ]] && { [[ -n $(supervisor_pid) ]] || session_serves; }; then
  keys=$(changed)
  [[ -z $keys ]] || die E25 "keys=$keys"
  say "服务已在启动或运行" "The server is already running or starting"
  session_serves || show # its session was lost
else
  if session_exists; then
    session_ours || die E08 "session=$TMUX_SESSION"
    # No server runs in it, only windows that a user opened. After stop.sh there is no session.
    [[ -n $stopped ]] || run tmux kill-session -t "=$TMUX_SESSION"
  fi
  if port_taken && ! { dry && ours_listens; }; then die E07 "port=$PORT" "owner=$(port_owner)" "other=$(next_free_port)"; fi
  other=$(log_owner)
  [[ -z $other ]] || die E39 "log=$SERVER_LOG" "owner=$other" "env=$ENV_FILE" "other=$LOG_DIR/$TMUX_SESSION"
  dry || [[ -n $API_KEY ]] || exec bash "$ROOT/scripts/support/env-file.sh" bash "$ROOT/scripts/tmux-start.sh"
  say "会话中运行：" "The session runs:"
  preview=alone # serve.sh fails here if it would fail in the session
  if planned || [[ -n $stopped ]]; then preview=1; fi
  RUNBOOK_TASK=tmux-start RUNBOOK_DRY=$preview bash "$ROOT/scripts/serve.sh" || exit 1
  run mkdir -p "$(dirname "$SERVER_ID")" "$(dirname "$SERVER_LOG")"
  for file in "$LOG_DIR"/vllm.log "$LOG_DIR"/vllm.log.[123]; do # an earlier version had one log for all machines
    [[ ! -f $file || -L $file || -e $LOG_DIR/$MACHINE/${file##*/} ]] || run mv "$file" "$LOG_DIR/$MACHINE/"
  done
  # A convenience: not every file system supports links.
  [[ -e $LOG_DIR/vllm.log && ! -L $LOG_DIR/vllm.log ]] || run ln -sfn "$MACHINE/vllm.log" "$LOG_DIR/vllm.log" || true
  write "$SERVER_ID.env" settings_of_now
  # At boot the environment is that of systemd or cron: keep the one of the last manual start.
  [[ -n ${RUNBOOK_BOOTING:-} && -f $SERVER_ID.environment ]] || write "$SERVER_ID.environment" environment_of_now
  dry || { rm -f "$SERVER_ID".{failed,crashes,pauses,starts,why,supervisord.out} && echo "$offset" >"$SERVER_ID.offset"; }
  fresh=1
  show || give_up # the pane may end before tmux has marked its session
fi
dry || wait_ready
