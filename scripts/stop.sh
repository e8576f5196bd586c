#!/usr/bin/env bash
# Stop the server: no process of it is left and the port is free.
# 停止服务：不留进程，端口释放。
set -euo pipefail
source "$(dirname "$0")/lib/settings.sh"
source "$ROOT/scripts/lib/server.sh"

gone_within() { # gone_within SECONDS: wait for the whole tree
  local began=$SECONDS said=''
  while [[ -n $(server_pids) ]]; do
    ((SECONDS - began < $1)) || return 1
    if [[ -z $said ]] && ((SECONDS - began >= 2)); then
      said=1
      say "等它结束，至多 $1 秒……" "Waiting for it to end, $1 s at most…"
    fi
    sleep 0.2
  done
}

signal() { # signal NAME PID…: a process may be gone by now
  run kill "-$1" "${@:2}" 2>/dev/null || true
}

# The port that it was started with: the setting may have been changed since.
PORT=$(sed -n "s/^PORT='\(.*\)'\$/\1/p" "$SERVER_ID.env" 2>/dev/null | grep . || echo "$PORT")
mapfile -t pids < <(server_pids)
if ((${#pids[@]} == 0)); then
  say "服务没有运行" "the server is not running"
else
  # The first of the tree ends the others in order; what an earlier crash orphaned is a first of its own.
  mapfile -t first < <(for pid in "${pids[@]}"; do
    printf '%s\n' "${pids[@]}" | grep -qx "$(ps -o ppid= -p "$pid" | tr -d ' ')" || echo "$pid"
  done)
  signal INT "${first[@]}"
  if ! dry && ! gone_within 20; then # vLLM may swallow a signal while it warms up
    mapfile -t pids < <(server_pids)
    signal TERM "${pids[@]}"
    if ! gone_within 10; then
      mapfile -t pids < <(server_pids)
      signal KILL "${pids[@]}"
      gone_within 10 || die E19 "left=pid $(server_pids | tr '\n' ' ')"
    fi
  fi
fi
if session_ours; then run tmux kill-session -t "=$TMUX_SESSION" 2>/dev/null || true; fi
dry && exit
run rm -f "$SERVER_ID.env"
if port_taken; then die E07 "port=$PORT" "owner=$(port_owner)" "other=$(next_free_port)"; fi
say "没有残留进程，端口 $PORT 已释放" "no process is left, port $PORT is free"
