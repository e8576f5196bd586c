#!/usr/bin/env bash
# Attach to the server's tmux session; Ctrl-B then D leaves it.
# 进入服务的 tmux 会话；按 Ctrl-B 再按 D 离开。
set -euo pipefail
source "$(dirname "$0")/lib/settings.sh"
source "$ROOT/scripts/lib/server.sh"

session_exists || die E22 "session=$TMUX_SESSION"
if [[ -n ${TMUX:-} ]]; then # already in tmux: D would detach from the user's own session too
  say "Ctrl-B 再按 L 回到原来的会话；Ctrl-C 会停止服务" "Ctrl-B then L returns to your session; Ctrl-C stops the server"
  run tmux switch-client -t "=$TMUX_SESSION"
else
  say "Ctrl-B 再按 D 离开，服务继续运行；Ctrl-C 会停止服务" "Ctrl-B then D leaves, the server keeps running; Ctrl-C stops the server"
  become tmux attach -t "=$TMUX_SESSION"
fi
