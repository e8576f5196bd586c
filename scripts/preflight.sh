#!/usr/bin/env bash
# Check that this machine has what the steps need.
# 检查本机是否具备所需的工具。
set -euo pipefail
source "$(dirname "$0")/lib/settings.sh"

lacking=() apt=() dnf=()
need() { # need TOOL APT-PACKAGE DNF-PACKAGE
  command -v "$1" >/dev/null && return
  lacking+=("$1") apt+=("$2") dnf+=("$3")
}
need tmux tmux tmux
need ss iproute2 iproute
need curl curl curl
python=$(find_python) || exit 1
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
  lacking+=(python3-venv) apt+=(python3-venv) dnf+=(python3)
fi
if ((${#lacking[@]} > 0)); then
  die E04 "tools=${lacking[*]}" "install=$(package_command "apt-get=${apt[*]}" "dnf=${dnf[*]}" "yum=${dnf[*]}" "zypper=${apt[*]}" "pacman=${dnf[*]}")"
fi

folder=$BASE_DIR
while [[ ! -e $folder ]]; do folder=$(dirname "$folder"); done
[[ -d $folder && -w $folder && -x $folder ]] || die E06 "folder=$BASE_DIR" "user=$(id -un)" key=BASE_DIR

RUNBOOK_LANG=$(lang) "$python" "$ROOT/scripts/lib/preflight.py" && code=0 || code=$?
((code != 3)) || die E56
exit "$code"
