#!/usr/bin/env bash
# Register this server in RAGFlow as its default model and ask a question there; --remove removes it.
# 在 RAGFlow 中把本服务登记为默认模型并提一个问题；--remove 撤回登记。
# Usage: ragflow-register.sh [--base-url URL] [--remove]
set -euo pipefail
source "$(dirname "$0")/lib/settings.sh"
source "$ROOT/scripts/lib/server.sh"
as_started tell
source "$ROOT/scripts/lib/ragflow.sh"

[[ -n $RAGFLOW_URL ]] || die E41 key=RAGFLOW_URL
[[ -n $RAGFLOW_API_KEY ]] || die E41 key=RAGFLOW_API_KEY
if [[ " $* " != *" --remove "* ]]; then
  context=$(server_context)
  [[ -n $context ]] || die E16 "url=$SOURCE_URL/models" "reason=$(pick "没有得到模型列表" "no list of models")"
  MAX_TOKENS=$(max_tokens "$context")
  KIND=$(model_kind) || exit 1
  TOOLS=$(takes_tools)
  export MAX_TOKENS KIND TOOLS
fi
python=$(find_python) || exit 1
words=("$@")
! dry || words+=(--dry) # a preview still reads, and shows what would change
RUNBOOK_DRY='' run_module "$python" ragflow.register "${words[@]}"
