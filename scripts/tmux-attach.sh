#!/usr/bin/env bash
# Look into the server's tmux session; Ctrl-B then D leaves it.
# 进入服务的 tmux 会话；按 Ctrl-B 再按 D 离开。
set -euo pipefail
source "$(dirname "$0")/lib/settings.sh"
source "$ROOT/scripts/lib/server.sh"

session_exists || die E22 "session=$TMUX_SESSION"
say "Ctrl-B 再按 D 离开，服务继续运行；Ctrl-C 会停止服务" "Ctrl-B then D leaves and the server goes on; Ctrl-C stops the server"
if [[ -n ${TMUX:-} ]]; then
  run tmux switch-client -t "=$TMUX_SESSION"
else
  become tmux attach -t "=$TMUX_SESSION"
fi
