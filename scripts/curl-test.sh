#!/usr/bin/env bash
# Ask the server one question through its OpenAI-compatible API.
# 通过 OpenAI 兼容接口向服务提一个问题。
set -euo pipefail
source "$(dirname "$0")/lib/settings.sh"
source "$ROOT/scripts/lib/server.sh"
as_started tell

url=$(base_url)/v1/chat/completions
question=用中文简单介绍一下你自己
[[ $MODEL_ID != demo ]] || question='Introduce yourself in one sentence.' # the embedded model answers only in English
name=${SERVED_MODEL_NAME//\\/\\\\} name=${name//\"/\\\"}
body='{"model": "'$name'", "messages": [{"role": "user", "content": "'$question'"}], "max_tokens": 256}'
kind=$(model_kind) || exit 1
case $kind in
  embedding) # it returns a vector for the same text
    url=$(base_url)/v1/embeddings
    body='{"model": "'$name'", "input": "'$question'"}'
    ;;
  rerank) # it returns how well each document fits the question
    url=$(base_url)/v1/rerank
    body='{"model": "'$name'", "query": "Which port does the server listen on?", "documents": ["Cats sleep for most of the day.", "The server listens on port '$PORT'."]}'
    ;;
esac

# The key goes through standard input: every user of the machine can read a command line.
ask=(curl -sS --noproxy '*' --max-time 300 -w '\n%{http_code}' "$url" -H @- -H 'Content-Type: application/json' -d "$body")
say "API_KEY 见 $ENV_FILE" "API_KEY is in $ENV_FILE"
printf "    $ printf 'Authorization: Bearer %%s' \"\$API_KEY\" | %s\n" "$(quote "${ask[@]}")"
dry && exit

reply=$(printf 'Authorization: Bearer %s' "$API_KEY" | "${ask[@]}" 2>&1) || die E16 "url=$url" "reason=${reply%%$'\n'*}"
code=${reply##*$'\n'} reply=${reply%$'\n'*}
[[ $code == 200 ]] || die E16 "url=$url" "reason=HTTP $code ${reply:0:300}"
python=$(find_python) || exit 1
answer=$("$python" -I -c '
import json, sys
reply = json.load(sys.stdin)
if "choices" in reply:
    print((reply["choices"][0]["message"]["content"] or "").strip())
elif "results" in reply:
    for one in reply["results"]:
        print(format(one["relevance_score"], ".3f"), one["document"]["text"])
else:
    vector = reply["data"][0]["embedding"]
    print(vector[:4], "…", len(vector))' <<<"$reply") || die E16 "url=$url" "reason=${reply:0:300}"
[[ -n $answer ]] || die E16 "url=$url" "reason=${reply:0:300}"
printf '\n%s\n\n' "$answer"
