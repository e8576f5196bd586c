#!/usr/bin/env bash
# Make the folders for the model, the cache and the logs.
# 建立存放模型、缓存和日志的目录。
set -euo pipefail
source "$(dirname "$0")/lib/settings.sh"

make() { # make KEY FOLDER…: a failure names the setting
  run mkdir -p "${@:2}" || die E06 "folder=${!1}" "user=$(id -un)" "key=$1"
}
make BASE_DIR "$BASE_DIR/models" "$BASE_DIR/run"
make MODELSCOPE_CACHE "$MODELSCOPE_CACHE"
make LOG_DIR "$LOG_DIR"
