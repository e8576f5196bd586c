# The processes of this server, by the mark in their environment. Reads only, except kill_server. Sourced by server.sh.
# shellcheck shell=bash

pids_with() { # pids_with environ|cmdline|maps GREP-OPTION…: print the processes whose /proc file has a matching entry
  { grep -lz "${@:2}" /proc/[0-9]*/"$1" 2>/dev/null || true; } | cut -d/ -f3
}

server_pids() { pids_with environ -xF -e "RUNBOOK_SERVER=$SERVER_ID"; }

# The processes of the server and of supervisor, without the pane.
all_pids() { pids_with environ -xF -e "RUNBOOK_SERVER=$SERVER_ID" -e "RUNBOOK_SUPERVISOR=$SERVER_ID"; }

main_pid() { # print the process of the API server; after a crash there may be none
  local pid
  for pid in $(server_pids); do
    if [[ $(tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline") == *'/vllm serve '* ]]; then echo "$pid" && return; fi
  done
}

leftovers() { [[ -n $(server_pids) && -z $(main_pid) ]]; } # a crash has left processes without an API server

supervisor_pid() { # print the process of this server's supervisor, if it runs
  local pid
  pid=$(cat "$SERVER_ID.supervisord.pid" 2>/dev/null) || return 0
  if grep -qzxF -- "RUNBOOK_SUPERVISOR=$SERVER_ID" "/proc/$pid/environ" 2>/dev/null; then echo "$pid"; fi
}

pane_pids() { # print the process of the session's pane; tmux has the same command line, so the name must be bash
  local pid
  for pid in $(pids_with cmdline -xF -e "$SERVER_ID.env"); do
    [[ $(cat "/proc/$pid/comm" 2>/dev/null) != bash ]] || echo "$pid"
  done
}

in_foreground() { # check that serve started it in a terminal, without supervisor
  local pid
  pid=$(main_pid)
  [[ -n $pid ]] && ! grep -qzxF "RUNBOOK_SUPERVISOR=$SERVER_ID" "/proc/$pid/environ" 2>/dev/null
}

kill_server() { # all at once, with bash's own kill: a minimal system has no other
  local pids
  mapfile -t pids < <(server_pids)
  ((${#pids[@]} == 0)) || kill -KILL "${pids[@]}" 2>/dev/null || true
}

gone_within() { # gone_within SECONDS [FUNCTION]: wait until FUNCTION, by default server_pids, lists no process
  local began=$SECONDS told=$SECONDS list=${2:-server_pids}
  while [[ -n $($list) ]]; do
    ((SECONDS - began < $1)) || return 1
    if ((SECONDS - told >= 3)); then
      told=$SECONDS
      say "等待结束（$((SECONDS - began)) 秒，至多 $1 秒）" "Waiting for it to end ($((SECONDS - began)) s, $1 s at most)"
    fi
    sleep 0.2
  done
}

process_stat() { # process_stat PID: set REPLY to the fields of /proc/PID/stat from its state on; a minimal system has no ps
  REPLY=$(cat "/proc/$1/stat" 2>/dev/null) || return
  REPLY=${REPLY##*) }
}

parent_of() { # parent_of PID
  local REPLY
  ! process_stat "$1" || cut -d ' ' -f 2 <<<"$REPLY"
}

age_of() { # age_of PID: print the seconds since it was started
  local REPLY
  ! process_stat "$1" ||
    awk -v began="$(cut -d ' ' -f 20 <<<"$REPLY")" -v hertz="$(getconf CLK_TCK)" '{ printf "%d\n", $1 - began / hertz }' /proc/uptime
}
