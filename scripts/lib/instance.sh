#!/usr/bin/env bash
# One instance of the server, started by supervisor: ends what an earlier one has left, waits longer after each crash,
# gives up after three starts in a row that were never ready. Its output is the server's log.
set -euo pipefail
source "$(dirname "$0")/settings.sh"
source "$ROOT/scripts/lib/server.sh"
trap 'exit 0' INT TERM

crashes=$(count_of crashes) pauses=$(count_of pauses) starts=$(count_of starts) # watch.py resets the first two
pause=$((pauses ? 5 << (pauses < 7 ? pauses - 1 : 6) : 0))                      # seconds: 0 5 10 20 … 320
why=$(cat "$SERVER_ID.why" 2>/dev/null || true)
rm -f "$SERVER_ID.why"
[[ -z $why ]] || echo "==== $why"
if [[ -n $(server_pids) ]]; then
  echo "==== $(pick "清理上一个实例留下的进程" "ending what the last instance has left"): $(server_pids | xargs)"
  server_pids | xargs -r kill -KILL 2>/dev/null || true
  gone_within 30 || true
fi
! logged "$(count_of offset)" | grep -q 'Application startup complete' || crashes=0 # ready between two looks of the watch
if ((crashes >= 3)); then
  reason "$(count_of offset)" >"$SERVER_ID.failed"
  kill -TERM "$PPID" # supervisor: with it everything ends
  sleep 60 &
  wait
fi
stat -c %s "$SERVER_LOG" 2>/dev/null >"$SERVER_ID.offset" || true # where this start's log begins
echo $((starts + 1)) >"$SERVER_ID.starts"
echo $((crashes + 1)) >"$SERVER_ID.crashes"
echo $((pauses + 1)) >"$SERVER_ID.pauses"
echo "==== $(date '+%F %T') $(pick "第 $((starts + 1)) 次启动" "start $((starts + 1))")"
sleep "$pause" &
wait
export RUNBOOK_TASK=tmux-start
exec bash "$ROOT/scripts/serve.sh"
