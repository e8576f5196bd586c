#!/usr/bin/env bash
# Ask RAGFlow a question over your own documents, and show the answer with its sources; --remove removes everything.
# 在 RAGFlow 中就自己的文档提问，显示回答及其来源；--remove 全部撤回。
# Usage: ragflow-ask.sh [--docs DIR] [--remove] [QUESTION]    without --docs: this project's own pages
set -euo pipefail
source "$(dirname "$0")/lib/settings.sh"

[[ -n $RAGFLOW_URL ]] || die E41 key=RAGFLOW_URL
[[ -n $RAGFLOW_API_KEY ]] || die E41 key=RAGFLOW_API_KEY
python=$(find_python) || exit 1
words=("$@")
! dry || words=(--dry "${words[@]}") # a preview still reads, and shows what would change
RUNBOOK_DRY='' run_module "$python" ragflow.ask "${words[@]}"
