"""Numbers with their n and their interval.
Items that share a prompt are not independent, so an interval resamples clusters (prompts), never
single items; with fewer than two clusters there is none (NaN, written as null).
Shapes: `N` items, `C` columns, `G` clusters, `R` resamples. Arrays are float64."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from smorm.arrays import Clusters, Floats, Ints
from smorm.errors import DataError

LEVEL = 0.95
_Z = 1.959963984540054  # the normal quantile that belongs to LEVEL
_ROUNDING = 1e-12
_MAX_ROWS = 4096  # up to so many clusters are resampled one by one


@dataclass(frozen=True, slots=True)
class Metric:
    """A value, its number of items, and its 95 % interval (NaN where there is none)."""

    value: float
    n: int
    low: float = math.nan
    high: float = math.nan

    @property
    def excludes_zero(self) -> bool:
        """Whether there is an interval and 0 is outside it: a difference that holds."""
        return math.isfinite(self.low) and not self.low <= 0 <= self.high

    def __format__(self, form: str) -> str:
        """`0.31 [0.22, 0.40]` with the value's format; without an interval the value alone."""
        if not form:
            return str(self)
        if math.isnan(self.low):
            return format(self.value, form)
        return f"{self.value:{form}} [{self.low:{form}}, {self.high:{form}}]"

    def as_dict(self) -> dict[str, float | int | None]:
        """As in a result file: NaN and infinity become None."""
        value, low, high = map(_finite, (self.value, self.low, self.high))
        return {"value": value, "n": self.n, "low": low, "high": high}


def _finite(number: float) -> float | None:
    return float(number) if math.isfinite(number) else None


def as_floats(name: str, values: Any, *shape: int | None) -> Floats:
    """A float64 array of this shape (None: any length)."""
    array = np.asarray(values, dtype=np.float64)
    fits = array.ndim == len(shape) and all(
        expected in (None, length) for expected, length in zip(shape, array.shape, strict=True)
    )
    if not fits or array.size == 0:
        sizes = " x ".join(str(expected or "any") for expected in shape)
        raise DataError(f"{name}: expected {sizes} numbers, none empty, got shape {array.shape}")
    return array


def require_finite(name: str, values: Floats) -> None:
    """Raise DataError that counts and names the items (rows) with NaN or infinity."""
    bad = ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
    if bad.any():
        count, first = f"{int(bad.sum())} of {len(values)}", f"item {int(np.argmax(bad))} (from 0)"
        problem = f"items are NaN or infinite, the first is {first}"
        raise DataError(f"{name}: {count} {problem}; a comparison with them has no meaning")


def cluster_codes(clusters: Clusters, items: int) -> tuple[Ints, int]:
    """Number the clusters from 0 in sorted order: codes [N] and how many there are."""
    # Not through an array of strings: there a long prompt would pad every label to its length.
    labels: list[Any] = clusters.tolist() if isinstance(clusters, np.ndarray) else list(clusters)
    if len(labels) != items:
        raise DataError(f"clusters: {len(labels)} for {items} items: give one (a prompt) for each")
    code_of = dict(zip(sorted(set(labels)), range(items), strict=False))
    return np.fromiter(map(code_of.__getitem__, labels), np.int64, items), len(code_of)


def bootstrap_means(
    values: Floats, clusters: Clusters, *, resamples: int = 2000, seed: int = 0
) -> Floats:
    """Column means [R, C] of `values` [N] or [N, C] (NaN: missing) when clusters are resampled; all
    NaN with fewer than two. The draws of up to 4096 clusters depend on their labels and the seed
    alone: columns measured separately (two models' on one suite) are resampled alike."""
    columns = values.reshape(len(values), -1)
    codes, groups = cluster_codes(clusters, len(columns))
    # One prompt resampled is itself: an interval of no width would be a lie.
    if groups < 2:
        return np.full((resamples, columns.shape[1]), np.nan)
    table = _cluster_table(columns, codes, groups)
    if groups > _MAX_ROWS:
        generator = np.random.default_rng(seed)
        table, times = _kinds(table, generator)
        weights = _times_drawn(times, resamples, generator).astype(np.float64)
    else:
        weights = _times_each_drawn(groups, resamples, seed).astype(np.float64)
    # All resamples of all columns are one matrix product.
    sums, counts = np.hsplit(weights @ table, 2)
    with np.errstate(invalid="ignore"):  # 0 / 0: a resample without any value of a column
        return np.asarray(sums / counts)


