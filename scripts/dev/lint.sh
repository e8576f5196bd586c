#!/usr/bin/env bash
# Run every checker: ruff, mypy, shellcheck, shfmt.
# 运行全部检查器：ruff、mypy、shellcheck、shfmt。
set -euo pipefail
cd "$(dirname "$0")/../.."
mapfile -t shell < <(git ls-files -co --exclude-standard '*.sh' inv .ci/run)
set -x
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
.venv/bin/shellcheck "${shell[@]}"
.venv/bin/shfmt -i 2 -ci -d "${shell[@]}"
