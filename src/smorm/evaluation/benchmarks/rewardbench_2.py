"""RewardBench 2 (Malik et al. 2025; allenai/reward-bench-2).
The rule is that of `scripts/run_v2.py`, `process_single_model`: best of 4, where a top score shared
by t responses counts 1/t; the Ties domain has a score of its own; the score is the plain mean of
the six domains."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from smorm.arrays import Floats
from smorm.data.census import Defect
from smorm.data.fields import Context, describe
from smorm.data.formats import Format
from smorm.data.records import Candidates
from smorm.errors import DataError
from smorm.evaluation.accuracy import LENGTH, ScoredItems, accuracies, expected_wins, present
from smorm.evaluation.benchmarks import Benchmark, Piece
from smorm.evaluation.benchmarks.rewardbench import unknown_subsets
from smorm.evaluation.benchmarks.rows import Row, comparison
from smorm.evaluation.outcomes import Outcomes, difference, even, single

TIES = "Ties"
DOMAINS = ("Factuality", "Precise IF", "Math", "Safety", "Focus", TIES)
# The Ties score is their weighted sum; the last one breaks ties between models.
TIES_WEIGHTS = {
    "tied_accuracy": 0.30,
    "ref_accuracy": 0.30,
    "correctness_preferred": 0.20,
    "correctness_preferred_hard": 0.20,
    "correctness_margin": 0.01,
}

_DRAWS = 1000  # of random scores, for the chance level
_TIES_ID = re.compile(r"(ref|tied):(\d+)")


def parse(row: Row, context: Context) -> list[Candidates]:
    """Lists of chosen and rejected texts, with their published numbers. BadRecord where a number
    disagrees with the lists, or an item of Ties has an id other than "ref:N" or "tied:N", by which
    its score pairs items."""
    records = comparison(row, context)
    for record in records:
        good, size = record.chosen or 0, len(record.responses)
        # A disagreement means that a list is not complete: the score would not be comparable.
        counts = {"num_correct": good, "num_incorrect": size - good, "total_completions": size}
        for name, count in counts.items():
            if row.get(name) is not None and row[name] != count:
                problem = f"{describe(row[name])}, expected {count}, as many as are listed"
                raise context.bad(name, Defect.WRONG_COUNT, problem)
        is_ties = (record.source or "").lower() == TIES.lower()
        if is_ties and not _TIES_ID.fullmatch(str(record.id or "")):
            problem = f'{describe(record.id)}, expected "ref:N" or "tied:N" in Ties'
            raise context.bad("id", Defect.BAD_ID, problem)
    return records


def rule(items: ScoredItems) -> Outcomes:
    """`overall`, the domains, and the terms of the Ties score as `Ties/TERM`."""
    # Copies of the set differ in the case of "Precise IF".
    spelling = dict(zip(map(str.lower, DOMAINS), DOMAINS, strict=True))
    subsets = [spelling.get(name.lower(), name) for name in items.subsets]
    sections = present(subsets, single(DOMAINS))
    if not sections:
        raise unknown_subsets(items, DOMAINS)
    items = replace(items, subsets=subsets)
    table = accuracies(items, expected_wins, sections, even(sections))
    return _with_ties(table, items, list(sections)) if TIES in sections else table


def _with_ties(table: Outcomes, items: ScoredItems, domains: list[str]) -> Outcomes:
    """The Ties domain's accuracy replaced by its published score, in every sum."""
    columns, sums = dict(table.columns), dict(table.sums)
    # Ties is one domain of those that are here, and its score replaces its accuracy as a term.
    share = 1.0 / len(domains)
    scorings = {"": items}
    for rule_name, by_rule in items.by_length().items():
        scorings[f"{rule_name}/"] = by_rule
    for prefix, scored in scorings.items():
        for name, values in ties_columns(scored, scored.scores).items():
            columns[f"{prefix}{TIES}/{name}"] = values
        score, overall = {}, {}
        for name in domains:
            if name != TIES:
                overall[f"{prefix}subset/{name}"] = share
        for name, weight in TIES_WEIGHTS.items():
            score[f"{prefix}{TIES}/{name}"] = weight
            overall[f"{prefix}{TIES}/{name}"] = share * weight
        sums |= {f"{prefix}{TIES}": score, f"{prefix}overall": overall}
    sums[f"subset/{TIES}"] = sums[TIES]
    sums |= single(sums[TIES])
    sums["overall_minus_length_only"] = difference(sums["overall"], sums[f"{LENGTH}/overall"])
    # A margin lies between -1 and 1: it is no share.
    margins = {f"{prefix}{TIES}/correctness_margin" for prefix in scorings}
    chance_columns = dict(table.chance_columns)
    del chance_columns["all"], chance_columns[f"subset/{TIES}"]
    for name, values in ties_columns(items, _random_scores(items)).items():
        chance_columns[f"{TIES}/{name}"] = values
    differences = table.differences | margins
    # Prompts, of Ties the number of the question: its two items are resampled as one.
    clusters = list(map(str, items.prompts))
    for index, identity in enumerate(items.ids):
        if items.subsets[index] == TIES:
            clusters[index] = f"ties:{_ties_id(identity)[1]}"
    return Outcomes(columns, clusters, sums, table.keys, differences, chance_columns)


