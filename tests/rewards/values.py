"""What a reward gives, as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from smorm.arrays import Floats
from smorm.data.records import Item
from smorm.rewards.protocol import Reward
from smorm.text.limits import Unscored


def values(reward: Reward, items: Sequence[Item], view: Any = None) -> list[Floats | Unscored]:
    """The view's values of each item, or why it has none."""
    read = reward.view(view).read
    return [one if isinstance(one, Unscored) else read(one.rows) for one in reward.score(items)]
