#!/usr/bin/env bash
# Run in the tmux pane: keep supervisor running, and show the server's log.
# 在 tmux 窗格中运行：保证 supervisor 一直运行，并显示服务日志。
# Ctrl-C, or closing the session, stops the server. If the tmux server is killed, a new session takes over.
# Usage: pane.sh FILE    FILE has all settings; the file of the environment is beside it, see environment.rules
set -euo pipefail
# The environment here is that of the tmux server, whoever started it, and when: run again without it.
(($# > 1)) || exec -c "$BASH" "$0" "$1" "${TMUX%,*,*}"
exec 2>>"${1%.env}.supervisord.out" # tmux-start reports what is in it
while IFS= read -r -d '' pair; do export "${pair?}"; done <"${1%.env}.environment"
export ENV_FILE=$1 RUNBOOK_TASK=tmux-start
source "$(dirname "$0")/../lib/settings.sh"
source "$ROOT/scripts/lib/server.sh"
session=$TMUX_SESSION supervisord=$VENV_DIR/bin/supervisord socket=$2 stopping='' pid='' deaths=0 began=0
unset "${KEYS[@]}" # the programs of supervisor read the file themselves
export SERVER_ID SERVER_LOG SERVER_LOG_MAX=${SERVER_LOG_MAX:-50MB} RUNBOOK_SUPPORT=$ROOT/scripts/support
# supervisor expands the values of *_logfile twice, so a % in them must be escaped.
export RUNBOOK_LOG_ESCAPED=${SERVER_LOG//%/%%} RUNBOOK_WATCHDOG_LOG_ESCAPED=${SERVER_ID//%/%%}.watchdog.log

stop_all() { # supervisor ends the server, then itself
  trap '' INT
  stopping=1
  [[ -z $pid ]] || kill -TERM "$pid" 2>/dev/null || true
}

hung_up() { # the session was closed, or the tmux server died
  trap '' HUP INT
  kill -0 "$pid" 2>/dev/null || exit 0 # stop.sh has already ended supervisor
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

# This client of the tmux server fails if that is killed, but not if it ends in order or the session is closed.
rm -f "$SERVER_ID.lost"
# shellcheck disable=SC2016 # the shell that it starts expands them
setsid bash -c 'tmux -S "$1" wait-for "$2" >/dev/null 2>&1 || : >"$3"' - "$socket" "runbook-$$" "$SERVER_ID.lost" &
keeper=$!
trap stop_all INT
trap hung_up HUP TERM
while :; do
  pid=$(supervisor_pid)
  if [[ -z $pid ]]; then
    RUNBOOK_SUPERVISOR=$SERVER_ID setsid "$supervisord" -c "$ROOT/runbook/server/supervisord.conf" \
      -l "$SERVER_ID.supervisord.log" -j "$SERVER_ID.supervisord.pid" </dev/null >>"$SERVER_ID.supervisord.out" 2>&1 &
    pid=$! began=$SECONDS
  fi
  (trap '' INT && exec tail -n 50 -F "$SERVER_LOG" 2>/dev/null) &
  viewer=$!
  while kill -0 "$pid" 2>/dev/null; do
    sleep 1 &
    wait "$!" || true
  done
  kill "$viewer" 2>/dev/null || true
  # A supervisor that ends in order removes its pid file.
  [[ -z $stopping && -e $SERVER_ID.supervisord.pid ]] || break
  ((SECONDS - began < 60)) || deaths=0
  if ((++deaths > 3)); then
    supervisor_said >"$SERVER_ID.failed"
    kill_server
    break
  fi
  echo "==== $(pick "supervisor 被杀死，重新启动" "supervisor was killed; it is started again")"
done
tmux -S "$socket" wait-for -S "runbook-$$" 2>/dev/null || kill "$keeper" 2>/dev/null || true
