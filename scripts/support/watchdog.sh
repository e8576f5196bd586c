#!/usr/bin/env bash
# Run the watchdog (runbook/server/watchdog.py). supervisor starts it.
# 运行监视程序（runbook/server/watchdog.py）：由 supervisor 启动。
set -euo pipefail
source "$(dirname "$0")/../lib/settings.sh" 2>/dev/null
source "$ROOT/scripts/lib/server.sh"
# The watchdog publishes this address for other machines that share BASE_DIR.
ALIVE_URL=$(loopback && base_url || echo "http://$(uname -n):$PORT")/v1
export ALIVE_URL
export RUNBOOK_URL
RUNBOOK_URL=$(base_url)
exec_module "$VENV_DIR/bin/python" server.watchdog
