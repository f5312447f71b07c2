"""Several answers to one prompt with ranks or scores: `{prompt, responses, ranks or scores}`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from smorm.data import fields
from smorm.data.census import Defect, DropReason
from smorm.data.fields import Context
from smorm.data.formats import Format, Row, generic
from smorm.data.records import Candidates, Messages, Preference
from smorm.limits import limit, refusal

_MERIT_KEYS = ("rank", "score", "rating")
_MERITS = {"ranks": -1.0, "ratings": 1.0, "scores": 1.0}


def parse(row: Row, context: Context) -> list[Preference | Candidates]:
    """A pair for every two answers of which one is better.

    An answer is text, messages, or an object that holds it (as `response`, `answer`, …) with its
    `rank` (1 is the best) or `score` (more is better); or the row lists `ranks`, `ratings` or
    `scores`; or the source says that the order is the ranking (`label: best_first`)."""
    prompt = generic.prompt_of(row, context)
    answers = fields.required(row, "responses", context)
    if not isinstance(answers, list) or len(answers) < 2:
        raise context.wrong("responses", answers, "a list of at least two answers")
    names = [f"responses[{index}]" for index in range(len(answers))]
    if context.every_response:
        return [_every_answer(row, prompt, dict(zip(names, answers, strict=True)), context)]
    sides: list[Messages] = []
    for name, answer in zip(names, answers, strict=True):
        text = _answer(answer, name, context) if isinstance(answer, Mapping) else answer
        sides.append(generic.side_of(text, name, context))
    merits = _merits(row, answers, names, context)
    return ranked_pairs(row, prompt, tuple(sides), merits, context)


def ranked_pairs(
    row: Row,
    prompt: Messages,
    sides: tuple[Messages, ...],
    merits: Sequence[float | None],
    context: Context,
) -> list[Preference | Candidates]:
    """A pair for every two answers of different merit; equal ones and answers of none (None) are
    counted."""
    names = tuple(f"responses[{index}]" for index in range(len(sides)))
    if context.every_response:
        return [generic.candidates_of(row, prompt, sides, context)]
    sides = generic.without_prompt(prompt, sides, names, context)
    order = [index for index, merit in enumerate(merits) if merit is not None]
    for _ in range(len(merits) - len(order)):
        context.count(DropReason.IN_NO_PAIR)
    if (count := math.comb(len(order), 2)) > limit("row_pairs"):
        raise context.bad("responses", Defect.TOO_MANY_VALUES, refusal("row_pairs", count))
    order.sort(key=lambda index: -merits[index])  # type: ignore[operator]
    pairs: list[Preference | Candidates] = []
    for better, worse in itertools.combinations(order, 2):
        if merits[better] == merits[worse]:
            context.count(DropReason.EQUAL_RATINGS)
            continue
        pairs.append(generic.preference_of(row, (prompt, sides[better], sides[worse]), context))
    return pairs


def _every_answer(
    row: Row, prompt: Messages, answers: Mapping[str, Any], context: Context
) -> Candidates:
    """All answers in their order; what was judged of them is passed over."""
    for name in _MERITS:
        row.get(name)
    values: list[tuple[str, Any]] = []
    for name, answer in answers.items():
        if isinstance(answer, Mapping) and "role" not in answer and "from" not in answer:
            for name_of_merit in _MERIT_KEYS:
                answer.get(name_of_merit)
            answer = next((answer[key] for key in generic.ANSWER_KEYS if _has(answer, key)), None)
        values.append((name, answer))
    return generic.answers_of(row, prompt, values, context)


def _answer(answer: Mapping[str, Any], name: str, context: Context) -> Any:
    # A message is an answer itself.
    if "role" in answer or "from" in answer:
        return answer
    return generic.answer_in(answer, name, context)


def _merits(
    row: Row, answers: Sequence[Any], names: Sequence[str], context: Context
) -> list[float | None]:
    """How good each answer is: more is better."""
    if context.labels == "best_first":
        return [-float(index) for index in range(len(answers))]
    for name, sign in _MERITS.items():
        values = row.get(name)
        if values is None:
            continue
        if not isinstance(values, list) or len(values) != len(answers):
            raise context.wrong(name, values, f"a list of {len(answers)} numbers")
        return [_merit(value, sign, f"{name}[{i}]", context) for i, value in enumerate(values)]
    merits: list[float | None] = []
    for name, answer in zip(names, answers, strict=True):
        key = next((key for key in _MERIT_KEYS if _has(answer, key)), None)
        if key is None:
            problem = (
                "no rank and no score beside the answers; expected ranks or scores, or label: "
            )
            problem += "best_first where their order is the ranking"
            raise context.bad(name, Defect.MISSING_FIELD, problem)
        sign = -1.0 if key == "rank" else 1.0
        merits.append(_merit(answer[key], sign, f"{name}.{key}", context))
    return merits


def _has(answer: Any, key: str) -> bool:
    return isinstance(answer, Mapping) and key in answer


def _merit(value: Any, sign: float, field: str, context: Context) -> float | None:
    return None if value is None else sign * fields.number(value, field, context)


FORMAT = Format("preference", parse, "{prompt, responses: [{response, rank}]}")
