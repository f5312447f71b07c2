"""The `rated` suite: how well the attribute rows predict ratings, on the ratings' own scale.
Shapes: N responses, K attributes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter

import numpy as np

from smorm.arrays import Bools, Clusters, Floats, Ints
from smorm.errors import DataError
from smorm.evaluation.correlation import spearman, spearman_draws, spearman_metric
from smorm.evaluation.metric_names import MetricName
from smorm.evaluation.metrics import (
    Metric,
    as_floats,
    bootstrap_means,
    cluster_codes,
    interval,
    mean_metric,
    require_finite,
)
from smorm.evaluation.outcomes import Outcomes, common, even, single
from smorm.evaluation.result import Measurement


def measure_rated(
    predicted: Floats, ratings: Floats, names: Sequence[str], prompts: Clusters, *,
    training_means: Mapping[str, float] | None = None, keys: Sequence[str] | None = None,
) -> Measurement:  # fmt: skip
    """Spearman and mean squared error of each attribute, and their mean over attributes.

    `predicted` [N, K] is on the scale of the ratings [N, K] (NaN: not rated, left out and counted);
    `training_means` are the constants of the baseline, by default the means of these ratings;
    `keys` identify responses, the same for every model.
    Metrics: `spearman/NAME`, `mse/NAME` and the baseline `mse_of_mean/NAME` for each attribute,
    and their plain means over attributes `spearman`, `mse`, `mse_of_mean` (n: responses with any
    rating). An attribute whose ratings or predictions are constant has no Spearman and is left
    out of that mean; a note reports it.

    Raises:
        DataError: shapes differ, nothing is rated, or a prediction is NaN or infinite."""
    predicted = as_floats("predictions", predicted, None, len(names))
    ratings = as_floats("ratings", ratings, *predicted.shape)
    require_finite("predictions", predicted)
    if np.isinf(ratings).any():
        raise DataError("ratings: a rating is infinite; one that is missing is NaN")
    codes, groups = cluster_codes(prompts, len(predicted))
    rated = np.isfinite(ratings)
    columns = np.flatnonzero(rated.any(axis=0)).tolist()
    if not columns:
        raise DataError(f"ratings: none of {len(ratings)} responses has a rating of {list(names)}")

    means = training_means or {}
    # NaN where a response is not rated: the bootstrap leaves such cells out of their column.
    errors = {
        "mse": (predicted - ratings) ** 2,
        "mse_of_mean": (ratings - _constants(ratings, names, means)) ** 2,
    }
    metrics: dict[str, Metric] = {}
    for column in columns:
        metrics |= _of_attribute(names[column], column, predicted, ratings, errors, codes)
    # Constant ratings or predictions have no ranks.
    rated_names = list(map(names.__getitem__, columns))
    ranked = [c for c in columns if not np.isnan(metrics[f"spearman/{names[c]}"].value)]

    # Every attribute sees the same resampled prompts, so that their mean has a right interval.
    count = int(rated.any(axis=1).sum())
    over_attributes: dict[str, Metric] = {}
    if ranked:
        of_each = [spearman_draws(predicted[:, c], ratings[:, c], codes) for c in ranked]
        draws = np.stack(of_each, axis=1)
        over_attributes["spearman"] = _mean("spearman", metrics, draws, count)
    for family, error in errors.items():
        draws = bootstrap_means(error[:, columns], codes)
        over_attributes[family] = _mean(family, metrics, draws, count)
    ranked_names = list(map(names.__getitem__, ranked))
    notes = [
        f"{len(predicted)} responses over {groups} prompts; intervals resample prompts.",
        *_notes(rated, names, rated_names, ranked_names, means),
    ]
    keys = keys or list(map(str, range(len(predicted))))
    used = predicted[:, columns], ratings[:, columns]
    table = RatedOutcomes(*used, rated_names, list(codes), keys)
    return Measurement(over_attributes | metrics, tuple(notes), table)


def _of_attribute(
    name: str, column: int, predicted: Floats, ratings: Floats, errors: Mapping[str, Floats],
    codes: Ints,
) -> dict[str, Metric]:  # fmt: skip
    """An attribute's numbers, resampled over its own rated responses only."""
    rated = np.isfinite(ratings[:, column])
    predicted, ratings, codes = predicted[rated, column], ratings[rated, column], codes[rated]
    metrics = {f"spearman/{name}": spearman_metric(predicted, ratings, codes)}
    for family, error in errors.items():
        metrics[f"{family}/{name}"] = mean_metric(error[rated, column], codes)
    return metrics


