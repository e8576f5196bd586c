#!/usr/bin/env bash
# Record ./inv deploy in a real terminal, up to the answer, as docs/deploy.en.svg and docs/deploy.zh.svg.
# 在真实终端中录制 ./inv deploy，直到得到回答，生成 docs/deploy.en.svg 和 docs/deploy.zh.svg。
# VENV_DIR and MODEL_DIR must exist; nothing is added to them.
set -euo pipefail
source "$(dirname "$0")/../lib/settings.sh"

# Run in namespaces that look like a separate machine: the user me, no other process, no network.
if [[ ${1:-} != inside ]]; then
  become unshare --user --map-root-user --mount --net --pid --fork --mount-proc bash "$0" inside
  exit
fi

me=/home/me columns=100
project=$me/code/vllm-runbook base=$me/vllm-runbook
cd "$ROOT"
run mount --rbind /home /mnt
run mount -t tmpfs tmpfs /home
for directory in /mnt/*/; do
  run mkdir "/home/$(basename "$directory")"
  run mount --rbind "$directory" "/home/$(basename "$directory")"
done
run mkdir -p "$project/.venv" "$base/.venv" "$base/models/$SERVED_MODEL_NAME"
git ls-files -coz --exclude-standard | xargs -0 cp --parents -t "$project"
run mount --bind .venv "$project/.venv"
run mount --bind "$VENV_DIR" "$base/.venv"
run mount --bind "$MODEL_DIR" "$base/models/$SERVED_MODEL_NAME"
run ip link set lo up

terminal() { # a separate tmux server; ./inv inside it uses yet another one
  env -i HOME=$me PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin LANG=C.UTF-8 TMUX_TMPDIR=$me tmux -u -S "$me/$language" -f /dev/null "$@"
}
picture() { # print the content of the terminal, up to the answer, as SVG
  terminal capture-pane -t record -p -S - | sed '/curl-test .*✓/q' | .venv/bin/python -I -c '
import sys
from rich.console import Console
screen = Console(record=True, width=int(sys.argv[1]), file=sys.stderr)
for line in sys.stdin.read().rstrip().splitlines():
    screen.print(line, markup=False, highlight=False, no_wrap=True)
print(screen.export_svg(title="vllm-runbook"))' $columns 2>/dev/null | sed '/@font-face {/,/}/d'
}
type() { # type COMMAND: type it in the terminal and wait for the next prompt
  say "输入 $1" "types $1"
  terminal send-keys -t record -l "$1"
  terminal send-keys -t record Enter
  sleep 1
  until [[ $(terminal capture-pane -t record -p | grep . | tail -n 1) == '$' ]]; do sleep 1; done
}

for language in en zh; do
  echo "RUNBOOK_LANG=$language" >"$project/.env"
  terminal new-session -d -x $columns -y 50 -s record -c "$project" "unset TMUX; PS1='$ ' bash --norc"
  type './inv mkdirs; clear'
  terminal clear-history -t record
  type './inv deploy'
  write "docs/deploy.$language.svg" picture
  type './inv stop'
  terminal kill-server
done
