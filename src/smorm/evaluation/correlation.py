"""Pearson and Spearman correlation, the latter with an interval over clusters.

Ties share their average rank. A resample is a weight for each item, and ranks are recomputed under
those weights from one sorting, so that hundreds of resamples of 100 000 items take seconds.
"""

from __future__ import annotations

import math

import numpy as np

from smorm.arrays import Floats, Ints
from smorm.evaluation.metrics import (
    Clusters,
    Metric,
    cluster_codes,
    interval,
)


def pearson(x: Floats, y: Floats) -> float:
    """Linear correlation of x [N] and y [N]; NaN when N < 2 or either is constant."""
    return _weighted_pearson(x, y, np.ones(len(x)))


def spearman(x: Floats, y: Floats) -> float:
    """Rank correlation of x [N] and y [N], ties by average rank; NaN as for `pearson`.

    Source: Spearman (1904); equals the Pearson correlation of the ranks.
    """
    ones = np.ones(len(x))
    return _weighted_pearson(_ranks(_places(x), ones), _ranks(_places(y), ones), ones)


def spearman_draws(
    x: Floats, y: Floats, clusters: Clusters, *, resamples: int = 400, seed: int = 0
) -> Floats:
    """Rank correlations [R] when clusters are resampled; NaN in x or y masks an item.

    The resamples depend on (clusters, seed) only: draws of several columns over the same items
    belong together and may be averaged draw by draw. All NaN with fewer than two clusters left.
    """
    codes, groups = cluster_codes(clusters, len(x))
    keep = np.isfinite(x) & np.isfinite(y)
    draws = np.full(resamples, np.nan)
    if len(np.unique(codes[keep])) < 2:
        return draws
    codes, x, y = codes[keep], x[keep], y[keep]
    x_places, y_places = _places(x), _places(y)
    generator = np.random.default_rng(seed)
    for draw in range(resamples):
        chosen = np.bincount(generator.integers(groups, size=groups), minlength=groups)
        weight = chosen[codes].astype(np.float64)
        draws[draw] = _weighted_pearson(_ranks(x_places, weight), _ranks(y_places, weight), weight)
    return draws


def spearman_metric(x: Floats, y: Floats, clusters: Clusters) -> Metric:
    """Rank correlation over the items that have both numbers, with the interval over clusters."""
    keep = np.isfinite(x) & np.isfinite(y)
    value = spearman(x[keep], y[keep])
    if math.isnan(value):
        return Metric(value, int(keep.sum()))
    return Metric(value, int(keep.sum()), *interval(spearman_draws(x, y, clusters)))


def length_correlations(scores: Floats, lengths: Floats, prompts: Clusters) -> dict[str, Metric]:
    """How a score goes with length over all responses [N], plain and centred within each prompt
    (Bradley–Terry fixes no offset between prompts)."""
    return {
        "length_correlation": spearman_metric(scores, lengths, prompts),
        "length_correlation_within_prompt": spearman_metric(
            centred(scores, prompts), centred(lengths, prompts), prompts
        ),
    }


def centred(values: Floats, clusters: Clusters) -> Floats:
    """Values [N] less the mean of their cluster."""
    codes, groups = cluster_codes(clusters, len(values))
    means = np.bincount(codes, values, groups) / np.bincount(codes, minlength=groups)
    # Rounded, so that values equal but for rounding stay tied in a rank correlation.
    scale = float(np.abs(values).max()) or 1.0
    return np.asarray(np.round((values - means[codes]) / scale, 12) * scale)


def _places(x: Floats) -> Ints:
    """For each item, the place of its value among the sorted distinct values."""
    return np.asarray(np.unique(x, return_inverse=True)[1], dtype=np.int64)


def _ranks(places: Ints, weight: Floats) -> Floats:
    """Average rank of each item when item i is present `weight[i]` times."""
    present = np.bincount(places, weight)
    return np.asarray((np.cumsum(present) - (present - 1) / 2)[places])


def _weighted_pearson(x: Floats, y: Floats, weight: Floats) -> float:
    present = weight > 0
    if present.sum() < 2 or np.ptp(x[present]) == 0 or np.ptp(y[present]) == 0:
        return math.nan
    x = x - np.average(x, weights=weight)
    y = y - np.average(y, weights=weight)
    spread = math.sqrt(float(weight @ (x * x))) * math.sqrt(float(weight @ (y * y)))
    if spread == 0.0:  # squares below the smallest float
        return math.nan
    return max(-1.0, min(1.0, float(weight @ (x * y)) / spread))
