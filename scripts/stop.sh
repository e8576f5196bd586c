#!/usr/bin/env bash
# Stop the server and check that no process is left and the port is free.
# 停止服务，并确认没有残留进程、端口已释放。
set -euo pipefail
source "$(dirname "$0")/lib/settings.sh"
source "$ROOT/scripts/lib/server.sh"

signal() { # signal NAME PID…: send it; a process may have ended already
  (($# < 2)) || run kill "-$1" "${@:2}" 2>/dev/null || true
}

held() { # print "RAM VRAM" of the server's processes, in GiB
  local pids ram vram
  pids=$(server_pids | sed 's|.*|/proc/&/smaps_rollup|')
  # shellcheck disable=SC2086 # a list of paths without spaces
  ram=$(cat $pids 2>/dev/null </dev/null | awk '/^Pss:/ { kib += $2 } END { printf "%.1f", kib / 2 ^ 20 }')
  vram=$(awk -F ', *' 'NR == FNR { ours[$1]; next } $1 in ours { mib += $2 } END { printf "%.1f", mib / 1024 }' <(server_pids) \
    <(timeout 10 nvidia-smi --query-compute-apps=pid,used_memory --format=csv,noheader,nounits 2>/dev/null || true))
  echo "$ram ${vram:-0.0}"
}

# Cancel the retries of a start at boot, unless that start itself runs this script.
dry || [[ -n ${RUNBOOK_BOOTING:-} ]] || rm -f "$SERVER_ID.booting"
as_started
if ! dry && session_serves; then # the pane may be restarting a killed supervisor, which must get the signal
  for _ in {1..40}; do
    [[ -z $(supervisor_pid) ]] || break
    sleep 0.1
  done
fi
mapfile -t pids < <(all_pids)
if ((${#pids[@]} == 0)); then
  say "服务没有在本机运行" "The server is not running on this machine"
  tell_elsewhere
else
  read -r ram vram <<<"$(held)"
  # Ready: requests in flight may finish. Not ready: there are none, and vLLM may ignore a signal during its warm-up.
  patience=20
  ! server_ready || patience=45
  if [[ -n $(supervisor_pid) ]]; then
    signal TERM "$(supervisor_pid)" # it sends SIGINT to the server and does not restart it
  else
    # The root of a process tree ends the others in order; a process orphaned by a crash is a root too.
    mapfile -t roots < <(for pid in "${pids[@]}"; do
      [[ " ${pids[*]} " == *" $(parent_of "$pid") "* ]] || echo "$pid"
    done)
    signal INT "${roots[@]}"
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
dry || gone_within 5 pane_pids || true
if ! dry && ((${#pids[@]} > 0)); then # a killed process frees its memory, then its port, which has no owner meanwhile
  for _ in {1..50}; do
    port_taken && [[ -z $(listener_pids) ]] || break
    sleep 0.2
  done
fi
run rm -f "$SERVER_ID".{env,failed,crashes,pauses,starts,why,offset,alive,supervisord.pid}
if port_taken && ! { dry && ours_listens; }; then die E07 "port=$PORT" "owner=$(port_owner)" "other=$(next_free_port)"; fi
dry && exit
say "没有残留进程，端口 $PORT 已释放" "No process is left, port $PORT is free"
[[ -z ${ram:-} ]] || say "归还内存 $ram GiB$([[ $vram == 0.0 ]] || echo "，显存 $vram GiB")" \
  "$ram GiB of RAM$([[ $vram == 0.0 ]] || echo " and $vram GiB on the cards") are free again"
