#!/usr/bin/env bash
# Deploy a vLLM server with an OpenAI-compatible API: unpack vllm-runbook and run its ./inv.
# 部署一个提供 OpenAI 兼容接口的 vLLM 服务：解出 vllm-runbook 并运行其中的 ./inv。
# Usage: bash THIS-FILE                       ./inv deploy; run it again at any time, what is done is not done twice
#        bash THIS-FILE status|logs|stop|…    the other tasks, with their own options; --list shows them
#        BASE_DIR=/data/llm bash THIS-FILE    a setting in the environment has precedence over the one in the file
# Requires Linux, Python 3.11 to 3.14, tmux, ss and curl. The first step reports what is missing.
# 用法同上：不带参数即部署，可随时重复；--list 列出其余任务。缺什么工具，第一步会说明。
set -euo pipefail

main() {
  unpack # changes to the directory that has inv, scripts/, docs/ and .env
  # shellcheck source=/dev/null
  RUNBOOK_TASK=unpacked source scripts/lib/settings.sh # auto is not resolved here
  say "文件和设置在 $PWD，那里的 ./inv 可执行各项任务" "Files and settings are in $PWD; ./inv there runs the tasks"
  (($#)) || set -- deploy
  exec ./inv "$@"
}

unpack() { cd "$(dirname "$(readlink -f "$0")")/../.."; } # the exported script has another unpack, which writes all the files
main "$@"
