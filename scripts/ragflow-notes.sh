#!/usr/bin/env bash
# Say what to enter in RAGFlow.
# 说明在 RAGFlow 中填写什么。
set -euo pipefail
source "$(dirname "$0")/lib/settings.sh"
source "$ROOT/scripts/lib/server.sh"

address=$(hostname -I 2>/dev/null | awk '{ print $1 }')
if [[ $(lang) == zh ]]; then
  cat <<TEXT
    RAGFlow 页面：右上角头像 → 模型提供商 → VLLM（或 OpenAI-API-Compatible）
      模型类型   chat
      模型名称   $SERVED_MODEL_NAME
      基础 URL   RAGFlow 在本机 Docker 中：http://host.docker.internal:$PORT/v1
                 RAGFlow 从源码在本机运行：http://127.0.0.1:$PORT/v1
                 RAGFlow 在别的机器上：    http://${address:-本机地址}:$PORT/v1
      API Key    $ENV_FILE 中 API_KEY 的值（不能留空）：grep ^API_KEY $ENV_FILE
    然后：设置默认模型 → LLM（旧版为「聊天模型」）→ $SERVED_MODEL_NAME
    检索还需要一个嵌入模型，本服务只提供对话模型。
TEXT
else
  cat <<TEXT
    RAGFlow's page: your avatar → Model providers → VLLM (or OpenAI-API-Compatible)
      Model type   chat
      Model name   $SERVED_MODEL_NAME
      Base URL     RAGFlow in Docker on this machine:   http://host.docker.internal:$PORT/v1
                   RAGFlow from source on this machine: http://127.0.0.1:$PORT/v1
                   RAGFlow on another machine:          http://${address:-THIS-MACHINE}:$PORT/v1
      API Key      the API_KEY in $ENV_FILE (never blank): grep ^API_KEY $ENV_FILE
    Then: Set default models → LLM (older pages: Chat model) → $SERVED_MODEL_NAME
    Retrieval needs an embedding model besides; this server has the chat model only.
TEXT
fi
if loopback; then
  say "注意：HOST=$HOST 只在本机可达，Docker 容器和别的机器连不上。" "Note: HOST=$HOST is reached from this machine only, not from a container or another machine."
fi
