"""LLMBar (princeton-nlp/LLMBar): does a response follow the instruction, whatever its surface?"""

from smorm.data import fields
from smorm.data.fields import Context
from smorm.data.formats import Format
from smorm.data.records import Candidates
from smorm.evaluation.accuracy import ScoredItems, accuracies, expected_wins, present
from smorm.evaluation.benchmarks import Benchmark, Piece, rows
from smorm.evaluation.outcomes import Outcomes


def parse(row: rows.Row, context: Context) -> list[Candidates]:
    """Input, output_1, output_2 and label 1 or 2, the better output."""
    if rows.is_converted(row):
        return rows.comparison(row, context)
    prompt = rows.question(row, "input", context)
    label = fields.required(row, "label", context)
    # True equals 1 in Python, but says nothing of which output is meant.
    if isinstance(label, bool) or label not in (1, 2):
        raise context.wrong("label", label, "1 or 2")
    return rows.of_two(row, prompt, ("output_1", "output_2"), label == 1, "id", context)


def rule(items: ScoredItems) -> Outcomes:
    """`Natural`, and `Adversarial` as the plain mean of its four sets; `overall` over all items."""
    # Natural by its name in any spelling; every other labelled set is adversarial.
    sections: dict[str, dict[str, float]] = {"Natural": {}, "Adversarial": {}}
    for name in sorted(set(items.subsets) - {""}):
        section = "Natural" if "natural" in name.lower() else "Adversarial"
        sections[section][name] = 1.0
    return accuracies(items, expected_wins, present(items.subsets, sections))


FORMAT = Format(
    "candidates",
    parse,
    "{input, output_1, output_2, label}",
    signs=frozenset({"output_1", "output_2", "label"}),
)
SETS = ("Natural", "GPTInst", "GPTOut", "Manual", "Neighbor")
LLMBAR = Benchmark(
    "llmbar",
    "LLMBar",
    FORMAT,
    rule,
    ("overall", "Natural", "Adversarial"),
    hub="princeton-nlp/LLMBar",
    pieces=tuple(Piece(name, name, "LLMBar") for name in SETS),
)
