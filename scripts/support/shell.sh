#!/usr/bin/env bash
# Open a shell that has every setting as a plain variable, for pasting the commands of the docs.
# 打开一个载入全部设置的 shell，便于粘贴文档里的命令。
# Usage: shell.sh [COMMANDS]    with COMMANDS: run them and end
# The variables are not exported, so that ./inv in this shell still reads the settings files.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
cd "$root"
settings=$(
  printf 'ROOT=%q\n' "$root"
  cat <<'RC'
source "$ROOT/scripts/lib/settings.sh"
trap - ERR INT
set +E
RC
)
(($# == 0)) || exec bash -c "$settings"$'\n'"$1"
exec bash --rcfile <(
  echo '[[ ! -f ~/.bashrc ]] || source ~/.bashrc'
  echo "$settings"
  cat <<'RC'
export -n "${KEYS[@]}"
[[ $ENV_FILE != "$ROOT/.env" ]] || export -n ENV_FILE
PS1="(settings) ${PS1:-\$ }"
RC
) -i
