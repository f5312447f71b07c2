"""The `rated` suite: how well the attribute rows predict ratings, on the ratings' own scale.
Shapes: N responses, K attributes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter

import numpy as np

from smorm.arrays import Bools, Clusters, Floats, Ints
from smorm.errors import DataError
from smorm.evaluation import metrics as numbers
from smorm.evaluation.correlation import spearman, spearman_draws, spearman_metric
from smorm.evaluation.metrics import Metric, interval
from smorm.evaluation.outcomes import Outcomes, common, even, single
from smorm.evaluation.result import Measurement


def measure_rated(
    predicted: Floats,
    ratings: Floats,
    names: Sequence[str],
    prompts: Clusters,
    *,
    training_means: Mapping[str, float] | None = None,
    keys: Sequence[str] | None = None,
) -> Measurement:
    """Spearman and mean squared error of each attribute, and their mean over attributes.
    `predicted` [N, K] is on the scale of the ratings [N, K] (NaN: not rated, left out and counted);
    `training_means` are the constants of the baseline, by default the means of these ratings;
    `keys` identify responses, the same for every model.
    Metrics: `spearman/NAME`, `mse/NAME` and the baseline `mse_of_mean/NAME`, and their plain means
    `spearman`, `mse`, `mse_of_mean` (n: responses with any rating). Where ratings or predictions
    are constant there is no Spearman, which a note reports.

    Raises:
        DataError: shapes differ, nothing is rated, or a prediction is NaN or infinite."""
    predicted, ratings = _checked(predicted, ratings, len(names))
    codes, groups = numbers.cluster_codes(prompts, len(predicted))
    rated, means = np.isfinite(ratings), training_means or {}
    columns = np.flatnonzero(rated.any(axis=0)).tolist()
    if not columns:
        raise DataError(f"ratings: none of {len(ratings)} responses has a rating of {list(names)}")
    predicted, ratings = predicted[:, columns], ratings[:, columns]
    rated_names = list(map(names.__getitem__, columns))
    # NaN where a response is not rated: the bootstrap leaves such cells out of their column.
    errors = {
        "mse": (predicted - ratings) ** 2,
        "mse_of_mean": (ratings - _constants(ratings, rated_names, means)) ** 2,
    }
    of_each = _of_each_attribute(predicted, ratings, errors, rated_names, codes)
    # Constant ratings or predictions have no ranks.
    ranked = [name for name in rated_names if not np.isnan(of_each[f"spearman/{name}"].value)]
    # For the means every attribute sees the same resampled prompts.
    draws: dict[str, Floats] = {}
    if ranked:
        draws["spearman"] = _mean_spearman_draws(predicted, ratings, rated_names, ranked, codes)
    for family, error in errors.items():
        draws[family] = numbers.bootstrap_means(error, codes).mean(axis=1)
    count = int(rated.any(axis=1).sum())
    over_attributes: dict[str, Metric] = {}
    for family, drawn in draws.items():
        averaged = ranked if family == "spearman" else rated_names
        over_attributes[family] = _mean([of_each[f"{family}/{n}"] for n in averaged], drawn, count)
    notes = [f"{len(predicted)} responses over {groups} prompts; intervals resample prompts."]
    notes += _notes(rated, names, rated_names, set(ranked), means)
    keys = keys or list(map(str, range(len(predicted))))
    table = RatedOutcomes(predicted, ratings, rated_names, codes, keys)
    return Measurement(over_attributes | of_each, tuple(notes), table)


def _checked(predicted: Floats, ratings: Floats, attributes: int) -> tuple[Floats, Floats]:
    predicted = numbers.as_floats("predictions", predicted, None, attributes)
    ratings = numbers.as_floats("ratings", ratings, *predicted.shape)
    numbers.require_finite("predictions", predicted)
    if np.isinf(ratings).any():
        raise DataError("ratings: a rating is infinite; one that is missing is NaN")
    return predicted, ratings


def _of_each_attribute(
    predicted: Floats,
    ratings: Floats,
    errors: Mapping[str, Floats],
    names: Sequence[str],
    codes: Ints,
) -> dict[str, Metric]:
    """`spearman/NAME` and each error's mean, resampled over its own rated responses only."""
    metrics: dict[str, Metric] = {}
    for column, name in enumerate(names):
        known = np.isfinite(ratings[:, column])
        sides = predicted[known, column], ratings[known, column]
        metrics[f"spearman/{name}"] = spearman_metric(*sides, codes[known])
        for family, error in errors.items():
            metrics[f"{family}/{name}"] = numbers.mean_metric(error[known, column], codes[known])
    return metrics


