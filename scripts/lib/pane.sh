#!/usr/bin/env bash
# What runs in the tmux pane: serve.sh with the settings of FILE and no others, its output also in LOG.
# Usage: pane.sh FILE LOG
set -euo pipefail
here=$(dirname "$0")
# The tmux server may have been started from a shell with other settings in its environment.
while read -r key _; do [[ -z $key || $key == \#* ]] || unset "$key"; done <"$here/settings.rules"
# -i: Ctrl-C in the pane is for vLLM; its last words still reach the log.
ENV_FILE=$1 bash "$here/../serve.sh" 2>&1 | tee -ai "$2"
