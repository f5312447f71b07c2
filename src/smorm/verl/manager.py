"""A reward manager for verl (0.9) that hands the prompt on:

    reward.reward_manager.source=importlib
    reward.reward_manager.name=RewardManager
    reward.reward_manager.module.path=pkg://smorm.verl.manager

verl imports this module; nothing of ours does, since verl is not installed beside it."""

from __future__ import annotations

from typing import Any

from verl import DataProto
from verl.experimental.reward_loop.reward_manager.naive import NaiveRewardManager

from smorm.verl import RAW_PROMPT


class RewardManager(NaiveRewardManager):
    """verl's `naive`, with the rollout's prompt as `extra_info["raw_prompt"]`."""

    async def run_single(self, data: DataProto) -> dict[str, Any]:
        """`{"reward_score", "reward_extra_info"}` of a rollout."""
        data = data[-1:]
        fields = data[0].non_tensor_batch
        # `naive` reads extra_info from this same dictionary.
        fields["extra_info"][RAW_PROMPT] = fields[RAW_PROMPT]
        return dict(await super().run_single(data))
