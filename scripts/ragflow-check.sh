#!/usr/bin/env bash
# Ask the server what RAGFlow will ask it, with the same client; say what works, and the cause of what does not.
# 用同样的客户端向服务提出 RAGFlow 将提出的请求，说明哪些可用、不可用的原因。
# Usage: ragflow-check.sh [--base-url URL] [--model NAME] [--max-tokens N]: what was entered in RAGFlow
set -euo pipefail
source "$(dirname "$0")/lib/settings.sh"
source "$ROOT/scripts/lib/server.sh"
source "$ROOT/scripts/lib/ragflow.sh"

python=$VENV_DIR/bin/python
dry || [[ -x $python ]] || die E21 "missing=$python" step=install
# Where RAGFlow runs in Docker here, it is asked from inside its container as well.
CONTAINER=$(docker ps --format '{{.Names}} {{.Image}}' 2>/dev/null | awk '$2 ~ /\/ragflow(:|@|$)/ { print $1; exit }' || true)
if [[ -n $CONTAINER ]]; then
  look=(docker exec -i "$CONTAINER" curl -s -o /dev/null -w '%{http_code}' --noproxy '*' --max-time 10 "${DOCKER_URL:-$SOURCE_URL}/models" -H @-)
  printf "    $ printf 'Authorization: Bearer %%s' \"\$API_KEY\" | %s\n" "$(quote "${look[@]}")"
  dry || CONTAINER_SAYS=$(printf 'Authorization: Bearer %s' "$API_KEY" | "${look[@]}" 2>/dev/null || true)
fi
EMBEDS=$(embeds && echo 1 || true)
export EMBEDS CONTAINER CONTAINER_SAYS=${CONTAINER_SAYS:-}
asks "$python" "$ROOT/scripts/lib/ragflow_check.py" "$@"
