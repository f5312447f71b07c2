"""Linear probes: what the hidden state that the head reads says about an attribute.

Ridge regression in closed form, predicting prompts that it was not fitted on. On a model trained on
pairs alone they tell whether Bradley–Terry has put the attributes into the features already.

Shapes: `N` responses, `D` hidden size, `K` attributes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from smorm.errors import DataError
from smorm.evaluation.correlation import spearman, spearman_draws, spearman_metric
from smorm.evaluation.metrics import Clusters, Floats, Ints, Metric, cluster_codes, interval
from smorm.theory.intervals import of_means

FOLDS = 5
RIDGES = tuple(10.0**power for power in range(-4, 5))
"""Ridge levels tried, in units of the mean eigenvalue of the features' covariance."""


def folds_of(clusters: Clusters, count: int, folds: int = FOLDS, seed: int = 0) -> Ints:
    """A fold for each of `count` items, whole clusters in one fold.

    Raises:
        DataError: fewer than two clusters.
    """
    codes, groups = cluster_codes(clusters, count)
    if groups < 2:
        raise DataError("all records have one prompt: nothing can be held out")
    order = np.random.default_rng(seed).permutation(groups)
    return np.asarray((order % min(folds, groups))[codes])


@dataclass(frozen=True, slots=True)
class Features:
    """Hidden states [N, D] less their means, as `left * singular @ basis`; one serves any number of
    targets and ridge levels."""

    means: Floats
    left: Floats
    singular: Floats
    basis: Floats

    @classmethod
    def of(cls, hidden: Floats) -> Features:
        """Decompose hidden states [N, D]."""
        means = hidden.mean(axis=0)
        return cls(means, *np.linalg.svd(hidden - means, full_matrices=False))

    def fit(self, targets: Floats, levels: Floats) -> Ridge:
        """Ridge regressions of targets [N, C], with an offset that is not penalised.

        `levels` [C] are in units of the mean eigenvalue of the features' covariance.
        """
        centre = targets.mean(axis=0)
        unit = float((self.singular**2).sum()) / len(self.means) or 1.0
        column = self.singular[:, None]
        shrunk = column / (column**2 + levels * unit) * (self.left.T @ (targets - centre))
        weight = self.basis.T @ shrunk
        return Ridge(weight, centre - self.means @ weight)


@dataclass(frozen=True, slots=True)
class Ridge:
    """Fitted regressions: `hidden @ weight + offset` predicts C targets."""

    weight: Floats
    offset: Floats

    def predict(self, hidden: Floats) -> Floats:
        """Predictions [N, C] for hidden states [N, D]."""
        return np.asarray(hidden @ self.weight + self.offset)


def held_out(hidden: Floats, targets: Floats, clusters: Clusters) -> Floats:
    """Predictions [N, C] of targets [N, C], each by a probe that did not see its cluster.

    Each target's ridge level is chosen inside the training part, on a fifth of its clusters.
    """
    codes = cluster_codes(clusters, len(targets))[0]
    folds = folds_of(codes, len(targets))
    predicted = np.empty(targets.shape)
    for fold in range(int(folds.max()) + 1):
        inside = folds != fold
        levels = _best_levels(hidden[inside], targets[inside], codes[inside])
        ridge = Features.of(hidden[inside]).fit(targets[inside], levels)
        predicted[~inside] = ridge.predict(hidden[~inside])
    return predicted


def _best_levels(hidden: Floats, targets: Floats, clusters: Ints) -> Floats:
    """The level of each target [C] with the least squared error on a fifth of the clusters."""
    if len(np.unique(clusters)) < 2:
        return np.ones(targets.shape[1])
    kept = folds_of(clusters, len(targets), seed=1) != 0
    features = Features.of(hidden[kept])
    errors = []
    for level in RIDGES:
        ridge = features.fit(targets[kept], np.full(targets.shape[1], level))
        errors.append(((ridge.predict(hidden[~kept]) - targets[~kept]) ** 2).mean(axis=0))
    return np.asarray(np.array(RIDGES)[np.argmin(errors, axis=0)], dtype=np.float64)


