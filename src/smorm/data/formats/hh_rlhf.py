"""`Anthropic/hh-rlhf`: whole transcripts as chosen and rejected."""

import re
from dataclasses import replace

from smorm.data import fields
from smorm.data.census import Defect
from smorm.data.fields import Context
from smorm.data.formats import Format, Row, generic
from smorm.data.records import Messages, Preference

_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")


def parse(row: Row, context: Context) -> list[Preference]:
    """The turns both sides share are the prompt."""
    sides = [_transcript(row, name, context) for name in ("chosen", "rejected")]
    return [generic.preference_of(row, generic.split_common(*sides), context)]


def _transcript(row: Row, name: str, context: Context) -> Messages:
    text = fields.text(fields.required(row, name, context), name, context)
    if not text.strip():
        raise context.bad(name, Defect.EMPTY_RESPONSE, "empty, expected a transcript")
    # split by its markers, any text would be one turn of the user's: a file of another shape
    if _TURN.match(text.strip()) is None:
        raise context.bad(name, Defect.NO_TURNS, "expected a transcript that begins with 'Human:'")
    turns = transcript_turns(text)
    if turns[0].role != "user":
        raise context.bad(name, Defect.NO_TURNS, "begins with 'Assistant:', expected 'Human:'")
    return turns


def transcript_turns(text: str) -> Messages:
    """Text cut at "Human:" and "Assistant:" after an empty line; bare text first is the user's."""
    turns = generic.split_turns(text.strip(), _TURN)
    return tuple(replace(turn, content=turn.content.strip()) for turn in turns)


FORMAT = Format("preference", parse, "{chosen, rejected} transcripts")
