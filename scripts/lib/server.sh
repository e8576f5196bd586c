# This server: its identity, its address, its state. Reads only. Sourced by the steps after settings.sh.
# shellcheck shell=bash disable=SC2034,SC2153 # names come from the settings and go to the steps
for subject in lock processes port session log started model; do
  # shellcheck source=/dev/null
  source "$ROOT/scripts/lib/$subject.sh"
done
SERVER_ID=$BASE_DIR/run/$MACHINE/$TMUX_SESSION # every process of the server carries it as RUNBOOK_SERVER in its environment
SERVER_LOG=$LOG_DIR/$MACHINE/vllm.log
EARLIER_ID=$BASE_DIR/run/$TMUX_SESSION # of an earlier version, which had one directory for all machines
if [[ -f $EARLIER_ID.env ]] && grep -qszxF -e "RUNBOOK_SERVER=$EARLIER_ID" -e "RUNBOOK_SUPERVISOR=$EARLIER_ID" /proc/[0-9]*/environ; then
  SERVER_ID=$EARLIER_ID SERVER_LOG=$LOG_DIR/vllm.log # it has started the running server: use its paths until that server is stopped
fi
SCOPE=() # the prefix of a command that must survive logout, see logind.sh

local_host() { # print the host at which this machine reaches the server
  case $HOST in
    0.0.0.0) echo 127.0.0.1 ;;
    ::) echo '[::1]' ;;
    *:*) echo "[$HOST]" ;;
    *) echo "$HOST" ;;
  esac
}

loopback() { [[ $HOST == 127.* || $HOST == localhost || $HOST == ::1 ]]; }

base_url() { echo "http://$(local_host):$PORT"; }

with_key() { # with_key PATH [OPTION…]: send a request; the key goes through standard input: a command line is public
  printf 'Authorization: Bearer %s' "$API_KEY" |
    curl -fs --noproxy '*' --max-time 5 -H @- "${@:2}" "$(base_url)$1"
}

server_ready() { ours_listens && with_key /health -o /dev/null && with_key /v1/models -o /dev/null; }

count_of() { cat "$SERVER_ID.$1" 2>/dev/null || echo 0; } # count_of starts|crashes|pauses

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

elsewhere() { # print this server's heartbeats on other machines that share BASE_DIR: MACHINE, age in seconds, URL
  local file machine
  for file in "$BASE_DIR"/run/*/"$TMUX_SESSION.alive"; do
    machine=$(basename "$(dirname "$file")")
    [[ ! -f $file || $machine == "$MACHINE" ]] ||
      printf '%s %s %s\n' "$machine" "$(seconds_untouched "$file" "$BASE_DIR/run")" "$(cat "$file" 2>/dev/null)"
  done
}

tell_elsewhere() { # say on which other machine it runs, or ran
  local machine url seconds
  while read -r machine seconds url; do
    if ((seconds < 60)); then
      say "它在 $machine 上运行：${url:-?}（$seconds 秒前有更新），请在那台机器上停止" \
        "It runs on $machine: ${url:-?} (seen $seconds s ago); stop it there"
    else
      say "最后一次看到它是在 $machine 上：${url:-?}（$seconds 秒前）" "It was last seen on $machine: ${url:-?} ($seconds s ago)"
    fi
  done < <(elsewhere)
}
