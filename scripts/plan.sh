#!/usr/bin/env bash
# Say what fits: which card, which share of its memory, which context.
# 说明放得下什么：哪张卡、多大的显存比例、多长的上下文。
set -euo pipefail
source "$(dirname "$0")/lib/settings.sh"

python=$(find_python) || exit 1
RUNBOOK_LANG=$(lang) "$python" "$ROOT/scripts/lib/plan.py" "$@" || exit 1 # it has said why
