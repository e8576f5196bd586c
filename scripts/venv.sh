#!/usr/bin/env bash
# Make the Python environment that vLLM runs in.
# 建立运行 vLLM 的 Python 虚拟环境。
set -euo pipefail
source "$(dirname "$0")/lib/settings.sh"

if [[ -e $VENV_DIR/bin/python ]]; then
  "$VENV_DIR/bin/python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' || die E10 "folder=$VENV_DIR"
  if "$VENV_DIR/bin/python" -c 'import pip' 2>/dev/null; then
    say "$VENV_DIR 已可用" "$VENV_DIR works already"
    exit
  fi
fi
python=$(find_python) || exit 1
run "$python" -m venv "$VENV_DIR" || die E10 "folder=$VENV_DIR"
