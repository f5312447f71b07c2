"""Linear probes: what the hidden state that the head reads says about an attribute.

Ridge regression on prompts that the predicted ones are not among. On a model trained on pairs alone
they show whether Bradley–Terry has put the attributes into the features already.

Shapes: `N` responses, `D` hidden size, `K` attributes, `C` targets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from smorm.arrays import Clusters, Floats, Ints
from smorm.errors import DataError
from smorm.evaluation.correlation import spearman, spearman_draws, spearman_metric
from smorm.evaluation.metrics import Metric, cluster_codes, interval
from smorm.theory.intervals import of_means

FOLDS = 5
# Candidate ridge levels, in units of the mean eigenvalue of the features' covariance.
RIDGES = tuple(10.0**power for power in range(-4, 5))


def ridge_predictions(hidden: Floats, targets: Floats, levels: Floats, unseen: Floats) -> Floats:
    """Predictions [M, C] for unseen hidden states [M, D], by ridge regressions of targets [N, C] at
    `levels` [C] (as `RIDGES`); the intercept is not penalised."""
    from sklearn.linear_model import Ridge

    # The trace of the centred scatter matrix over D, without forming the matrix; 1 if all is equal.
    unit = float(hidden.var(axis=0).sum()) * len(hidden) / hidden.shape[1] or 1.0
    fitted = Ridge(alpha=levels * unit).fit(hidden, targets)
    # scikit-learn drops the axis of a single target.
    return np.asarray(fitted.predict(unseen)).reshape(len(unseen), -1)


def folds_of(clusters: Clusters, count: int, seed: int = 0) -> Ints:
    """A fold for each of `count` items, whole clusters in one fold."""
    codes, groups = cluster_codes(clusters, count)
    if groups < 2:
        raise DataError("all records have one prompt: nothing can be held out")
    order = np.random.default_rng(seed).permutation(groups)
    return np.asarray((order % min(FOLDS, groups))[codes])


def held_out_predictions(hidden: Floats, targets: Floats, clusters: Clusters) -> Floats:
    """Predictions [N, C] of targets [N, C], each by a probe that has not seen its cluster and whose
    ridge level is chosen inside the training folds, on a fifth of their clusters."""
    codes = cluster_codes(clusters, len(targets))[0]
    folds = folds_of(codes, len(targets))
    predicted = np.empty(targets.shape)
    for fold in range(int(folds.max()) + 1):
        train, test = folds != fold, folds == fold
        # Inside the training folds only: the test fold must not choose the level.
        levels = _best_levels(hidden[train], targets[train], codes[train])
        predicted[test] = ridge_predictions(hidden[train], targets[train], levels, hidden[test])
    return predicted


def _best_levels(hidden: Floats, targets: Floats, clusters: Ints) -> Floats:
    """The level of each target [C] with the least squared error on a fifth of the clusters."""
    if len(np.unique(clusters)) < 2:
        return np.ones(targets.shape[1])
    # One split suffices to choose among powers of ten.
    test = folds_of(clusters, len(targets), seed=1) == 0
    errors = []
    for level in RIDGES:
        levels = np.full(targets.shape[1], level)
        predicted = ridge_predictions(hidden[~test], targets[~test], levels, hidden[test])
        errors.append(((predicted - targets[test]) ** 2).mean(axis=0))
    return np.asarray(np.array(RIDGES)[np.argmin(errors, axis=0)], dtype=np.float64)


def explained(predicted: Floats, true: Floats, clusters: Clusters) -> Metric:
    """R²: 1 − squared error over the variance of the truth (below 0 where a mean does better)."""
    columns = [(predicted - true) ** 2, true, true**2]
    return of_means(columns, clusters, lambda m: 1.0 - m[:, 0] / (m[:, 2] - m[:, 1] ** 2))


@dataclass(frozen=True, slots=True)
class Probed:
    """Metrics of the probes."""

    metrics: Mapping[str, Metric]
    predicted: Mapping[str, Floats]  # by attribute; NaN: not rated
    left_out: Mapping[str, str]  # attributes without a probe, with the reason


def probe(
    hidden: Floats,
    ratings: Floats,
    names: Sequence[str],
    prompts: Clusters,
    rows: Mapping[str, Floats],
) -> Probed:
    """Probes of each attribute, and of the mean of all, beside the model's attribute rows.

    From hidden states [N, D] and ratings [N, K] (NaN: not rated); `rows` has the model's
    predictions [N] of an attribute, where it has a row for it. Folds and intervals keep prompts
    whole.
    Metrics: `probe/spearman/NAME` and `probe/r2/NAME`; where the model has the row,
    `rows/spearman/NAME`, `rows/r2/NAME` and the paired difference `probe_minus_rows/spearman/NAME`.
    NAME `mean` is the mean of the K ratings, where all are known."""
    columns = dict(zip(names, ratings.T, strict=True))
    if len(names) > 1 and "mean" not in columns:
        # NaN where an attribute is missing: a mean of some would be another quantity.
        columns["mean"] = ratings.mean(axis=1)
    codes = cluster_codes(prompts, len(ratings))[0]
    usable: dict[str, Floats] = {}
    left_out: dict[str, str] = {}
    for name, column in columns.items():
        known = np.isfinite(column)
        # Neither can be predicted on prompts that a probe has not seen.
        if len(np.unique(codes[known])) < 2:
            left_out[name] = "rated under fewer than two prompts"
        elif np.ptp(column[known]) == 0:
            left_out[name] = "its ratings are all equal"
        else:
            usable[name] = column
    predicted = _predictions(hidden, usable, codes)
    metrics: dict[str, Metric] = {}
    for name, column in usable.items():
        metrics |= _measure(name, column, predicted[name], codes, rows.get(name))
    return Probed(metrics, predicted, left_out)


def _predictions(hidden: Floats, columns: Mapping[str, Floats], codes: Ints) -> dict[str, Floats]:
    """Held-out predictions [N] of every column, NaN where it is; columns that are known of the same
    responses share their fits."""
    together: dict[bytes, list[str]] = {}
    for name, column in columns.items():
        together.setdefault(np.isfinite(column).tobytes(), []).append(name)
    predicted = {name: np.full(len(column), np.nan) for name, column in columns.items()}
    for names in together.values():
        known = np.isfinite(columns[names[0]])
        targets = np.stack([columns[name][known] for name in names], axis=1)
        values = held_out_predictions(hidden[known], targets, codes[known])
        for name, column in zip(names, values.T, strict=True):
            predicted[name][known] = column
    return predicted


def _measure(
    name: str, ratings: Floats, predicted: Floats, codes: Ints, row: Floats | None
) -> dict[str, Metric]:
    known = np.isfinite(ratings)
    y, p, groups = ratings[known], predicted[known], codes[known]
    metrics = {
        f"probe/spearman/{name}": spearman_metric(p, y, groups),
        f"probe/r2/{name}": explained(p, y, groups),
    }
    if row is not None:
        r = row[known]
        metrics[f"rows/spearman/{name}"] = spearman_metric(r, y, groups)
        metrics[f"rows/r2/{name}"] = explained(r, y, groups)
        # The same resampled prompts on both sides, so that the difference is paired.
        draws = spearman_draws(p, y, groups) - spearman_draws(r, y, groups)
        gain = Metric(spearman(p, y) - spearman(r, y), len(y), *interval(draws))
        metrics[f"probe_minus_rows/spearman/{name}"] = gain
    return metrics
