# What boot-on and boot-off share: the unit, the line of the crontab, and how each quotes. Sourced after settings.sh.
# shellcheck shell=bash disable=SC2034 # names for the scripts that source this
BOOT_UNIT=${XDG_CONFIG_HOME:-$HOME/.config}/systemd/user/vllm-runbook-$TMUX_SESSION.service
BOOT_MARK="# vllm-runbook $BASE_DIR/run/$TMUX_SESSION"

with_systemd() { systemctl --user show-environment >/dev/null 2>&1; }

systemd_word() { # a word as systemd reads it
  local word=${1//\\/\\\\}
  word=${word//\"/\\\"} word=${word//%/%%}
  printf '"%s"' "${word//\$/\$\$}"
}

cron_line() { # cron reads % as the end of a line
  local command
  command="ENV_FILE=$(quote "$ENV_FILE") PATH=$(quote "$PATH") bash $(quote "$ROOT/scripts/tmux-start.sh") >$(quote "$LOG_DIR/boot.log") 2>&1"
  printf '@reboot sleep 10; %s %s\n' "${command//%/\\%}" "$BOOT_MARK"
}

# In a dry run nothing reads the lines: they are swallowed.
to_crontab() { run crontab - && cat >/dev/null; }

cron_without_ours() { crontab -l 2>/dev/null | { grep -vF "$BOOT_MARK" || true; }; }
