#!/usr/bin/env bash
# What runs in the tmux pane: keeps supervisor up and shows the server's log. Ctrl-C stops the server for good, and so
# does closing the session; when the tmux server itself is killed, a new session takes over.
# Usage: pane.sh FILE, the settings and no others
set -euo pipefail
# The tmux server may have been started from a shell with other settings in its environment.
while read -r key _; do [[ -z $key || $key == \#* ]] || unset "$key"; done <"$(dirname "$0")/settings.rules"
export ENV_FILE=$1 RUNBOOK_TASK=tmux-start
source "$(dirname "$0")/settings.sh"
source "$ROOT/scripts/lib/server.sh"
session=$TMUX_SESSION supervisord=$VENV_DIR/bin/supervisord socket=${TMUX%%,*} stopping='' pid=''
unset "${KEYS[@]}" TMUX TMUX_PANE # what supervisor starts reads the file itself
export SERVER_ID SERVER_LOG SERVER_LOG_MAX=${SERVER_LOG_MAX:-50MB}

stop_all() { # supervisor ends the server, then itself
  trap '' INT
  stopping=1
  [[ -z $pid ]] || kill -TERM "$pid" 2>/dev/null || true
}

hung_up() { # the session has been closed, or the tmux server has died
  trap '' HUP INT
  kill -0 "$pid" 2>/dev/null || exit 0 # stop.sh has ended supervisor before
  for _ in {1..15}; do                 # the client may need a moment
    sleep 0.2
    [[ ! -e $SERVER_ID.lost ]] || break
  done
  if [[ -e $SERVER_ID.lost ]]; then
    show_in_tmux "$session" -S "$socket" >/dev/null 2>&1 || true
  else
    stop_all
  fi
  exit 0
}

# A client of the tmux server fails when that is killed, and not when it ends in order or the session is closed.
rm -f "$SERVER_ID.lost"
# shellcheck disable=SC2016 # the shell that it starts expands them
setsid bash -c 'tmux -S "$1" wait-for "$2" >/dev/null 2>&1 || : >"$3"' - "$socket" "runbook-$$" "$SERVER_ID.lost" &
keeper=$!
trap stop_all INT
trap hung_up HUP TERM
while :; do
  pid=$(supervisor_pid)
  if [[ -z $pid ]]; then
    RUNBOOK_SUPERVISOR=$SERVER_ID setsid "$supervisord" -c "$ROOT/scripts/lib/supervisord.conf" </dev/null >"$SERVER_ID.supervisord.out" 2>&1 &
    pid=$!
  fi
  (trap '' INT && exec tail -n 50 -F "$SERVER_LOG" 2>/dev/null) &
  viewer=$!
  while kill -0 "$pid" 2>/dev/null; do
    sleep 1 &
    wait "$!" || true
  done
  kill "$viewer" 2>/dev/null || true
  # One that ends in order takes its pid file with it.
  [[ -z $stopping && -e $SERVER_ID.supervisord.pid ]] || break
  echo "==== $(pick "supervisor 被杀死，重新启动" "supervisor was killed and is started again")"
done
tmux -S "$socket" wait-for -S "runbook-$$" 2>/dev/null || kill "$keeper" 2>/dev/null || true
