#!/usr/bin/env bash
# Install a Python that vLLM supports if the system has none: uv gets it from PYTHON_MIRROR, into BASE_DIR/python.
# 系统没有 vLLM 支持的 Python 时，由 uv 从 PYTHON_MIRROR 获取一个，放入 BASE_DIR/python。
set -euo pipefail
source "$(dirname "$0")/../lib/settings.sh"
source "$ROOT/scripts/lib/packages.sh"

must_suit_vllm
package_index ""
have_python
say "使用 $PYTHON" "$PYTHON is used"
