"""Pearson and Spearman correlation, the latter with an interval over clusters.
A resample is a weight for each item, and ranks are recomputed under those weights from one sorting:
scipy's correlations, which tests compare with, know neither weights nor clusters."""

import math

import numpy as np

from smorm.arrays import Clusters, Floats, Ints
from smorm.evaluation.metrics import Metric, cluster_codes, interval


def pearson(x: Floats, y: Floats) -> float:
    """Linear correlation of x [N] and y [N]; NaN when N < 2 or either is constant."""
    return _weighted_pearson(x, y, np.ones(len(x)))


def spearman(x: Floats, y: Floats) -> float:
    """Rank correlation of x [N] and y [N], ties by average rank; NaN as for `pearson`. Source:
    Spearman (1904); equals the Pearson correlation of the ranks."""
    ones = np.ones(len(x))
    return _weighted_pearson(_ranks(_value_codes(x), ones), _ranks(_value_codes(y), ones), ones)


def spearman_draws(
    x: Floats, y: Floats, clusters: Clusters, *, resamples: int = 400, seed: int = 0
) -> Floats:
    """Rank correlations [R] when clusters are resampled; NaN in x or y masks an item. They depend
    on (clusters, seed) only: draws of several columns over the same items may be averaged draw by
    draw. All NaN with fewer than two clusters left."""
    codes, groups = cluster_codes(clusters, len(x))
    known = np.isfinite(x) & np.isfinite(y)
    draws = np.full(resamples, np.nan)
    if len(np.unique(codes[known])) < 2:
        return draws
    # Clusters without any known item are drawn too: that keeps columns' draws comparable.
    codes, x_codes, y_codes = codes[known], _value_codes(x[known]), _value_codes(y[known])
    generator = np.random.default_rng(seed)
    for draw in range(resamples):
        times = np.bincount(generator.integers(groups, size=groups), minlength=groups)
        weight = times[codes].astype(np.float64)
        draws[draw] = _weighted_pearson(_ranks(x_codes, weight), _ranks(y_codes, weight), weight)
    return draws


def spearman_metric(x: Floats, y: Floats, clusters: Clusters) -> Metric:
    """Rank correlation over the items that have both numbers, with the interval over clusters."""
    known = np.isfinite(x) & np.isfinite(y)
    value = spearman(x[known], y[known])
    if math.isnan(value):
        return Metric(value, int(known.sum()))
    return Metric(value, int(known.sum()), *interval(spearman_draws(x, y, clusters)))


def length_correlations(scores: Floats, lengths: Floats, prompts: Clusters) -> dict[str, Metric]:
    """Rank correlation of score and length over all responses [N], plain and centred within each
    prompt (Bradley–Terry fixes no offset between prompts)."""
    plain = spearman_metric(scores, lengths, prompts)
    within = spearman_metric(centred(scores, prompts), centred(lengths, prompts), prompts)
    return {"length_correlation": plain, "length_correlation_within_prompt": within}


def centred(values: Floats, clusters: Clusters) -> Floats:
    """Values [N] less the mean of their cluster."""
    codes, groups = cluster_codes(clusters, len(values))
    # Every cluster has at least one value, so nothing is divided by 0.
    means = np.bincount(codes, values, groups) / np.bincount(codes, minlength=groups)
    # Rounded, so that values equal but for rounding stay tied in a rank correlation.
    scale = float(np.abs(values).max()) or 1.0
    return np.asarray(np.round((values - means[codes]) / scale, 12) * scale)


def _value_codes(x: Floats) -> Ints:
    """For each item, the index of its value among the sorted distinct values."""
    return np.asarray(np.unique(x, return_inverse=True)[1], dtype=np.int64)


def _ranks(codes: Ints, weight: Floats) -> Floats:
    """Average rank of each item when item i is present `weight[i]` times."""
    times = np.bincount(codes, weight)
    # Of t equal values that end at rank c, the average rank is c - (t - 1) / 2.
    return np.asarray((np.cumsum(times) - (times - 1) / 2)[codes])


def _weighted_pearson(x: Floats, y: Floats, weight: Floats) -> float:
    # An item of weight 0 was not drawn: what remains may be constant, and then has no correlation.
    present = weight > 0
    if present.sum() < 2 or np.ptp(x[present]) == 0 or np.ptp(y[present]) == 0:
        return math.nan
    x = x - np.average(x, weights=weight)
    y = y - np.average(y, weights=weight)
    # Two roots, not one of the product, which could overflow.
    scale = math.sqrt(float(weight @ (x * x))) * math.sqrt(float(weight @ (y * y)))
    if scale == 0.0:  # squares below the smallest float
        return math.nan
    return max(-1.0, min(1.0, float(weight @ (x * y)) / scale))
