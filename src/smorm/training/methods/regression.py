"""Multi: the joint objective without pairs."""

from smorm.model.network import RewardNetwork
from smorm.objectives.terms import Rows
from smorm.training.methods.joint import Joint


class Regression(Joint):
    title = "Multi"
    uses_pairs = False
    trains = (Rows.ATTRIBUTES,)
    default_view = "L"
    regularised = False

    @classmethod
    def init_head(cls, network: RewardNetwork) -> None:
        """Zeros say that the preference row is never trained; random weights would pass for it."""
        # No term reads this row, and the head has no weight decay: it stays zero.
        network.head.weight.data[0] = 0.0
