"""Single: the joint objective without ratings."""

from smorm.objectives.terms import Rows
from smorm.training.methods.joint import Joint


class Preference(Joint):
    title = "Single"
    uses_ratings = False
    trains = (Rows.PREFERENCE,)
    default_view = "F"
    heads = ("linear", "mlp")
