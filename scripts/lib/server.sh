# Which processes, port and tmux session are this server's, and what its model can. Reads only.
# Sourced by the steps after settings.sh.
# shellcheck shell=bash disable=SC2034,SC2153 # names come from the settings and go to the steps
SERVER_ID=$BASE_DIR/run/$TMUX_SESSION # every process of the server carries it as RUNBOOK_SERVER in its environment
SERVER_LOG=$LOG_DIR/vllm.log

server_pids() { { grep -lzxF -- "RUNBOOK_SERVER=$SERVER_ID" /proc/[0-9]*/environ 2>/dev/null || true; } | cut -d/ -f3; }

main_pid() { # the API server among them; what a crash has left has none
  local pid
  for pid in $(server_pids); do
    if tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -q '/vllm serve '; then echo "$pid" && return; fi
  done
}

in_foreground() { # it was started by serve, in some terminal, and nobody keeps it up
  local pid
  pid=$(main_pid)
  [[ -n $pid ]] && ! grep -qzxF "RUNBOOK_SUPERVISOR=$SERVER_ID" "/proc/$pid/environ" 2>/dev/null
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

log_owner() { # another server of ours that writes this log
  local pid
  for pid in $({ grep -lzxF "SERVER_LOG=$SERVER_LOG" /proc/[0-9]*/environ 2>/dev/null || true; } | cut -d/ -f3); do
    { tr '\0' '\n' 2>/dev/null <"/proc/$pid/environ" || true; } | sed -n 's/^RUNBOOK_SUPERVISOR=//p'
  done | { grep -vxF -- "$SERVER_ID" || true; } | awk 'NR == 1'
}

loopback() { [[ $HOST == 127.* || $HOST == localhost || $HOST == ::1 ]]; }

base_url() { echo "http://$(local_host):$PORT"; }

ours_listens() { # another server may answer on the port: the listener must be a process of this one
  local pids
  pids=$(listener_pids)
  [[ -n $pids ]] && server_pids | grep -qxF -- "$pids"
}

with_key() { # with_key PATH [OPTION…]: ask the server; the key comes by standard input, a command line is public
  printf 'Authorization: Bearer %s' "$API_KEY" |
    curl -fs --noproxy '*' --max-time 5 -H @- "${@:2}" "$(base_url)$1"
}

server_ready() { ours_listens && with_key /health -o /dev/null && with_key /v1/models -o /dev/null; }

session_exists() { tmux has-session -t "=$TMUX_SESSION" 2>/dev/null; }

session_ours() { session_exists && [[ $(tmux show-options -t "=$TMUX_SESSION:" -qv @runbook) == "$SERVER_ID" ]]; }

session_serves() { # its pane still keeps the server, or is about to
  session_ours && tmux list-panes -s -t "=$TMUX_SESSION:" -F '#{pane_start_command}' | grep -q /lib/pane.sh
}

show_in_tmux() { # show_in_tmux SESSION [OPTION…]: the session that keeps this server and shows its log
  tmux "${@:2}" new-session -d -s "$1" -x 160 -y 50 bash "$ROOT/scripts/lib/pane.sh" "$SERVER_ID.env" ';' \
    set-option -t "=$1:" @runbook "$SERVER_ID"
}

supervisor_pid() { # the supervisor that keeps this server up, if it lives
  local pid
  pid=$(cat "$SERVER_ID.supervisord.pid" 2>/dev/null) || return 0
  if grep -qzxF -- "RUNBOOK_SUPERVISOR=$SERVER_ID" "/proc/$pid/environ" 2>/dev/null; then echo "$pid"; fi
}

all_pids() { # the server's processes, and those that keep it up; the pane is not one of them
  { grep -lzxF -e "RUNBOOK_SERVER=$SERVER_ID" -e "RUNBOOK_SUPERVISOR=$SERVER_ID" /proc/[0-9]*/environ 2>/dev/null || true; } |
    cut -d/ -f3
}

gone_within() { # gone_within SECONDS [FUNCTION]: wait for the whole tree; FUNCTION lists it
  local began=$SECONDS told=$SECONDS list=${2:-server_pids}
  while [[ -n $($list) ]]; do
    ((SECONDS - began < $1)) || return 1
    if ((SECONDS - told >= 3)); then
      told=$SECONDS
      say "等它结束（$((SECONDS - began)) 秒，至多 $1 秒）" "waiting for it to end ($((SECONDS - began)) s, $1 s at most)"
    fi
    sleep 0.2
  done
}

as_started() { # where and with which key it was started; the settings may have been changed since
  local key value
  [[ -f $SERVER_ID.env ]] || return 0
  for key in HOST PORT API_KEY; do
    value=$(sed -n "s/^$key='\(.*\)'\$/\1/p" "$SERVER_ID.env" | sed 's/\\\(.\)/\1/g')
    [[ -z $value ]] || printf -v "$key" '%s' "$value"
  done
}

count_of() { cat "$SERVER_ID.$1" 2>/dev/null || echo 0; } # starts, crashes, or where in the log this start begins

server_state() {
  if server_ready; then
    echo ready
  elif [[ -n $(supervisor_pid) ]] || in_foreground; then
    echo starting
  elif [[ -f $SERVER_ID.failed ]]; then
    echo failed
  else
    echo stopped
  fi
}

must_be_ready() { server_ready || die E73 "url=$(base_url)"; }

logged() { # the log since OFFSET bytes; all of it when it has been rotated meanwhile
  local from=$1
  (($(stat -c %s "$SERVER_LOG" 2>/dev/null || echo 0) >= from)) || from=0
  tail -c "+$((from + 1))" "$SERVER_LOG" 2>/dev/null || true
}

phase() { # phase OFFSET: vLLM's own phase
  logged "$1" | awk -v zh="$([[ $(lang) == zh ]] && echo 1)" '
    /non-default args: /                            { p = zh ? "读取参数" : "reading its options" }
    /Resolved architecture: /                       { p = zh ? "检查模型" : "looking at the model" }
    /Initializing a V1 LLM engine/                  { p = zh ? "初始化引擎" : "starting the engine" }
    /Starting to load model|Loading model from scratch/ { p = zh ? "加载权重" : "loading the weights" }
    /Loading weights took/                          { p = zh ? "权重已加载" : "weights loaded" }
    /Starting torch\.compile|torch\.compile took|Warming up model/ { p = zh ? "编译与预热" : "compiling and warming up" }
    /KV cache size: /                               { p = zh ? "分配 KV 缓存" : "making room for the KV cache" }
    /Capturing CUDA graphs/                         { p = zh ? "捕获 CUDA 图" : "capturing CUDA graphs" }
    /Starting vLLM server on/                       { p = zh ? "打开接口" : "opening the interface" }
    END { print p ? p : (zh ? "启动 Python 与 vLLM" : "starting Python and vLLM") }'
}

reason() { # reason OFFSET: the first error of this start; what follows it is mostly its echo
  local found
  found=$(logged "$1" | awk '
    found != "" || / (INFO|WARNING) / || /validation errors? for/ { next }
    match($0, /[A-Za-z_.]*(Error|Exception): .+|Value error, .+|error: .+|✗ .+/) { found = substr($0, RSTART, RLENGTH) }
    END { print found }')
  if [[ -n $found ]]; then echo "$found"; else pick "没有留下错误信息" "it left no error message"; fi
}

settings_of_now() { # as ENV_FILE of the session, which serves exactly these
  local key text
  for key in "${KEYS[@]}"; do
    text=${!key//\\/\\\\}
    printf "%s='%s'\n" "$key" "${text//\'/\\\'}"
  done
}

changed() { # the settings that are not those of the running server, as far as they matter to it
  [[ ! -f $SERVER_ID.env ]] || settings_of_now | { grep -vxFf "$SERVER_ID.env" || true; } | cut -d= -f1 |
    { grep -vE '^(RAGFLOW_|RUNBOOK_LANG|PIP_INDEX_URL|TORCH_FIND_LINKS|MODELSCOPE_|MODEL_REVISION)' || true; } | xargs
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
