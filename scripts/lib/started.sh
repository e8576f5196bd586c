# The settings that the running server was started with. Sourced by server.sh.
# shellcheck shell=bash disable=SC2034,SC2153 # names come from the settings and go to the steps

given() { # given KEY: check that the environment of this command sets it
  if [[ -n ${RUNBOOK_GIVEN+tasks} ]]; then [[ " $RUNBOOK_GIVEN " == *" $1 "* ]]; else [[ -n ${ENVIRON[$1]+set} ]]; fi
}

# The settings may have changed since the server was started: a command that uses the server needs those of its start.
# With `tell`, the changed ones are named, and the current API key and the environment of this command have precedence.
as_started() { # as_started [tell]: set the settings that the running server was started with, if one runs
  local line key value keys
  [[ -f $SERVER_ID.env && -n $(all_pids) ]] || return 0
  keys=$(changed)
  [[ -z $keys || -z ${1:-} ]] || say "正在运行的服务使用启动时的设置；此后改过：$keys（./inv restart 使改动生效）" \
    "The running server uses the settings that it was started with; changed since: $keys (./inv restart applies them)"
  while IFS= read -r line; do
    [[ $line =~ ^([A-Z_]+)=\'(.*)\'$ ]] || continue
    key=${BASH_REMATCH[1]} value=${BASH_REMATCH[2]}
    concerns_server "$key" || continue
    [[ -z ${1:-} ]] || { [[ $key != API_KEY ]] && ! given "$key"; } || continue
    value=${value//\\\'/\'}
    printf -v "$key" '%s' "${value//\\\\/\\}"
  done <"$SERVER_ID.env"
  [[ $SERVER_ID == "$EARLIER_ID" ]] || SERVER_LOG=$LOG_DIR/$MACHINE/vllm.log
}

concerns_server() { # concerns_server KEY: check that the server uses it; the other settings, some of them secret, are for other steps
  [[ $1 != @(RAGFLOW_*|EMBED_MODEL_ID|RERANK_MODEL_ID|MODELSCOPE_*|PIP_INDEX_URL|TORCH_FIND_LINKS|PYTHON_MIRROR|MODEL_REVISION|RUNBOOK_LANG) ]]
}

settings_of_now() { # print the current settings, as the ENV_FILE of the session
  local key text
  for key in "${KEYS[@]}"; do
    concerns_server "$key" || [[ $key == RUNBOOK_LANG ]] || continue
    text=${!key//\\/\\\\}
    printf "%s='%s'\n" "$key" "${text//\'/\\\'}"
  done
}

differing() { # differing FILE: print the server's settings that differ from FILE, which settings_of_now has written
  settings_of_now | { grep -vxFf "$1" || true; } | cut -d= -f1 | { grep -vx RUNBOOK_LANG || true; } | xargs
}

changed() { [[ ! -f $SERVER_ID.env ]] || differing "$SERVER_ID.env"; } # print the settings that differ from those of the running server
