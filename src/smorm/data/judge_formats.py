"""Rows of benchmarks where a judge or a label picks among responses, as judged candidates.

See `smorm.data.judging` for what every row becomes and what is counted. Each format takes a row of
`best_of_k`'s shape as well, for sets that somebody has converted. A tie prefers nothing:
`judged_a_tie` leaves it out before anything else is read of it, and it is counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from smorm.data import fields
from smorm.data.benchmark_formats import best_of_k
from smorm.data.census import Defect, DropReason
from smorm.data.fields import Context
from smorm.data.formats import Format
from smorm.data.formats import generic as shapes
from smorm.data.formats.hh_rlhf import transcript_turns
from smorm.data.judging import (
    SOURCES,
    Sides,
    first_text,
    flags,
    judged,
    ordered,
    split,
    text_side,
    unjudged,
)
from smorm.data.records import Candidates, Messages
from smorm.text.chat import Message

WINNERS = ("model_a", "model_b")

_RESPONSES = (("response_1", "response_2"), ("response_a", "response_b"))
_CONVERSATIONS = ("conversation_a", "conversation_b")


def judgebench(row: Mapping[str, Any], context: Context) -> list[Candidates]:
    """`ScalerLab/JudgeBench`: question, response_A, response_B and label "A>B" or "B>A".

    Further columns: pair_id, original_id, source, response_model. The label is objective: one
    response is correct.
    """
    if _converted(row):
        return best_of_k(row, context)
    prompt = _question(row, "question", context)
    a, b = (_response(row, name, context) for name in ("response_A", "response_B"))
    label = fields.required(row, "label", context)
    if label not in ("A>B", "B>A"):
        raise context.wrong("label", label, "'A>B' or 'B>A'")
    good, rest = (a, b) if label == "A>B" else (b, a)
    return judged(prompt, good, rest, context, *_names(row, "pair_id", context))


def llmbar(row: Mapping[str, Any], context: Context) -> list[Candidates]:
    """`princeton-nlp/LLMBar`: input, output_1, output_2 and label 1 or 2, the better output."""
    if _converted(row):
        return best_of_k(row, context)
    prompt = _question(row, "input", context)
    first, second = (_response(row, name, context) for name in ("output_1", "output_2"))
    label = fields.required(row, "label", context)
    if isinstance(label, bool) or label not in (1, 2):
        raise context.wrong("label", label, "1 or 2")
    good, rest = (first, second) if label == 1 else (second, first)
    return judged(prompt, good, rest, context, *_names(row, "id", context))


def hhh(row: Mapping[str, Any], context: Context) -> list[Candidates]:
    """`HuggingFaceH4/hhh_alignment`: {input, targets: {choices, labels}}, label 1 is the best.

    The input opens with the user's bare text; later turns carry "Assistant:" and "Human:" after an
    empty line. They become messages.
    """
    if _converted(row):
        if not isinstance(row.get("prompt"), str):
            return best_of_k(row, context)
        turns = _dialogue(row["prompt"], "prompt", context)
        plain = [{"role": turn.role, "content": turn.content} for turn in turns]
        return best_of_k({**row, "prompt": plain}, context)
    text = fields.text(fields.required(row, "input", context), "input", context)
    targets = fields.required(row, "targets", context)
    if not isinstance(targets, dict):
        raise context.wrong("targets", targets, "an object {choices, labels}")
    choices, labels = (
        fields.required_in(targets, name, "targets", context) for name in ("choices", "labels")
    )
    if not isinstance(choices, list) or not choices:
        raise context.wrong("targets.choices", choices, "a list of at least one text")
    sides: Sides = {}
    for at, choice in enumerate(choices):
        sides |= text_side(choice, f"targets.choices[{at}]", context)
    prompt = _dialogue(text, "input", context)
    one = unjudged(prompt, sides, context, *_names(row, "id", context))
    right = flags(labels, "targets.labels", context)
    return ordered(one, right, "targets.labels", context)


def ppe_human(row: Mapping[str, Any], context: Context) -> list[Candidates]:
    """`lmarena-ai/PPE-Human-Preference-V1` and other arena sets: two answers and a winner.

    Columns as public code reads them: question_id, prompt (text), response_1, response_2,
    model_a, model_b, winner ("model_a", "model_b", or a tie), language, is_code, is_refusal,
    hard_prompt, easy_prompt, if_prompt, math_prompt, length_a, length_b, conv_metadata. The
    flags overlap, so they are no subset, and a row has no source unless it names one. Taken as
    well: response_a and response_b, and whole conversations in conversation_a and conversation_b
    (`lmsys/chatbot_arena_conversations`).
    """
    if _converted(row):
        return best_of_k(row, context)
    if row.get("conversation_a") is not None:
        return _conversations(row, None, context)
    a, b = next((names for names in _RESPONSES if names[1] in row), _RESPONSES[0])
    prompt = shapes.prompt_of(row, context)
    sides = (_response(row, a, context), _response(row, b, context))
    good, rest = sides if _winner(row, context) == "model_a" else sides[::-1]
    return judged(prompt, good, rest, context, *_names(row, "question_id", context))


def ppe_correctness(row: Mapping[str, Any], context: Context) -> list[Candidates]:
    """PPE's correctness sets (`lmarena-ai/PPE-MMLU-Pro-Best-of-K` and four more): best of k.

    Columns as public code reads them: question_id, prompt, model_name, response_1 to response_32,
    scores (whether each is correct), sampled_conflict_pairs, and columns of the benchmark. All
    responses are taken, the correct ones first; the sampled pairs are not. The published rows do
    not name their benchmark; where a row has `benchmark` (or `subset`, `source`, `domain`) it is
    the source.
    """
    if _converted(row):
        return best_of_k(row, context)
    prompt = shapes.prompt_of(row, context)
    right = flags(fields.required(row, "scores", context), "scores", context)
    sides: Sides = {}
    for at in range(1, len(right) + 1):
        sides |= _response(row, f"response_{at}", context)
    if row.get(f"response_{len(right) + 1}") is not None:
        problem = f"{len(right)} scores, but the row has response_{len(right) + 1} as well"
        raise context.bad("scores", Defect.WRONG_COUNT, problem)
    identity = first_text(row, ("question_id", "id"), context)
    source = first_text(row, ("benchmark", *SOURCES), context)
    one = unjudged(prompt, sides, context, identity, source)
    return ordered(one, right, "scores", context)


def mt_bench(row: Mapping[str, Any], context: Context) -> list[Candidates]:
    """`lmsys/mt_bench_human_judgments`: two conversations, the turn judged, and the winner.

    Columns: question_id, model_a, model_b, winner ("model_a", "model_b", "tie", or in the split
    of GPT-4 "tie (inconsistent)"), judge, conversation_a, conversation_b, turn. A conversation
    counts up to the turn that was judged; the common beginning is the prompt.
    """
    if _converted(row):
        return best_of_k(row, context)
    turn = fields.required(row, "turn", context)
    if not isinstance(turn, int) or isinstance(turn, bool) or turn < 1:
        raise context.wrong("turn", turn, "a whole number from 1")
    return _conversations(row, turn, context)


def judged_a_tie(row: Mapping[str, Any]) -> DropReason | None:
    """Why a row with a winner prefers nothing, or None; an arena's "both bad" is a tie too."""
    winner = row.get("winner")
    tie = isinstance(winner, str) and (winner.startswith("tie") or winner == "both_bad")
    return DropReason.JUDGED_TIE if tie else None


