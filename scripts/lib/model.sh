# What kind of model is served. Reads only. Sourced by server.sh.
# shellcheck shell=bash

model_kind() { # model_kind [options]: print chat, embedding or rerank; or the options of vLLM for it, one word a line
  local python
  python=$(find_python) || exit 1
  module "$python" model.kind "$@"
}

takes_tools() { # print on if the server takes the tool calls of agents, else off
  if [[ -n $(tool_parser) || $VLLM_EXTRA_ARGS == *--tool-call-parser* ]]; then echo on; else echo off; fi
}

tool_parser() { # print vLLM's tool-call parser for the model's family; nothing if it has none, or is unknown
  local name=${MODEL_DIR##*/}
  name=${name//___/.} # ModelScope's cache writes it so
  [[ ! ${name,,} =~ ^qwen(2\.5|3)-[0-9] ]] || echo hermes
}
