"""Does a good response score best? Scored responses with labels, and accuracies over them.
Shapes: `N` items; an item has `n_i` responses, of which the first `chosen[i]` are the good ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from smorm.arrays import Clusters, Floats
from smorm.errors import DataError
from smorm.evaluation import metrics as numbers
from smorm.evaluation.correlation import length_correlations
from smorm.evaluation.metrics import Metric, cluster_codes, pair_outcomes
from smorm.evaluation.outcomes import Outcomes, Weights, difference, single, split, weighted
from smorm.evaluation.result import Measurement

TIES = "ties_half"
LENGTH, SHORTEST = "length_only", "shortest_only"
Rule = Callable[[Floats, int], float]
_SHARES = ("accuracy", "accuracy_chosen_longer", "accuracy_chosen_shorter")


@dataclass(frozen=True, slots=True)
class ScoredItems:
    """Items in one order: scores and lengths of their responses, and what they belong to."""

    scores: Sequence[Floats]  # per item the scores of its responses [n_i]
    lengths: Sequence[Floats]  # per item their lengths, in words [n_i]
    chosen: Sequence[int]  # per item how many of them, from the first, are good [N]
    subsets: Sequence[str]  # per item the benchmark's subset, domain or category [N]
    ids: Sequence[str]  # per item the published id, "" where it has none [N]
    prompts: Clusters  # a label of the prompt of each item, which intervals resample [N]
    keys: Sequence[str]  # what identifies an item, the same for every model [N]

    def __post_init__(self) -> None:
        """Raises DataError where a score is not finite, or an item has nothing to compare."""
        numbers.require_finite("scores", np.concatenate(list(self.scores)))
        for index, (scores, chosen) in enumerate(zip(self.scores, self.chosen, strict=True)):
            if not 0 < chosen < len(scores):
                counts = f"{chosen} good of {len(scores)} responses"
                raise DataError(f"item {index}: {counts}: a comparison needs both")

    def by_length(self) -> dict[str, ScoredItems]:
        """The same items scored by "the longest response wins" and by "the shortest one wins"."""
        shortest = list(map(np.negative, self.lengths))
        rules = {LENGTH: self.lengths, SHORTEST: shortest}
        return {name: replace(self, scores=scores) for name, scores in rules.items()}

    def chance(self) -> Floats:
        """The probability [N] that random scores without ties put a good response first."""
        return np.asarray(np.array(self.chosen) / np.array(list(map(len, self.scores))))


def wins(scores: Floats, chosen: int) -> float:
    """1 where the best good response beats every other strictly, else 0: a tie is a loss. With one
    good response this is RewardBench's and RMB's rule (`chosen > rejected`, of all)."""
    return float(scores[:chosen].max() > scores[chosen:].max())


def expected_wins(scores: Floats, chosen: int) -> float:
    """The probability that the best is a good one when ties are broken at random. A tie of two
    counts half; RewardBench 2 counts so (one over the number tied at the top)."""
    top = scores == scores.max()
    return float(top[:chosen].sum() / top.sum())


def outcomes(items: ScoredItems, rule: Rule) -> Floats:
    """A rule's outcome of each item [N]."""
    return np.array(list(map(rule, items.scores, items.chosen)))


def tied(items: ScoredItems) -> int:
    """How many items have a good and another response that share the top score."""
    return int((outcomes(items, wins) != outcomes(items, expected_wins)).sum())


def accuracies(
    items: ScoredItems, rule: Rule, sections: Mapping[str, Weights], overall: Weights | None = None
) -> Outcomes:
    """Accuracies by subset, by section and overall, with ties broken at random and by length. Each
    section has weights over subsets that sum to 1, `overall` over sections (None: all items alike).
    Numbers: `overall`, each section, `subset/NAME`, all by `rule`; `ties_half/...` of overall and
    sections where ties count as broken at random (where `rule` does not); `length_only/...`
    and `shortest_only/...`, the same for the rules that the longest and the shortest one wins."""
    columns: dict[str, Floats] = {}
    sums: dict[str, Weights] = {}
    scorings = [("", items, rule)]
    if rule is not expected_wins:
        scorings.append((f"{TIES}/", items, expected_wins))
    for name, by_rule in items.by_length().items():
        scorings.append((f"{name}/", by_rule, expected_wins))
    # The same arithmetic for each scoring, so that they differ in nothing else.
    for prefix, scored, scoring_rule in scorings:
        values = outcomes(scored, scoring_rule)
        columns |= {f"{prefix}all": values, **split(values, items.subsets, f"{prefix}subset/")}
        sums |= _sums(prefix, sections, overall)
    of_subsets = split(items.chance(), items.subsets, "subset/")
    sums |= single(of_subsets)
    sums["overall_minus_length_only"] = difference(sums["overall"], sums[f"{LENGTH}/overall"])
    differences = frozenset({"overall_minus_length_only"})
    chance_columns = {"all": items.chance(), **of_subsets}
    return Outcomes(columns, items.prompts, sums, items.keys, differences, chance_columns)


