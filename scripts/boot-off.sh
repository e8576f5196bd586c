#!/usr/bin/env bash
# Start the server at boot no more; a server that runs goes on.
# 取消开机自动启动；正在运行的服务不受影响。
set -euo pipefail
source "$(dirname "$0")/lib/settings.sh"
source "$ROOT/scripts/lib/boot.sh"

done=''
if [[ -f $BOOT_UNIT ]]; then
  run systemctl --user disable "$(basename "$BOOT_UNIT")"
  run rm -f "$BOOT_UNIT"
  run systemctl --user daemon-reload
  done=1
  say "已删除 $BOOT_UNIT" "$BOOT_UNIT is gone"
fi
if command -v crontab >/dev/null && crontab -l 2>/dev/null | grep -qF "$BOOT_MARK"; then
  cron_without_ours | to_crontab
  done=1
  say "已从 crontab 删除一行" "The line in the crontab is gone"
fi
[[ -n $done ]] || say "没有打开过开机启动" "It was not switched on"
