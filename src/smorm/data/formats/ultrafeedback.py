"""`openbmb/UltraFeedback`: completions, each rated by GPT-4 in four aspects."""

import math

from smorm.data import fields
from smorm.data.census import BadRecord, DropReason
from smorm.data.fields import Context
from smorm.data.formats import Format, Row, generic
from smorm.data.records import Messages, Rated
from smorm.text.chat import Message

ASPECTS = ("instruction_following", "honesty", "truthfulness", "helpfulness")


def parse(row: Row, context: Context) -> list[Rated | BadRecord]:
    """Each completion is one record; a bad one does not take its siblings with it."""
    instruction = fields.text(fields.required(row, "instruction", context), "instruction", context)
    prompt = fields.filled_prompt((Message("user", instruction),), "instruction", context)
    completions = fields.required(row, "completions", context)
    if not isinstance(completions, list) or not completions:
        raise context.wrong("completions", completions, "a list of completions")
    records: list[Rated | BadRecord] = []
    for index, completion in enumerate(completions):
        try:
            records.append(_completion(row, prompt, completion, f"completions[{index}]", context))
        except BadRecord as bad:
            records.append(bad)
    return records


def _completion(
    row: Row, prompt: Messages, completion: object, name: str, context: Context
) -> Rated:
    if not isinstance(completion, dict):
        raise context.wrong(name, completion, "an object with response and annotations")
    field = f"{name}.response"
    response = fields.required(completion, "response", context, name)
    answer = (Message("assistant", fields.text(response, field, context)),)
    annotations = fields.required(completion, "annotations", context, name)
    if not isinstance(annotations, dict):
        raise context.wrong(f"{name}.annotations", annotations, "an object")
    columns = context.attributes or dict(zip(ASPECTS, ASPECTS, strict=True))
    fields.filled_response(answer, field, context)
    scores = {key: _rating(annotations.get(column), context) for key, column in columns.items()}
    return Rated(prompt, answer, scores, **generic.identity_of(row, context))


def _rating(annotation: object, context: Context) -> float | None:
    """A number, often as text; `N/A`, absent or unreadable is missing (never 0), and counted."""
    # of the aspects each is an object; a flattened copy has the rating itself
    rating = annotation
    if isinstance(annotation, dict):
        rating = annotation.get("Rating")
    if rating is None or rating == "N/A":
        context.count(DropReason.RATING_ABSENT)
        return None
    if isinstance(rating, str | int | float) and not isinstance(rating, bool):
        try:
            value = float(rating)
        except ValueError:
            value = math.nan
        if math.isfinite(value):
            return value
    context.count(DropReason.RATING_UNREADABLE)
    return None


_SHAPE = "{instruction, completions: [{response, ...}]}"
FORMAT = Format("rated", parse, _SHAPE, signs=frozenset({"instruction", "completions"}))
