"""`Skywork/Skywork-Reward-Preference-80K`: whole conversations as chosen and rejected."""

from smorm.data import fields
from smorm.data.fields import Context
from smorm.data.formats import Format, Row, generic
from smorm.data.messages import read_messages
from smorm.data.records import Preference


def parse(row: Row, context: Context) -> list[Preference]:
    """The messages both sides share are the prompt."""
    chosen = read_messages(fields.required(row, "chosen", context), "chosen", context)
    rejected = read_messages(fields.required(row, "rejected", context), "rejected", context)
    return [generic.preference_of(row, generic.split_common(chosen, rejected), context)]


FORMAT = Format("preference", parse, "{chosen, rejected} message lists")
