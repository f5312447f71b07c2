"""`llm-blender/Unified-Feedback`: two conversations and their ratings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from smorm.data import fields
from smorm.data.census import DropReason
from smorm.data.fields import Context
from smorm.data.formats import Format, generic
from smorm.data.records import Messages, Preference
from smorm.text.chat import Message

SUMMARIZE = "Generate one-sentence summary for the following post: "


def equal_ratings(row: Mapping[str, Any]) -> DropReason | None:
    """Unified-Feedback's first step: rows whose ratings are equal are dropped before the stride."""
    a, b = row.get("conv_A_rating"), row.get("conv_B_rating")
    numbers = all(isinstance(value, int | float) and type(value) is not bool for value in (a, b))
    return DropReason.EQUAL_RATINGS if numbers and a == b else None


def parse(row: Mapping[str, Any], context: Context) -> list[Preference]:
    """`llm-blender/Unified-Feedback`: two conversations and their ratings.

    Chosen is the higher rated, margin the difference. Of sources that summarize, the bare post is
    given its instruction, as GRM and SMORM do.
    """
    rating_a, rating_b = (
        fields.number(fields.required(row, name, context), name, context)
        for name in ("conv_A_rating", "conv_B_rating")
    )
    source = fields.optional_text(row, "source", context) or ""
    a, b = (_conversation(row, name, source, context) for name in ("conv_A", "conv_B"))
    pair = generic.split_common(*((a, b) if rating_a > rating_b else (b, a)))
    return [generic.preference_of(row, pair, context, strength=abs(rating_a - rating_b))]


def _conversation(row: Mapping[str, Any], name: str, source: str, context: Context) -> Messages:
    conversation = fields.messages(fields.required(row, name, context), name, context)
    fields.filled_response(conversation, name, context)
    if "summarize" not in source:
        return conversation
    first = conversation[0]
    return (Message(first.role, SUMMARIZE + first.content.strip()), *conversation[1:])


FORMAT = Format(
    "preference",
    parse,
    "{conv_A, conv_B, conv_A_rating, conv_B_rating}",
    signs=frozenset({"conv_A", "conv_B"}),
    drop_row=equal_ratings,
)
