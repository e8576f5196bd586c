#!/usr/bin/env bash
# Start the server whenever the machine boots: by systemd --user where there is one, else by cron.
# 开机自动启动服务：有 systemd --user 就用它，否则用 cron。
set -euo pipefail
source "$(dirname "$0")/lib/settings.sh"
source "$ROOT/scripts/lib/boot.sh"

if with_systemd; then
  run mkdir -p "$(dirname "$BOOT_UNIT")"
  write "$BOOT_UNIT" <<UNIT
[Unit]
Description=vllm-runbook, $TMUX_SESSION
StartLimitIntervalSec=3h
StartLimitBurst=5

[Service]
Type=oneshot
RemainAfterExit=yes
Environment=$(systemd_word "ENV_FILE=$ENV_FILE") $(systemd_word "PATH=$PATH")
ExecStart=/bin/bash $(systemd_word "$ROOT/scripts/tmux-start.sh")
ExecStop=/bin/bash $(systemd_word "$ROOT/scripts/stop.sh")
Restart=on-failure
RestartSec=30
TimeoutStartSec=3600
KillMode=process

[Install]
WantedBy=default.target
UNIT
  run systemctl --user daemon-reload
  run systemctl --user enable "$(basename "$BOOT_UNIT")"
  # Without lingering the user's services begin at his first login.
  run loginctl enable-linger "$(id -un)" || die E37 "user=$(id -un)"
  say "开机启动已打开，写入 $BOOT_UNIT" "The server starts at boot: $BOOT_UNIT was written"
elif command -v crontab >/dev/null; then
  run mkdir -p "$LOG_DIR"
  { cron_without_ours && cron_line; } | to_crontab
  say "开机启动已打开，写入 crontab 的一行：" "The server starts at boot, by this line of the crontab:"
  printf '    %s\n' "$(cron_line)"
else
  die E38
fi