def explained(predicted: Floats, true: Floats, clusters: Clusters) -> Metric:
    """R²: 1 − squared error over the variance of the truth (below 0 where a mean does better)."""
    error = (predicted - true) ** 2
    return of_means(
        [error, true, true**2],
        clusters,
        lambda m: 1.0 - m[:, 0] / (m[:, 2] - m[:, 1] ** 2),
    )


@dataclass(frozen=True, slots=True)
class Probed:
    """Metrics of the probes, their predictions and squared errors by attribute (NaN: not rated),
    and the attributes left out, with the reason."""

    metrics: Mapping[str, Metric]
    predicted: Mapping[str, Floats]
    left_out: Mapping[str, str]


def probe(
    hidden: Floats,
    ratings: Floats,
    names: Sequence[str],
    prompts: Clusters,
    rows: Mapping[str, Floats],
) -> Probed:
    """Probes of each attribute, and of the mean of all, beside the model's own rows.

    Args:
        hidden: hidden states of rated responses [N, D].
        ratings: ratings [N, K]; NaN is not rated.
        names: the K attributes.
        prompts: a label of each response's prompt [N]; folds and intervals keep prompts whole.
        rows: the model's own predictions of an attribute [N], where it has them.

    Metrics: `probe/spearman/NAME` and `probe/r2/NAME`; where the model has the row,
    `rows/spearman/NAME`, `rows/r2/NAME` and the paired difference
    `probe_minus_rows/spearman/NAME`. NAME `mean` is the mean of the K ratings, where all are known.
    """
    columns = {name: ratings[:, at] for at, name in enumerate(names)}
    if len(names) > 1 and "mean" not in columns:
        columns["mean"] = ratings.mean(axis=1)
    codes = cluster_codes(prompts, len(ratings))[0]
    left_out = {name: why for name, one in columns.items() if (why := _unusable(one, codes))}
    usable = {name: one for name, one in columns.items() if name not in left_out}
    predicted = _predicted(hidden, usable, codes)
    metrics: dict[str, Metric] = {}
    for name, column in usable.items():
        metrics |= _measured(name, column, predicted[name], codes, rows.get(name))
    return Probed(metrics, predicted, left_out)


def _predicted(hidden: Floats, columns: Mapping[str, Floats], codes: Ints) -> dict[str, Floats]:
    """Held-out predictions [N] of every column, NaN where it is; columns that are known of the same
    responses share their decompositions."""
    together: dict[bytes, list[str]] = {}
    for name, column in columns.items():
        together.setdefault(np.isfinite(column).tobytes(), []).append(name)
    found: dict[str, Floats] = {}
    for names in together.values():
        known = np.isfinite(columns[names[0]])
        targets = np.stack([columns[name][known] for name in names], axis=1)
        part = held_out(hidden[known], targets, codes[known])
        for at, name in enumerate(names):
            found[name] = np.full(len(known), np.nan)
            found[name][known] = part[:, at]
    return {name: found[name] for name in columns}


def _unusable(ratings: Floats, codes: Ints) -> str:
    known = np.isfinite(ratings)
    if len(np.unique(codes[known])) < 2:
        return "rated under fewer than two prompts"
    return "its ratings are all equal" if np.ptp(ratings[known]) == 0 else ""


def _measured(
    name: str, ratings: Floats, predicted: Floats, codes: Ints, own: Floats | None
) -> dict[str, Metric]:
    known = np.isfinite(ratings)
    y, p, groups = ratings[known], predicted[known], codes[known]
    found = {
        f"probe/spearman/{name}": spearman_metric(p, y, groups),
        f"probe/r2/{name}": explained(p, y, groups),
    }
    if own is not None:
        row = own[known]
        found[f"rows/spearman/{name}"] = spearman_metric(row, y, groups)
        found[f"rows/r2/{name}"] = explained(row, y, groups)
        # The same resampled prompts on both sides: what happens to one happens to the other.
        draws = spearman_draws(p, y, groups) - spearman_draws(row, y, groups)
        value = spearman(p, y) - spearman(row, y)
        found[f"probe_minus_rows/spearman/{name}"] = Metric(
            value, int(known.sum()), *interval(draws)
        )
    return found
