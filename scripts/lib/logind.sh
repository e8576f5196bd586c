# Makes the server survive the user's logout: logind's KillUserProcesses, lingering, a separate scope. Reads only.
# Sourced after settings.sh.
# shellcheck shell=bash disable=SC2034 # SCOPE is for those that source this
# su and sudo do not set it, and systemctl --user needs it.
if [[ -z ${XDG_RUNTIME_DIR:-} && -d /run/user/$(id -u) ]]; then XDG_RUNTIME_DIR=/run/user/$(id -u) && export XDG_RUNTIME_DIR; fi

user_systemd() { systemctl --user show-environment >/dev/null 2>&1; }

lingers() { [[ $(loginctl show-user "$(id -un)" --property=Linger 2>/dev/null) == Linger=yes ]]; }

killed_at_logout() { # logind ends all processes in the sessions of this user, lingering or not, but not those of root
  local properties user
  [[ $(id -u) != 0 ]] || return 1
  user=" \"$(id -un)\""
  mapfile -t properties < <(timeout 1 busctl get-property org.freedesktop.login1 /org/freedesktop/login1 \
    org.freedesktop.login1.Manager KillUserProcesses KillExcludeUsers KillOnlyUsers 2>/dev/null)
  [[ "${properties[1]:-} " != *"$user "* ]] || return 1
  if [[ ${properties[2]:-as 0} != "as 0" ]]; then [[ "${properties[2]} " == *"$user "* ]]; else [[ ${properties[0]:-} == "b true" ]]; fi
}

in_session() { grep -q '/session-[^/]*\.scope' /proc/self/cgroup; } # a unit, as at boot, is in no session

survive_logout() { # set SCOPE if it is needed; lingering keeps the user's systemd, and so the scope, after the last logout
  local then=''
  killed_at_logout || return 0
  if ! user_systemd; then
    then=$(pick "，重新登录后执行 ./inv restart" ", log in again and run ./inv restart")
  elif in_session; then
    SCOPE=(env "XDG_RUNTIME_DIR=$XDG_RUNTIME_DIR" systemd-run --user --scope --quiet)
  fi
  if [[ -n $then ]] || ! lingers; then
    say "注意：注销时系统会结束服务（logind 的 KillUserProcesses=yes）。请执行 loginctl enable-linger $(id -un)$then" \
      "Warning: the system ends the server at logout (KillUserProcesses=yes of logind). Run loginctl enable-linger $(id -un)$then"
  fi
}
