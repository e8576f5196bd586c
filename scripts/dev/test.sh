#!/usr/bin/env bash
# Run the tests; words given go to pytest.
# 运行测试；参数传给 pytest。
set -euo pipefail
cd "$(dirname "$0")/../.."
# Two at a time: one waits while the other works. With -n 0 they run one after the other.
# Tests never ask a mirror: pip's own configuration is used.
# They press Ctrl-C, which is ignored where this was started in the background.
exec env --default-signal=INT,QUIT PIP_INDEX_URL= "${RUNBOOK_BIN:-.venv/bin}/python" -m pytest -n 2 "$@"
