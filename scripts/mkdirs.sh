#!/usr/bin/env bash
# Create the directories for the model, the cache and the logs.
# 创建存放模型、缓存和日志的目录。
# Usage: mkdirs.sh [--check]    --check: only tell whether they are there
set -euo pipefail
source "$(dirname "$0")/lib/settings.sh"

if [[ -n $CHECK ]]; then
  for directory in "$BASE_DIR/models" "$BASE_DIR/run" "$MODELSCOPE_CACHE" "$LOG_DIR"; do [[ -d $directory && -w $directory ]] || exit 1; done
  already "$BASE_DIR" "$BASE_DIR"
fi

make() { # make KEY DIRECTORY…: create them; a failure names the setting
  { run mkdir -p "${@:2}" && { ! dry || can_make "${!1}"; }; } || die E06 "folder=${!1}" "user=$(id -un)" "key=$1"
}
make BASE_DIR "$BASE_DIR/models" "$BASE_DIR/run"
make MODELSCOPE_CACHE "$MODELSCOPE_CACHE"
make LOG_DIR "$LOG_DIR"
