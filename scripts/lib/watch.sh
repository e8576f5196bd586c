#!/usr/bin/env bash
# Run the watch with what it needs to know of the server. Started by supervisor.
set -euo pipefail
source "$(dirname "$0")/settings.sh" 2>/dev/null
source "$ROOT/scripts/lib/server.sh"
RUNBOOK_URL=$(base_url) exec "$VENV_DIR/bin/python" "$ROOT/scripts/lib/watch.py"
