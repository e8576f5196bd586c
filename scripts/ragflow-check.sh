#!/usr/bin/env bash
# Send the server the requests that RAGFlow will send, and show the cause of each failure.
# 向服务发送 RAGFlow 将发送的请求，并说明失败的原因。
# Usage: ragflow-check.sh [--base-url URL] [--model NAME] [--max-tokens N]: what was entered in RAGFlow
set -euo pipefail
source "$(dirname "$0")/lib/settings.sh"
source "$ROOT/scripts/lib/server.sh"
as_started tell
source "$ROOT/scripts/lib/ragflow.sh"

python=$VENV_DIR/bin/python
planned || [[ -x $python ]] || die E21 "missing=$python" step=install
# If RAGFlow runs in Docker on this machine, check from inside its container as well.
CONTAINER=$(docker ps --format '{{.Names}} {{.Image}}' 2>/dev/null | awk '$2 ~ /\/ragflow(:|@|$)/ { print $1; exit }' || true)
if [[ -n $CONTAINER ]]; then
  request=(docker exec -i "$CONTAINER" curl -s -o /dev/null -w '%{http_code}' --noproxy '*' --max-time 10 "${DOCKER_URL:-$SOURCE_URL}/models" -H @-)
  printf "    $ printf 'Authorization: Bearer %%s' \"\$API_KEY\" | %s\n" "$(quote "${request[@]}")"
  dry || CONTAINER_SAYS=$(printf 'Authorization: Bearer %s' "$API_KEY" | "${request[@]}" 2>/dev/null || true)
fi
KIND=$(model_kind) || exit 1
TOOLS=$(takes_tools)
export KIND TOOLS CONTAINER CONTAINER_SAYS=${CONTAINER_SAYS:-}
run_module "$python" ragflow.check "$@"
