# Functions of boot-on and boot-off: the path and content of the entry for start at boot, changes to the crontab.
# Sourced after settings.sh.
# shellcheck shell=bash disable=SC2034 # names for the scripts that source this
source "$ROOT/scripts/lib/server.sh"
source "$ROOT/scripts/lib/logind.sh"
BOOT_MARK="# vllm-runbook $BASE_DIR/run/$TMUX_SESSION" # marks the entry of this server
BOOT_FILE=$SERVER_ID.boot                              # the entry runs this file
THIS_HOST=$(uname -n)
MACHINE_ID=$(grep -xE '[0-9a-f]{32}' /etc/machine-id 2>/dev/null || true)
MANAGER=(systemctl)
UNIT=vllm-runbook-$TMUX_SESSION
# Several machines may share a home directory, but not /etc.
[[ $(id -u) == 0 ]] || { MANAGER+=(--user) && UNIT+=-$THIS_HOST; }
UNIT+=.service

with_systemd() { "${MANAGER[@]}" show-environment >/dev/null 2>&1; }

unit_directory() { # print the directory for units of the administrator, or of the user
  local directory=/etc/systemd/system paths
  [[ ${#MANAGER[@]} == 1 ]] || directory=${XDG_CONFIG_HOME:-$HOME/.config}/systemd/user
  paths=" $({ "${MANAGER[@]}" show --property=UnitPath 2>/dev/null || true; } | cut -d= -f2-) "
  if [[ $paths != *" $directory "* && $paths =~ \ (/[^ ]*/systemd/(system|user))\  ]]; then directory=${BASH_REMATCH[1]}; fi
  echo "$directory"
}

unit_ours() { # unit_ours FILE: check that it starts this server on this machine
  local text
  text=$'\n'$(<"$1")$'\n'
  if [[ $text == *$'\n# vllm-runbook '* ]]; then
    [[ $text == *$'\n'"$BOOT_MARK"$'\n'* ]] || return 1
  else # units of the first versions have no mark
    [[ $text == *$'\nDescription=vllm-runbook, '"$TMUX_SESSION"$'\n'* ]] || return 1
  fi
  [[ $text != *$'\nConditionHost='* || $text == *"=|$THIS_HOST"$'\n'* || (-n $MACHINE_ID && $text == *"=|$MACHINE_ID"$'\n'*) ]]
}

units() { # print this server's units, including those of earlier versions
  local directory file
  for directory in "$(unit_directory)" "$HOME/.config/systemd/user" "${XDG_CONFIG_HOME:-$HOME/.config}/systemd/user"; do
    for file in "$directory/vllm-runbook-$TMUX_SESSION"{,-*}.service; do
      if [[ -f $file ]] && unit_ours "$file"; then printf '%s\n' "$file"; fi
    done
  done | sort -u
}

drop_unit() { # drop_unit FILE
  local target=default
  [[ ${1%/*} != */system ]] || target=multi-user
  run rm -f "$1" "${1%/*}/$target.target.wants/${1##*/}"
}

systemd_word() { # quote a word of a command for systemd
  local word=${1//\\/\\\\}
  word=${word//\"/\\\"} word=${word//%/%%}
  printf '"%s"' "${word//\$/\$\$}"
}

boot_command() { # print what sh runs at boot; it waits for a network file system that is mounted late, and creates nothing
  local file missing
  file=$(quote "$BOOT_FILE")
  missing=$(quote "$(pick "✗ E86 五分钟后仍没有 $BOOT_FILE：文件系统没有挂载？" "✗ E86 $BOOT_FILE is still missing after five minutes: is its file system mounted?")")
  printf '%s' "n=0; until [ -e $file ]; do n=\$((n+1)); if [ \$n -gt 30 ]; then echo $missing; exit 1; fi; sleep 10; done; exec bash $file"
}

cron_line() { # % ends a line in most crons and is a plain character in others; outside of quotes, \% is a % in both
  local command
  command=$(quote "$(boot_command)")
  printf '@reboot /bin/sh -c %s %s\n' "${command//%/"'\\%'"}" "$BOOT_MARK"
}

read_crontab() { # read the crontab into TABLE, byte for byte; fails if that is impossible, with the reason in WHY
  local -x LC_ALL=C
  local code=0
  TABLE=$(crontab -l 2>/dev/null && echo .) || code=$?
  TABLE=${TABLE%.}
  [[ -z $TABLE ]] || ((code)) || return 0
  TABLE=''
  WHY=$(crontab -l 2>&1 >/dev/null) || code=$?
  WHY=${WHY//$'\n'/ }
  # The message for "no crontab" in vixie cron, cronie and dcron; in BusyBox; in fcron.
  [[ (-z $WHY && $code == 0) || $WHY =~ ^([a-z]*crontab:\ )?[Nn]o\ crontab\ for\ [^[:space:]]+$ ||
    $WHY =~ ^crontab:\ can\'t\ open\ .*:\ No\ such\ file\ or\ directory$ || $WHY =~ user\ [^[:space:]]+\ has\ no\ fcrontab ]]
}

without_ours() { # set REPLY to TABLE without this server's lines
  local line ours=''
  REPLY=''
  while IFS= read -r line || [[ -n $line ]]; do
    ours=''
    if [[ ${line%$'\r'} == '@reboot '*" $BOOT_MARK" ]]; then ours=1; else REPLY+=$line$'\n'; fi
  done < <(printf '%s' "$TABLE")
  [[ -n $ours || $TABLE == *$'\n' ]] || REPLY=${REPLY%$'\n'}
}

to_crontab() { # to_crontab TEXT: replace the crontab with TEXT; on a failure, restore it
  local before=$TABLE why
  [[ $1 != "$before" ]] || return 0
  printf '    $ %s\n' "crontab $([[ -n $1 ]] && echo - || echo -r)"
  ! dry || return 0
  if [[ -n $1 ]]; then
    why=$(printf '%s' "$1" | crontab - 2>&1) || cannot crontab "crontab: ${why//$'\n'/ }" "$(pick "原因见上面 crontab 的原话。" "The reason is in the words of crontab above.")"
  else # no crontab, as before the first entry
    crontab -r </dev/null 2>/dev/null || crontab - </dev/null
  fi
  if ! read_crontab || [[ $TABLE != "$1" ]]; then
    if [[ -n $before ]]; then printf '%s' "$before" | crontab - || true; else crontab -r </dev/null 2>/dev/null || true; fi
    cannot crontab "$(pick "crontab -l 读回的与写入的不同。" "crontab -l does not give back what was written.")" "$(pick "请检查磁盘空间和 crontab 的权限。" "Check the disk space and the permissions of crontab.")"
  fi
}

cannot() { die E84 "entry=$1" "reason=$2" "todo=$3"; } # cannot ENTRY REASON TODO

must_read_crontab() {
  read_crontab || cannot crontab "crontab -l: ${WHY:-$(pick "没有说明原因的失败" "it failed and gave no reason")}" "$(pick "crontab -l 必须先能成功。" "crontab -l must succeed first.")"
}

cron_runs() { grep -qszxE '(.*/)?(cron|crond|fcron)' /proc/[0-9]*/cmdline; }

lost_at_boot() { # print the settings whose current values are in no file, so that the start at boot would not see them
  local at_boot words
  mapfile -t words < <(boot_environment)
  # shellcheck disable=SC2016 # the other shell expands it
  at_boot=$(env -i HOME="$HOME" LOGNAME="$(id -un)" RUNBOOK_TASK=boot-on "${words[@]}" bash -c \
    'source "$0/settings.sh"; source "$0/server.sh"; settings_of_now' "$ROOT/scripts/lib" 2>&1) ||
    { printf '%s\n' "$at_boot" >&2 && at_boot=''; }
  differing <(printf '%s\n' "$at_boot")
}

boot_environment() { # print NAME=value for the current environment that the start at boot needs
  local name
  for name in PATH LANG TMUX_TMPDIR; do
    [[ -z ${!name:-} ]] || printf '%s=%s\n' "$name" "${!name}"
  done
  [[ ! -f $ENV_FILE ]] || printf 'ENV_FILE=%s\n' "$ENV_FILE"
}