def _mean(family: str, metrics: Mapping[str, Metric], draws: Floats, count: int) -> Metric:
    """The plain mean over the attributes that have the number; draws [R, attributes] likewise."""
    values = []
    for name, metric in metrics.items():
        if MetricName.parse(name).name == family and not np.isnan(metric.value):
            values.append(metric.value)
    return Metric(float(np.mean(values)), count, *interval(draws.mean(axis=1)))


def _constants(
    ratings: Floats, names: Sequence[str], training_means: Mapping[str, float]
) -> Floats:
    """One number to predict for each attribute [K], from ratings [N, K] with NaN for missing: the
    training set's mean where that is known, else the mean of these very ratings, which no constant
    beats. NaN for an attribute that has neither."""
    present = np.isfinite(ratings)
    sums = np.where(present, ratings, 0.0).sum(axis=0)
    # An attribute that nobody rated has no mean: divided by NaN, not by 0.
    constants = sums / np.where(present.any(axis=0), present.sum(axis=0), np.nan)
    for column, name in enumerate(names):
        constants[column] = training_means.get(name, constants[column])
    return np.asarray(constants)


@dataclass(frozen=True, slots=True)
class RatedOutcomes:
    """Predictions and ratings [N, K] (NaN: not rated), for paired differences of two models."""

    predicted: Floats
    ratings: Floats
    names: Sequence[str]
    clusters: Sequence[int]
    keys: Sequence[str]

    def difference(self, base: RatedOutcomes) -> dict[str, Metric]:
        """`mse` and `spearman`, of each attribute that both predict and over all of them."""
        mine, theirs = common(self.keys, base.keys)
        shared = [name for name in self.names if name in base.names]
        if not mine or not shared:
            raise DataError("the two predict no common attribute of a common response")
        codes = np.array(self.clusters)[mine]
        predictions = {}
        for name in shared:
            column = self.names.index(name)
            theirs_of_name = base.predicted[theirs, base.names.index(name)]
            ours_of_name, ratings = self.predicted[mine, column], self.ratings[mine, column]
            predictions[name] = ours_of_name, theirs_of_name, ratings
        keys = list(map(self.keys.__getitem__, mine))
        mse = _mse_differences(predictions, codes, keys)
        return mse | _spearman_differences(predictions, codes)


# By attribute: two models' predictions and the ratings [N] each.
Predictions = Mapping[str, tuple[Floats, Floats, Floats]]


def _mse_differences(
    predictions: Predictions, codes: Clusters, keys: list[str]
) -> dict[str, Metric]:
    columns = {}
    for name, (first, second, ratings) in predictions.items():
        columns[f"mse/{name}"] = (first - ratings) ** 2 - (second - ratings) ** 2
    sums = {"mse": even(list(columns)), **single(columns)}
    return Outcomes(columns, codes, sums, keys, frozenset(sums)).metrics()


def _spearman_differences(predictions: Predictions, codes: Clusters) -> dict[str, Metric]:
    """Every attribute sees the same resampled prompts, and so do both models."""
    metrics, draws = {}, []
    for name, (first, second, ratings) in predictions.items():
        rated = np.isfinite(ratings)
        value = spearman(first[rated], ratings[rated]) - spearman(second[rated], ratings[rated])
        # Constant predictions have no ranks; the mean is over the attributes that have.
        if np.isnan(value):
            continue
        draws.append(spearman_draws(first, ratings, codes) - spearman_draws(second, ratings, codes))
        metrics[f"spearman/{name}"] = Metric(value, int(rated.sum()), *interval(draws[-1]))
    if not metrics:
        return {}
    values, counts = zip(*map(attrgetter("value", "n"), metrics.values()), strict=True)
    low, high = interval(np.mean(draws, axis=0))
    return {"spearman": Metric(float(np.mean(values)), max(counts), low, high), **metrics}


def _notes(
    rated: Bools, names: Sequence[str], rated_names: Sequence[str], ranked_names: Sequence[str],
    means: Mapping[str, float],
) -> list[str]:  # fmt: skip
    """What was left out, and which constant the baseline predicts."""
    notes = []
    for name, missing in zip(names, (~rated).sum(axis=0).tolist(), strict=True):
        if missing:
            notes.append(
                f"{name}: {missing} of {len(rated)} responses have no rating and are left out."
            )
    if constant := [name for name in rated_names if name not in ranked_names]:
        notes.append(
            f"No Spearman for {', '.join(constant)}: the ratings or predictions are all equal."
        )
    if from_training := sorted(set(rated_names) & means.keys()):
        notes.append(f"mse_of_mean predicts training's mean for {', '.join(from_training)}.")
    if from_ratings := sorted(set(rated_names) - means.keys()):
        notes.append(f"mse_of_mean predicts these ratings' mean for {', '.join(from_ratings)}.")
    return notes
