# A lock for directories that several programs, users and machines may share: model and environment. Sourced after settings.sh.
# shellcheck shell=bash disable=SC2153 # MACHINE comes from settings.sh
# flock does not work on every network file system. Renaming a directory does, and fails if a directory that is not empty
# has that name: the lock is a directory with one empty file, whose name is the machine, pid and time of the holder.

seconds_untouched() { # seconds_untouched FILE DIRECTORY: print FILE's age, by the clock of the file system of both
  local new now last
  if new=$(mktemp -p "$2" .clock.XXXXXXXX 2>/dev/null); then
    now=$(stat -c %Y "$new")
    rm -f "$new"
  else
    printf -v now '%(%s)T' -1
  fi
  last=$(stat -c %Y "$1" 2>/dev/null) || last=$now
  echo $((now > last ? now - last : 0))
}

# The script and its programs hold the other end of this standard input: it ends when the last of them has ended, killed
# or not. This runs in its own session, so that Ctrl-Z and a closed terminal do not stop it.
# shellcheck disable=SC2016 # the shell that it starts expands them
KEEP_TOUCHING='
  while [[ -e $1/$2 ]]; do # else this machine has slept too long, and another one has taken over
    touch -c "$1"
    code=0
    read -r -t 3 _ || code=$?
    ((code <= 128)) || continue
    rm -rf "$1".left.*
    rm -f "$1/$2"
    rmdir "$1" # fails where somebody has the lock by now
  done'

lock() { # lock DIRECTORY: wait until nobody else has the lock, then hold it until this script and its programs end
  local path directory lock own me holder machine pid since limit silent=0 keeper began=$SECONDS told=$((SECONDS - 4))
  ! dry || return 0
  path=$(realpath -m -- "$1")
  directory=$(dirname "$path") lock=$directory/.$(basename "$path").lock
  if ! mkdir -p "$directory" 2>/dev/null || [[ ! -w $directory ]]; then
    directory=$BASE_DIR/run/locks
    lock=$directory/$(sha256sum <<<"$path" | cut -c 1-16)
    mkdir -p "$directory" || die E06 "folder=$BASE_DIR" "user=$(id -un)" key=BASE_DIR
  fi
  own=$lock.$MACHINE.$$
  while :; do
    # Do not follow a symbolic link.
    if [[ -L $lock || (-e $lock && ! -d $lock) ]]; then must_be_removed "$lock" "$1" "$(pick "它不是本项目的锁" "it is not a lock of this project")"; fi
    holder=$(ls -A "$lock" 2>/dev/null) || holder=''
    if [[ -z $holder ]]; then
      me="$MACHINE $$ $(date +%s)"
      { mkdir "$own" && : >"$own/$me"; } 2>/dev/null || die E06 "folder=$directory" "user=$(id -un)" key=BASE_DIR
      if mv -fT "$own" "$lock" 2>/dev/null || [[ -e $lock/$me ]]; then break; fi
      rm -rf "$own"
      holder=$(ls -A "$lock" 2>/dev/null) || holder=''
    fi
    if [[ -n $holder ]]; then
      [[ $holder =~ ^[A-Za-z0-9._-]+\ [0-9]+\ [0-9]+$ ]] || must_be_removed "$lock" "$1" "$(pick "它不是本项目的锁" "it is not a lock of this project")"
      read -r machine pid since <<<"$holder"
      printf -v since '%(%F %T)T' "$since"
      limit=90 # seconds; the holder touches it every three, but a network file system may show that only after a minute
      [[ $machine != "$MACHINE" ]] || limit=15
      # Check for four seconds: after the machine was suspended, the holder needs a moment to touch the lock.
      if (($(seconds_untouched "$lock" "$directory") > limit)); then silent=$((silent + 1)); else silent=0; fi
      if ((silent >= 8)); then
        silent=0
        # If two processes do this at once, the second fails, because the new name is in use.
        mv -fT "$lock" "$lock.left.$holder" 2>/dev/null || [[ ! -e $lock/$holder ]] ||
          must_be_removed "$lock" "$1" "$(pick "它是 $machine 上的进程 $pid 在 $since 留下的" "process $pid on $machine left it at $since")"
        continue
      elif ((SECONDS - told >= 5)); then
        told=$SECONDS
        say "$machine 上的进程 $pid 正在写入 $1（自 $since 起），等待其完成（$((SECONDS - began)) 秒）" \
          "Process $pid on $machine has been writing $1 since $since: waiting for it ($((SECONDS - began)) s)"
      fi
    fi
    sleep 0.5
  done
  # shellcheck disable=SC2034 # open until this script ends
  exec {keeper}> >(exec setsid bash -c "$KEEP_TOUCHING" - "$lock" "$me" >/dev/null 2>&1)
}

must_be_removed() { # must_be_removed LOCK DIRECTORY REASON
  die E77 "lock=$1" "folder=$2" "reason=$3" "owner=$(stat -c %U "$1" 2>/dev/null || echo '?')" "command=rm -r $(quote "$1")"
}
