"""RewardBench's prior sets (allenai/pref-test-sets): the plain mean of four."""

import itertools

from smorm.data.census import DropReason
from smorm.data.fields import Context
from smorm.data.formats import Format
from smorm.data.messages import Spelling
from smorm.data.records import Candidates
from smorm.data.rows import changed
from smorm.evaluation.accuracy import ScoredItems, accuracies, present, wins
from smorm.evaluation.benchmarks import Benchmark, Piece
from smorm.evaluation.benchmarks.rewardbench import unknown_subsets
from smorm.evaluation.benchmarks.rows import SUBSET_FIELDS, Row, comparison, first_text
from smorm.evaluation.outcomes import Outcomes, even, single

SCORED = ("anthropic_helpful", "anthropic_hhh", "shp", "summarize")
_ROLES = ("user", "assistant")
PUBLISHED = (
    "anthropic",
    "anthropic_harmless",
    *SCORED,
    "mtbench_gpt4",
    "mtbench_human",
    "pku_better",
    "pku_safer",
    "summarize_prompted",
)


def parse(row: Row, context: Context) -> list[Candidates]:
    """Prompt as turns, chosen and rejected as text; a split is a subset. The roles of the turns are
    taken by their index, user first, whatever the rows call them, as `rewardbench/utils.py` does.
    A row's own `subset` is a source only where it names one of the sets (`PUBLISHED`)."""
    if isinstance(row.get("prompt"), list):
        turns = [_turn(*turn, context) for turn in zip(row["prompt"], itertools.cycle(_ROLES))]
        row = changed(row, {"prompt": turns})
    # The split names the set, so the row's own subset is read only where it names one itself.
    subset = first_text(row, ("subset",), context)
    named: dict[str, str | None] = dict.fromkeys(SUBSET_FIELDS)
    if subset in PUBLISHED:
        named["subset"] = subset
    for name in SUBSET_FIELDS:
        if row.get(name) and named[name] is None:
            context.count(DropReason.NOT_READ, name)
    return comparison(changed(row, named), context)


def _turn(line: object, role: str, context: Context) -> object:
    if isinstance(line, str):  # early versions of the set have bare texts
        return {"role": role, "content": line}
    if isinstance(line, dict):
        if line.get("role") not in (None, role):
            context.count(Spelling.ROLE_MAPPED, str(line["role"]))
        return changed(line, {"role": role})
    return line  # refused with its place by the reader of messages


def rule(items: ScoredItems) -> Outcomes:
    """`overall`, the plain mean of the four prior sets that are here, and `subset/NAME`."""
    sections = present(items.subsets, single(SCORED))
    if not sections:
        raise unknown_subsets(items, SCORED)
    return accuracies(items, wins, sections, even(sections))


FORMAT = Format("candidates", parse, "{prompt: [...], chosen, rejected}")
PRIOR_SETS = Benchmark(
    "prior-sets",
    "RewardBench's prior sets",
    FORMAT,
    rule,
    ("overall",),
    hub="allenai/pref-test-sets",
    pieces=tuple(map(Piece, SCORED, SCORED)),
    format_name="pref_sets",
)
