#!/usr/bin/env bash
# Check that the port is free, or used by this server.
# 检查端口空闲，或正由本服务使用。
set -euo pipefail
source "$(dirname "$0")/lib/settings.sh"
source "$ROOT/scripts/lib/server.sh"

RUNBOOK_DRY='' run ss -lntp "sport = :$PORT"
if ours_listens; then
  say "端口 $PORT 由本服务使用" "Port $PORT is used by this server"
elif port_taken; then
  die E07 "port=$PORT" "owner=$(port_owner)" "other=$(next_free_port)"
else
  say "端口 $PORT 空闲" "Port $PORT is free"
fi
