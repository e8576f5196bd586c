# The addresses and the Max tokens of this server for RAGFlow. Reads only. Sourced after settings.sh and server.sh.
# shellcheck shell=bash disable=SC2034,SC2153 # names come from the settings and go to the steps and their programs

lan_host() { # print this machine's address for other machines: that of its default route
  local address
  address=$({ ip -o route get 1.1.1.1 2>/dev/null || true; } | sed -n 's/.* src \([^ ]*\).*/\1/p')
  address=${address:-$({ hostname -I 2>/dev/null || true; } | awk '{ print $1 }')}
  [[ $address != *:* ]] || address="[$address]"
  echo "$address"
}

# One base URL for each place where RAGFlow can run; empty if it cannot reach the server from there.
SOURCE_URL=$(base_url)/v1 DOCKER_URL='' LAN_URL=''
case $HOST in
  0.0.0.0 | ::)
    DOCKER_URL=http://host.docker.internal:$PORT/v1
    LAN_URL=$(lan_host)
    LAN_URL=${LAN_URL:+http://$LAN_URL:$PORT/v1}
    ;;
  *) loopback || DOCKER_URL=$SOURCE_URL LAN_URL=$SOURCE_URL ;;
esac
export SOURCE_URL DOCKER_URL LAN_URL

server_context() { # print max_model_len of the running server, or nothing
  printf 'Authorization: Bearer %s' "$API_KEY" |
    { curl -fsS --noproxy "*" --max-time 10 "$SOURCE_URL/models" -H @- 2>/dev/null || true; } |
    tr , '\n' | awk -F: '/"max_model_len"/ && !found++ { gsub(/[^0-9]/, "", $2); print $2 }'
}

# RAGFlow fills a prompt up to 0.95 of Max tokens, counted with its own tokenizer: a quarter of the context is left for
# the answer and for the difference between the two tokenizers.
max_tokens() { echo $(($1 * 3 / 4)); }
