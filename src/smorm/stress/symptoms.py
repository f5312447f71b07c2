"""Symptoms of over-optimisation that need no gold: what the picks look like, and whether the two
heads disagree about them.

Shapes: `N` answers of a pool, `M` answers of all pools, `C` sizes n."""

import math
import re
from collections.abc import Sequence

import numpy as np

from smorm.arrays import Bools, Clusters, Floats, Ints
from smorm.evaluation.metrics import Metric, cluster_codes, interval
from smorm.stress.best_of_n import pick_probabilities, spread_within

TEXT_MEASURES = ("length", "repetition", "distinct_2", "format")

_MARKDOWN = re.compile(r"\s*([-*+•]\s|\d+[.)]\s|#{1,6}\s|>\s|\||```)|.*\*\*[^*]+\*\*")
_RESAMPLES = 400


def text_measures(texts: Sequence[str]) -> dict[str, Floats]:
    """What answers look like, each measure [N]. `length` in words; `repetition`, the share of
    3-grams of words that stood before (rep-n of Welleck et al. 2020, 0 where there is none);
    `distinct_2`, different 2-grams over all within the answer (Li et al. 2016; 1 where there is
    none); `format`, the share of lines that begin with a mark of Markdown (list, heading, quote,
    table, code) or hold bold text."""
    rows = []
    for text in texts:
        words = text.split()
        repetition = 1.0 - _distinct(words, 3)
        lines = list(filter(str.strip, text.splitlines()))
        formatted = sum(map(bool, map(_MARKDOWN.match, lines))) / max(1, len(lines))
        rows.append((float(len(words)), repetition, _distinct(words, 2), formatted))
    columns = np.array(rows, dtype=np.float64).reshape(-1, len(TEXT_MEASURES)).T
    return dict(zip(TEXT_MEASURES, columns, strict=True))


def _distinct(words: Sequence[str], size: int) -> float:
    """Different n-grams over all n-grams; 1 where there is none."""
    count = len(words) - size + 1
    if count < 1:
        return 1.0
    return len(set(zip(*(words[start:] for start in range(size)), strict=False))) / count


def standardised(what: str, values: Sequence[Floats]) -> list[Floats]:
    """Scores of pools, each less its pool's mean, in standard deviations within pools."""
    std = spread_within(what, values)
    return [(scores - scores.mean()) / std for scores in values]


def disagreement(preference: Sequence[Floats], attributes: Sequence[Floats]) -> list[Floats]:
    """How far two scores of the same answers are apart, both standardised: |z - z'| [N] a pool."""
    first = standardised("preference head", preference)
    second = standardised("attribute heads", attributes)
    return [np.abs(a - b) for a, b in zip(first, second, strict=True)]


def detection(
    signal: Sequence[Floats],
    proxy: Sequence[Floats],
    gold: Sequence[Floats],
    sizes: Sequence[int],
    prompts: Clusters,
) -> dict[str, Metric]:
    """How well a signal tells harmful picks from others: the area under its ROC at each n.

    An answer counts with its probability to be the pick of n. A pick is harmful (truly
    over-optimised) when its gold is below the mean gold of its pool: choosing at random would have
    been better. 1/2 is no detection at all. NaN where all picks are of one kind; no interval where
    those of a kind are of a single prompt.

    Args:
        signal, proxy, gold: values [N] of each pool.
        sizes: sizes n [C].
        prompts: a label for each pool."""
    weights = np.concatenate([pick_probabilities(scores, sizes) for scores in proxy], axis=1)
    harmful = np.concatenate([scores < scores.mean() for scores in gold])
    codes, groups = cluster_codes(prompts, len(signal))
    clusters = np.repeat(codes, list(map(len, signal)))
    # Only the order of the signal counts, and equal values must share a rank.
    ranks = np.unique(np.concatenate(list(signal)), return_inverse=True)[1]
    metrics = {}
    for size, weight in zip(sizes, weights, strict=True):
        value, draws = _areas(ranks, harmful, weight, clusters, groups)
        metrics[f"disagreement_auc@{size}"] = Metric(value, len(signal), *interval(draws))
    return metrics


def roc_area(ranks: Ints, positive: Floats, negative: Floats) -> float:
    """Area under the ROC of items [M] by their ranks, with weights as positive and as negative
    ones: a tie counts as half; NaN where there is none of a kind."""
    above, below = np.bincount(ranks, positive), np.bincount(ranks, negative)
    total = positive.sum() * negative.sum()
    if not total > 0:
        return math.nan
    # Of each rank: all negatives below it count, and those of the same rank as half.
    return float(above @ (np.cumsum(below) - below / 2) / total)


def _areas(
    ranks: Ints, harmful: Bools, weight: Floats, clusters: Ints, groups: int
) -> tuple[float, Floats]:
    """The area, and its bootstrap draws over prompts."""
    positive, negative = np.where(harmful, weight, 0.0), np.where(harmful, 0.0, weight)
    value = roc_area(ranks, positive, negative)
    draws = np.full(_RESAMPLES, np.nan)
    # A resample without that one prompt would have no value, all others nearly the same.
    if min(len(np.unique(clusters[side > 0])) for side in (positive, negative)) < 2:
        return value, draws
    generator = np.random.default_rng(0)
    for draw in range(_RESAMPLES):
        times = np.bincount(generator.integers(groups, size=groups), minlength=groups)[clusters]
        draws[draw] = roc_area(ranks, positive * times, negative * times)
    return value, draws