# A page of results asks for the draws of its few sets of prompts hundreds of times.
@functools.lru_cache(maxsize=4)
def _times_each_drawn(groups: int, resamples: int, seed: int) -> NDArray[np.int16]:
    """How often each of at most 4096 clusters is drawn in each resample [R, G]."""
    drawn = _times_drawn(np.ones(groups), resamples, np.random.default_rng(seed))
    return drawn.astype(np.int16)


def _times_drawn(times: Floats, resamples: int, generator: np.random.Generator) -> Ints:
    """The same for clusters of which kind `g` is there `times[g]` times: no index is ever drawn."""
    total = int(times.sum())
    return generator.multinomial(total, times / total, size=resamples)


def _kinds(table: Floats, generator: np.random.Generator) -> tuple[Floats, Floats]:
    """At most 4096 different rows of a table of clusters, and how often each occurs."""
    # Clusters with equal sums and counts are one kind, so 0/1 outcomes stay exact at any size.
    kinds, times = np.unique(table, axis=0, return_counts=True)
    if len(kinds) > _MAX_ROWS:
        # Clusters joined at random into groups: the mean over groups has the same variance.
        joined = generator.permutation(len(table)) % _MAX_ROWS
        kinds, times = np.unique(_sum_by(table, joined, _MAX_ROWS), axis=0, return_counts=True)
    return kinds, times.astype(np.float64)


def _cluster_table(columns: Floats, codes: Ints, groups: int) -> Floats:
    # Summed in an order that depends on the values only: the order of items changes no rounding.
    order = np.lexsort((*columns.T, codes))
    columns, codes = columns[order], codes[order]
    present = np.isfinite(columns)
    sums_and_counts = np.hstack([np.where(present, columns, 0.0), present.astype(np.float64)])
    return _sum_by(sums_and_counts, codes, groups)


def _sum_by(table: Floats, codes: Ints, groups: int) -> Floats:
    return np.stack([np.bincount(codes, column, groups) for column in table.T], axis=1)


def interval(draws: Floats) -> tuple[float, float]:
    """The middle 95 % of bootstrap draws [R]; NaN where no draw has a value."""
    # A resample without any item of a column has no mean; the others decide.
    usable = draws[np.isfinite(draws)]
    if usable.size == 0:
        return math.nan, math.nan
    low, high = np.quantile(usable, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def mean_metric(values: Floats, clusters: Clusters) -> Metric:
    """Mean over the items of `values` [N], with the interval over clusters. Of a paired difference
    the values are a − b: both are then resampled together."""
    return Metric(float(values.mean()), len(values), *interval(bootstrap_means(values, clusters)))


def share_metric(outcomes: Floats, clusters: Clusters) -> Metric:
    """Mean of outcomes in 0..1 [N]; at exactly 0 or 1 with the Wilson interval of the clusters."""
    plain = mean_metric(outcomes, clusters)
    if math.isnan(plain.low) or not is_bound(plain.value):
        return plain
    groups = cluster_codes(clusters, len(outcomes))[1]
    return Metric(plain.value, plain.n, *wilson_interval(plain.value, groups))


def is_bound(share: float) -> bool:
    """Whether a share is 0 or 1 but for rounding: then all clusters agree, and every resample of
    them has the same mean. The bootstrap would be certain after three items."""
    return not _ROUNDING < share < 1.0 - _ROUNDING


def wilson_interval(bound: float, groups: int) -> tuple[float, float]:
    """Wilson's score interval of a share that is 0 or 1 in all clusters: z²/(n + z²) wide."""
    width = _Z**2 / (groups + _Z**2)
    return (0.0, width) if bound <= _ROUNDING else (1.0 - width, 1.0)


def pair_outcomes(chosen: Floats, rejected: Floats) -> tuple[Floats, int]:
    """1 where chosen scores higher, 0.5 for a tie, 0 otherwise; and the number of ties."""
    require_finite("scores of chosen responses", chosen)
    require_finite("scores of rejected responses", rejected)
    # Exact equality: scores that differ by rounding are different scores everywhere.
    tied = chosen == rejected
    return np.where(tied, 0.5, (chosen > rejected).astype(np.float64)), int(tied.sum())


def mean_over_seeds(values: Sequence[float], n: int) -> Metric:
    """Mean of one number per seed, with Student's t interval over the seeds (NaN with one)."""
    count = len(values)
    # fsum: the mean of equal values is that value exactly, whatever their number.
    mean = math.fsum(values) / count
    if count < 2:
        return Metric(mean, n)
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    # Four decimals, as in printed tables: results committed before were computed with one.
    quantile = round(float(stdtrit(count - 1, (1 + LEVEL) / 2)), 4)
    half_width = quantile * math.sqrt(variance / count)
    return Metric(mean, n, mean - half_width, mean + half_width)
