#!/usr/bin/env bash
# Disable start at boot. A running server is not affected.
# 取消开机自动启动；正在运行的服务不受影响。
set -euo pipefail
source "$(dirname "$0")/lib/settings.sh"
source "$ROOT/scripts/lib/boot.sh"

done=''
while IFS= read -r file; do
  drop_unit "$file"
  done=1
  say "已删除 $file" "$file was removed"
done < <(units)
if [[ -n $done ]] && with_systemd; then run "${MANAGER[@]}" daemon-reload; fi
if command -v crontab >/dev/null; then
  if [[ -z $done ]]; then must_read_crontab; elif ! read_crontab; then TABLE=''; fi
  without_ours
  if [[ $REPLY != "$TABLE" ]]; then
    to_crontab "$REPLY"
    done=1
    say "已从 crontab 删除一行" "The line was removed from the crontab"
  fi
fi
[[ ! -e $BOOT_FILE ]] || run rm -f "$BOOT_FILE"
[[ -n $done ]] || say "没有打开过开机启动" "Start at boot was not enabled"
