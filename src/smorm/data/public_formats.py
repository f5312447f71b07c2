"""Rows of public data sets, by their published schemas, as the project's records."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from smorm.data import fields, judging, shapes
from smorm.data.census import Defect, DropReason
from smorm.data.fields import Context
from smorm.data.quarantine import BadRecord
from smorm.data.records import Candidates, Messages, Preference, Rated
from smorm.text.chat import Message

HELPSTEER2 = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
ULTRAFEEDBACK = ("instruction_following", "honesty", "truthfulness", "helpfulness")
SUMMARIZE = "Generate one-sentence summary for the following post: "
RM_BENCH_STYLES = 3
RM_BENCH_DOMAINS = ("chat", "math", "code", "safety")

_SPEAKERS = {"User": "user", "Human": "user", "Assistant": "assistant"}
# HelpSteer2 opens with the user's bare text; later turns carry `<extra_id_1>User` on a line
_HELPSTEER2_TURN = re.compile(r"(?:^|\n)<extra_id_1>(User|Assistant)(?=\n|$)")
_HH_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")


def helpsteer2(row: Mapping[str, Any], context: Context) -> list[Rated]:
    """`nvidia/HelpSteer2`: prompt, response and five flat ratings 0..4; turns in the prompt."""
    text = fields.text(fields.required(row, "prompt", context), "prompt", context)
    turns = _turns(text, _HELPSTEER2_TURN)
    if len(turns) > 1 and turns[-1] == Message("assistant", ""):
        turns = turns[:-1]  # the marker that invites the answer
    if turns[-1].role != "user":
        raise context.bad("prompt", Defect.ROLE_ORDER, "ends with the assistant's turn")
    columns = context.columns or {name: name for name in HELPSTEER2}
    for column in columns.values():
        if column not in row:
            raise context.bad(column, Defect.MISSING_FIELD, "missing, expected a number or null")
    known = replace(context, columns=columns)
    return shapes.rated({**row, "prompt": [_plain(turn) for turn in turns]}, known)


def ultrafeedback(row: Mapping[str, Any], context: Context) -> list[Rated | BadRecord]:
    """`openbmb/UltraFeedback`: each completion one record, four aspects rated by GPT-4.

    A rating is a number as text. `N/A`, absent or unreadable is missing (never 0), and counted.
    A bad completion does not take its siblings with it.
    """
    instruction = fields.text(fields.required(row, "instruction", context), "instruction", context)
    prompt = fields.filled_prompt((Message("user", instruction),), "instruction", context)
    completions = fields.required(row, "completions", context)
    if not isinstance(completions, list) or not completions:
        raise context.wrong("completions", completions, "a list of completions")
    records: list[Rated | BadRecord] = []
    for at, completion in enumerate(completions):
        try:
            records.append(_completion(row, prompt, completion, f"completions[{at}]", context))
        except BadRecord as bad:
            records.append(bad)
    return records


def _completion(
    row: Mapping[str, Any], prompt: Messages, completion: object, name: str, context: Context
) -> Rated:
    if not isinstance(completion, dict):
        raise context.wrong(name, completion, "an object with response and annotations")
    field = f"{name}.response"
    response = fields.text(
        fields.required_in(completion, "response", name, context), field, context
    )
    annotations = fields.required_in(completion, "annotations", name, context)
    if not isinstance(annotations, dict):
        raise context.wrong(f"{name}.annotations", annotations, "an object")
    columns = context.columns or {aspect: aspect for aspect in ULTRAFEEDBACK}
    return Rated(
        prompt,
        fields.filled_response((Message("assistant", response),), field, context),
        {key: _aspect(annotations.get(column), context) for key, column in columns.items()},
        fields.optional_text(row, "id", context),
        fields.optional_text(row, "source", context),
        context.where,
    )


def _aspect(annotation: object, context: Context) -> float | None:
    rating = annotation.get("Rating") if isinstance(annotation, dict) else annotation
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


def equal_ratings(row: Mapping[str, Any]) -> DropReason | None:
    """Unified-Feedback's first step: rows whose ratings are equal are dropped before the stride."""
    a, b = row.get("conv_A_rating"), row.get("conv_B_rating")
    numbers = all(isinstance(value, int | float) and type(value) is not bool for value in (a, b))
    return DropReason.EQUAL_RATINGS if numbers and a == b else None


