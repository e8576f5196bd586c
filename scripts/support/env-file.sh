#!/usr/bin/env bash
# Create the settings file from .env.example if it is missing, add an API key if it has none, then run COMMAND.
# 没有设置文件时由 .env.example 生成，没有 API_KEY 时生成一个写入，然后运行 COMMAND。
# Usage: env-file.sh [COMMAND…]
set -euo pipefail
source "$(dirname "$0")/../lib/settings.sh"

[[ -d $(dirname "$ENV_FILE") && -w $(dirname "$ENV_FILE") ]] || die E06 "folder=$(dirname "$ENV_FILE")" "user=$(id -un)" key=ENV_FILE
file=$(realpath -m "$ENV_FILE") # a symbolic link stays a link
source=$file
[[ -f $file ]] || source=$ROOT/.env.example
if [[ -z $API_KEY ]]; then
  say "生成 API_KEY，写入 $ENV_FILE（仅你可读）" "A new API_KEY goes into $ENV_FILE, which only you can read"
  key=$(od -An -N 24 -tx1 /dev/urandom | tr -d ' \n')
  KEY=$key write "$file" awk '
    /^[ \t]*(export[ \t]+)?API_KEY[ \t]*=/ { if (!done) print "API_KEY=" ENVIRON["KEY"]; done = 1; next }
    { print }
    END { if (!done) print "API_KEY=" ENVIRON["KEY"] }' "$source"
elif [[ ! -f $file ]]; then
  say "由 .env.example 生成 $ENV_FILE" "$ENV_FILE is made from .env.example"
  write "$file" cat "$source"
fi
(($# == 0)) || exec "$@"
