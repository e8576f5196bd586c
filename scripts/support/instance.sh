#!/usr/bin/env bash
# Run one instance of the server. supervisor starts it; its output is the server's log.
# 运行服务的一个实例：由 supervisor 启动，其输出就是服务日志。
# It kills processes that the last instance has left, waits longer after each crash, and gives up after three starts in a
# row that were never ready.
set -euo pipefail
source "$(dirname "$0")/../lib/settings.sh"
source "$ROOT/scripts/lib/server.sh"
# Kill the sleep of the pause as well: it has the server's mark, and stop would wait for it.
trap 'kill $(jobs -p) 2>/dev/null || true; exit 0' INT TERM

crashes=$(count_of crashes) pauses=$(count_of pauses) starts=$(count_of starts) # watchdog.py resets the first two
pause=$((pauses ? 5 << (pauses < 7 ? pauses - 1 : 6) : 0))                      # seconds: 0 5 10 20 … 320
why=$(cat "$SERVER_ID.why" 2>/dev/null || true)
rm -f "$SERVER_ID.why"
[[ -z $why ]] || echo "==== $why"
if [[ -n $(server_pids) ]]; then
  echo "==== $(pick "清理上一个实例留下的进程" "ending processes of the last instance"): $(server_pids | xargs)"
  kill_server
  gone_within 30 || true
fi
! logged "$(beginning)" | grep 'Application startup complete' >/dev/null || crashes=0 # it was ready between two checks of the watchdog
if ((crashes >= 3)); then
  reason "$(beginning)" >"$SERVER_ID.failed"
  kill -TERM "$PPID" # supervisor, which ends everything else
  sleep 60 &
  wait
fi
log_position >"$SERVER_ID.offset" # the log of this start begins here
echo $((starts + 1)) >"$SERVER_ID.starts"
echo $((crashes + 1)) >"$SERVER_ID.crashes"
echo $((pauses + 1)) >"$SERVER_ID.pauses"
echo "==== $(date '+%F %T') $(pick "第 $((starts + 1)) 次启动" "start $((starts + 1))")"
sleep "$pause" &
wait
export RUNBOOK_TASK=tmux-start
exec bash "$ROOT/scripts/serve.sh"
