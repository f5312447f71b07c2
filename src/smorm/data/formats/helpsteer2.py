"""`nvidia/HelpSteer2`: responses with five ratings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from smorm.data import fields
from smorm.data.census import Defect
from smorm.data.fields import Context
from smorm.data.formats import Format, generic
from smorm.data.records import Rated
from smorm.text.chat import Message

ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
# The prompt opens with the user's bare text; later turns carry `<extra_id_1>User` on a line
_TURN = re.compile(r"(?:^|\n)<extra_id_1>(User|Assistant)(?=\n|$)")


def parse(row: Mapping[str, Any], context: Context) -> list[Rated]:
    """`nvidia/HelpSteer2`: prompt, response and five flat ratings 0..4; turns in the prompt."""
    text = fields.text(fields.required(row, "prompt", context), "prompt", context)
    turns = generic.split_turns(text, _TURN)
    if len(turns) > 1 and turns[-1] == Message("assistant", ""):
        turns = turns[:-1]  # the marker that invites the answer
    if turns[-1].role != "user":
        raise context.bad("prompt", Defect.ROLE_ORDER, "ends with the assistant's turn")
    columns = context.columns or {name: name for name in ATTRIBUTES}
    for column in columns.values():
        if column not in row:
            raise context.bad(column, Defect.MISSING_FIELD, "missing, expected a number or null")
    known = replace(context, columns=columns)
    return generic.rated({**row, "prompt": [asdict(turn) for turn in turns]}, known)


FORMAT = Format(
    "rated",
    parse,
    "{prompt, response, helpfulness, correctness, ...}",
    signs=frozenset({"prompt", "response", *ATTRIBUTES}),
)
