# Checks of venv.sh and install.sh: who made the environment in VENV_DIR, and which servers run from it.
# Sourced after settings.sh and processes.sh.
# shellcheck shell=bash

environment() { # environment [--run]: end the step if VENV_DIR is not ours: it is used unchanged, or refused
  local found code=0 lock=$ROOT/requirements/cpu.txt python
  [[ $PROFILE != gpu ]] || lock=$ROOT/requirements/cuda.txt
  python=$(find_python) || exit 1
  found=$(module "$python" machine.venv "$VENV_DIR" "$lock" "$@") || code=$?
  case $code in
    0) return ;;
    3) say "$VENV_DIR：$found" "$VENV_DIR: $found" ;;
    4) die E80 "folder=$VENV_DIR" "found=$found" ;;
    *) exit "$code" ;;
  esac
  exit 0
}

venv_users() { # print the processes of servers that run from VENV_DIR: by their command, or our own by the files they have loaded
  local place marked
  marked=$(pids_with environ -E -e '^RUNBOOK_(SERVER|SUPERVISOR)=')
  for place in "$VENV_DIR" "$(realpath -m -- "$VENV_DIR")"; do
    pids_with cmdline -xF -e "$place/bin/vllm"
    { pids_with cmdline -F -e "$place/" && pids_with maps -F -e "$place/"; } | { grep -xF -- "$marked" || true; }
  done | sort -un | xargs
}

nobody_serves() { # fail if a server runs from VENV_DIR: it would lose files that it still loads
  local pids
  pids=$(venv_users)
  [[ -z $pids ]] || die E81 "folder=$VENV_DIR" "pids=$pids"
}
