# Package sources, and uv, which needs no Python and can install one. Sourced after settings.sh.
# shellcheck shell=bash disable=SC2034 # names for the scripts that source this
UV_VERSION=0.13.9
# Wheel and SHA-256 for each processor.
declare -A UV_WHEEL=(
  [x86_64]="uv-$UV_VERSION-py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64.whl d7f459fe4fd247d830351c75686d3996ace3c6f3f728eb0e85a30b7ada0cef19"
  [aarch64]="uv-$UV_VERSION-py3-none-manylinux_2_28_aarch64.whl ecb6028d79dc96fbeafffe5c8af62a7099487ebc05a701e76714eebcffd06375"
)

pip_setting() { # pip_setting NAME: print its values in pip's own configuration, one per line, without pip
  local name=PIP_${1^^} files
  name=${name//-/_}
  [[ $name == PIP_INDEX_URL || -z ${!name:-} ]] || tr -s ' ' '\n' <<<"${!name}" # PIP_INDEX_URL is a setting of this project
  files=("${PIP_CONFIG_FILE:-}" "${XDG_CONFIG_HOME:-$HOME/.config}/pip/pip.conf" "$HOME/.pip/pip.conf" /etc/pip.conf /etc/xdg/pip/pip.conf)
  for name in "${files[@]}"; do
    [[ ! -f $name ]] || awk -v key="$1" '
      /^[[:space:]]*[#;]/ { next }
      /^\[/ { on = /^\[(global|install)\]/; mine = 0; next }
      /^[^[:space:]]/ { mine = on && $0 ~ "^" key "[[:space:]]*[=:]"; if (mine) sub(/^[^=:]*[=:]/, "") }
      mine { for (i = 1; i <= NF; i++) if (!seen[$i]++) print $i }' "$name"
  done
}

answers() { # answers URL: check that it responds within seconds; it goes through standard input: a command line is public
  local url=${1//\\/\\\\}
  printf 'url = "%s"\n' "${url//\"/\\\"}" | curl -fsSL -o /dev/null --connect-timeout 5 --max-time 15 -K - 2>/dev/null
}

choose_index() { # keep PIP_INDEX_URL, which pip reads, if it answers; else empty it, so that pip uses its own configuration
  [[ -n ${PIP_INDEX_URL:-} ]] || return 0
  if planned || answers "${PIP_INDEX_URL%/}/pip/"; then return 0; fi
  say "无法连接镜像 $PIP_INDEX_URL，改用 pip 自己的配置。" "The mirror $PIP_INDEX_URL does not answer; pip's own configuration is used."
  PIP_INDEX_URL=
}

# Environment variables, not options: an index may contain a password, and a command line is public.
package_index() { # package_index LINKS: set the package index for pip and uv, and LINKS, if any, for torch's CPU build
  local index extra links=() pair
  choose_index
  [[ -z ${1:-} || $1 == /* ]] || links=("$1") # a directory is passed as an option: its name may contain a space
  if [[ -n $PIP_INDEX_URL ]]; then
    index=$PIP_INDEX_URL extra=()
  else # uv does not read pip's configuration, and must search every index, as pip does
    read -r index < <(pip_setting index-url) || index=''
    mapfile -t extra < <(pip_setting extra-index-url)
    mapfile -t -O 1 links < <(pip_setting find-links)
    run export UV_INDEX_STRATEGY=unsafe-best-match
  fi
  [[ -z ${1:-} || $1 == /* ]] || run export "PIP_FIND_LINKS=${links[*]}" # the variable overrides pip's files
  links=("${links[*]}")
  for pair in "PIP_INDEX_URL=$PIP_INDEX_URL" "UV_DEFAULT_INDEX=$index" "UV_INDEX=${extra[*]}" "UV_FIND_LINKS=${links[0]// /,}"; do
    [[ $pair == *= ]] || run export "$pair"
  done
  [[ -n $PIP_INDEX_URL ]] || unset PIP_INDEX_URL # pip would use an empty value as an address
}

unzipped() { # unzipped FILE MEMBER: print the member, with any Python 3, unzip or bsdtar
  local python
  for python in python3 /usr/libexec/platform-python; do
    if command -v "$python" >/dev/null; then
      "$python" -I -c 'import sys, zipfile; sys.stdout.buffer.write(zipfile.ZipFile(sys.argv[1]).read(sys.argv[2]))' "$@"
      return
    fi
  done
  if command -v unzip >/dev/null; then unzip -p "$@"; else bsdtar -xOf "$@"; fi
}

fetch_uv() { # download uv's wheel from the package index and extract the program into .uv; fails if it is not available
  local wheel hash index page link new=$ROOT/.uv/new.$$
  read -r wheel hash <<<"${UV_WHEEL[$(uname -m)]:-}"
  [[ -n $wheel ]] || return 1
  index=${UV_DEFAULT_INDEX:-https://pypi.org/simple/}
  page=$(curl -fsSL --connect-timeout 10 --max-time 60 -K - 2>/dev/null <<<"url = \"${index%/}/uv/\"") || return 1
  link=$(grep -oE "href=\"[^\"#]*/$wheel" <<<"$page" | tail -n 1) || return 1
  link=${link#href=\"}
  case $link in
    http*) ;;
    /*) link=$(grep -oE '^https?://[^/]*' <<<"$index")$link ;;
    *) link=${index%/}/uv/$link ;;
  esac
  run mkdir -p "$ROOT/.uv" || return 1
  say "获取 uv $UV_VERSION（17 MB）" "Getting uv $UV_VERSION (17 MB)"
  if curl -fSL "$([[ -t 2 ]] && echo -# || echo -s)" --connect-timeout 10 --speed-limit 1000 --speed-time 60 -o "$new.whl" -K - <<<"url = \"$link\"" &&
    sha256sum --status --check <<<"$hash  $new.whl" && unzipped "$new.whl" "uv-$UV_VERSION.data/scripts/uv" >"$new"; then
    chmod 755 "$new"
    mv "$new" "$ROOT/.uv/uv"
  fi
  rm -f "$new" "$new.whl"
  [[ -x $ROOT/.uv/uv ]]
}

have_uv() { # set UV to the path of uv: our own, downloaded if missing, else the one on the PATH; fails if there is none
  UV=$ROOT/.uv/uv
  [[ -x $UV ]] || dry || fetch_uv || UV=$(command -v uv)
}

have_python() { # set PYTHON to the path of a Python that vLLM supports; uv installs one if the system has none
  if PYTHON=$(find_python 2>/dev/null); then return; fi
  local found other
  found=$(python3 --version 2>/dev/null || pick 无 none)
  say "本机没有 Python 3.11 到 3.14（只有：$found），由 uv 从 ${PYTHON_MIRROR:-GitHub} 获取一个（约 35 MB），放入 $BASE_DIR/python" \
    "This machine has no Python 3.11 to 3.14 (found: $found). uv gets one from ${PYTHON_MIRROR:-GitHub} (about 35 MB) into $BASE_DIR/python"
  run export "UV_PYTHON_INSTALL_DIR=$BASE_DIR/python"
  [[ -z $PYTHON_MIRROR ]] || run export "UV_PYTHON_INSTALL_MIRROR=$PYTHON_MIRROR"
  other=$(python_command "conda create -y -n py312 python=3.12 && conda activate py312")
  have_uv || die E05 "found=$found" "install=$other"
  run "$UV" python install --no-cache --no-bin 3.12 || die E88 "mirror=${PYTHON_MIRROR:-GitHub}" "install=$other"
  PYTHON=$(find_python) || exit 1
}
