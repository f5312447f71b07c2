"""Intervals of numbers that are not plain means: ratios of means, quantiles, linear correlations.
Shapes: `N` items, `C` columns, `R` resamples."""

from collections.abc import Callable, Sequence

import numpy as np

from smorm.arrays import Clusters, Floats
from smorm.evaluation.correlation import centred, pearson, spearman_metric
from smorm.evaluation.metrics import Metric, bootstrap_means, cluster_codes, interval

Statistic = Callable[[Floats], Floats]
_RESAMPLES = 400  # of a quantile


def of_means(columns: Sequence[Floats], clusters: Clusters, statistic: Statistic) -> Metric:
    """A function of the means of C columns [N] (NaN: the item does not count in it), with its
    interval over clusters; `statistic` maps means [R, C] to numbers [R]."""
    table = np.stack(list(columns), axis=1)
    # Resamples whose denominator is 0 give NaN, which `interval` leaves out.
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(statistic(np.nanmean(table, axis=0)[None])[0])
        draws = statistic(bootstrap_means(table, clusters))
    return Metric(value, len(table), *interval(draws))


def ratio(top: Floats, bottom: Floats, clusters: Clusters) -> Metric:
    """E top / E bottom over the items [N]."""
    return of_means([top, bottom], clusters, lambda means: means[:, 0] / means[:, 1])


def quantile_metric(values: Floats, level: float, clusters: Clusters) -> Metric:
    """A quantile of values [N]: the smallest that a share `level` of the items does not exceed."""
    codes, groups = cluster_codes(clusters, len(values))
    order = np.argsort(values, kind="stable")
    values, codes = values[order], codes[order]
    value = values[_quantile_index(np.ones(len(values)), level)]
    if groups < 2:
        return Metric(float(value), len(values))
    # One sorting for all resamples: a resample only changes how often each item counts.
    generator, draws = np.random.default_rng(0), np.empty(_RESAMPLES)
    for draw in range(_RESAMPLES):
        times = np.bincount(generator.integers(groups, size=groups), minlength=groups)
        draws[draw] = values[_quantile_index(times[codes].astype(np.float64), level)]
    return Metric(float(value), len(values), *interval(draws))


def _quantile_index(weight: Floats, level: float) -> int:
    """The first item at which the cumulated weights reach the level's share of all."""
    cumulated = np.cumsum(weight)
    # Slightly less than the level: rounding of the product must not skip an item.
    return int(np.searchsorted(cumulated, level * cumulated[-1] * (1 - 1e-12)))


def pearson_metric(x: Floats, y: Floats, clusters: Clusters) -> Metric:
    """Linear correlation of x [N] and y [N]."""

    def correlation(means: Floats) -> Floats:
        xx, yy, xy, x_mean, y_mean = means.T
        scale = np.sqrt((xx - x_mean**2) * (yy - y_mean**2))
        return np.asarray((xy - x_mean * y_mean) / scale).clip(-1.0, 1.0)

    resampled = of_means([x * x, y * y, x * y, x, y], clusters, correlation)
    # The value itself by centred sums, which lose fewer digits than differences of moments.
    return Metric(pearson(x, y), resampled.n, resampled.low, resampled.high)


def within_prompt(x: Floats, y: Floats, prompts: Clusters) -> dict[str, Metric]:
    """Spearman and Pearson of x [N] and y [N], each centred within its prompt. Bradley–Terry fixes
    no offset between prompts, so two rewards may be compared only so."""
    x, y = centred(x, prompts), centred(y, prompts)
    return {"spearman": spearman_metric(x, y, prompts), "pearson": pearson_metric(x, y, prompts)}
