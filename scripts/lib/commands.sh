# Shows and runs commands: every change to the machine goes through run or write. Sourced by common.sh, never run.
# shellcheck shell=bash

dry() { [[ -n ${RUNBOOK_DRY:-} ]]; }

# With RUNBOOK_DRY=1, several steps are previewed: the results of earlier steps do not exist yet. With any other value, as
# for a single task, only this script is previewed: the preview fails where the script would fail.
planned() { [[ ${RUNBOOK_DRY:-} == 1 ]]; }

CHECK='' # set if the script was called with --check: it only tells whether its step is done
[[ ${1:-} != --check ]] || CHECK=1

already() { # already ZH EN: end the script, because its step is done; ZH and EN say what was found
  if [[ -n $CHECK ]]; then say "$1" "$2"; else say "已完成：$1" "already done: $2"; fi
  exit
}

shown() { printf '    $ %s\n' "$(masked "$(quote "$@")")"; }

run() { # run COMMAND…: show it, then run it; with RUNBOOK_DRY only show it
  shown "$@"
  dry || "$@"
}

become() { # become COMMAND…: show it, then replace this shell with it
  shown "$@"
  dry || exec "$@"
}

# Atomic: written to a temporary file, then renamed. The command is an argument, because a pipeline would hide its
# failure. A symbolic link stays a link.
write() { # write FILE COMMAND…: write COMMAND's output to FILE, readable only by its owner; on a failure, FILE is unchanged
  printf '    $ %s\n' "$(pick "写入" "write") $(quote "$1")"
  dry || (
    umask 077
    file=$(realpath -m -- "$1")
    new=$(mktemp -- "$file.new.XXXXXX")
    trap 'rm -f -- "$new"' EXIT
    "${@:2}" >"$new"
    code=$? # set -e has no effect where the caller checks the result of write
    ((code == 0)) || exit "$code"
    sync -- "$new" # a full disk or quota may be reported only here
    mv -- "$new" "$file"
  )
}

can_make() { # can_make DIRECTORY: check that it is writable or can be created
  local directory=$1
  while [[ ! -e $directory ]]; do directory=$(dirname "$directory"); done
  [[ -d $directory && -w $directory && -x $directory ]]
}
