#!/usr/bin/env bash
# Show the server's state: stopped, starting, ready or failed. Reads only; exit code 0 only when it is ready.
# 查看服务状态：停止、启动中、就绪或失败。只读；仅就绪时退出码为 0。
# Usage: status.sh [--json]
set -euo pipefail
source "$(dirname "$0")/lib/settings.sh"
source "$ROOT/scripts/lib/server.sh"

as_started
state=$(server_state) pid=$(main_pid) starts=$(count_of starts) phase='' models='' uptime=''
case $state in
  ready) models=$(with_key /v1/models || true) ;;
  starting) phase=$(phase "$(beginning)") ;;
  failed) phase=$(cat "$SERVER_ID.failed") ;;
esac
[[ -z $pid ]] || uptime=$(age_of "$pid")
python=$(find_python) || exit 1
export STATE=$state PHASE=$phase PID=$pid MODELS=$models STARTS=$starts UPTIME=$uptime LOG=$SERVER_LOG
ELSEWHERE=$(elsewhere)
export ELSEWHERE
URL=$(base_url)/v1 module "$python" server.status "$@"
[[ $state == ready ]] || exit 1
