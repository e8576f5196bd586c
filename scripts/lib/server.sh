# Which processes, port and tmux session are this server's, and what its model can. Reads only.
# Sourced by the steps after settings.sh.
# shellcheck shell=bash disable=SC2034,SC2153 # names come from the settings and go to the steps
SERVER_ID=$BASE_DIR/run/$TMUX_SESSION # every process of the server carries it as RUNBOOK_SERVER in its environment
SERVER_LOG=$LOG_DIR/vllm.log

server_pids() { { grep -lzxF -- "RUNBOOK_SERVER=$SERVER_ID" /proc/[0-9]*/environ 2>/dev/null || true; } | cut -d/ -f3; }

server_main() { # is there an API server among them, or only what a crash has left
  local pid
  for pid in $(server_pids); do
    if tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -q '/vllm serve '; then return 0; fi
  done
  return 1
}

listener_pids() { # the processes that listen on PORT, as far as this user may see them
  ss -Hlntp "sport = :$PORT" | { grep -o 'pid=[0-9]*' || true; } | cut -d= -f2 | sort -u
}

port_taken() { [[ -n $(ss -Hlnt "sport = :$PORT") ]]; }

port_owner() {
  local pids
  pids=$(listener_pids)
  if [[ -n $pids ]]; then
    ps -o comm=,pid=,user= -p "${pids//$'\n'/,}" | awk '{ printf "%s%s (pid %s, %s)", sep, $1, $2, $3; sep = ", " }'
  else
    pick "别的用户的进程（sudo ss -lntp 可见）" "another user's process (sudo ss -lntp shows it)"
  fi
}

next_free_port() {
  local port=$((PORT + 1))
  while [[ -n $(ss -Hlnt "sport = :$port") ]]; do port=$((port + 1)); done
  echo "$port"
}

local_host() { # where this machine reaches the server
  case $HOST in
    0.0.0.0) echo 127.0.0.1 ;;
    ::) echo '[::1]' ;;
    *:*) echo "[$HOST]" ;;
    *) echo "$HOST" ;;
  esac
}

base_url() { echo "http://$(local_host):$PORT"; }

ours_listens() { # another server may answer on the port: the listener must be a process of this one
  local pids
  pids=$(listener_pids)
  [[ -n $pids ]] && server_pids | grep -qxF -- "$pids"
}

server_ready() { ours_listens && curl -fs --noproxy '*' --max-time 5 -o /dev/null "$(base_url)/health"; }

session_exists() { tmux has-session -t "=$TMUX_SESSION" 2>/dev/null; }

session_ours() { session_exists && [[ $(tmux show-options -t "=$TMUX_SESSION:" -qv @runbook) == "$SERVER_ID" ]]; }

session_serves() { # its pane still runs the server, or is about to
  session_ours && tmux list-panes -s -t "=$TMUX_SESSION:" -F '#{pane_start_command}' | grep -q /lib/pane.sh
}

embeds() { # is it an embedding model: it gives vectors, not answers
  case $VLLM_EXTRA_ARGS in
    *--runner[=\ ]pooling*) return 0 ;;
    *--runner*) return 1 ;;
  esac
  [[ -f $MODEL_DIR/modules.json || ${MODEL_DIR##*/} =~ [Ee]mbed ]] # sentence-transformers leaves the file
}

tool_parser() { # how the model writes a tool call, by its family; nothing for one that cannot, or is not known
  local name=${MODEL_DIR##*/}
  [[ ! ${name,,} =~ ^qwen(2\.5|3)-[0-9] ]] || echo hermes
}
