#!/usr/bin/env bash
# Run every checker: ruff, mypy, shellcheck, shfmt.
# 运行全部检查器：ruff、mypy、shellcheck、shfmt。
set -euo pipefail
source "$(dirname "$0")/../lib/common.sh"
cd "$ROOT"
bash scripts/support/bootstrap.sh .venv requirements-dev.txt
mapfile -t shell < <(find inv .ci/run bench scripts tests -name inv -o -name run -o -name '*.sh')
PATH=${RUNBOOK_BIN:-$PWD/.venv/bin}:$PATH
trap - ERR # the checker reports its failure itself
run ruff check .
run ruff format --check .
run mypy
run shellcheck "${shell[@]}"
run shfmt -i 2 -ci -d "${shell[@]}"