def _sums(
    prefix: str, sections: Mapping[str, Weights], overall: Weights | None
) -> dict[str, Weights]:
    sums: dict[str, Weights] = {f"{prefix}overall": {f"{prefix}all": 1.0}}
    for name, weights in sections.items():
        sums[prefix + name] = {f"{prefix}subset/{subset}": w for subset, w in weights.items()}
    # A mean of sections is again a weighted sum of subsets; a subset may be in two sections.
    if overall:
        total: dict[str, float] = {}
        for section, share in overall.items():
            for column, weight in sums[prefix + section].items():
                total[column] = total.get(column, 0.0) + share * weight
        sums[f"{prefix}overall"] = total
    return sums


def present(subsets: Sequence[str], sections: Mapping[str, Weights]) -> dict[str, dict[str, float]]:
    """Sections cut to the subsets that occur, each with weights that sum to 1 again."""
    occurring = set(subsets)
    cut = {}
    # A file may hold only some subsets: the others' weights go to those of their section.
    for section, weights in sections.items():
        if of_section := {name: weights[name] for name in weights if name in occurring}:
            cut[section] = weighted(of_section)
    return cut


def length_correlations_of(items: ScoredItems) -> dict[str, Metric]:
    """Spearman of score with length over all responses, plain and within each prompt."""
    sizes = list(map(len, items.scores))
    item_of_response = np.repeat(np.arange(len(sizes)), sizes)
    # Responses of one item share its prompt, and items may share prompts among each other.
    codes = cluster_codes(items.prompts, len(sizes))[0][item_of_response]
    scores, lengths = np.concatenate(list(items.scores)), np.concatenate(list(items.lengths))
    return length_correlations(scores, lengths, codes)


def measure_pairs(
    chosen: Floats,
    rejected: Floats,
    prompts: Clusters,
    *,
    chosen_lengths: Floats,
    rejected_lengths: Floats,
    length_unit: str,
    keys: Sequence[str] | None = None,
) -> Measurement:
    """The `pairs` suite, from scores and lengths of the preferred responses and of the others [N].
    `length_unit` is for a note, `keys` identify pairs, the same for every model.
    Metrics: `accuracy` (ties as half), `length_only_accuracy` and `shortest_only_accuracy` (the
    longer, the shorter response wins), the difference to the first of these, the accuracy where the
    preferred response is the longer or the shorter one, the mean `margin` (in units of the score),
    and the Spearman `length_correlation` of score and length over all 2N responses, plain and with
    both centred within each prompt.

    Raises:
        DataError: shapes differ, there is no pair, or a score or length is NaN or infinite."""
    chosen = numbers.as_floats("scores of chosen responses", chosen, None)
    count = len(chosen)
    rejected = numbers.as_floats("scores of rejected responses", rejected, count)
    chosen_lengths = numbers.as_floats("lengths of chosen responses", chosen_lengths, count)
    rejected_lengths = numbers.as_floats("lengths of rejected responses", rejected_lengths, count)
    numbers.require_finite("lengths of chosen responses", chosen_lengths)
    numbers.require_finite("lengths of rejected responses", rejected_lengths)
    columns = _pair_columns(chosen, rejected, chosen_lengths, rejected_lengths)
    keys = keys or list(map(str, range(count)))
    differences = frozenset({"accuracy_minus_length_only", "margin"})
    chance_columns = {name: np.full(count, 0.5) for name in _SHARES if name in columns}
    table = Outcomes(columns, prompts, single(columns), keys, differences, chance_columns)
    # Both responses of a pair belong to its prompt, so both are resampled with it.
    codes, groups = cluster_codes(prompts, count)
    scores = np.concatenate([chosen, rejected])
    lengths = np.concatenate([chosen_lengths, rejected_lengths])
    with_length = length_correlations(scores, lengths, np.concatenate([codes, codes]))
    ties = int((chosen == rejected).sum())
    length_ties = int((chosen_lengths == rejected_lengths).sum())
    notes = (
        f"{count} pairs over {groups} prompts; intervals resample prompts.",
        f"{ties} pairs with equal scores count as half.",
        f"Length is in {length_unit}; {length_ties} pairs have two responses of equal length "
        "and count as half for both length rules.",
    )
    return Measurement(table.metrics() | with_length, notes, table, table.chance_levels())


def _pair_columns(
    chosen: Floats, rejected: Floats, chosen_lengths: Floats, rejected_lengths: Floats
) -> dict[str, Floats]:
    """Each number of `measure_pairs` that is a mean over pairs, as values of the pairs [N]."""
    # Ties as half: a score that is constant is then worth chance, not zero.
    outcomes = pair_outcomes(chosen, rejected)[0]
    by_length = pair_outcomes(chosen_lengths, rejected_lengths)[0]
    columns = {
        "accuracy": outcomes,
        "length_only_accuracy": by_length,
        "shortest_only_accuracy": 1.0 - by_length,
        "accuracy_minus_length_only": outcomes - by_length,
        "accuracy_chosen_longer": np.where(by_length == 1.0, outcomes, np.nan),
        "accuracy_chosen_shorter": np.where(by_length == 0.0, outcomes, np.nan),
        "margin": chosen - rejected,
    }
    # Where no preferred response is the longer one, there is no accuracy of those.
    for name in _SHARES[1:]:
        if np.isnan(columns[name]).all():
            del columns[name]
    return columns
