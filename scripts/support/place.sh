#!/usr/bin/env bash
# Copy what an exported script has unpacked into its server's directory, and print that directory.
# 把导出脚本解出的文件复制到其服务的目录，并输出该目录。
# The settings in the script become .env there. If they have changed, .env is written again; the keys stay.
set -euo pipefail
export PROFILE=cpu # only the directories matter here, and Python would add files to what is unpacked
source "$(dirname "$0")/../lib/settings.sh"

directory=$BASE_DIR/runbook/$TMUX_SESSION # these two identify a server
[[ -f $directory/.exported || ! -e $directory ]] || die E71 "folder=$directory"
{ mkdir -p "$directory" && : >>"$directory/.exported"; } 2>/dev/null || die E06 "folder=$directory" "user=$(id -un)" key=BASE_DIR
cd "$ROOT"
if [[ ! -f $directory/.env ]] || ! cmp -s .env "$directory/.exported"; then
  {
    if [[ -f $directory/.env ]]; then
      say "脚本中的设置变了：写入 $directory/.env，密钥不变，原文件存为 .env.old" \
        "The settings in the script have changed: they go into $directory/.env; the keys stay, the old file is .env.old"
      run cp -p --backup=numbered "$directory/.env" "$directory/.env.old" # an older one becomes .env.old.~1~
    fi
    keys=$(grep -E '^[[:space:]]*(export[[:space:]]+)?(API_KEY|RAGFLOW_API_KEY|MODELSCOPE_API_TOKEN)[[:space:]]*=' "$directory/.env" 2>/dev/null || true)
    settings=$(cat .env)
    write "$directory/.env" printf '%s\n' "${keys:+$keys$'\n'}$settings" # a later line has precedence over an earlier one
    write "$directory/.exported" cat .env
  } >&2
fi
if ! find ./* .env.example -type f -exec sha256sum {} + | (cd "$directory" && sha256sum --status --check 2>/dev/null); then
  cp -r --remove-destination ./* .env.example "$directory" # replace the files, because a running script must not change
fi
chmod +x "$directory/inv"
printf '%s\n' "$directory"
