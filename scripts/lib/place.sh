#!/usr/bin/env bash
# Put what an exported script has unpacked into its server's folder, and print that folder.
# 把导出脚本解出的文件放进其服务的目录，并输出该目录。
# Its settings become .env there; when they have changed since, they do so again, and the keys stay.
set -euo pipefail
source "$(dirname "$0")/settings.sh"

folder=$BASE_DIR/runbook/$TMUX_SESSION # a server is known by these two
[[ -f $folder/.exported || ! -e $folder ]] || die E71 "folder=$folder"
{ mkdir -p "$folder" && : >>"$folder/.exported"; } 2>/dev/null || die E06 "folder=$folder" "user=$(id -un)" key=BASE_DIR
cd "$ROOT"
if [[ ! -f $folder/.env ]] || ! cmp -s .env "$folder/.exported"; then
  {
    if [[ -f $folder/.env ]]; then
      say "脚本中的设置变了：写入 $folder/.env，密钥不变，原文件存为 .env.old" \
        "The settings in the script have changed: they go into $folder/.env; the keys stay, the old file is .env.old"
      run cp -p "$folder/.env" "$folder/.env.old"
    fi
    keys=$(grep -E '^[[:space:]]*(export[[:space:]]+)?(API_KEY|RAGFLOW_API_KEY|MODELSCOPE_API_TOKEN)[[:space:]]*=' "$folder/.env" 2>/dev/null || true)
    { printf '%s' "${keys:+$keys$'\n'}" && cat .env; } | write "$folder/.env" # a later line goes before an earlier one
    write "$folder/.exported" <.env
  } >&2
fi
if ! find ./* .env.example -type f -exec sha256sum {} + | (cd "$folder" && sha256sum --status --check 2>/dev/null); then
  cp -r --remove-destination ./* .env.example "$folder" # new files: a script that runs must not change under its shell
fi
chmod +x "$folder/scripts/lib/exported.sh"
ln -sfn scripts/lib/exported.sh "$folder/inv" # the ./inv that messages and pages speak of
printf '%s\n' "$folder"
