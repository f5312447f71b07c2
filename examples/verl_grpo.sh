#!/usr/bin/env bash
# verl (0.9) trains by GRPO against a running `smorm serve MODEL --view M`.
# Usage: POLICY=... TRAIN=train.parquet TEST=test.parquet examples/verl_grpo.sh [key=value ...]
#
# In verl's environment: pip install --no-deps smorm && pip install httpx2 orjson tenacity
# The reward manager hands the prompt on, which verl's own do not; without it hold the prompt in the
# data's `extra_info` (docs/clients.md). An error of the server ends its group, never as a number.
set -euo pipefail
exec python3 -m verl.trainer.main_ppo \
  algorithm.adv_estimator=grpo \
  data.train_files="${TRAIN:?a Parquet file}" \
  data.val_files="${TEST:?a Parquet file}" \
  actor_rollout_ref.model.path="${POLICY:?a policy}" \
  actor_rollout_ref.rollout.n=8 \
  reward.custom_reward_function.path=pkg://smorm.verl \
  reward.custom_reward_function.name=compute_score \
  +reward.custom_reward_function.reward_kwargs.url="${REWARD_URL:-http://127.0.0.1:8000}" \
  reward.reward_manager.source=importlib \
  reward.reward_manager.module.path=pkg://smorm.verl.manager \
  reward.reward_manager.name=RewardManager \
  "$@"
