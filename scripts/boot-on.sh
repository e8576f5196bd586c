#!/usr/bin/env bash
# Start the server at boot: with systemd, or with cron where there is no systemd.
# 开机自动启动服务：使用 systemd，没有 systemd 时使用 cron。
set -euo pipefail
source "$(dirname "$0")/lib/settings.sh"
source "$ROOT/scripts/lib/boot.sh"

boot_file() { # a file, because a line of a crontab has at most 1000 characters; systemd runs it too
  local line
  echo "# Start (or, with the argument stop, stop) the server, for the entry of boot-on."
  boot_environment | while IFS= read -r line; do printf 'export %s=%s\n' "${line%%=*}" "$(quote "${line#*=}")"; done
  echo "export RUNBOOK_BOOT_PROFILE=$PROFILE RUNBOOK_BOOT_FILE=\$0"
  echo "exec bash $(quote "$ROOT/scripts")/\"\${1:-support/at-boot}\".sh"
}

unit() {
  local head user='' target=default.target
  # The host name or the machine id must match: a host name may change, an image may be cloned.
  head=ConditionHost="|$THIS_HOST${MACHINE_ID:+$'\n'ConditionHost=|$MACHINE_ID}"
  if [[ ${#MANAGER[@]} == 1 ]]; then
    head=$'Wants=network-online.target\nAfter=network-online.target remote-fs.target' user=$'User=root\n' target=multi-user.target
  fi
  cat <<UNIT
$BOOT_MARK
[Unit]
Description=vllm-runbook, $TMUX_SESSION
$head

[Service]
Type=simple
RemainAfterExit=yes
${user}ExecStart=/bin/sh -c $(systemd_word "$(boot_command)")
ExecStop=/bin/sh -c $(systemd_word "exec bash $(quote "$BOOT_FILE") stop")
TimeoutStopSec=120
KillMode=process
OOMPolicy=continue

[Install]
WantedBy=$target
UNIT
}

by_systemd() {
  local directory file state other
  directory=$(unit_directory)
  file=$directory/$UNIT
  if [[ -e $file ]] && ! unit_ours "$file"; then
    cannot "$file" "$(pick "它不是这个服务的（没有这一行：$BOOT_MARK）。" "It is not this server's: it has no line $BOOT_MARK.")" \
      "$(pick "换一个 TMUX_SESSION，或自行处理那个文件。" "Choose another TMUX_SESSION, or deal with that file yourself.")"
  fi
  run mkdir -p "$directory"
  write "$file" unit
  run chmod 644 "$file"
  run "${MANAGER[@]}" daemon-reload
  state=$("${MANAGER[@]}" show --property=LoadState "$UNIT")
  if ! dry && [[ $state != LoadState=loaded ]]; then
    drop_unit "$file"
    cannot "$file" "systemd: $state." "$(pick "详见 ${MANAGER[*]} status $UNIT" "See: ${MANAGER[*]} status $UNIT")"
  fi
  run "${MANAGER[@]}" enable "$UNIT"
  while IFS= read -r other; do [[ $other == "$file" ]] || drop_unit "$other"; done < <(units)
  if read_crontab; then # it may have an entry from before systemd was used
    without_ours
    to_crontab "$REPLY"
  fi
  # Without lingering, the user's services start only at the first login.
  # Enabling it may need an administrator, who may have done so already.
  [[ ${#MANAGER[@]} == 1 ]] || lingers || run loginctl enable-linger "$(id -un)" || die E37 "user=$(id -un)"
  say "开机启动已打开，写入 $file" "Start at boot is enabled: $file was written"
}

by_cron() {
  must_read_crontab
  without_ours
  [[ -z $REPLY || $REPLY == *$'\n' ]] || REPLY+=$'\n'
  to_crontab "$REPLY$(cron_line)"$'\n'
  say "开机启动已打开，写入 crontab 的一行：" "Start at boot is enabled by this line of the crontab:"
  printf '    %s\n' "$(cron_line)"
  cron_runs || say "注意：cron 没有在运行，这一行不会生效。请启动它，并让它开机启动（如 systemctl enable --now cron，或 service cron start）。" \
    "Warning: no cron daemon is running, so this line has no effect. Start it, now and at boot (systemctl enable --now cron, or service cron start)."
}

keys=$(lost_at_boot)
[[ -z $keys ]] || die E85 "keys=$keys" "file=$ENV_FILE"
way=by_cron
if with_systemd; then way=by_systemd; elif ! command -v crontab >/dev/null; then die E38; fi
run mkdir -p "$(dirname "$BOOT_FILE")" "$LOG_DIR/$MACHINE"
write "$BOOT_FILE" boot_file
"$way"
