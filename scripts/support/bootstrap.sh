#!/usr/bin/env bash
# Create .venv, in which the tasks run, from requirements.txt; or another environment: bootstrap.sh VENV LIST.
# 由 requirements.txt 建立运行任务用的 .venv；也可指定别的虚拟环境和清单：bootstrap.sh 虚拟环境 清单。
set -euo pipefail
source "$(dirname "$0")/../lib/settings.sh"
source "$ROOT/scripts/lib/packages.sh"
source "$ROOT/scripts/lib/system.sh"

export UV_NO_CACHE=1 # write nothing outside the project and BASE_DIR
venv=${1:-$ROOT/.venv} list=${2:-$ROOT/requirements.txt}
stamp=$venv/.$(basename "$list" .txt) # a copy of the list, written when all of it is installed
ours=''                               # empty for an environment made by something else, such as an editor: it is not recreated
[[ -e $venv && ! -e $venv/.python && ! -e $venv/.requirements ]] || ours=1

usable() { # its Python is the one that it was made with: a system upgrade may have replaced it
  [[ -x $venv/bin/python && $(readlink -f "$venv/bin/python") == "$(cat "$venv/.python" 2>/dev/null)" ]]
}

make() { # make COMMAND…: run it to create the environment, unless there is a usable one
  if [[ -z $ours ]]; then
    suitable_python "$venv/bin/python" || die E10 "folder=$venv"
  elif ! usable; then
    run "$@"
  fi
}

must_suit_vllm
for tool in curl awk find; do need_tool "$tool"; done
must_have_all
[[ -w $ROOT ]] || die E06 "folder=$venv" "user=$(id -un)" key=PWD
dry || exec 9>"$ROOT/.venv.lock"
dry || flock -n 9 2>/dev/null || {
  say "另一个命令正在准备 $venv，等它完成……" "Another command is preparing $venv; waiting for it…"
  flock -w 600 9 || true
}
if usable && cmp -s "$list" "$stamp"; then exit; fi

say "准备 $venv（仅第一次，约 10 秒）……" "Preparing $venv (once, about 10 s)…"
package_index ""
have_python
run rm -f "$stamp"
if have_uv; then
  make "$UV" venv --quiet --clear --python "$PYTHON" "$venv"
  run "$UV" pip install --quiet --python "$venv/bin/python" -r "$list" || die E09 "lock=$list"
else
  "$PYTHON" -I -c 'import ensurepip, venv' 2>/dev/null || LACKING+=(python3-venv) # a separate package on Debian
  must_have_all
  make "$PYTHON" -I -m venv --clear "$venv"
  run "$venv/bin/python" -I -m pip install --quiet --quiet --no-cache-dir -r "$list" || die E09 "lock=$list"
fi
dry || readlink -f "$venv/bin/python" >"$venv/.python"
run cp "$list" "$stamp"
