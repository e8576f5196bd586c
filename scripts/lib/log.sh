# The server's log: positions in it, the phase of a start, the first error. Reads only. Sourced by server.sh.
# shellcheck shell=bash

log_owner() { # print another server of this project that writes this log
  local pid
  for pid in $(pids_with environ -xF -e "SERVER_LOG=$SERVER_LOG"); do
    { tr '\0' '\n' 2>/dev/null <"/proc/$pid/environ" || true; } | sed -n 's/^RUNBOOK_SUPERVISOR=//p'
  done | { grep -vxF -- "$SERVER_ID" || true; } | awk 'NR == 1'
}

log_position() { stat -c %i:%s "$SERVER_LOG" 2>/dev/null || echo 0:0; } # print INODE:BYTES, the current end of the log

logged() { # logged POSITION: print the log from there on, even if it has been rotated meanwhile
  local inode=${1%:*} from=$((${1#*:} + 1)) number files=("$SERVER_LOG")
  for number in 1 2 3; do
    [[ $(stat -c %i "${files[0]}" 2>/dev/null) != "$inode" && -f $SERVER_LOG.$number ]] || break
    files=("$SERVER_LOG.$number" "${files[@]}")
  done
  # A log that was replaced or truncated is printed from its start.
  [[ $(stat -c %i "${files[0]}" 2>/dev/null) == "$inode" ]] || files=("$SERVER_LOG") from=1
  (($(stat -c %s "${files[0]}" 2>/dev/null || echo 0) >= from - 1)) || from=1
  { tail -c "+$from" "${files[0]}" && cat "${files[@]:1}" </dev/null; } 2>/dev/null || true
}

beginning() { cat "$SERVER_ID.offset" 2>/dev/null || echo 0:0; } # print the position in the log where this start begins

phase() { # phase POSITION: print the phase of vLLM's start
  logged "$1" | awk -v zh="$([[ $(lang) == zh ]] && echo 1)" '
    /non-default args: /                            { p = zh ? "读取参数" : "reading the options" }
    /Resolved architecture: /                       { p = zh ? "检查模型" : "checking the model" }
    /Initializing a V1 LLM engine/                  { p = zh ? "初始化引擎" : "starting the engine" }
    /Starting to load model|Loading model from scratch/ { p = zh ? "加载权重" : "loading the weights" }
    /Loading weights took/                          { p = zh ? "权重已加载" : "weights loaded" }
    /Starting torch\.compile|torch\.compile took|Warming up model/ { p = zh ? "编译与预热" : "compiling and warming up" }
    /KV cache size: /                               { p = zh ? "分配 KV 缓存" : "allocating the KV cache" }
    /Capturing CUDA graphs/                         { p = zh ? "捕获 CUDA 图" : "capturing CUDA graphs" }
    /Starting vLLM server on/                       { p = zh ? "打开接口" : "opening the API" }
    END { print p ? p : (zh ? "启动 Python 与 vLLM" : "starting Python and vLLM") }'
}

reason() { logged "$1" | module "$(find_python)" doctor.log; } # reason POSITION: print the first error of this start

supervisor_said() { # print why supervisor, or its pane, has ended: the error, else the last line
  awk '
    NF && !/^For help, / { last = $0 }
    found == "" && /(Error|Exception): .|✗ / { found = $0 }
    END { print found != "" ? found : last }' "$SERVER_ID.supervisord.out" 2>/dev/null || true
}
