# Reads the settings as python-dotenv does and exports them: environment, then ENV_FILE, then .env.example.
# Sourced by the steps, never run. This and runbook/settings.py refuse a line that they could read differently.
# shellcheck shell=bash
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

declare -A RULE=() ALLOWED=() ENVIRON=() RESOLVING=()
KEYS=()
ASSIGNMENT='^[[:space:]]*(export[[:space:]]+)?([A-Za-z_][A-Za-z0-9_]*)[[:space:]]*=([[:space:]]*)(.*)$'
SINGLE="^'(([^\\\\']|\\\\.)*)'[[:space:]]*(#.*)?\$"
DOUBLE='^"(([^\\"]|\\.)*)"[[:space:]]*(#.*)?$'
REFERENCE='\$\{([^}:]*)(:-([^}]*))?\}'
# Control characters and the spaces beyond ASCII, the full-width one among them.
UNUSUAL=$'[\x01-\x08\x0b-\x1f\x7f]|\xc2\x85|\xc2\xa0|\xe1\x9a\x80|\xe2\x80[\x80-\x8a\xa8\xa9\xaf]|\xe2\x81\x9f|\xe3\x80\x80'

read_rules() {
  local key rule words
  while read -r key rule words; do
    [[ -n $key && $key != \#* ]] || continue
    KEYS+=("$key")
    RULE[$key]=$rule
    ALLOWED[$key]=$words
  done <"$ROOT/runbook/settings.rules"
}

read_environment() { # from env, because a shell variable may not be in the environment
  local pair
  while IFS= read -r -d '' pair; do
    [[ $pair == API_KEY= ]] || ENVIRON[${pair%%=*}]=${pair#*=} # an empty key must not hide the one in the file
  done < <(env -0)
}

read_env() { # read_env FILE: read every KEY=value of FILE into RAW
  local LC_ALL=C file=$1 line key rest value number=0
  while IFS= read -r line || [[ -n $line ]]; do
    number=$((number + 1))
    ((number > 1)) || line=${line#$'\xef\xbb\xbf'}
    line=${line%$'\r'}
    [[ ! $line =~ ^[[:space:]]*(#|$) ]] || continue
    [[ $line =~ $ASSIGNMENT && ! $line =~ $UNUSUAL ]] || die E01 "file=$file" "line=$number"
    [[ $line =~ $ASSIGNMENT ]]
    key=${BASH_REMATCH[2]} rest=${BASH_REMATCH[4]}
    [[ -n ${RULE[$key]+known} ]] || die E02 "key=$key" "file=$file" "allowed=${KEYS[*]}"
    if [[ -n ${BASH_REMATCH[3]} && $rest == \#* ]]; then
      value=
    elif [[ $rest == \'* ]]; then
      [[ $rest =~ $SINGLE ]] || die E01 "file=$file" "line=$number"
      value=${BASH_REMATCH[1]//\\\\/$'\x01'}
      value=${value//\\\'/\'}
    elif [[ $rest == \"* ]]; then
      [[ $rest =~ $DOUBLE ]] || die E01 "file=$file" "line=$number"
      value=${BASH_REMATCH[1]//\\\\/$'\x01'}
      [[ ! $value =~ \\[abfnrtv] ]] || die E01 "file=$file" "line=$number"
      value=${value//\\\"/\"}
      value=${value//\\\'/\'}
    else
      value=${rest%%[[:space:]]#*}
      value=${value%"${value##*[![:space:]]}"}
    fi
    [[ $value != *$'\t'* ]] || die E01 "file=$file" "line=$number"
    RAW[$key]=${value//$'\x01'/\\}
  done <"$file"
}

value_of() { # value_of KEY: set REPLY to its value, with ${NAME} and ${NAME:-default} expanded
  local key=$1 raw name found out=""
  if [[ -n ${ENVIRON[$key]+set} ]]; then
    REPLY=${ENVIRON[$key]}
    return
  fi
  [[ -z ${RESOLVING[$key]+busy} ]] || die E20 "key=$key" "name=$key"
  RESOLVING[$key]=1
  raw=${RAW[$key]-}
  while [[ $raw =~ $REFERENCE ]]; do
    found=${BASH_REMATCH[0]} name=${BASH_REMATCH[1]} REPLY=${BASH_REMATCH[3]}
    if [[ -n $name && -n ${RULE[$name]+known} ]]; then
      value_of "$name"
    elif [[ -n $name && -n ${ENVIRON[$name]+set} ]]; then
      REPLY=${ENVIRON[$name]}
    elif [[ $found != *:-* ]]; then
      die E20 "key=$key" "name=$name"
    fi
    out+=${raw%%"$found"*}$REPLY
    raw=${raw#*"$found"}
  done
  unset "RESOLVING[$key]"
  REPLY=$out$raw
}

load_settings() {
  local key shown words LC_ALL=C
  declare -A value=()
  read_rules
  read_environment
  read_env "$ROOT/.env.example"
  if [[ -n ${ENV_FILE:-} ]]; then
    [[ -f $ENV_FILE ]] || die E18 "file=$ENV_FILE"
    ENV_FILE=$(realpath -s "$ENV_FILE")
  else
    ENV_FILE=$ROOT/.env
  fi
  [[ ! -f $ENV_FILE ]] || read_env "$ENV_FILE"
  for key in "${KEYS[@]}"; do
    value_of "$key"
    if [[ ! $REPLY =~ ^(${RULE[$key]})$ || $REPLY == *[[:cntrl:]]* ]]; then
      shown=${REPLY:-"''"} words=${ALLOWED[$key]}
      [[ $key != *@(API_KEY|TOKEN) ]] || shown='***'
      [[ $shown != *@* || ${RULE[$key]} != *https* ]] || shown='***' # an invalid address may contain a password
      die E03 "key=$key" "value=$shown" "allowed=$(pick "${words%% | *}" "${words##* | }")"
    fi
    # One spelling for each directory, because paths identify the server's processes.
    [[ $REPLY != /* || ${RULE[$key]} != *'/.+'* ]] || REPLY=$(realpath -sm -- "$REPLY")
    value[$key]=$REPLY
  done
  if [[ ${value[VENV_DIR]} == "$ROOT/.venv" ]]; then # the virtual environment of the tasks
    words=${ALLOWED[VENV_DIR]}
    die E03 key=VENV_DIR "value=$ROOT/.venv" "allowed=$(pick "${words%% | *}" "${words##* | }")"
  fi
  for key in "${KEYS[@]}"; do export "$key=${value[$key]}"; done
  [[ ! -f $ENV_FILE ]] || export ENV_FILE
}

note() { [[ -n ${RUNBOOK_TASK:-} ]] || say "$1" "$2" >&2; }

anything_of_nvidia() { # check for nvidia-smi or any trace of an NVIDIA device; without one, no Python has to look
  command -v nvidia-smi >/dev/null || compgen -G '/dev/nvidia*' >/dev/null ||
    [[ -e /usr/lib/wsl/lib/nvidia-smi || -e /proc/driver/nvidia ]] || grep -qs 0x10de /sys/bus/pci/devices/*/vendor
}

about_gpus() { # about_gpus profile|listed: print gpu or cpu; or check that nvidia-smi lists a GPU
  local python
  python=$(find_python) || exit 1
  module "$python" machine.gpus "$1"
}

resolve_auto() { # resolve auto: the profile, the model, its directory and its name
  if [[ $PROFILE == auto ]]; then
    PROFILE=cpu
    ! anything_of_nvidia || PROFILE=$(about_gpus profile) || exit 1
    note "PROFILE=auto → $PROFILE（依据 nvidia-smi）" "PROFILE=auto → $PROFILE (by nvidia-smi)"
  fi
  local chosen=$MODEL_ID
  if [[ $MODEL_ID == auto ]]; then
    MODEL_ID=$([[ $PROFILE == gpu ]] && echo Qwen/Qwen3-4B-Instruct-2507 || echo demo)
    note "MODEL_ID=auto → $MODEL_ID" "MODEL_ID=auto → $MODEL_ID"
  fi
  local name=${MODEL_ID##*/}
  [[ $MODEL_ID != demo ]] || name=SmolLM2-135M-Instruct
  [[ $MODEL_ID != demo-embedding ]] || name=all-MiniLM-L6-v2
  [[ $chosen != auto || -z $MODEL_DIR ]] || name=$(basename "$MODEL_DIR")
  MODEL_DIR=${MODEL_DIR:-$BASE_DIR/models/$name}
  if [[ -z $SERVED_MODEL_NAME ]]; then
    SERVED_MODEL_NAME=${name//___/.} # RAGFlow cuts a name at ___, as ModelScope's cache writes a dot
    SERVED_MODEL_NAME=${SERVED_MODEL_NAME//[@ ]/-}
    while [[ $SERVED_MODEL_NAME == -?* ]]; do SERVED_MODEL_NAME=${SERVED_MODEL_NAME#-}; done
    [[ $SERVED_MODEL_NAME == "$name" ]] || note "SERVED_MODEL_NAME → $SERVED_MODEL_NAME（$name 不能用作模型名）" "SERVED_MODEL_NAME → $SERVED_MODEL_NAME ($name cannot be the name of a model)"
  fi
  export PROFILE MODEL_ID MODEL_DIR SERVED_MODEL_NAME
}

machine() { # print a directory name for this machine: its host name, and the beginning of its machine id if there is one
  local name id=''
  read -r name </proc/sys/kernel/hostname
  [[ ! -s /etc/machine-id ]] || read -r id </etc/machine-id
  name+=${id:+-${id:0:8}}
  echo "${name//[^A-Za-z0-9._-]/_}"
}

load_settings
resolve_auto
MACHINE=$(machine) # several machines may share BASE_DIR
export MACHINE
