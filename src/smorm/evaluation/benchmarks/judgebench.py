"""JudgeBench (ScalerLab/JudgeBench): objective labels, one response is correct.
The official number is the mean over all pairs; its code counts a tie as a loss."""

from smorm.data import fields
from smorm.data.fields import Context
from smorm.data.formats import Format
from smorm.data.records import Candidates
from smorm.evaluation.accuracy import ScoredItems, accuracies, wins
from smorm.evaluation.benchmarks import Benchmark, Piece, rows
from smorm.evaluation.outcomes import Outcomes, weighted

# Beginnings of sources, and their category: the subjects of MMLU-Pro are one.
CATEGORIES = {
    "mmlu-pro": "knowledge",
    "livebench-reasoning": "reasoning",
    "livebench-math": "math",
    "livecodebench": "coding",
}


def parse(row: rows.Row, context: Context) -> list[Candidates]:
    """Question, response_A, response_B, label "A>B" or "B>A", pair_id, source and others."""
    if rows.is_converted(row):
        return rows.comparison(row, context)
    prompt = rows.question(row, "question", context)
    label = fields.required(row, "label", context)
    if label not in ("A>B", "B>A"):
        raise context.wrong("label", label, "'A>B' or 'B>A'")
    names = ("response_A", "response_B")
    return rows.of_two(row, prompt, names, label == "A>B", "pair_id", context)


def rule(items: ScoredItems) -> Outcomes:
    """`overall` over all pairs, the categories, and `subset/NAME`."""
    # Within a category pairs are pooled, so a subject of MMLU-Pro weighs as many as it has.
    counts: dict[str, dict[str, float]] = {}
    for name in dict.fromkeys(items.subsets):
        category = name
        for beginning in filter(name.startswith, CATEGORIES):
            category = CATEGORIES[beginning]
        counts.setdefault(category, {})[name] = items.subsets.count(name)
    sections = {category: weighted(counts[category]) for category in sorted(counts)}
    return accuracies(items, wins, sections)


FORMAT = Format(
    "candidates",
    parse,
    "{question, response_A, response_B, label}",
    signs=frozenset({"question", "response_A", "response_B"}),
)
JUDGEBENCH = Benchmark(
    "judgebench",
    "JudgeBench",
    FORMAT,
    rule,
    ("overall", *CATEGORIES.values()),
    hub="ScalerLab/JudgeBench",
    pieces=(Piece("gpt", "gpt"), Piece("claude", "claude")),
)