def _mean_spearman_draws(
    predicted: Floats,
    ratings: Floats,
    names: Sequence[str],
    ranked: Sequence[str],
    codes: Ints,
) -> Floats:
    """The mean over the attributes `ranked` of their rank correlations in each resample [R]."""
    draws = []
    for column, name in enumerate(names):
        if name in ranked:
            draws.append(spearman_draws(predicted[:, column], ratings[:, column], codes))
    return np.asarray(np.stack(draws, axis=1).mean(axis=1))


def _mean(of_each: Sequence[Metric], draws: Floats, count: int) -> Metric:
    """The plain mean over attributes; `draws` [R] likewise."""
    values = list(map(attrgetter("value"), of_each))
    return Metric(float(np.mean(values)), count, *interval(draws))


def _constants(
    ratings: Floats, names: Sequence[str], training_means: Mapping[str, float]
) -> Floats:
    """One number to predict for each attribute [K]: the training set's mean where that is known,
    else that of these very ratings, which no constant beats; NaN where there is neither."""
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
    clusters: Clusters
    keys: Sequence[str]

    def difference(self, base: RatedOutcomes) -> dict[str, Metric]:
        """`mse` and `spearman`, of each attribute that both predict and over all of them."""
        mine, theirs = common(self.keys, base.keys)
        shared = [name for name in self.names if name in base.names]
        if not mine or not shared:
            raise DataError("the two predict no common attribute of a common response")
        codes = np.asarray(self.clusters)[mine]
        columns: dict[str, Floats] = {}
        ranks: dict[str, Metric] = {}
        draws = []
        for name in shared:
            column = self.names.index(name)
            first, ratings = self.predicted[mine, column], self.ratings[mine, column]
            second = base.predicted[theirs, base.names.index(name)]
            columns[f"mse/{name}"] = (first - ratings) ** 2 - (second - ratings) ** 2
            known = np.isfinite(ratings)
            value = spearman(first[known], ratings[known]) - spearman(second[known], ratings[known])
            # Constant predictions have no ranks; the mean is over the attributes that have.
            if not np.isnan(value):
                # Every attribute sees the same resampled prompts, and so do both models.
                of_first = spearman_draws(first, ratings, codes)
                draws.append(of_first - spearman_draws(second, ratings, codes))
                rank = Metric(value, int(known.sum()), *interval(draws[-1]))
                ranks[f"spearman/{name}"] = rank
        sums = {"mse": even(list(columns)), **single(columns)}
        keys = list(map(self.keys.__getitem__, mine))
        metrics = Outcomes(columns, codes, sums, keys, frozenset(sums)).metrics()
        if ranks:
            count = max(map(attrgetter("n"), ranks.values()))
            metrics["spearman"] = _mean(list(ranks.values()), np.mean(draws, axis=0), count)
        return metrics | ranks


def _notes(
    rated: Bools,
    names: Sequence[str],
    rated_names: Sequence[str],
    ranked: set[str],
    means: Mapping[str, float],
) -> list[str]:
    """What was left out, and which constant the baseline predicts."""
    notes = []
    for name, missing in zip(names, (~rated).sum(axis=0).tolist(), strict=True):
        if missing:
            count = f"{missing} of {len(rated)} responses"
            notes.append(f"{name}: {count} have no rating and are left out.")
    if constant := [name for name in rated_names if name not in ranked]:
        reason = "the ratings or predictions are all equal"
        notes.append(f"No Spearman for {', '.join(constant)}: {reason}.")
    if from_training := sorted(set(rated_names) & means.keys()):
        notes.append(f"mse_of_mean predicts training's mean for {', '.join(from_training)}.")
    if from_ratings := sorted(set(rated_names) - means.keys()):
        notes.append(f"mse_of_mean predicts these ratings' mean for {', '.join(from_ratings)}.")
    return notes
