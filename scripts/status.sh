#!/usr/bin/env bash
# Say whether the server is stopped, starting, ready or failed. Reads only; exit code 0 only when it is ready.
# 查看服务状态：停止、启动中、就绪或失败。只读；仅就绪时退出码为 0。
# Usage: status.sh [--json | --unchanged]    --unchanged: also in its session, and with the settings of now
set -euo pipefail
source "$(dirname "$0")/lib/settings.sh"
source "$ROOT/scripts/lib/server.sh"

if [[ ${1:-} == --unchanged ]]; then
  session_serves && [[ -z $(changed) ]] && server_ready && echo "$(base_url)/v1" && exit
  exit 1
fi
as_started
state=$(server_state) pid=$(main_pid) starts=$(count_of starts) phase='' models='' uptime=''
case $state in
  ready) models=$(with_key /v1/models || true) ;;
  starting) phase=$(phase "$(count_of offset)") ;;
  failed) phase=$(cat "$SERVER_ID.failed") ;;
esac
[[ -z $pid ]] || uptime=$(ps -o etimes= -p "$pid" | tr -d ' ')
python=$(find_python) || exit 1
export STATE=$state PHASE=$phase PID=$pid MODELS=$models STARTS=$starts UPTIME=$uptime LOG=$SERVER_LOG
URL=$(base_url)/v1 RUNBOOK_LANG=$(lang) "$python" "$ROOT/scripts/lib/status.py" "$@"
[[ $state == ready ]] || exit 1
