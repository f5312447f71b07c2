"""LLMBar (princeton-nlp/LLMBar): does a response follow the instruction, whatever its surface?"""

from __future__ import annotations

from smorm.data import fields
from smorm.data.fields import Context
from smorm.data.formats import Format
from smorm.data.records import Candidates
from smorm.evaluation.accuracy import ScoredItems, accuracies, expected_wins, present
from smorm.evaluation.benchmarks import Benchmark, Part
from smorm.evaluation.benchmarks.rows import (
    Row,
    comparison,
    is_converted,
    labelled,
    names_of,
    question,
    response,
)
from smorm.evaluation.outcomes import Outcomes


def parse(row: Row, context: Context) -> list[Candidates]:
    """Input, output_1, output_2 and label 1 or 2, the better output."""
    if is_converted(row):
        return comparison(row, context)
    prompt = question(row, "input", context)
    first, second = response(row, "output_1", context), response(row, "output_2", context)
    label = fields.required(row, "label", context)
    if isinstance(label, bool) or label not in (1, 2):
        raise context.wrong("label", label, "1 or 2")
    good, bad = (first, second) if label == 1 else (second, first)
    return labelled(prompt, good, bad, context, *names_of(row, "id", context))


def rule(items: ScoredItems) -> Outcomes:
    """`Natural`, and `Adversarial` as the plain mean of its four sets; `overall` over all items."""
    subsets = sorted(set(items.subsets))
    natural = [name for name in subsets if "natural" in name.lower()]
    adversarial = [name for name in subsets if name and name not in natural]
    sections = {
        "Natural": dict.fromkeys(natural, 1.0),
        "Adversarial": dict.fromkeys(adversarial, 1.0),
    }
    return accuracies(items, expected_wins, present(subsets, sections))


FORMAT = Format(
    "candidates",
    parse,
    "{input, output_1, output_2, label}",
    signs=frozenset({"output_1", "output_2", "label"}),
)
LLMBAR = Benchmark(
    "llmbar",
    "LLMBar",
    FORMAT,
    rule,
    ("overall", "Natural", "Adversarial"),
    hub="princeton-nlp/LLMBar",
    parts=tuple(
        Part(name, name, "LLMBar")
        for name in ("Natural", "GPTInst", "GPTOut", "Manual", "Neighbor")
    ),
)
