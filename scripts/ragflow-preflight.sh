#!/usr/bin/env bash
# Check that this machine can run RAGFlow: cores, RAM, disk, Docker, kernel settings, ports. Reads only.
# 检查本机能否运行 RAGFlow：CPU、内存、磁盘、Docker、内核参数、端口。只读。
set -euo pipefail
source "$(dirname "$0")/lib/settings.sh"

python=$(find_python) || exit 1
module "$python" ragflow.preflight && code=0 || code=$?
((code != 3)) || die E206
exit "$code"
