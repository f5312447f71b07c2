"""Scored candidates of which some are known to be good, and the rules that turn them to outcomes.

Shapes: `N` items; an item has `n_i` responses, of which the first `chosen[i]` are the good ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from smorm.arrays import Floats
from smorm.errors import DataError
from smorm.evaluation.correlation import length_correlations
from smorm.evaluation.metrics import (
    Clusters,
    Metric,
    cluster_codes,
    require_finite,
)
from smorm.evaluation.outcomes import Outcomes, Weights, even, split

TIES = "ties_half"
LENGTH = "length_only"


@dataclass(frozen=True, slots=True)
class Judged:
    """Items in one order: scores and lengths of their responses, and where they belong.

    Attributes:
        scores: per item the scores of its responses [n_i].
        lengths: per item their lengths, in words [n_i].
        chosen: per item how many of them, from the first, are good [N].
        subsets: per item the benchmark's subset, domain or category [N].
        ids: per item the published id, "" where it has none [N].
        prompts: a label of the prompt of each item, which intervals resample [N].
        keys: what tells an item apart, the same for every model [N].
    """

    scores: Sequence[Floats]
    lengths: Sequence[Floats]
    chosen: Sequence[int]
    subsets: Sequence[str]
    ids: Sequence[str]
    prompts: Clusters
    keys: Sequence[str]

    def check(self) -> None:
        """Raises DataError where a score is not finite, or an item has nothing to compare."""
        require_finite("scores", np.concatenate(list(self.scores)))
        for at, (scores, chosen) in enumerate(zip(self.scores, self.chosen, strict=True)):
            if not 0 < chosen < len(scores):
                raise DataError(
                    f"item {at}: {chosen} good of {len(scores)} responses: a comparison needs both"
                )

    def by_length(self) -> Judged:
        """The same items scored by the rule "the longer one wins"."""
        return Judged(
            self.lengths, self.lengths, self.chosen, self.subsets, self.ids, self.prompts, self.keys
        )


Rule = Callable[[Floats, int], float]


def wins(scores: Floats, chosen: int) -> float:
    """1 where the best good response beats every other strictly, else 0: a tie is a loss.

    With one good response this is RewardBench's and RMB's rule (`chosen > rejected`, of all).
    """
    return float(scores[:chosen].max() > scores[chosen:].max())


def expected(scores: Floats, chosen: int) -> float:
    """The chance that the best is a good one when ties are broken at random.

    A tie of two counts half; RewardBench 2 counts so (one over the number tied at the top).
    """
    top = scores == scores.max()
    return float(top[:chosen].sum() / top.sum())


def outcomes(judged: Judged, rule: Rule) -> Floats:
    """A rule's outcome of each item [N]."""
    pairs = zip(judged.scores, judged.chosen, strict=True)
    return np.array([rule(scores, chosen) for scores, chosen in pairs])


def tied(judged: Judged) -> int:
    """How many items have a good and another response that share the top score."""
    return int((outcomes(judged, wins) != outcomes(judged, expected)).sum())


def grouped(
    judged: Judged,
    rule: Rule,
    sections: Mapping[str, Weights],
    overall: Weights | None = None,
) -> Outcomes:
    """Accuracies by subset, by section and overall, under a rule and by the two yardsticks.

    Args:
        rule: the published rule for an item.
        sections: weights over subsets (they sum to 1) for each section; a section is left out
            where it has no subset here.
        overall: weights over sections; None is the plain mean over all items.

    Numbers: `overall`, each section, `subset/NAME`, all by `rule`; `ties_half/...` of overall and
    sections where ties count as broken at random (where `rule` does not); `length_only/...`, the
    same for the rule that the longer one wins.
    """
    columns: dict[str, Floats] = {}
    sums: dict[str, Weights] = {}
    parts = [("", judged, rule), (f"{LENGTH}/", judged.by_length(), expected)]
    if rule is not expected:
        parts.insert(1, (f"{TIES}/", judged, expected))
    for prefix, one, own in parts:
        values = outcomes(one, own)
        columns[f"{prefix}all"] = values
        columns |= split(values, judged.subsets, f"{prefix}subset/")
        top = {f"{prefix}subset/{k}": v for k, v in _sum(sections, overall).items()}
        sums[f"{prefix}overall"] = top or {f"{prefix}all": 1.0}
        for name, weights in sections.items():
            sums[prefix + name] = {f"{prefix}subset/{k}": v for k, v in weights.items()}
    names = [name for name in columns if name.startswith("subset/")]
    sums |= {name: {name: 1.0} for name in names}
    sums["overall_minus_length_only"] = _difference(sums["overall"], sums[f"{LENGTH}/overall"])
    return Outcomes(
        columns, judged.prompts, sums, judged.keys, frozenset({"overall_minus_length_only"})
    )


def _sum(sections: Mapping[str, Weights], overall: Weights | None) -> dict[str, float]:
    """Weights over subsets of a weighted sum of sections; empty where there is none."""
    total: dict[str, float] = {}
    for section, share in (overall or {}).items():
        for subset, weight in sections[section].items():
            total[subset] = total.get(subset, 0.0) + share * weight
    return total


def _difference(one: Weights, other: Weights) -> dict[str, float]:
    return {**one, **{name: -weight for name, weight in other.items()}}


def present(subsets: Sequence[str], wanted: Mapping[str, Weights]) -> dict[str, dict[str, float]]:
    """Sections cut to the subsets that are here, each with weights that sum to 1 again."""
    here, found = set(subsets), {}
    for section, weights in wanted.items():
        kept = {name: weight for name, weight in weights.items() if name in here}
        if total := sum(kept.values()):
            found[section] = {name: weight / total for name, weight in kept.items()}
    return found


def mean_of(sections: Mapping[str, Weights]) -> dict[str, float]:
    """Weights of a plain mean over sections."""
    return even(list(sections))


def length_correlations_of(judged: Judged) -> dict[str, Metric]:
    """Spearman of score with length over all responses, plain and within each prompt."""
    owner = np.repeat(np.arange(len(judged.scores)), [len(scores) for scores in judged.scores])
    codes = cluster_codes(judged.prompts, len(judged.scores))[0][owner]
    scores, lengths = np.concatenate(list(judged.scores)), np.concatenate(list(judged.lengths))
    return length_correlations(scores, lengths, codes)
