"""A gold for pairs: any reward.

Shapes: `P` pairs; columns are chosen, rejected.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from smorm.arrays import Floats
from smorm.data.records import Preference
from smorm.rewards.protocol import ScoringOptions, open_reward, values_of
from smorm.rewards.section import parse_reward
from smorm.theory.features import Reading


def gold_of(text: str, pairs: Sequence[Preference], reading: Reading) -> Floats:
    """The true reward of both responses of each pair [P, 2].

    Args:
        text: a reward as the command line spells it (`smorm.rewards.section.reward_of_text`): a
            model folder, a file of scores or golds, a server, ...
    """
    options = ScoringOptions(max_batch_tokens=reading.max_batch_tokens, overlong=reading.overlong)
    reward = open_reward(parse_reward(text, "--gold"), options)
    return np.array(values_of(reward, [pair.item for pair in pairs]))
