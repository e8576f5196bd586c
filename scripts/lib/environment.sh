# Limits what the server inherits from its environment to the names in environment.rules. Changes only this shell.
# Sourced by the steps after settings.sh.
# shellcheck shell=bash
INHERITED=() HELD_BACK=()
CUDA_LIBRARIES='lib@(cublas|cudart|cudnn|cusparse|nccl|nvJitLink|nvrtc)*.so*' # torch needs the exact versions that it contains
# Bytes. vLLM's sockets are TMPDIR/UUID and a suffix, and the path of a socket has at most 107 bytes.
TMPDIR_LONGEST=60

read_inherited() {
  local line listed word
  while read -r line; do
    read -ra listed <<<"${line%%#*}"
    for word in "${listed[@]}"; do
      if [[ $word == !* ]]; then HELD_BACK+=("${word#!}"); else INHERITED+=("$word"); fi
    done
  done <"$ROOT/runbook/server/environment.rules"
}
read_inherited

matches() { # matches NAME PATTERN…
  local name=$1 pattern
  shift
  # shellcheck disable=SC2053 # a pattern
  for pattern; do [[ $name != $pattern ]] || return 0; done
  return 1
}

inherited() { # inherited NAME
  [[ $1 =~ ^[A-Za-z_][A-Za-z0-9_]*$ && -z ${RULE[$1]+ours} ]] && matches "$1" "${INHERITED[@]}" && ! matches "$1" "${HELD_BACK[@]}"
}

