#!/usr/bin/env bash
# Show the server's log. Reads only.
# 查看服务日志。只读。
# Usage: logs.sh [--follow] [--since 10m|2h|1d|TIME] [--errors]
set -euo pipefail
source "$(dirname "$0")/lib/settings.sh"
source "$ROOT/scripts/lib/server.sh"
as_started

if [[ ${1:-} == --position ]]; then # the doctor reads the log from here if the next step fails
  log_position
  exit
fi
python=$(find_python) || exit 1
words=(module "$python" server.logs)
follow=''
while (($#)); do
  case $1 in
    --follow | -f) follow=1 ;;
    --errors) words+=(--errors) ;;
    --since)
      if [[ ${2:-} =~ ^[0-9]+[smhd]$ ]]; then
        since="-${2/%s/ sec}" since=${since/%m/ min} since=${since/%h/ hour} since=${since/%d/ day}
      else
        since=${2:-?}
      fi
      words+=(--since "$(date -d "$since" +%s 2>/dev/null)") || die E35 "since=--since ${2:-}"
      shift "$((${2+1}))"
      ;;
    *) die E35 "since=$1" ;;
  esac
  shift
done
[[ -f $SERVER_LOG ]] || die E36 "log=$SERVER_LOG"
! dry || { run cat "$SERVER_LOG" && exit; }

files=()
for number in 3 2 1; do [[ ! -f $SERVER_LOG.$number ]] || files+=("$SERVER_LOG.$number"); done
size=$(stat -c %s "$SERVER_LOG")
{ cat "${files[@]}" /dev/null && head -c "$size" "$SERVER_LOG"; } | "${words[@]}" |
  if [[ -n $follow && "${words[*]}" != *--since* ]]; then tail -n 50; else cat; fi
[[ -z $follow ]] || tail -c "+$((size + 1))" -F "$SERVER_LOG" 2>/dev/null | "${words[@]}"
