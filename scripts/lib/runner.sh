#!/usr/bin/env bash
# Make .venv, where the tasks run, from requirements.txt. ./inv calls it the first time and after a change.
# 由 requirements.txt 建立运行任务用的 .venv。首次运行或其改变后由 ./inv 调用。
set -euo pipefail
source "$(dirname "$0")/settings.sh"

[[ -w $ROOT ]] || die E06 "folder=$ROOT/.venv" "user=$(id -un)" key=PWD
say "准备任务环境（仅第一次，约 20 秒）……" "Preparing the environment of the tasks (once, about 20 s)…"
python=$(find_python) || exit 1
"$python" -c 'import ensurepip, venv' 2>/dev/null ||
  die E04 tools=python3-venv "install=$(package_command apt-get=python3-venv dnf=python3 yum=python3 zypper=python3 pacman=python)"
choose_index
index=()
[[ -z $PIP_INDEX_URL ]] || index=(--index-url "$PIP_INDEX_URL")
run rm -f "$ROOT/.venv/.requirements"
run "$python" -m venv "$ROOT/.venv"
run "$ROOT/.venv/bin/python" -m pip install --quiet --quiet "${index[@]}" -r "$ROOT/requirements.txt" ||
  die E09 "lock=$ROOT/requirements.txt"
run cp "$ROOT/requirements.txt" "$ROOT/.venv/.requirements"
