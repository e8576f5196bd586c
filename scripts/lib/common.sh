# Functions for every script. Sourced by settings.sh, and by scripts that need no settings; never run.
# shellcheck shell=bash
if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 404)); then # the code below needs bash 4.4
  printf '%s\n' "✗ 需要 bash 4.4 或更新版本，当前是 $BASH_VERSION。" "✗ bash 4.4 or newer is needed; this is $BASH_VERSION." >&2
  exit 1
fi
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
source "$ROOT/scripts/lib/messages.sh"
source "$ROOT/scripts/lib/commands.sh"
source "$ROOT/scripts/lib/system.sh"
source "$ROOT/scripts/lib/python.sh"
