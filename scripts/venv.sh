#!/usr/bin/env bash
# Create the virtual environment that vLLM runs in.
# 创建运行 vLLM 的虚拟环境。
# Usage: venv.sh [--check]    --check: only tell whether it is ready
set -euo pipefail
source "$(dirname "$0")/lib/settings.sh"
source "$ROOT/scripts/lib/processes.sh"
source "$ROOT/scripts/lib/venv.sh"
source "$ROOT/scripts/lib/lock.sh"
source "$ROOT/scripts/lib/packages.sh"

# shellcheck disable=SC2119 # it is called without arguments
environment

works() { # end the script if its Python has pip and vLLM supports it
  local found
  [[ -e $VENV_DIR/bin/python ]] || return 0
  suitable_python "$VENV_DIR/bin/python" || die E10 "folder=$VENV_DIR"
  found=$("$VENV_DIR/bin/python" -I -c 'import pip, platform; print(platform.python_version())' 2>/dev/null) || return 0
  already "$VENV_DIR, Python $found" "$VENV_DIR, Python $found"
}
works
[[ -z $CHECK ]] || exit 1
lock "$VENV_DIR"
works # another machine or program may have made it meanwhile
run source "$ROOT/scripts/lib/caches.sh"
have_python
package_index ""
# Write the mark first, so that an interrupted environment is recognized as ours.
{ run mkdir -p "$VENV_DIR" && run touch "$VENV_DIR/.runbook-venv"; } || die E06 "folder=$VENV_DIR" "user=$(id -un)" key=VENV_DIR
if [[ -e $VENV_DIR/pyvenv.cfg ]]; then # its creation was interrupted, or a system upgrade has replaced its Python
  nobody_serves
  run rm -rf "$VENV_DIR"/{bin,include,lib,lib64,share,pyvenv.cfg,.runbook-lock}
fi
if have_uv; then
  run "$UV" venv --quiet --seed --allow-existing --python "$PYTHON" "$VENV_DIR" || die E10 "folder=$VENV_DIR"
else
  "$PYTHON" -I -c 'import ensurepip, venv' 2>/dev/null || LACKING+=(python3-venv) # a separate package on Debian
  must_have_all
  run "$PYTHON" -I -m venv "$VENV_DIR" || die E10 "folder=$VENV_DIR"
fi
