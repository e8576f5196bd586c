# What every step shares: its words, how a command is shown and run, how a fault is told. Sourced, never run.
# shellcheck shell=bash
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
FAULTS=$ROOT/runbook/faults.toml

declare -A RAW=()                           # what the settings files say
LOCALE=${LC_ALL:-${LC_MESSAGES:-${LANG:-}}} # before a reader of bytes sets LC_ALL for itself

lang() {
  local chosen=${RUNBOOK_LANG:-${RAW[RUNBOOK_LANG]:-}}
  if [[ $chosen == zh || $chosen == en ]]; then
    echo "$chosen"
  elif [[ $LOCALE == zh* ]]; then
    echo zh
  else
    echo en
  fi
}

pick() { # pick ZH EN: the one of the two that the reader reads
  if [[ $(lang) == zh ]]; then printf '%s\n' "$1"; else printf '%s\n' "$2"; fi
}

say() { printf '    %s\n' "$(pick "$1" "$2")"; } # say ZH EN

quote() { # the words as somebody would type them in a shell; Chinese stays readable
  local word line=
  for word; do
    [[ $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]] || word="'${word//\'/\'\\\'\'}'"
    line+=" $word"
  done
  printf '%s\n' "${line# }"
}

dry() { [[ -n ${RUNBOOK_DRY:-} ]]; }

run() { # run COMMAND…: shows it, then runs it; with RUNBOOK_DRY only shows it
  printf '    $ %s\n' "$(quote "$@")"
  dry || "$@"
}

asks() { # asks PROGRAM…: runs one of scripts/lib/*.py, which tells a known fault on descriptor 3: its code, then key=value lines
  local told=() words code=0
  { words=$(RUNBOOK_LANG=$(lang) run "$@" 3>&1 >&4) || code=$?; } 4>&1
  ((code)) || return 0
  ((code != 130)) || interrupted
  [[ -n $words ]] || return "$code"
  mapfile -t told <<<"$words"
  die "${told[@]}"
}

become() { # become COMMAND…: the same, in place of this shell
  printf '    $ %s\n' "$(quote "$@")"
  dry || exec "$@"
}

# Facts about cards come from nvidia-smi and from nowhere else.
has_card() { nvidia-smi -L 2>/dev/null | grep -q '^GPU '; }

fault_text() { # fault_text CODE what|fix|title: the text in the reader's language
  awk -v section="[$1]" -v key="$2.$(lang) = " '
    /^\[/ { on = ($0 == section) }
    on && index($0, key) == 1 { sub(/^[^"]*"/, ""); sub(/"$/, ""); print }' "$FAULTS"
}

tell() { # tell CODE key=value…: the fault's sentence, what mends it, its code and page
  local code=$1 what fix pair
  shift
  what=$(fault_text "$code" what)
  fix=$(fault_text "$code" fix)
  for pair; do
    what=${what//"{${pair%%=*}}"/"${pair#*=}"}
    fix=${fix//"{${pair%%=*}}"/"${pair#*=}"}
  done
  if [[ -n ${ENV_FILE:-} && $ENV_FILE != "$ROOT/.env" ]]; then # the way on is this server's, not the first one's
    fix=${fix//.\/inv /"ENV_FILE=$(quote "$ENV_FILE") ./inv "}
  fi
  printf '✗ %s\n  → %s\n  %s docs/%s/troubleshooting.md#%s\n' "$what" "$fix" "$code" "$(lang)" "${code,,}" >&2
}

die() {
  tell "$@"
  exit 1
}

unexpected() { # the way out of every command that failed without a word of ours
  # 141: nobody reads on, as in … | head
  ((BASH_SUBSHELL == 0 && $1 != 141)) || exit "$1"
  tell E99 "command=$2" "code=$1" "script=$(basename "$0")"
  exit 1
}

interrupted() {
  case ${RUNBOOK_TASK:-} in # a task tells it itself
    '') tell E98 "again=bash $(quote "$0")" ;;
    inv) tell E98 "again=./inv" ;;
  esac
  exit 130
}

write() { # write FILE: standard input becomes FILE, readable by its owner alone, whole or not at all
  printf '    $ %s\n' "$(pick "写入" "write") $(quote "$1")"
  if dry; then
    cat >/dev/null
  else
    (
      umask 077
      cat >"$1.new.$$"
      mv "$1.new.$$" "$1"
    )
  fi
}

find_python() { # the first Python that vLLM supports (3.11 to 3.14), the usual one first
  local name
  for name in python3 python3.14 python3.13 python3.12 python3.11; do
    if "$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null; then
      command -v "$name"
      return
    fi
  done
  die E05 "found=$(python3 --version 2>/dev/null || echo -)"
}

package_command() { # package_command apt=NAME dnf=NAME…: the command that installs a system package here
  local sudo pair tool
  sudo=$([[ $(id -u) == 0 ]] || echo "sudo ")
  for pair; do
    tool=${pair%%=*}
    command -v "$tool" >/dev/null || continue
    case $tool in
      apt-get) echo "${sudo}apt-get install -y ${pair#*=}" ;;
      pacman) echo "${sudo}pacman -S --noconfirm ${pair#*=}" ;;
      zypper) echo "${sudo}zypper install -y ${pair#*=}" ;;
      *) echo "$sudo$tool install -y ${pair#*=}" ;;
    esac
    return
  done
  echo "${1#*=}"
}

answers() { # answers URL: does the address send something within seconds
  curl -fsSL -o /dev/null --connect-timeout 5 --max-time 15 "$1" 2>/dev/null
}

choose_index() { # PIP_INDEX_URL where it answers; else it is emptied, so that pip's own configuration rules
  [[ -n ${PIP_INDEX_URL:-} ]] || return 0
  if dry || answers "${PIP_INDEX_URL%/}/pip/"; then return 0; fi
  say "镜像 $PIP_INDEX_URL 连不上，改用 pip 自己的配置。" "The mirror $PIP_INDEX_URL does not answer; pip's own configuration is used."
  PIP_INDEX_URL=
}

set -E
trap 'unexpected $? "$BASH_COMMAND"' ERR
trap interrupted INT