def unified_feedback(row: Mapping[str, Any], context: Context) -> list[Preference]:
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
    pair = shapes.split_common(*((a, b) if rating_a > rating_b else (b, a)))
    return [shapes.preference_of(row, pair, context, strength=abs(rating_a - rating_b))]


def _conversation(row: Mapping[str, Any], name: str, source: str, context: Context) -> Messages:
    conversation = fields.messages(fields.required(row, name, context), name, context)
    fields.filled_response(conversation, name, context)
    if "summarize" not in source:
        return conversation
    first = conversation[0]
    return (Message(first.role, SUMMARIZE + first.content.strip()), *conversation[1:])


def skywork(row: Mapping[str, Any], context: Context) -> list[Preference]:
    """`Skywork/Skywork-Reward-Preference-80K`: whole conversations as chosen and rejected."""
    chosen, rejected = (
        fields.messages(fields.required(row, name, context), name, context)
        for name in ("chosen", "rejected")
    )
    return [shapes.preference_of(row, shapes.split_common(chosen, rejected), context)]


def hh_rlhf(row: Mapping[str, Any], context: Context) -> list[Preference]:
    """`Anthropic/hh-rlhf`: whole transcripts; the turns both sides share are the prompt."""
    chosen, rejected = (_transcript(row, name, context) for name in ("chosen", "rejected"))
    return [shapes.preference_of(row, shapes.split_common(chosen, rejected), context)]


def _transcript(row: Mapping[str, Any], name: str, context: Context) -> Messages:
    text = fields.text(fields.required(row, name, context), name, context)
    if not text.strip():
        raise context.bad(name, Defect.EMPTY_RESPONSE, "empty, expected a transcript")
    if _HH_TURN.match(text.strip()) is None:
        raise context.bad(name, Defect.NO_TURNS, "expected a transcript that begins with 'Human:'")
    turns = transcript_turns(text)
    if turns[0].role != "user":
        raise context.bad(name, Defect.NO_TURNS, "begins with 'Assistant:', expected 'Human:'")
    return turns


def transcript_turns(text: str) -> Messages:
    """Text cut at "Human:" and "Assistant:" after an empty line; bare text first is the user's."""
    turns = _turns(text.strip(), _HH_TURN)
    return tuple(replace(turn, content=turn.content.strip()) for turn in turns)


def rm_bench(row: Mapping[str, Any], context: Context) -> list[Candidates]:
    """`THU-KEG/RM-Bench`: 3 chosen then 3 rejected responses, each concise, detailed, markdown.

    The domain becomes the record's source. The files of single domains (`chat_filtered.json`, …)
    have none, and their `subset` says where a prompt is from: there the source is None, unless the
    subset is called after a domain.
    """
    prompt = shapes.prompt_of(row, context)
    responses: list[Messages] = []
    for name in ("chosen", "rejected"):
        values = fields.required(row, name, context)
        if not isinstance(values, list) or len(values) != RM_BENCH_STYLES:
            raise context.wrong(name, values, f"a list of {RM_BENCH_STYLES} texts")
        for at, value in enumerate(values):
            content = fields.text(value, f"{name}[{at}]", context)
            responses.append((Message("assistant", content),))
    known = {"id": row.get("id"), "source": _rm_bench_domain(row, context)}
    one = shapes.candidates_of(known, prompt, tuple(responses), context)
    right = [True] * RM_BENCH_STYLES + [False] * RM_BENCH_STYLES
    return judging.ordered(one, right, "chosen", context)


def _rm_bench_domain(row: Mapping[str, Any], context: Context) -> str | None:
    if "domain" in row:
        return fields.text(fields.required(row, "domain", context), "domain", context)
    subset = fields.optional_text(row, "subset", context) or ""
    return subset if subset.startswith(RM_BENCH_DOMAINS) else None


def _turns(text: str, marker: re.Pattern[str]) -> Messages:
    """Text cut at its turn markers; text before the first marker is the user's."""
    before, *rest = marker.split(text)
    turns = [Message("user", before)] if before.strip() or not rest else []
    for speaker, content in zip(rest[::2], rest[1::2], strict=True):
        turns.append(Message(_SPEAKERS[speaker], content.removeprefix("\n")))
    return tuple(turns)


def _plain(message: Message) -> dict[str, str]:
    return {"role": message.role, "content": message.content}
