#!/usr/bin/env bash
# Start the server at boot: wait for file systems and the GPU driver, and retry a start that fails.
# 开机时启动服务：等待文件系统和 GPU 驱动就绪，启动失败则重试。
# The entry of boot-on runs it; its output goes to boot.log.
# Usage: at-boot.sh [TRY]    with RUNBOOK_BOOT_FILE, which runs it, and RUNBOOK_BOOT_PROFILE, the profile of that time
set -euo pipefail
if (($# == 0)); then
  export RUNBOOK_BOOTING=${RUNBOOK_BOOT_FILE%.boot}.booting # stop.sh removes it to cancel the retries
  : >"$RUNBOOK_BOOTING"
  code=1
  for try in 1 2 3 4 5 6 7; do
    said=$(bash "$0" "$try" 2>&1) && code=0 && break
    ((try == 7)) || sleep $((10 << (try - 1))) # 10 20 40 … 320 seconds
    [[ -e $RUNBOOK_BOOTING ]] || exit 0
  done
  rm -f "$RUNBOOK_BOOTING"
  ((code == 0)) || printf '%s\n' "$said" # systemd writes it to the journal, cron mails it
  exit "$code"
fi
source "$(dirname "$0")/../lib/settings.sh"

if [[ -d $LOG_DIR/$MACHINE ]]; then
  (($1 > 1)) || : >"$LOG_DIR/$MACHINE/boot.log"
  exec > >(tee -a "$LOG_DIR/$MACHINE/boot.log") 2>&1
fi
echo "==== $(date '+%F %T') $(pick "第 $1 次尝试" "try $1")"
missing=()
for key in BASE_DIR VENV_DIR MODEL_DIR LOG_DIR; do
  [[ -e ${!key} ]] || missing+=("$key=${!key}")
done
# With PROFILE=auto, the small model would be served on the CPU if the driver is not loaded yet.
if [[ ${RUNBOOK_BOOT_PROFILE:-} == gpu && ${RAW[PROFILE]} != cpu ]] && ! about_gpus listed; then
  missing+=("$(pick "nvidia-smi 中的 GPU" "a GPU in nvidia-smi")")
fi
((${#missing[@]} == 0)) || die E86 "missing=${missing[*]}"
exec bash "$ROOT/scripts/tmux-start.sh"
