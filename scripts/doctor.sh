#!/usr/bin/env bash
# Name the cause of a failure, from the settings, the machine and the server's log.
# 诊断失败的原因：检查设置、本机和服务日志。
# Usage: doctor.sh [--log FILE] [--json]
set -euo pipefail
source "$(dirname "$0")/lib/settings.sh"
source "$ROOT/scripts/lib/server.sh"

position=''
if [[ ${1:-} == --from ]]; then # from deploy: read only what a step has added to the log
  position=$2
  shift 2
  set -- --recent "$@"
fi
previous=''
for word; do
  [[ $word != --log=* ]] || previous=--log word=${word#*=}
  [[ $previous != --log || -f $word ]] || die E36 "log=$word"
  previous=$word
done
python=$(find_python) || exit 1
as_started
export SERVER_LOG
export_findings
{ [[ -z $position ]] || logged "$position"; } | module "$python" doctor "$@" || exit 1 # the module has printed the cause
