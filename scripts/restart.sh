#!/usr/bin/env bash
# Stop the server and start it again, with the settings of now.
# 停止后重新启动服务，使用当前的设置。
set -euo pipefail
here=$(dirname "$0")
bash "$here/stop.sh"
exec bash "$here/tmux-start.sh"
