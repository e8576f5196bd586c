#!/usr/bin/env bash
# Make the folders for the model, the cache and the logs.
# 建立存放模型、缓存和日志的目录。
set -euo pipefail
source "$(dirname "$0")/lib/settings.sh"

for key in BASE_DIR MODELSCOPE_CACHE LOG_DIR; do
  run mkdir -p "${!key}" || die E06 "folder=${!key}" "user=$(id -un)" "key=$key"
done
run mkdir -p "$BASE_DIR/models" "$BASE_DIR/run"
