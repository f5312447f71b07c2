"""Symptoms of over-optimisation that need no gold: what the picks look like, and whether the two
heads disagree about them.

Shapes: `N` answers of a pool, `M` answers of all pools, `C` sizes n.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from smorm.evaluation.metrics import Clusters, Floats, Ints, Metric, cluster_codes, interval
from smorm.stress.best_of_n import pick_chances, spread_within

TEXT_MEASURES = ("length", "repetition", "distinct_2", "format")

_MARKDOWN = re.compile(r"\s*([-*+•]\s|\d+[.)]\s|#{1,6}\s|>\s|\||```)|.*\*\*[^*]+\*\*")


def text_measures(texts: Sequence[str]) -> dict[str, Floats]:
    """What answers look like, each measure [N].

    `length` in words; `repetition`, the share of 3-grams of words that stood before (rep-n of
    Welleck et al. 2020, 0 where there is none); `distinct_2`, different 2-grams over all within
    the answer (Li et al. 2016; 1 where there is none); `format`, the share of lines that begin
    with a mark of Markdown (list, heading, quote, table, code) or hold bold text.
    """
    words = [text.split() for text in texts]
    return {
        "length": np.array([float(len(one)) for one in words]),
        "repetition": np.array([1.0 - _distinct(one, 3) for one in words]),
        "distinct_2": np.array([_distinct(one, 2) for one in words]),
        "format": np.array([_formatted(text) for text in texts]),
    }


def _distinct(words: Sequence[str], size: int) -> float:
    """Different n-grams over all n-grams; 1 where there is none."""
    grams = [tuple(words[at : at + size]) for at in range(len(words) - size + 1)]
    return len(set(grams)) / len(grams) if grams else 1.0


def _formatted(text: str) -> float:
    lines = [line for line in text.splitlines() if line.strip()]
    return sum(_MARKDOWN.match(line) is not None for line in lines) / len(lines) if lines else 0.0


def standardised(what: str, values: Sequence[Floats]) -> list[Floats]:
    """Scores of pools, each less its pool's mean, in units of the spread within pools.

    Raises:
        DataError: all answers of every pool have the same score.
    """
    spread = spread_within(what, values)
    return [(one - one.mean()) / spread for one in values]


def disagreement(one: Sequence[Floats], other: Sequence[Floats]) -> list[Floats]:
    """How far two scores of the same answers are apart, both standardised: |z − z'| [N] a pool.

    Raises:
        DataError: a score has no spread.
    """
    pairs = zip(
        standardised("preference head", one), standardised("attribute heads", other), strict=True
    )
    return [np.abs(a - b) for a, b in pairs]


def detection(
    signal: Sequence[Floats],
    proxy: Sequence[Floats],
    gold: Sequence[Floats],
    sizes: Sequence[int],
    prompts: Clusters,
) -> dict[str, Metric]:
    """How well a signal tells harmful picks from others: the area under its ROC at each n.

    An answer counts with its chance to be the pick of n. A pick is harmful (truly over-optimised)
    when its gold is below the mean gold of its pool: choosing at random would have been better.
    1/2 is no detection at all. NaN where all picks are of one kind; no interval where those of a
    kind are of a single prompt.

    Args:
        signal, proxy, gold: values [N] of each pool.
        sizes: sizes n [C].
        prompts: a label for each pool.
    """
    chances = [pick_chances(one, sizes) for one in proxy]
    harmful = np.concatenate([one < one.mean() for one in gold])
    values = np.concatenate(list(signal))
    codes, groups = cluster_codes(prompts, len(signal))
    owners = np.repeat(codes, [len(one) for one in signal])
    found = {}
    for at, size in enumerate(sizes):
        weight = np.concatenate([one[at] for one in chances])
        value, draws = _areas(values, harmful, weight, owners, groups)
        found[f"disagreement_auc@{size}"] = Metric(value, len(signal), *interval(draws))
    return found


def roc_area(values: Floats, positive: Sequence[bool], weight: Floats) -> float:
    """Area under the ROC of weighted items [M]: the chance that a positive one has the larger
    value, a tie as half. NaN where there is none of a kind."""
    places = np.unique(values, return_inverse=True)[1]
    is_positive = np.asarray(positive, dtype=bool)
    return _area(places, np.where(is_positive, weight, 0.0), np.where(is_positive, 0.0, weight))


def _area(places: Ints, positive: Floats, negative: Floats) -> float:
    above, below = np.bincount(places, positive), np.bincount(places, negative)
    total = positive.sum() * negative.sum()
    if not total > 0:
        return math.nan
    return float(above @ (np.cumsum(below) - below / 2) / total)


def _areas(
    values: Floats,
    harmful: NDArray[np.bool_],
    weight: Floats,
    owners: Ints,
    groups: int,
    *,
    resamples: int = 400,
) -> tuple[float, Floats]:
    """The area, and its bootstrap draws over prompts."""
    places = np.unique(values, return_inverse=True)[1]
    positive, negative = np.where(harmful, weight, 0.0), np.where(harmful, 0.0, weight)
    value = _area(places, positive, negative)
    draws = np.full(resamples, np.nan)
    # a resample without that one prompt would have no value, all others nearly the same
    if min(len(np.unique(owners[side > 0])) for side in (positive, negative)) < 2:
        return value, draws
    generator = np.random.default_rng(0)
    for draw in range(resamples):
        times = np.bincount(generator.integers(groups, size=groups), minlength=groups)[owners]
        draws[draw] = _area(places, positive * times, negative * times)
    return value, draws