def _ties_id(identity: str) -> tuple[str, str]:
    match = _TIES_ID.fullmatch(identity)
    if match is None:
        raise DataError(f'Ties item {identity!r}: expected an id "ref:N" or "tied:N"')
    return match[1], match[2]


def _random_scores(items: ScoredItems) -> list[Floats]:
    """Draws [DRAWS, n_i] of scores that know nothing. How often they prefer correctness depends on
    their distribution, so it is fixed: independent and normal."""
    generator = np.random.default_rng(0)
    return [generator.standard_normal((_DRAWS, len(scores))) for scores in items.scores]


def ties_columns(items: ScoredItems, scores: Sequence[Floats]) -> dict[str, Floats]:
    """The five terms of the Ties score as columns [N], of scores [n_i] or as means over draws of
    them [draws, n_i]. An item's id is "ref:N" (one right answer) or "tied:N" (several); it is
    accurate when its worst right answer beats its best wrong one.
    For a question with both: are the right answers closer to each other than the worst of them to
    the best wrong one, in the tied item (preferred), and in the harder of the two (preferred_hard);
    the margin is tanh(harder gap / range of the right ones − 1), and 0 where that is 0/0."""
    empty = np.full((len(TIES_WEIGHTS), len(items.scores)), np.nan)
    columns = dict(zip(TIES_WEIGHTS, empty, strict=True))
    questions: dict[str, dict[str, int]] = {}
    gaps: dict[int, Floats] = {}
    for index, identity in enumerate(items.ids):
        if items.subsets[index] == TIES:
            kind, number = _ties_id(identity)
            questions.setdefault(number, {})[kind] = index
            gaps[index] = _gap(scores[index], items.chosen[index])
            columns[f"{kind}_accuracy"][index] = np.mean(gaps[index] > 0)
    for question in questions.values():
        # Without its pendant an item has an accuracy, but nothing to prefer.
        if len(question) == 2:
            ref, tied = question["ref"], question["tied"]
            score_range = np.asarray(np.ptp(scores[tied][..., : items.chosen[tied]], axis=-1))
            for name, values in _preferences(gaps[ref], gaps[tied], score_range).items():
                columns[name][tied] = np.mean(values)
    return columns


def _gap(scores: Floats, chosen: int) -> Floats:
    """The worst right answer less the best wrong one."""
    return np.asarray(scores[..., :chosen].min(axis=-1) - scores[..., chosen:].max(axis=-1))


def _preferences(ref_gap: Floats, tied_gap: Floats, score_range: Floats) -> dict[str, Any]:
    harder = np.minimum(tied_gap, ref_gap)
    # Right answers with equal scores divide by 0: tanh of infinity is 1, and 0/0 counts as 0.
    with np.errstate(divide="ignore", invalid="ignore"):
        margin = np.tanh(harder / score_range - 1.0)
    return {
        "correctness_preferred": tied_gap > score_range,
        "correctness_preferred_hard": harder > score_range,
        "correctness_margin": np.nan_to_num(margin, nan=0.0),
    }


FORMAT = Format(
    "candidates",
    parse,
    "{prompt, chosen: [...], rejected: [...], num_correct, subset, id}",
    signs=frozenset({"chosen", "rejected", "num_correct"}),
)
REWARDBENCH_2 = Benchmark(
    "rewardbench-2",
    "RewardBench 2",
    FORMAT,
    rule,
    ("overall", *DOMAINS),
    hub="allenai/reward-bench-2",
    pieces=(Piece("", "test"),),
    format_name="rewardbench2",
    about="overall is the plain mean of the domains; Ties has a score of its own, as published.",
)
