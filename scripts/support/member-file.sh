#!/usr/bin/env bash
# Write the settings file of a further server of this deployment: embed or rerank. It follows the settings file.
# 写出本部署另一个服务的设置文件：embed（向量模型）或 rerank（重排序模型）；其内容随设置文件而变。
# Usage: member-file.sh embed|rerank FILE
set -euo pipefail
source "$(dirname "$0")/../lib/settings.sh"
kind=$1 file=$2

case $kind in
  embed) MODEL_ID=$EMBED_MODEL_ID place=1 ;;
  rerank) MODEL_ID=$RERANK_MODEL_ID place=2 ;;
esac
if [[ $MODEL_ID == auto ]]; then
  MODEL_ID=$([[ $PROFILE == gpu ]] && echo Qwen/Qwen3-Embedding-0.6B || echo demo-embedding)
fi
PORT=$((PORT + place)) TMUX_SESSION=$TMUX_SESSION-$kind LOG_DIR=$LOG_DIR/$kind
# shellcheck disable=SC2034 # printed by name
MODEL_REVISION=master MODEL_DIR='' SERVED_MODEL_NAME='' VLLM_EXTRA_ARGS='' GPU_MEMORY_UTILIZATION=auto MAX_MODEL_LEN=auto
resolve_auto # the plan of the other servers reads the file

content() { # print every setting, as the settings file of that server
  local key text
  printf '# Written by ./inv deploy --rag from %s: change that file, not this one.\n' "$(basename "$ENV_FILE")"
  for key in "${KEYS[@]}"; do
    text=${!key//\\/\\\\}
    printf "%s='%s'\n" "$key" "${text//\'/\\\'}"
  done
}

if [[ ! -f $file || $(cat "$file") != "$(content)" ]]; then write "$file" content; fi
