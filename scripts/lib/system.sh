# System tools and libraries that the steps and the serving environment need, and their packages. Sourced by common.sh.
# shellcheck shell=bash
declare -A SYSTEM=( # apt-get, dnf and yum, zypper, pacman; a comma separates two packages
  ["curl"]="curl curl curl curl"
  ["tmux"]="tmux tmux tmux tmux"
  ["ss"]="iproute2 iproute iproute2 iproute2"
  ["awk"]="gawk gawk gawk gawk"
  ["find"]="findutils findutils findutils findutils"
  ["python3-venv"]="python3-venv python3 python3 python"
  ["cc"]="gcc,libc6-dev gcc gcc gcc"
  ["Python.h"]="python3-dev python3-devel python3-devel python"
  ["libnuma.so.1"]="libnuma1 numactl-libs libnuma1 numactl"
  ["libgomp.so.1"]="libgomp1 libgomp libgomp1 gcc-libs"
  ["libstdc++.so.6"]="libstdc++6 libstdc++ libstdc++6 gcc-libs"
  ["libgcc_s.so.1"]="libgcc-s1 libgcc libgcc_s1 gcc-libs"
)
LACKING=()

need_tool() { command -v "$1" >/dev/null || LACKING+=("$1"); }

need_library() { # need_library FILE: check that the linker finds it
  [[ $(PATH=$PATH:/sbin:/usr/sbin ldconfig -p 2>/dev/null) == *"$1 "* ]] || LACKING+=("$1")
}

need_libraries_of() { # need_libraries_of SITE-PACKAGES: check that the libraries of torch and vLLM are in there or in the system
  local name
  while read -r name; do
    [[ $name != libcuda.so* && $name != libnvidia* ]] || continue # part of the driver; preflight has checked for a GPU
    [[ -n $(find "$1" -name "${name%%.so*}*.so*" -print -quit) ]] || LACKING+=("$name")
  done < <(find "$1/vllm" "$1/torch/lib" -name '*.so*' -type f -exec ldd {} + 2>/dev/null | awk '/=> not found/ && !seen[$1]++ { print $1 }')
}

install_lacking() { # print the command that installs all that is missing
  local name packages=() apt=() dnf=() zypper=() pacman=()
  for name in "${LACKING[@]}"; do
    read -ra packages <<<"${SYSTEM[$name]:-$name $name $name $name}"
    apt+=("${packages[0]}") dnf+=("${packages[1]}") zypper+=("${packages[2]}") pacman+=("${packages[3]}")
  done
  package_command "apt-get=$(words "${apt[@]}")" "dnf=$(words "${dnf[@]}")" "yum=$(words "${dnf[@]}")" \
    "zypper=$(words "${zypper[@]}")" "pacman=$(words "${pacman[@]}")"
}

words() { tr ', ' '[\n*]' <<<"$*" | awk '!seen[$0]++' | paste -sd ' '; } # print each word once

must_have_all() { # fail with the list of all that is missing
  ((${#LACKING[@]} == 0)) || die E04 "tools=${LACKING[*]}" "install=$(install_lacking)"
}

distribution() { # print ID and VERSION_ID of this system, such as: debian 11
  (. /etc/os-release 2>/dev/null && echo "${ID:-} ${VERSION_ID:-}") || true
}

must_suit_vllm() { # check what no package can change: the kernel, the processor, the C library
  local libc
  libc=$(getconf GNU_LIBC_VERSION 2>/dev/null || true)
  libc=${libc#glibc }
  [[ $(uname -s) == Linux ]] || die E87 "found=$(uname -s)"
  [[ $(uname -m) =~ ^(x86_64|aarch64)$ ]] || die E87 "found=$(uname -m)"
  [[ -n $libc ]] || die E87 "found=$(pick "没有 glibc（可能是 musl）" "no glibc (perhaps musl)")"
  [[ $(printf '%s\n' 2.28 "$libc" | sort -V) == 2.28* ]] || die E87 "found=glibc $libc"
}

package_command() { # package_command apt-get=NAME dnf=NAME…: print the command that installs system packages here
  local sudo pair tool
  sudo=$([[ $(id -u) == 0 ]] || echo "sudo ")
  for pair; do
    tool=${pair%%=*}
    command -v "$tool" >/dev/null || continue
    case $tool in
      apt-get) # a fresh system has no list of packages yet
        compgen -G '/var/lib/apt/lists/*_Packages*' >/dev/null || printf '%s' "${sudo}apt-get update && "
        echo "${sudo}apt-get install -y ${pair#*=}"
        ;;
      pacman) echo "${sudo}pacman -S --noconfirm ${pair#*=}" ;;
      zypper) echo "${sudo}zypper install -y ${pair#*=}" ;;
      *) echo "$sudo$tool install -y ${pair#*=}" ;;
    esac
    return
  done
  echo "${1#*=}"
}
