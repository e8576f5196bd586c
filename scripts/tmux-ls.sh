#!/usr/bin/env bash
# List the tmux sessions.
# 列出 tmux 会话。
set -euo pipefail
source "$(dirname "$0")/lib/settings.sh"

run tmux ls 2>/dev/null || say "没有 tmux 会话" "There is no tmux session"
