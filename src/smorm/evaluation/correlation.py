"""Pearson and Spearman correlation, the latter with an interval over clusters.
A resample is a weight for each item, and ranks are recomputed under those weights from one sorting:
scipy's correlations, which tests compare with, know neither weights nor clusters."""

import math

import numpy as np

from smorm.arrays import Clusters, Floats, Ints
from smorm.evaluation.metrics import Metric, cluster_codes, interval

_CELLS = 1 << 15
"""So many weights of resamples at once: their tables stay in a core's cache."""


def pearson(x: Floats, y: Floats) -> float:
    """Linear correlation of x [N] and y [N]; NaN when N < 2 or either is constant."""
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan
    return _of_centred(x - np.average(x), y - np.average(y), np.ones(len(x)))


def spearman(x: Floats, y: Floats) -> float:
    """Rank correlation of x [N] and y [N], ties by average rank; NaN as for `pearson`. Source:
    Spearman (1904); equals the Pearson correlation of the ranks."""
    return float(_rank_correlations(_value_codes(x), _value_codes(y), np.ones((1, len(x))))[0])


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
    # Many resamples at once where items are few: one by one, calls would take most of the time.
    together = max(1, _CELLS // max(groups, len(codes)))
    for first in range(0, resamples, together):
        rows = np.arange(min(together, resamples - first))[:, None]
        drawn = generator.integers(groups, size=(len(rows), groups)) + groups * rows
        times = np.bincount(drawn.ravel(), minlength=groups * len(rows)).reshape(-1, groups)
        weights = times.take(codes, axis=1).astype(np.float64)
        draws[first : first + len(rows)] = _rank_correlations(x_codes, y_codes, weights)
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


def _rank_correlations(x_codes: Ints, y_codes: Ints, weights: Floats) -> Floats:
    """Correlations [R] of ranks when item i is present `weights[r, i]` times in resample r; NaN
    where the items that are present have one value of x, or of y."""
    correlations = np.full(len(weights), np.nan)
    x_times, y_times = (_times_of_values(codes, weights) for codes in (x_codes, y_codes))
    # An item of weight 0 was not drawn: what remains may be constant.
    varied = ((x_times > 0).sum(axis=1) > 1) & ((y_times > 0).sum(axis=1) > 1)
    weights = weights[varied]
    x = _centred_ranks(x_codes, x_times[varied], weights)
    y = _centred_ranks(y_codes, y_times[varied], weights)
    correlations[varied] = list(map(_of_centred, x, y, weights))
    return correlations


def _times_of_values(codes: Ints, weights: Floats) -> Floats:
    """How often each of V values is present in each resample [R, V]."""
    order = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[order], np.arange(codes.max(initial=-1) + 1))
    return np.asarray(np.add.reduceat(weights.take(order, axis=1), starts, axis=1))


def _centred_ranks(codes: Ints, times: Floats, weights: Floats) -> Floats:
    """Average rank of each item, less the mean of those that are present [R, N]."""
    # Of t equal values that end at rank c, the average rank is c - (t - 1) / 2.
    ranks = (np.cumsum(times, axis=1) - (times - 1) / 2).take(codes, axis=1)
    means = (ranks * weights).sum(axis=1) / weights.sum(axis=1)
    return np.asarray(ranks - means[:, None])


def _of_centred(x: Floats, y: Floats, weight: Floats) -> float:
    # Two roots, not one of the product, which could overflow.
    scale = math.sqrt(float(weight @ (x * x))) * math.sqrt(float(weight @ (y * y)))
    if scale == 0.0:  # squares below the smallest float
        return math.nan
    return max(-1.0, min(1.0, float(weight @ (x * y)) / scale))
