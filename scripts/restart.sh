#!/usr/bin/env bash
# Stop the server and start it again with the current settings.
# 停止服务，并以当前设置重新启动。
set -euo pipefail
here=$(dirname "$0")
bash "$here/stop.sh"
exec bash "$here/tmux-start.sh" --stopped
