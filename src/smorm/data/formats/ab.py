"""Two answers to one prompt and a label that says which is better: `{prompt, response_a,
response_b, label}`.

A source's `label` says how labels are read. `signed`: below 0 the first answer is better, above 0
the second, 0 is a tie, and the size is the margin (HelpSteer3). `index`: 0 or 1 (PKU-SafeRLHF).
`number`: 1 or 2. `first_better`: 1 or true for the first, 0 or false for the second (SHP). Or an
object `{first: [...], second: [...], tie: [...]}` of the values. By default the usual words are
read, and a number is refused: it could mean either."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from smorm.data import fields
from smorm.data.census import Defect, DropReason
from smorm.data.fields import Context, Labels
from smorm.data.formats import Format, Row, generic
from smorm.data.records import Candidates, Messages, Preference


class Better(Enum):
    """Which of two answers was preferred."""

    FIRST = "first"
    SECOND = "second"
    TIE = "tie"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a label says; `margin` where its size says how much better."""

    better: Better
    margin: float | None = None


_WORDS = {
    Better.FIRST: (
        "a", "modela", "responsea", "answera", "assistanta", "first", "left", "[[a]]", "a>b", "a>>b"
    ),
    Better.SECOND: (
        "b", "modelb", "responseb", "answerb", "assistantb", "second", "right", "[[b]]", "b>a",
        "b>>a",
    ),
    Better.TIE: (
        "tie", "draw", "equal", "c", "[[c]]", "both", "neither", "bothbad", "tie(bothbad)", "same",
        "a=b",
    ),
}  # fmt: skip
# Blanks, underscores and hyphens make no difference: model_a, Model A.
_BETWEEN = re.compile(r"[\s_-]+")
_NUMBERS: Mapping[str, Mapping[float, Better]] = {
    "index": {0: Better.FIRST, 1: Better.SECOND},
    "number": {1: Better.FIRST, 2: Better.SECOND},
    "first_better": {1: Better.FIRST, 0: Better.SECOND},
}


def verdict_of(value: Any, field: str, labels: Labels | None, context: Context) -> Verdict:
    """What a label says; `BadRecord` where the way to read labels does not cover it."""
    if isinstance(labels, Mapping):
        for better in Better:
            listed = labels.get(better.value, [])
            if value in (listed if isinstance(listed, list) else [listed]):
                return Verdict(better)
        problem = f"{fields.describe(value)} is none of the values in the source's label"
        raise context.bad(field, Defect.BAD_LABEL, problem)
    if labels == "signed":
        size = fields.number(value, field, context)
        if size == 0:
            return Verdict(Better.TIE)
        return Verdict(Better.FIRST if size < 0 else Better.SECOND, abs(size))
    if labels is not None and labels != "best_first":
        if isinstance(value, str) and context.numbers_in_text:
            value = fields.rating(value, field, replace(context, booleans=True))
        # true would be the number 1
        usable = isinstance(value, int | float)
        if labels == "number" and isinstance(value, bool):
            usable = False
        if not usable or value not in _NUMBERS[labels]:
            expected = " or ".join(f"{number:g}" for number in _NUMBERS[labels])
            problem = f"{fields.describe(value)}, not {expected}"
            if isinstance(value, str) and not context.numbers_in_text:
                problem += " (numbers_in_text: true in the source reads numbers in text)"
            raise context.bad(field, Defect.BAD_LABEL, problem)
        return Verdict(_NUMBERS[labels][value])
    if isinstance(value, str):
        for better, words in _WORDS.items():
            if _BETWEEN.sub("", value.lower()) in words:
                return Verdict(better)
    problem = (
        f"{fields.describe(value)} could mean either answer: say label: signed, index (0, 1), "
        "number (1, 2), first_better (1 is the first) or {first: [...], second: [...], tie: [...]}"
    )
    raise context.bad(field, Defect.BAD_LABEL, problem)


def judged_pair(
    row: Row, prompt: Messages, sides: tuple[Messages, Messages], verdict: Verdict, context: Context
) -> list[Preference | Candidates]:
    """The better side as chosen; none of a tie, which is counted. Both in their order where every
    response is wanted."""
    if context.every_response:
        return [generic.candidates_of(row, prompt, sides, context)]
    if verdict.better is Better.TIE:
        context.count(DropReason.JUDGED_TIE)
        return []
    good, bad = sides if verdict.better is Better.FIRST else sides[::-1]
    margin = verdict.margin
    if margin is not None and not math.isfinite(margin):
        margin = None
    return [generic.preference_of(row, (prompt, good, bad), context, margin)]


def parse(row: Row, context: Context) -> list[Preference | Candidates]:
    """One pair; none of a tie."""
    prompt = generic.prompt_of(row, context)
    names = ("response_a", "response_b")
    if context.every_response:
        row.get("label")  # which of them is better says nothing of either
        answers = [(name, row.get(name)) for name in names]
        return [generic.answers_of(row, prompt, answers, context)]
    sides = [generic.side_of(fields.required(row, name, context), name, context) for name in names]
    first, second = generic.without_prompt(prompt, (sides[0], sides[1]), names, context)
    label = fields.required(row, "label", context)
    verdict = verdict_of(label, "label", context.labels, context)
    return judged_pair(row, prompt, (first, second), verdict, context)


FORMAT = Format("preference", parse, "{prompt, response_a, response_b, label}")
