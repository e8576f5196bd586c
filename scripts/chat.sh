#!/usr/bin/env bash
# Chat with the server in the terminal.
# 在终端中与服务对话。
# Usage: chat.sh [--question QUESTION]    one question; without it a conversation, which Ctrl-D ends
set -euo pipefail
source "$(dirname "$0")/lib/settings.sh"
source "$ROOT/scripts/lib/server.sh"

(($# == 0)) || [[ $# == 2 && $1 =~ ^(-q|--question)$ && -n $2 ]] ||
  die E70 "script=chat" "word=$*" "usage=./inv chat --question '…'"
python=$VENV_DIR/bin/python
planned || [[ -x $python ]] || die E21 "missing=$python" step=install
as_started tell
planned || must_be_ready
kind=$(model_kind) || exit 1
[[ $kind == chat ]] || die E205 "name=$SERVED_MODEL_NAME" "kind=$kind"
trap : INT # the module handles Ctrl-C itself
export API_KEY BASE_URL
BASE_URL=$(base_url)/v1
run_module "$python" server.chat "${@:2}"
