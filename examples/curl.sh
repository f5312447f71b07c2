#!/usr/bin/env bash
# Scores from a running `smorm serve MODEL`, as anything that speaks HTTP gets them.
# Usage: examples/curl.sh [http://127.0.0.1:8000]   (a token: export SMORM_TOKEN)
set -euo pipefail
url="${1:-http://127.0.0.1:8000}"
headers=(-H "Content-Type: application/json")
if [ -n "${SMORM_TOKEN:-}" ]; then headers+=(-H "Authorization: Bearer $SMORM_TOKEN"); fi

# --fail: an error of the server is an error of the script. Only what may pass is tried again.
ask() {
  curl --silent --show-error --fail-with-body --max-time 60 --retry 4 "${headers[@]}" \
    --data "$2" "$url$1"
  echo
}

ask /v1/score '{"items": [{"prompt": "What is 2 + 2?", "response": "4"},
                          {"prompt": "What is 2 + 2?", "response": "Five, I think."}]}'
ask /v1/compare '{"prompt": "What is 2 + 2?", "responses": ["4", "Five, I think."]}'
