#!/usr/bin/env bash
# Stop the server: no process of it is left, the port is free and the memory is back.
# 停止服务：不留进程，端口释放，内存和显存归还。
set -euo pipefail
source "$(dirname "$0")/lib/settings.sh"
source "$ROOT/scripts/lib/server.sh"

signal() { # signal NAME PID…: a process may be gone by now
  (($# < 2)) || run kill "-$1" "${@:2}" 2>/dev/null || true
}

held() { # "RAM VRAM" in GiB that the server's processes hold
  local pids ram vram
  pids=$(server_pids | sed 's|.*|/proc/&/smaps_rollup|')
  # shellcheck disable=SC2086 # a list of paths without spaces
  ram=$(cat $pids 2>/dev/null </dev/null | awk '/^Pss:/ { kib += $2 } END { printf "%.1f", kib / 2 ^ 20 }')
  vram=$(awk -F ', *' 'NR == FNR { ours[$1]; next } $1 in ours { mib += $2 } END { printf "%.1f", mib / 1024 }' <(server_pids) \
    <(nvidia-smi --query-compute-apps=pid,used_memory --format=csv,noheader,nounits 2>/dev/null || true))
  echo "$ram ${vram:-0.0}"
}

as_started
mapfile -t pids < <(all_pids)
if ((${#pids[@]} == 0)); then
  say "服务没有运行" "the server is not running"
else
  read -r ram vram <<<"$(held)"
  # Ready: requests in flight get their time. Not ready: nobody waits, and vLLM may swallow a signal while it warms up.
  patience=20
  ! server_ready || patience=45
  if [[ -n $(supervisor_pid) ]]; then
    signal TERM "$(supervisor_pid)" # it sends SIGINT to the server and starts no other
  else
    # The first of the tree ends the others in order; what a crash orphaned is a first of its own.
    mapfile -t first < <(for pid in "${pids[@]}"; do
      printf '%s\n' "${pids[@]}" | grep -qx "$(ps -o ppid= -p "$pid" | tr -d ' ')" || echo "$pid"
    done)
    signal INT "${first[@]}"
  fi
  for name in TERM KILL; do
    dry || gone_within "$patience" all_pids || {
      mapfile -t pids < <(all_pids)
      signal "$name" "${pids[@]}"
      patience=10
    }
  done
  dry || gone_within 10 all_pids || die E19 "left=pid $(all_pids | tr '\n' ' ')"
fi
if session_ours; then run tmux kill-session -t "=$TMUX_SESSION" 2>/dev/null || true; fi
dry && exit
run rm -f "$SERVER_ID".{env,failed,crashes,pauses,starts,why,offset,supervisord.pid}
if port_taken; then die E07 "port=$PORT" "owner=$(port_owner)" "other=$(next_free_port)"; fi
say "没有残留进程，端口 $PORT 已释放" "no process is left, port $PORT is free"
[[ -z ${ram:-} ]] || say "归还内存 $ram GiB$([[ $vram == 0.0 ]] || echo "，显存 $vram GiB")" \
  "$ram GiB of RAM$([[ $vram == 0.0 ]] || echo " and $vram GiB on the cards") are free again"
