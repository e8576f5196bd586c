#!/usr/bin/env bash
# Check that this machine meets the requirements.
# 检查本机是否满足要求。
set -euo pipefail
source "$(dirname "$0")/lib/settings.sh"
source "$ROOT/scripts/lib/server.sh"
source "$ROOT/scripts/lib/environment.sh"
source "$ROOT/scripts/lib/logind.sh"

has_headers() { # has_headers PYTHON: check that Triton's compiler finds its Python.h
  local directory
  IFS=: read -ra directory <<<"$("$1" -I -c 'import sysconfig; print(sysconfig.get_path("include"))'):${CPATH:-}:${C_INCLUDE_PATH:-}"
  for directory in "${directory[@]}"; do [[ ! -f $directory/Python.h ]] || return 0; done
  return 1
}

must_suit_vllm
for tool in tmux ss curl awk find; do need_tool "$tool"; done
if [[ $PROFILE == cpu ]]; then
  need_library libnuma.so.1 # vLLM's CPU build links to it; the step install checks the other libraries
else
  [[ -n ${CC:-} ]] || need_tool cc # Triton compiles its launcher when vLLM starts
fi
if python=$(find_python 2>/dev/null); then
  # With uv, a virtual environment needs no system package.
  [[ -x $ROOT/.uv/uv ]] || command -v uv >/dev/null || "$python" -I -c 'import ensurepip, venv' 2>/dev/null || LACKING+=(python3-venv)
  [[ $PROFILE == cpu ]] || has_headers "$python" || LACKING+=(Python.h)
fi
must_have_all
python=$(find_python) || exit 1

can_make "$BASE_DIR" || die E06 "folder=$BASE_DIR" "user=$(id -un)" key=BASE_DIR

logout=''
if killed_at_logout; then logout=warn; fi
if [[ -n $logout ]] && lingers; then logout=ok; fi
export_findings
RUNBOOK_LOGOUT=$logout RUNBOOK_FOUND=$(environment_findings) module "$python" machine.preflight && code=0 || code=$?
((code != 3)) || die E56
exit "$code"
