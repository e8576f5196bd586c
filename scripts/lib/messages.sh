# Messages: the reader's language, lines of output, known faults, and the traps for unexpected failures.
# Sourced by common.sh, never run.
# shellcheck shell=bash
# LANG keeps the reader's language. Text is UTF-8 and numbers have a decimal point in every locale, installed or not.
export LANG=${LC_ALL:-${LC_MESSAGES:-${LANG:-}}}
{
  unset LC_ALL LC_MESSAGES PYTHONIOENCODING
  export LC_CTYPE=C.UTF-8 LC_COLLATE=C LC_NUMERIC=C
} 2>/dev/null # bash warns of a locale that is not installed

declare -A RAW=() # values as written in the settings files, see settings.sh

lang() {
  local chosen=${RUNBOOK_LANG:-${RAW[RUNBOOK_LANG]:-}}
  if [[ $chosen == zh || $chosen == en ]]; then
    echo "$chosen"
  elif [[ $LANG == zh* ]]; then
    echo zh
  else
    echo en
  fi
}

pick() { # pick ZH EN: print the text in the reader's language
  if [[ $(lang) == zh ]]; then printf '%s\n' "$1"; else printf '%s\n' "$2"; fi
}

masked() { # masked TEXT: print the text without the passwords in its addresses: https://user:***@host/
  if [[ $1 == *://*@* ]]; then
    sed -E 's#://([^/:@[:space:]]*:)?[^/[:space:]]*@#://\1***@#g' <<<"$1"
  else
    printf '%s\n' "$1"
  fi
}

say() { printf '    %s\n' "$(masked "$(pick "$1" "$2")")"; } # say ZH EN

quote() { # print the words as they would be typed in a shell; Chinese stays readable
  local word line=
  for word; do
    [[ $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]] || word="'${word//\'/\'\\\'\'}'"
    line+=" $word"
  done
  printf '%s\n' "${line# }"
}

fault_text() { # fault_text CODE what|fix|title: print the text in the reader's language
  awk -v section="[$1]" -v key="$2.$(lang) = " '
    /^\[/ { on = ($0 == section) }
    on && index($0, key) == 1 { sub(/^[^"]*"/, ""); sub(/"$/, ""); print }' "$ROOT/runbook/messages/faults.toml"
}

tell() { # tell CODE key=value…: report a known fault: what happened, what fixes it, its code and page
  local code=$1 what fix pair
  shift
  what=$(fault_text "$code" what)
  fix=$(fault_text "$code" fix)
  if [[ -n ${ENV_FILE:-} && $ENV_FILE != "$ROOT/.env" ]]; then # a second server's commands name its settings file
    fix=${fix//.\/inv /"ENV_FILE=$(quote "$ENV_FILE") ./inv "}
  fi
  for pair; do
    what=${what//"{${pair%%=*}}"/"${pair#*=}"}
    fix=${fix//"{${pair%%=*}}"/"${pair#*=}"}
  done
  printf '✗ %s\n  → %s\n  %s docs/%s/troubleshooting.md#%s\n' "$(masked "$what")" "$(masked "$fix")" "$code" "$(lang)" "${code,,}" >&2
}

die() { # die CODE key=value…: report a known fault and exit
  tell "$@"
  exit 1
}

unexpected() { # ERR trap: report an unexpected failure
  # 141: SIGPIPE, the reader closed the pipe, as in … | head
  ((BASH_SUBSHELL == 0 && $1 != 141)) || exit "$1"
  tell E99 "command=$2" "code=$1" "script=$(basename "$0")"
  exit 1
}

interrupted() {             # INT trap
  case ${RUNBOOK_TASK:-} in # a task reports it itself
    '') tell E98 "again=bash $(quote "$0")" ;;
    inv) tell E98 "again=./inv" ;;
  esac
  exit 130
}

set -E
trap 'unexpected $? "$BASH_COMMAND"' ERR
trap interrupted INT
