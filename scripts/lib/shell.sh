#!/usr/bin/env bash
# Open a shell that has every setting as a plain variable, for pasting the commands of the docs.
# 打开一个载入全部设置的 shell，便于粘贴文档里的命令。
# Plain, not exported: ./inv, started in it, still reads the files anew.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
cd "$root"
exec bash --rcfile <(
  printf 'ROOT=%q\n' "$root"
  cat <<'RC'
[[ ! -f ~/.bashrc ]] || source ~/.bashrc
source "$ROOT/scripts/lib/settings.sh"
trap - ERR INT
set +E
export -n "${KEYS[@]}"
[[ $ENV_FILE != "$ROOT/.env" ]] || export -n ENV_FILE
PS1="(settings) ${PS1:-\$ }"
RC
) -i
