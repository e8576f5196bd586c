#!/usr/bin/env bash
# Talk to the server in the terminal.
# 在终端里与服务对话。
# Usage: chat.sh [--question QUESTION]    one question; without it a conversation, which Ctrl-D ends
set -euo pipefail
source "$(dirname "$0")/lib/settings.sh"
source "$ROOT/scripts/lib/server.sh"

(($# == 0)) || [[ $# == 2 && $1 =~ ^(-q|--question)$ && -n $2 ]] ||
  die E70 "script=chat" "word=$*" "usage=./inv chat --question '…'"
python=$VENV_DIR/bin/python
dry || [[ -x $python ]] || die E21 "missing=$python" step=install
as_started
dry || must_be_ready
trap : INT # chat.py answers Ctrl-C itself
export API_KEY BASE_URL
BASE_URL=$(base_url)/v1
asks "$python" "$ROOT/scripts/lib/chat.py" "${@:2}"
