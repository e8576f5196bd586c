#!/usr/bin/env bash
# From a bare machine to a vLLM server with an OpenAI-compatible interface that answers: the steps, in their order.
# 从一台空机器到能应答的、OpenAI 兼容的 vLLM 服务：按顺序执行各步。
# Usage: bash THIS-FILE                       every step; run it again at any time, what is done is not done twice
#        bash THIS-FILE status|logs|stop|…    others of the scripts below, with their own words; help lists them
#        BASE_DIR=/data/llm bash THIS-FILE    a setting in the environment goes before the one in the file
# Needed: Linux, Python 3.11 to 3.14 with venv, tmux, ss, curl. The first step says what is missing.
# 用法同上：不带参数即执行各步，可随时重复；help 列出其余脚本。缺什么工具，第一步会说明。
set -euo pipefail

main() {
  file=$0
  [[ -f $file ]] || file='' # it came through a pipe
  unpack                    # from here on in the folder that has scripts/, docs/ and .env
  # shellcheck source=/dev/null
  RUNBOOK_TASK=${1-} source scripts/lib/settings.sh # a step tells what auto means, the others need not
  again="bash $(quote "${file:-$PWD/inv}")"
  trap 'tell E98 "again=$again"; exit 130' INT
  case ${1:-deploy} in
    deploy) deploy ;;
    help | -h | --help) help ;;
    *) others "$@" ;;
  esac
}

deploy() {
  say "脚本、文档和设置在 $PWD" "Scripts, pages and settings are in $PWD"
  # a key of this machine's own into .env 生成本机自己的密钥
  bash scripts/lib/env-file.sh || exit 1
  step preflight     # has this machine what the steps need 检查本机
  step mkdirs        # folders for the model, the cache and the logs 建目录
  step venv          # the Python environment that vLLM runs in 建虚拟环境
  step install       # vLLM and ModelScope, exactly as locked 按锁定版本安装
  step download      # the model into its folder 下载模型
  step port-check    # the port is free, or held by this server 检查端口
  step tmux-start    # in the background, kept up; waits until it answers 启动并等到能应答
  step curl-test     # one question, one answer 提一个问题
  step ragflow-notes # what to enter in RAGFlow 在 RAGFlow 中填写什么
  say "部署完成。停止：$again stop" "Deployed. To stop it: $again stop"
}

step() { # step NAME: scripts/NAME.sh; where it fails, how to go on
  local code=0 logged
  printf '%s · %s\n' "$1" "$(purpose "scripts/$1.sh")"
  logged=$(stat -c %s "$LOG_DIR/vllm.log" 2>/dev/null || echo 0)
  RUNBOOK_TASK=$1 bash "scripts/$1.sh" || code=$?
  ((code)) || return 0
  case $1 in # what the log has gained, and the disk, may say why
    install | download | tmux-start) RUNBOOK_TASK=doctor bash scripts/doctor.sh --from "$logged" || true ;;
  esac
  say "解决后再运行 $again，会从 $1 继续" "mend it and run $again: it goes on from $1"
  exit 1
}

purpose() { pick "$(sed -n '3s/^# //p' "$1")" "$(sed -n '2s/^# //p' "$1")"; }

help() {
  awk -v line="$(pick 3 2)" 'FNR == line { gsub(/.*\/|\.sh$/, "", FILENAME); printf "%-17s %s\n", FILENAME, substr($0, 3) }' scripts/*.sh
}

others() { # others NAME [WORD…], or several names
  local name
  for name; do [[ -f scripts/$name.sh ]] || break; done
  [[ -f scripts/$1.sh ]] || die E17 "step=$1" "steps=deploy $(help | cut -d ' ' -f 1 | xargs)"
  if (($# == 1)) || [[ ! -f scripts/$name.sh ]]; then exec bash "$PWD/scripts/$1.sh" "${@:2}"; fi
  for name; do RUNBOOK_TASK=$name bash "scripts/$name.sh" || exit; done
}

unpack() { cd "$(dirname "$(readlink -f "$0")")/../.."; } # in the exported script, which has them all in it, longer
main "$@"