def _converted(row: Mapping[str, Any]) -> bool:
    return "chosen" in row or row.get("responses") is not None


def _conversations(row: Mapping[str, Any], turn: int | None, context: Context) -> list[Candidates]:
    a, b = (_until(row, name, turn, context) for name in _CONVERSATIONS)
    if a[0] != b[0]:
        problem = "its first message is not conversation_a's, expected one question for both"
        raise context.bad("conversation_b", Defect.OTHER_PROMPT, problem)
    names = _CONVERSATIONS
    if _winner(row, context) == "model_b":
        a, b, names = b, a, names[::-1]
    prompt, good, rest = split(a, b, names, context)
    return judged(prompt, good, rest, context, *_names(row, "question_id", context))


def _until(row: Mapping[str, Any], name: str, turn: int | None, context: Context) -> Messages:
    """A conversation up to the answer of a turn (from 1), or the whole one."""
    whole = fields.messages(fields.required(row, name, context), name, context)
    size = len(whole) if turn is None else 2 * turn
    if len(whole) < max(size, 2):
        problem = f"{len(whole)} messages, expected at least {max(size, 2)}"
        raise context.bad(name, Defect.TOO_SHORT, problem + (f" for turn {turn}" if turn else ""))
    return whole[:size]


def _winner(row: Mapping[str, Any], context: Context) -> str:
    winner = fields.required(row, "winner", context)
    if winner not in WINNERS:
        raise context.wrong("winner", winner, "'model_a', 'model_b' or a tie")
    return str(winner)


def _question(row: Mapping[str, Any], name: str, context: Context) -> Messages:
    text = fields.text(fields.required(row, name, context), name, context)
    return fields.filled_prompt((Message("user", text),), name, context)


def _dialogue(text: str, name: str, context: Context) -> Messages:
    turns = transcript_turns(text)
    if len(turns) > 1 and turns[-1] == Message("assistant", ""):
        turns = turns[:-1]  # the marker that invites the answer
    return fields.filled_prompt(turns, name, context)


def _response(row: Mapping[str, Any], name: str, context: Context) -> Sides:
    return text_side(fields.required(row, name, context), name, context)


def _names(
    row: Mapping[str, Any], identity: str, context: Context
) -> tuple[str | None, str | None]:
    """The published id and the source of a row."""
    return first_text(row, (identity, "id"), context), first_text(row, SOURCES, context)


JUDGEBENCH = Format(
    "candidates",
    judgebench,
    "{question, response_A, response_B, label}",
    signs=frozenset({"question", "response_A", "response_B"}),
)
PPE_HUMAN = Format(
    "candidates",
    ppe_human,
    "{prompt, response_1, response_2, winner}",
    signs=frozenset({"response_1", "response_2", "winner"}),
    drop_row=judged_a_tie,
)
PPE_CORRECTNESS = Format(
    "candidates",
    ppe_correctness,
    "{prompt, response_1, ..., scores: [...]}",
    signs=frozenset({"response_1", "scores"}),
)
HHH = Format(
    "candidates", hhh, "{input, targets: {choices, labels}}", signs=frozenset({"input", "targets"})
)
LLMBAR = Format(
    "candidates",
    llmbar,
    "{input, output_1, output_2, label}",
    signs=frozenset({"output_1", "output_2", "label"}),
)
MT_BENCH = Format(
    "candidates",
    mt_bench,
    "{conversation_a, conversation_b, winner, turn}",
    signs=frozenset({"conversation_a", "conversation_b", "winner"}),
    drop_row=judged_a_tie,
)
