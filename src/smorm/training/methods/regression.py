"""Multi: only the attribute rows, by regression."""

from smorm.config import ObjectiveSection
from smorm.model.network import RewardNetwork
from smorm.objectives.terms import Rows
from smorm.training.methods.joint import Joint


class Regression(Joint):
    """The joint objective without pairs."""

    uses_pairs = False
    trains = (Rows.ATTRIBUTES,)
    default_view = "L"
    regularised = False

    @classmethod
    def label(cls, objective: ObjectiveSection) -> str:
        return "Multi"

    @classmethod
    def init_head(cls, network: RewardNetwork) -> None:
        """Zeros say that the preference row is never trained; random weights would pass for it."""
        # No term reads this row, and the head has no weight decay: it stays zero.
        network.head.weight.data[0] = 0.0
