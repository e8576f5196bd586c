#!/usr/bin/env bash
# Run every checker: ruff, mypy, shellcheck, shfmt.
# 运行全部检查器：ruff、mypy、shellcheck、shfmt。
set -euo pipefail
cd "$(dirname "$0")/../.."
mapfile -t shell < <(git ls-files -co --exclude-standard '*.sh' inv .ci/run)
PATH=${RUNBOOK_BIN:-$PWD/.venv/bin}:$PATH
set -x
ruff check .
ruff format --check .
mypy
shellcheck "${shell[@]}"
shfmt -i 2 -ci -d "${shell[@]}"
