# Python: the interpreter that the scripts use, and the modules of runbook/ that they run. Sourced by common.sh, never run.
# shellcheck shell=bash

suitable_python() { "$1" -I -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null; }

find_python() { # print the first Python that vLLM supports (3.11 to 3.14): the system's, else the one that uv has installed
  local name
  for name in python3 python3.14 python3.13 python3.12 python3.11 "${BASE_DIR:-}"/python/cpython-3.*-linux-"$(uname -m)"-*/bin/python3; do
    if suitable_python "$name"; then
      command -v "$name"
      return
    fi
  done
  die E05 "found=$(python3 --version 2>/dev/null || echo -)" "install=$(python_command "bash scripts/support/bring-python.sh")"
}

python_command() { # python_command OTHERWISE: print the command that installs a suitable Python; OTHERWISE if the distribution has none
  local sudo
  sudo=$([[ $(id -u) == 0 ]] || echo "sudo ")
  case $(distribution) in
    debian\ 1[2-9] | ubuntu\ 2[4-9].* | fedora\ * | arch*) package_command apt-get=python3 dnf=python3 yum=python3 pacman=python ;;
    ubuntu\ 22.04) echo "${sudo}apt-get install -y python3.11" ;;
    rocky\ [89]* | rhel\ [89]* | almalinux\ [89]* | centos\ [89]* | ol\ [89]*) echo "${sudo}dnf install -y python3.12" ;;
    opensuse-leap\ 15*) echo "${sudo}zypper install -y python311" ;;
    *) echo "$1" ;;
  esac
}

exec_module() { # exec_module PYTHON NAME [WORD…]: replace this shell with `python -m runbook.NAME`
  local name
  # Imports must not depend on PYTHON* variables, the user's packages or the current directory.
  for name in $(compgen -e PYTHON); do [[ $name == PYTHON_MIRROR ]] || unset "$name"; done
  RUNBOOK_LANG=$(lang)
  export RUNBOOK_LANG PYTHONPATH=$ROOT PYTHONSAFEPATH=1 PYTHONNOUSERSITE=1 PYTHONUTF8=1
  exec "$1" -m "runbook.$2" "${@:3}"
}

module() { # module PYTHON NAME [WORD…]: run it; a known fault is reported by the module itself, with exit code 1
  local code=0
  (exec_module "$@") || code=$?
  ((code != 130)) || interrupted
  return "$code"
}

run_module() { # run_module PYTHON NAME [WORD…]: show it, then run it; ends the script after a known fault
  local code=0
  shown "$1" -m "runbook.$2" "${@:3}"
  dry || module "$@" || code=$?
  ((code != 1)) || exit 1
  return "$code"
}
