#!/usr/bin/env bash
# Show what fits: which GPU, which share of its memory, which context length.
# 规划：用哪张 GPU、多大比例的显存、多长的上下文。
# Usage: plan.sh [--all] [--json]
set -euo pipefail
source "$(dirname "$0")/lib/settings.sh"
source "$ROOT/scripts/lib/server.sh"

python=$(find_python) || exit 1
export_findings
module "$python" plan "$@" || exit 1 # the module has printed the reason