tmpdir_problem() { # print why the server cannot use TMPDIR, as one word; nothing if it can, or if TMPDIR is not set
  local LC_ALL=C
  if [[ -z ${TMPDIR:-} ]]; then
    return
  elif [[ $TMPDIR != /* || ! -d $TMPDIR || ! -w $TMPDIR || ! -x $TMPDIR ]]; then
    echo tmpdir-unusable
  elif ((${#TMPDIR} > TMPDIR_LONGEST)); then
    echo tmpdir-long
  fi
}

library_path() { # library_path kept|dropped: print the part of LD_LIBRARY_PATH that the server inherits, or does not
  local directory found kept='' dropped=''
  [[ -n ${LD_LIBRARY_PATH:-} ]] || return 0
  while IFS= read -r -d : directory; do
    found=$(shopt -s extglob && cd "$directory" 2>/dev/null && compgen -G "$CUDA_LIBRARIES" || true)
    # An empty or relative entry depends on the current directory.
    if [[ $directory == /* && -z $found ]]; then kept+=:$directory; else dropped+=:$directory; fi
  done <<<"$LD_LIBRARY_PATH:"
  [[ $1 == kept ]] || kept=$dropped
  echo "${kept#:}"
}

only_inherited() { # only_inherited NAME…: export nothing except what the server inherits, and the NAMEs
  local name
  for name in $(compgen -e); do
    inherited "$name" || matches "$name" "$@" || export -n "${name?}"
  done
  while read -r _ _ name; do export -nf "${name?}"; done < <(declare -xF)
  [[ -z $(tmpdir_problem) ]] || unset TMPDIR
  LD_LIBRARY_PATH=$(library_path kept)
  [[ -n $LD_LIBRARY_PATH ]] || unset LD_LIBRARY_PATH
}

environment_of_now() { # print NAME=value of all that the server inherits, each followed by a NUL
  local pair
  while IFS= read -r -d '' pair; do
    ! inherited "${pair%%=*}" || printf '%s\0' "$pair"
  done < <(only_inherited _ && env -0)
}

finding() { # finding ZH EN [ZH EN]: print what was found and what to do, separated by a tab
  pick "$1"$'\t'"${3:+$3，再执行 ./inv restart}" "$2"$'\t'"${4:+$4, then run ./inv restart}"
}

environment_findings() { # print a line for each part of this environment that would harm the server or is not inherited
  local name directory left_out=''
  for name in PYTHONPATH PYTHONHOME PYTHONSTARTUP LD_PRELOAD VLLM_PORT VLLM_USE_RUST_FRONTEND; do
    [[ -z ${!name:-} ]] || left_out+="$name "
  done
  [[ -z $left_out ]] || finding "已设置 ${left_out% }；不会传给服务" "${left_out% } is set; the server does not inherit it"
  case $(tmpdir_problem) in
    tmpdir-long)
      finding "TMPDIR=$TMPDIR 太长：vLLM 在其中创建套接字，路径不能超过 107 字节；服务改用 /tmp" \
        "TMPDIR=$TMPDIR is too long: vLLM creates sockets in it, and the path of a socket has at most 107 bytes; the server uses /tmp" \
        "要用别的目录，请设置不超过 $TMPDIR_LONGEST 字节的路径，如 export TMPDIR=/var/tmp" \
        "For another directory set a path of at most $TMPDIR_LONGEST bytes, such as export TMPDIR=/var/tmp"
      ;;
    tmpdir-unusable)
      finding "TMPDIR=$TMPDIR 不存在、不可写，或不是绝对路径；服务改用 /tmp" \
        "TMPDIR=$TMPDIR does not exist, is not writable, or is not an absolute path; the server uses /tmp" \
        "要用别的目录，请设置可写的路径，如 export TMPDIR=/var/tmp" "For another directory set one that you can write to, such as export TMPDIR=/var/tmp"
      ;;
  esac
  name=$(library_path dropped)
  [[ -z $name ]] || finding "LD_LIBRARY_PATH 中的 $name 含有 CUDA 库，或不是绝对路径，会顶替 torch 自带的库，因此不会传给服务" \
    "$name in LD_LIBRARY_PATH contains CUDA libraries, or is not an absolute path; it would replace torch's own libraries, so the server does not inherit it" \
    "你自己的程序若因此出错：unset LD_LIBRARY_PATH" "If other programs fail because of it: unset LD_LIBRARY_PATH"
  while IFS= read -r -d : directory; do
    [[ ! -e $directory/libstdc++.so.6 ]] || finding "LD_LIBRARY_PATH 中的 $directory 含有 libstdc++，会先于系统的被加载（太旧时报错 CXXABI 或 GLIBCXX not found）" \
      "$directory in LD_LIBRARY_PATH contains a libstdc++, which is loaded instead of the system's (one that is too old fails with CXXABI or GLIBCXX not found)" \
      "只有它比系统的新时才保留；否则 unset LD_LIBRARY_PATH" "Keep it only if it is newer than the system's; otherwise unset LD_LIBRARY_PATH"
  done <<<"$(library_path kept):"
  [[ -z ${VLLM_HOST_IP:-} ]] || finding "VLLM_HOST_IP=$VLLM_HOST_IP 会传给服务：它是多台机器之间通信的地址，不是监听地址（那是 .env 中的 HOST）" \
    "VLLM_HOST_IP=$VLLM_HOST_IP reaches the server: it is the address for traffic between machines, not the one to listen on (HOST in .env)" \
    "只用一台机器时：unset VLLM_HOST_IP" "With a single machine: unset VLLM_HOST_IP"
  [[ $PROFILE != gpu || $GPU == auto || ${CUDA_VISIBLE_DEVICES-$GPU} == "$GPU" ]] || finding "已设置 CUDA_VISIBLE_DEVICES=$CUDA_VISIBLE_DEVICES，但服务使用哪张 GPU 由 GPU=$GPU 决定" \
    "CUDA_VISIBLE_DEVICES=$CUDA_VISIBLE_DEVICES is set, but GPU=$GPU decides which GPU the server uses" \
    "若这是调度系统分配给你的 GPU，请在 .env 中按 nvidia-smi 的编号设置，如 GPU=1" "If a scheduler gave you that GPU, set its index in nvidia-smi in .env, such as GPU=1"
}
