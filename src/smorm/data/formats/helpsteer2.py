"""`nvidia/HelpSteer2`: responses with five ratings, 0..4; a prompt may hold turns."""

import re
from dataclasses import replace

from smorm.data import fields
from smorm.data.census import Defect
from smorm.data.fields import Context
from smorm.data.formats import Format, Row, generic
from smorm.data.records import Rated
from smorm.text.chat import Message

ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
# The prompt opens with the user's bare text; later turns carry `<extra_id_1>User` on a line.
_TURN = re.compile(r"(?:^|\n)<extra_id_1>(User|Assistant)(?=\n|$)")


def parse(row: Row, context: Context) -> list[Rated]:
    """One response with flat ratings."""
    text = fields.text(fields.required(row, "prompt", context), "prompt", context)
    turns = generic.split_turns(text, _TURN)
    if len(turns) > 1 and turns[-1] == Message("assistant", ""):
        turns = turns[:-1]  # the marker that invites the answer
    if turns[-1].role != "user":
        raise context.bad("prompt", Defect.ROLE_ORDER, "ends with the assistant's turn")
    columns = context.attributes or dict(zip(ATTRIBUTES, ATTRIBUTES, strict=True))
    for column in columns.values():
        if column not in row:
            raise context.bad(column, Defect.MISSING_FIELD, "missing, expected a number or null")
    prompt = fields.filled_prompt(turns, "prompt", context)
    response = generic.side_of(fields.required(row, "response", context), "response", context)
    (response,) = generic.without_prompt(prompt, (response,), ("response",), context)
    fields.filled_response(response, "response", context)
    ratings = generic.ratings_of(row, replace(context, attributes=columns))
    return [Rated(prompt, response, **ratings, **generic.identity_of(row, context))]


_SHAPE = "{prompt, response, helpfulness, correctness, ...}"
FORMAT = Format("rated", parse, _SHAPE, signs=frozenset({"prompt", "response", *ATTRIBUTES}))
