#!/usr/bin/env bash
# Show what to enter in RAGFlow.
# 显示在 RAGFlow 中填写的内容。
set -euo pipefail
source "$(dirname "$0")/lib/settings.sh"
source "$ROOT/scripts/lib/server.sh"
as_started tell
source "$ROOT/scripts/lib/ragflow.sh"

closed=$(pick "✗ 无法访问：HOST=$HOST 只在本机可达，请设 HOST=0.0.0.0 后重启" "✗ not reachable: HOST=$HOST is this machine only; set HOST=0.0.0.0 and restart")
context=$(server_context)
if [[ -n $context ]]; then
  max_tokens=$(max_tokens "$context")$(pick "（服务的上下文是 $context）" " (the server's context is $context)")
else
  max_tokens=$(pick "服务没有运行，未知；运行后再看一次，取其上下文的 3/4" "not known while the server does not run; 3/4 of its context, see again then")
fi
loopback || LAN_URL=${LAN_URL:-http://$(pick 本机地址 THIS-MACHINE):$PORT/v1}
type=chat default="LLM" older=$(pick 聊天模型 "Chat model") call=$(pick 不选 off)
kind=$(model_kind) || exit 1
if [[ $kind == embedding ]]; then
  type=embedding default=Embedding older=$(pick 嵌入模型 "Embedding model")
elif [[ $kind == rerank ]]; then
  type=rerank default=Rerank older=$(pick 重排序模型 "Rerank model")
elif [[ $(takes_tools) == on ]]; then
  call=$(pick 选上 on)
fi

if [[ $(lang) == zh ]]; then
  cat <<TEXT
    要填的值
      模型类型 Model type      $type
      模型名称 Model name      $SERVED_MODEL_NAME
      基础 URL Base URL        以 RAGFlow 所在之处为准，末尾的 /v1 不能少：
        本机 Docker 中         ${DOCKER_URL:-$closed}
        本机源码运行           $SOURCE_URL
        其他机器上             ${LAN_URL:-$closed}
      API Key                  $ENV_FILE 中 API_KEY 的值（不能留空）：grep ^API_KEY $ENV_FILE
      最大 Token 数 Max tokens $max_tokens
      工具调用 Tool call       $call
    v0.27 的页面
      右上角头像 → 模型提供商 Model providers → VLLM → 实例名称 Instance name：$TMUX_SESSION（不能用 default）
      → 基础 URL、API Key → + 添加自定义模型 Add custom model → 填上面的值 → 验证 Verify → 保存 Save
      然后 设置默认模型 Set default models → $default → $SERVED_MODEL_NAME
    v0.20 到 v0.24 的页面
      右上角头像 → Model providers → 待添加的模型 Models to be added → VLLM → 添加 Add → 填上面的值 → 确定 OK
      然后 设置默认模型 Set default models → $older → $SERVED_MODEL_NAME
    检索除对话模型外还需要一个向量模型：./inv deploy --rag（docs/zh/6-ragflow-register.md）
    不想点页面：./inv ragflow-register；有问题：./inv ragflow-check
TEXT
else
  cat <<TEXT
    What to enter
      Model type 模型类型      $type
      Model name 模型名称      $SERVED_MODEL_NAME
      Base URL 基础 URL        by where RAGFlow runs, always with /v1 at its end:
        in Docker on this machine    ${DOCKER_URL:-$closed}
        from source on this machine  $SOURCE_URL
        on another machine           ${LAN_URL:-$closed}
      API Key                  the API_KEY in $ENV_FILE (never blank): grep ^API_KEY $ENV_FILE
      Max tokens 最大 Token 数 $max_tokens
      Tool call 工具调用       $call
    The pages of v0.27
      your avatar → Model providers 模型提供商 → VLLM → Instance name 实例名称: $TMUX_SESSION (not default)
      → Base URL, API Key → + Add custom model 添加自定义模型 → the values above → Verify 验证 → Save 保存
      then Set default models 设置默认模型 → $default → $SERVED_MODEL_NAME
    The pages of v0.20 to v0.24
      your avatar → Model providers → Models to be added 待添加的模型 → VLLM → Add 添加 → the values above → OK 确定
      then Set default models 设置默认模型 → $older → $SERVED_MODEL_NAME
    Retrieval needs an embedding model besides the chat model: ./inv deploy --rag (docs/en/6-ragflow-register.md)
    Without the clicks: ./inv ragflow-register. When something is wrong: ./inv ragflow-check
TEXT
fi
