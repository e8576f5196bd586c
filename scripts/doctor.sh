#!/usr/bin/env bash
# Say why it failed, from the settings, the machine and the server's log.
# 说明失败的原因：看设置、本机和服务日志。
# Usage: doctor.sh [--log FILE] [--json]
set -euo pipefail
source "$(dirname "$0")/lib/settings.sh"

previous=''
for word; do
  [[ $word != --log=* ]] || previous=--log word=${word#*=}
  [[ $previous != --log || -f $word ]] || die E36 "log=$word"
  previous=$word
done
python=$(find_python) || exit 1
RUNBOOK_LANG=$(lang) "$python" "$ROOT/scripts/lib/doctor.py" "$@" || exit 1 # it has said why
