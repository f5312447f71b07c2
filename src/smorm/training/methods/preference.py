"""Single: only the preference row, by Bradley–Terry."""

from smorm.config import ObjectiveSection
from smorm.objectives.terms import Rows
from smorm.training.methods.joint import Joint


class Preference(Joint):
    """The joint objective without ratings."""

    uses_ratings = False
    trains = (Rows.PREFERENCE,)
    default_view = "F"
    heads = ("linear", "mlp")

    @classmethod
    def label(cls, objective: ObjectiveSection) -> str:
        return "Single"
