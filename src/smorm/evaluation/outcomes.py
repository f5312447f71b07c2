"""Each item's outcomes, in columns; every published number is a weighted sum of column means.
One mechanism therefore gives the value, the interval that resamples prompts, and the paired
difference of two models, which is the same sum over the difference of their columns.
Shapes: `N` items, `C` columns, `R` resamples."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from smorm.arrays import Clusters, Floats
from smorm.errors import DataError
from smorm.evaluation import metrics as numbers
from smorm.evaluation.metric_names import MetricName
from smorm.evaluation.metrics import Metric, bootstrap_means, cluster_codes

Weights = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Columns of item outcomes, and the numbers made of them."""

    columns: Mapping[str, Floats]  # name to values [N]; NaN where the item is not of the column
    clusters: Clusters  # what an interval resamples, a label for each item (its prompt) [N]
    # name of a number to the weights of the columns whose means it adds up
    sums: Mapping[str, Weights]
    keys: Sequence[str]  # what identifies an item, the same for every model [N]
    # the numbers that are differences, not shares: no bound of 0 and 1
    differences: frozenset[str] = field(default_factory=frozenset)
    # for columns that have one, what random scores are expected to get [N]
    chance_columns: Mapping[str, Floats] = field(default_factory=dict)

    def metrics(self) -> dict[str, Metric]:
        """Every number with its n (items that contribute) and its 95 % interval."""
        table = np.stack(list(self.columns.values()), axis=1)
        # One resampling for all columns: numbers that share columns move together.
        means, draws = _means(table), bootstrap_means(table, self.clusters)
        return {name: self._metric(name, table, means, draws) for name in self.sums}

    def chance_levels(self) -> dict[str, float]:
        """What random scores are expected to get, of each number of the reward (not of a rule
        beside it) whose columns all have it: the same weighted sum, so exact for every section."""
        levels = {}
        for name, weights in self.sums.items():
            if name in self.differences or MetricName.parse(name).over is not None:
                continue
            if weights.keys() <= self.chance_columns.keys():
                columns = np.stack(list(map(self.chance_columns.__getitem__, weights)), axis=1)
                levels[name] = float(_means(columns) @ list(weights.values()))
        return levels

    def difference(self, base: Outcomes) -> dict[str, Metric]:
        """Every number of this less the base's, over the same items, its interval paired."""
        # Other columns are other subsets: the same sum would be of something else.
        if set(self.columns) != set(base.columns):
            raise DataError("the two were measured on different suites: no difference to take")
        mine, theirs = common(self.keys, base.keys)
        if not mine:
            raise DataError("the two were measured on no common item: no difference to take")
        # Before any mean is taken: what both models find hard cancels out of each item.
        columns = {}
        for name, values in self.columns.items():
            columns[name] = values[mine] - base.columns[name][theirs]
        # This model's clusters: prompts are the same for both, by their keys.
        clusters = cluster_codes(self.clusters, len(self.keys))[0][mine]
        keys = list(map(self.keys.__getitem__, mine))
        # A difference of shares is no share: all lose the bounds of 0 and 1.
        differences = frozenset(self.sums)
        return Outcomes(columns, clusters, self.sums, keys, differences).metrics()

    def _metric(self, name: str, table: Floats, means: Floats, draws: Floats) -> Metric:
        weights = self.sums[name]
        used = list(map(list(self.columns).index, weights))
        factors = np.array(list(weights.values()))
        contributing = np.isfinite(table[:, used]).any(axis=1)
        value, drawn = float(means[used] @ factors), draws[:, used]
        low, high = numbers.interval(drawn @ factors)
        # The clusters that contribute, not all: a subset may have only a few of them.
        if name not in self.differences:
            codes = np.asarray(cluster_codes(self.clusters, len(table))[0])
            groups = len(np.unique(codes[contributing]))
            # A sum may hold a margin beside shares: only the shares are bound by 0 and 1.
            is_share = np.array([column not in self.differences for column in weights])
            total = float(factors[is_share].sum())
            shares = float(means[used][is_share] @ factors[is_share]) / total
            rest_low, rest_high = numbers.interval(drawn[:, ~is_share] @ factors[~is_share])
            if numbers.is_bound(shares) and math.isfinite(low):
                low, high = (total * end for end in numbers.wilson_interval(shares, groups))
                low, high = low + rest_low, high + rest_high
        # Draws are summed in another order than the value: rounding must not put it outside.
        return Metric(value, int(contributing.sum()), min(low, value), max(high, value))


def _means(table: Floats) -> Floats:
    # As the bootstrap does it, so that value and interval are of the same items.
    present = np.isfinite(table)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(present, table, 0.0).sum(axis=0) / present.sum(axis=0))


def split(
    values: Floats, labels: Sequence[str] | NDArray[np.str_], prefix: str = ""
) -> dict[str, Floats]:
    """One column for each label but "", in sorted order: the values of its items, NaN elsewhere."""
    of_item = np.asarray(labels)
    columns = {}
    for label in sorted(set(of_item.tolist()) - {""}):
        columns[f"{prefix}{label}"] = np.where(of_item == label, values, np.nan)
    return columns


def common(keys: Sequence[str], others: Sequence[str]) -> tuple[list[int], list[int]]:
    """Indices of the keys that both lists have, in the first one's order: in it, in the other."""
    index_of = dict(zip(others, range(len(others)), strict=True))
    mine, theirs = [], []
    for index, key in enumerate(keys):
        if key in index_of:
            mine.append(index)
            theirs.append(index_of[key])
    return mine, theirs


def difference(weights: Weights, subtracted: Weights) -> dict[str, float]:
    """Weights of one number less those of another, over other columns."""
    less = {name: -weight for name, weight in subtracted.items()}
    return {**weights, **less}


def single(names: Iterable[str]) -> dict[str, Weights]:
    """A number for each column: its mean."""
    return {name: {name: 1.0} for name in names}


def even(names: Collection[str]) -> dict[str, float]:
    """Weights of a plain mean over columns."""
    return dict.fromkeys(names, 1.0 / max(1, len(names)))


def weighted(shares: Mapping[str, float]) -> dict[str, float]:
    """Weights that sum to one, in the given proportions."""
    total = sum(shares.values())
    return {name: share / total for name, share in shares.items()}
