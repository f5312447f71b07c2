"""The true quality of answers in the generated world."""

import numpy as np

from smorm.arrays import Floats
from smorm.data.records import Item, text_of
from smorm.errors import DataError
from smorm.rewards.protocol import SingleReward
from smorm.text.limits import Unscored, UnscoredReason
from smorm.world import gold, make_world, parse_prompt


class TruthReward(SingleReward):
    """True quality, 0 to 1, in the world whose facts `seed` draws."""

    kind = "lab"
    cacheable = False

    def __init__(self, seed: int | str = 0) -> None:
        super().__init__(str(seed))
        # Drawn once: facts of a seed never change.
        self.world = make_world(int(seed))

    def values(self, item: Item) -> Floats | Unscored:
        """Gold of each response; none where the prompt is not of the world."""
        try:
            prompt = parse_prompt(text_of(item.prompt))
        except DataError as error:
            return Unscored(UnscoredReason.OTHER_WORLD, str(error))
        return np.array([gold(self.world, prompt, text) for text in item.texts])
