#!/usr/bin/env bash
# Make .venv, where the tasks run, from requirements.txt; or another folder from another list: runner.sh FOLDER LIST.
# 由 requirements.txt 建立运行任务用的 .venv；也可指定别的目录和清单：runner.sh 目录 清单。
set -euo pipefail
source "$(dirname "$0")/settings.sh"

venv=${1:-$ROOT/.venv} list=${2:-$ROOT/requirements.txt}
[[ -w $ROOT ]] || die E06 "folder=$venv" "user=$(id -un)" key=PWD
say "准备 $venv（仅第一次，约 20 秒）……" "Preparing $venv (once, about 20 s)…"
python=$(find_python) || exit 1
"$python" -c 'import ensurepip, venv' 2>/dev/null ||
  die E04 tools=python3-venv "install=$(package_command apt-get=python3-venv dnf=python3 yum=python3 zypper=python3 pacman=python)"
choose_index
index=()
[[ -z $PIP_INDEX_URL ]] || index=(--index-url "$PIP_INDEX_URL")
run rm -f "$venv/.requirements"
run "$python" -m venv "$venv"
run "$venv/bin/python" -m pip install --quiet --quiet "${index[@]}" -r "$list" ||
  die E09 "lock=$list"
run cp "$list" "$venv/.requirements"
