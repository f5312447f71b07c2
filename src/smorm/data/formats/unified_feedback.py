"""`llm-blender/Unified-Feedback`: two conversations and their ratings."""

from dataclasses import replace

from smorm.data import fields
from smorm.data.census import DropReason
from smorm.data.fields import Context
from smorm.data.formats import Format, Row, generic
from smorm.data.messages import read_messages
from smorm.data.records import Messages, Preference

SUMMARIZE = "Generate one-sentence summary for the following post: "


def equal_ratings(row: Row) -> DropReason | None:
    """Rows whose ratings are equal are dropped before the stride, as GRM and SMORM do."""
    # before `parse` has checked them: what is no number is left to it
    ratings = (row.get("conv_A_rating"), row.get("conv_B_rating"))
    for rating in ratings:
        if isinstance(rating, bool) or not isinstance(rating, int | float):
            return None
    return DropReason.EQUAL_RATINGS if ratings[0] == ratings[1] else None


def parse(row: Row, context: Context) -> list[Preference]:
    """Chosen is the higher rated, margin the difference. Of sources that summarize, the bare post
    is given its instruction, as GRM and SMORM do."""
    lead = _rating(row, "conv_A_rating", context) - _rating(row, "conv_B_rating", context)
    source = fields.optional_text(row, "source", context) or ""
    first = _conversation(row, "conv_A", source, context)
    second = _conversation(row, "conv_B", source, context)
    if lead < 0:
        first, second = second, first
    pair = generic.split_common(first, second)
    return [generic.preference_of(row, pair, context, margin=abs(lead))]


def _rating(row: Row, name: str, context: Context) -> float:
    return fields.number(fields.required(row, name, context), name, context)


def _conversation(row: Row, name: str, source: str, context: Context) -> Messages:
    conversation = read_messages(fields.required(row, name, context), name, context)
    fields.filled_response(conversation, name, context)
    if "summarize" not in source:
        return conversation
    first = conversation[0]
    return (replace(first, content=SUMMARIZE + first.content.strip()), *conversation[1:])


_SHAPE = "{conv_A, conv_B, conv_A_rating, conv_B_rating}"
FORMAT = Format("preference", parse, _SHAPE, frozenset({"conv_A", "conv_B"}), equal_ratings)
