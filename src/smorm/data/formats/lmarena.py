"""Battles of LMArena: whole conversations of two models and a vote."""

from __future__ import annotations

from typing import Any

from smorm.data import fields
from smorm.data.census import Defect, DropReason
from smorm.data.fields import Context
from smorm.data.formats import Format, Row, generic
from smorm.data.formats.ab import Better, Verdict, judged_pair, verdict_of
from smorm.data.jsonvalues import parse_text
from smorm.data.messages import read_messages
from smorm.data.records import Candidates, Preference
from smorm.text.chat import Message, Messages

_VOTES = {
    "winner_model_a": Better.FIRST,
    "winner_model_b": Better.SECOND,
    "winner_tie": Better.TIE,
}


def parse(row: Row, context: Context) -> list[Preference | Candidates]:
    """`conversation_a`, `conversation_b` and `winner` (the data sets of 33k and 140k battles); the
    turns that both share are the prompt."""
    first = read_messages(
        fields.required(row, "conversation_a", context), "conversation_a", context
    )
    second = read_messages(
        fields.required(row, "conversation_b", context), "conversation_b", context
    )
    verdict = verdict_of(fields.required(row, "winner", context), "winner", None, context)
    return _pair(row, first, second, verdict, context)


def parse_55k(row: Row, context: Context) -> list[Preference | Candidates]:
    """`prompt`, `response_a` and `response_b` as JSON lists of turns, and one vote in three columns
    (the file of the Kaggle competition). A battle with a turn without an answer is left out."""
    prompts, first, second = (
        _turns(row, name, context) for name in ("prompt", "response_a", "response_b")
    )
    if not len(prompts) == len(first) == len(second):
        problem = f"{len(prompts)} prompts, {len(first)} and {len(second)} answers"
        raise context.bad("response_a", Defect.WRONG_COUNT, problem)
    votes = [better for name, better in _VOTES.items() if _is_one(row, name, context)]
    if len(votes) != 1:
        problem = f"{len(votes)} of winner_model_a, winner_model_b, winner_tie are 1, expected one"
        raise context.bad("winner_model_a", Defect.BAD_LABEL, problem)
    if any(turn is None or not turn.strip() for turn in (*first, *second)):
        context.count(DropReason.NO_ANSWER)
        return []
    sides = [_conversation(prompts, answers) for answers in (first, second)]
    return _pair(row, sides[0], sides[1], Verdict(votes[0]), context)


def _pair(
    row: Row, first: Messages, second: Messages, verdict: Verdict, context: Context
) -> list[Preference | Candidates]:
    prompt, first, second = generic.split_common(first, second)
    return judged_pair(row, prompt, (first, second), verdict, context)


def _turns(row: Row, name: str, context: Context) -> list[Any]:
    value = fields.required(row, name, context)
    if isinstance(value, str):
        try:
            value = parse_text(value)
        except ValueError as error:
            problem = f"expected a JSON list of turns: {error}"
            raise context.bad(name, Defect.NOT_JSON, problem) from error
    if not isinstance(value, list) or not all(isinstance(turn, str | None) for turn in value):
        raise context.wrong(name, value, "a list of turns")
    return value


def _is_one(row: Row, name: str, context: Context) -> bool:
    value = fields.required(row, name, context)
    if value in ("0", "1"):
        value = int(value)
    if value not in (0, 1):
        raise context.bad(name, Defect.BAD_LABEL, f"{fields.describe(value)}, expected 0 or 1")
    return bool(value)


def _conversation(prompts: list[Any], answers: list[Any]) -> Messages:
    turns: list[Message] = []
    for prompt, answer in zip(prompts, answers, strict=True):
        turns += [Message("user", prompt or ""), Message("assistant", answer)]
    return tuple(turns)


FORMAT = Format(
    "preference",
    parse,
    "{conversation_a, conversation_b, winner}",
    signs=frozenset({"conversation_a", "conversation_b", "winner"}),
)
FORMAT_55K = Format(
    "preference",
    parse_55k,
    "{prompt, response_a, response_b, winner_model_a, winner_model_b, winner_tie}",
    signs=frozenset({"prompt", "response_a", "response_b", *_VOTES}),
)
