#!/usr/bin/env bash
# OpenRLHF (0.11) trains against a running `smorm serve MODEL --view M`.
# Usage: POLICY=Qwen/Qwen3-4B-Instruct-2507 PROMPTS=OpenRLHF/prompt-collection-v0.1 examples/openrlhf_ppo.sh
#
# Each rollout's text arrives with its special tokens, which are tokenised as such: the policy should
# use the reward model's chat template. Several servers: a comma between their addresses.
# OpenRLHF makes a missing reward of five failures and says so at INFO only: watch `reward` in its logs.
set -euo pipefail
exec python3 -m openrlhf.cli.train_ppo_ray \
  --actor.model_name_or_path "${POLICY:?a policy}" \
  --data.prompt_dataset "${PROMPTS:?a data set of prompts}" \
  --data.input_key "${INPUT_KEY:-context_messages}" \
  --data.apply_chat_template \
  --reward.remote_url "${REWARD_URL:-http://127.0.0.1:8000}/get_reward" \
  --algo.advantage.estimator "${ESTIMATOR:-group_norm}" \
  --rollout.n_samples_per_prompt 8 \
  --ckpt.output_dir "${OUTPUT:-./openrlhf-smorm}" \
  "$@"
