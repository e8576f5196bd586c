# What kind of model is served. Reads only. Sourced by server.sh.
# shellcheck shell=bash

embeds() { # check for an embedding model, which returns vectors instead of text
  case $VLLM_EXTRA_ARGS in
    *--runner[=\ ]pooling*) return 0 ;;
    *--runner*) return 1 ;;
  esac
  [[ -f $MODEL_DIR/modules.json || ${MODEL_DIR##*/} =~ [Ee]mbed ]] # sentence-transformers writes this file
}

tool_parser() { # print vLLM's tool-call parser for the model's family; nothing if it has none, or is unknown
  local name=${MODEL_DIR##*/}
  [[ ! ${name,,} =~ ^qwen(2\.5|3)-[0-9] ]] || echo hermes
}
