# The port: the process that listens on it, and the next free one. Reads only. Sourced by server.sh.
# shellcheck shell=bash disable=SC2153 # PORT is a setting

listener_pids() { # print the processes that listen on PORT, if this user may see them
  ss -Hlntp "sport = :$PORT" | { grep -o 'pid=[0-9]*' || true; } | cut -d= -f2 | sort -u
}

port_taken() { [[ -n $(ss -Hlnt "sport = :$PORT") ]]; }

port_owner() {
  local pid separator='' pids
  pids=$(listener_pids)
  if [[ -n $pids ]]; then
    for pid in $pids; do
      printf '%s%s (pid %s, %s)' "$separator" "$(cat "/proc/$pid/comm" 2>/dev/null || true)" "$pid" \
        "$(stat -c %U "/proc/$pid" 2>/dev/null || true)"
      separator=', '
    done
    echo
  else
    pick "别的用户的进程（sudo ss -lntp 可见）" "another user's process (sudo ss -lntp shows it)"
  fi
}

next_free_port() { # print the next free port after PORT; 20000 follows the last port
  local port=$PORT
  while port=$((port < 65535 ? port + 1 : 20000)) && ((port != PORT)) && [[ -n $(ss -Hlnt "sport = :$port") ]]; do :; done
  echo "$port"
}

ours_listens() { # check that the listener is a process of this server: another server may use the port
  local pids
  pids=$(listener_pids)
  [[ -n $pids ]] && grep -qxF -- "$pids" <<<"$(server_pids)"
}

export_findings() { # export for the modules of runbook/: this server's processes, the owner of the port, another free port
  SERVER_PIDS=$(server_pids | xargs) LEFTOVERS='' PORT_OWNER='' NEXT_PORT=''
  if leftovers; then LEFTOVERS=1; fi
  if port_taken 2>/dev/null; then PORT_OWNER=$(port_owner) NEXT_PORT=$(next_free_port); fi
  export SERVER_PIDS LEFTOVERS PORT_OWNER NEXT_PORT
}
