"""The `rated` suite: how well the attribute rows predict ratings, on the ratings' own scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smorm.arrays import Floats
from smorm.errors import DataError
from smorm.evaluation.baselines import constants
from smorm.evaluation.correlation import spearman, spearman_draws, spearman_metric
from smorm.evaluation.metrics import (
    Clusters,
    Metric,
    as_floats,
    bootstrap_means,
    cluster_codes,
    interval,
    mean_metric,
    require_finite,
)
from smorm.evaluation.outcomes import Outcomes, even
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

    Args:
        predicted: predictions on the ratings' own scale [N, K].
        ratings: ratings [N, K]; NaN is not rated, left out and counted.
        names: the K attributes.
        prompts: a label of the prompt for each response [N]; intervals resample prompts.
        training_means: each attribute's mean rating in training, the constant of the baseline;
            by default the mean of these ratings.
        keys: what tells a response apart, the same for every model [N]; by default its place.

    Metrics: `spearman/NAME`, `mse/NAME` and the baseline `mse_of_mean/NAME` for each attribute,
    and their plain means over attributes `spearman`, `mse`, `mse_of_mean` (n: responses with any
    rating). An attribute whose ratings or predictions are constant has no Spearman and is left
    out of that mean; a note says so.

    Raises:
        DataError: shapes differ, nothing is rated, or a prediction is NaN or infinite.
    """
    predicted = as_floats("predictions", predicted, None, len(names))
    ratings = as_floats("ratings", ratings, *predicted.shape)
    require_finite("predictions", predicted)
    if np.isinf(ratings).any():
        raise DataError("ratings: a rating is infinite; one that is missing is NaN")
    codes, groups = cluster_codes(prompts, len(predicted))
    rated = np.isfinite(ratings)
    columns = [column for column in range(len(names)) if rated[:, column].any()]
    if not columns:
        raise DataError(f"ratings: none of {len(ratings)} responses has a rating of {list(names)}")

    means = training_means or {}
    errors = {
        "mse": (predicted - ratings) ** 2,
        "mse_of_mean": (ratings - constants(ratings, names, means)) ** 2,
    }
    metrics: dict[str, Metric] = {}
    for column in columns:
        name, keep = names[column], rated[:, column]
        x, y = predicted[keep, column], ratings[keep, column]
        metrics[f"spearman/{name}"] = spearman_metric(x, y, codes[keep])
        for family, error in errors.items():
            metrics[f"{family}/{name}"] = mean_metric(error[keep, column], codes[keep])
    ranked = [x for x in columns if not np.isnan(metrics[f"spearman/{names[x]}"].value)]

    # Every attribute sees the same resampled prompts: what happens to one happens to all.
    draws = {family: bootstrap_means(error[:, columns], codes) for family, error in errors.items()}
    if ranked:
        each = [spearman_draws(predicted[:, x], ratings[:, x], codes) for x in ranked]
        draws["spearman"] = np.stack(each, axis=1)
    known, with_rank = [names[x] for x in columns], [names[x] for x in ranked]
    macro = _macro(metrics, draws, known, with_rank, int(rated.any(axis=1).sum()))
    heading = f"{len(predicted)} responses over {groups} prompts; intervals resample prompts."
    told = (heading, *_notes(rated, names, known, with_rank, means))
    places = [str(at) for at in range(len(predicted))] if keys is None else list(keys)
    table = RatedOutcomes(predicted[:, columns], ratings[:, columns], known, list(codes), places)
    return Measurement(macro | metrics, told, table)


@dataclass(frozen=True, slots=True)
class RatedOutcomes:
    """Predictions and ratings [N, K] (NaN: not rated), for paired differences of two models."""

    predicted: Floats
    ratings: Floats
    names: Sequence[str]
    clusters: Sequence[int]
    keys: Sequence[str]

    def difference(self, other: RatedOutcomes) -> dict[str, Metric]:
        """`mse` and `spearman`, of each attribute that both predict and over all of them.

        Raises:
            DataError: no attribute or no response in common.
        """
        place = {key: at for at, key in enumerate(other.keys)}
        mine = [at for at, key in enumerate(self.keys) if key in place]
        theirs = [place[self.keys[at]] for at in mine]
        shared = [name for name in self.names if name in other.names]
        if not mine or not shared:
            raise DataError("the two predict no common attribute of a common response")
        codes = np.array(self.clusters)[mine]
        pairs = {
            name: (
                self.predicted[mine, self.names.index(name)],
                other.predicted[theirs, other.names.index(name)],
                self.ratings[mine, self.names.index(name)],
            )
            for name in shared
        }
        return {
            **_mse_differences(pairs, codes, [self.keys[at] for at in mine]),
            **_spearman_differences(pairs, codes),
        }


Predictions = Mapping[str, tuple[Floats, Floats, Floats]]


def _mse_differences(pairs: Predictions, codes: Clusters, keys: list[str]) -> dict[str, Metric]:
    columns = {f"mse/{name}": (a - y) ** 2 - (b - y) ** 2 for name, (a, b, y) in pairs.items()}
    sums = {"mse": even(list(columns)), **{name: {name: 1.0} for name in columns}}
    return Outcomes(columns, codes, sums, keys, frozenset(sums)).metrics()


def _spearman_differences(pairs: Predictions, codes: Clusters) -> dict[str, Metric]:
    """Every attribute sees the same resampled prompts, and so do both models."""
    found: dict[str, Metric] = {}
    draws = []
    for name, (a, b, y) in pairs.items():
        rated = np.isfinite(y)
        value = spearman(a[rated], y[rated]) - spearman(b[rated], y[rated])
        if np.isnan(value):
            continue
        draws.append(spearman_draws(a, y, codes) - spearman_draws(b, y, codes))
        found[f"spearman/{name}"] = Metric(value, int(rated.sum()), *interval(draws[-1]))
    if not found:
        return {}
    mean = float(np.mean([one.value for one in found.values()]))
    count = max(one.n for one in found.values())
    return {"spearman": Metric(mean, count, *interval(np.mean(draws, axis=0))), **found}


def _macro(
    metrics: Mapping[str, Metric],
    draws: Mapping[str, Floats],
    known: Sequence[str],
    ranked: Sequence[str],
    count: int,
) -> dict[str, Metric]:
    """Plain means over the attributes that have the number; draws [R, attributes] likewise."""
    parts = {"spearman": ranked, "mse": known, "mse_of_mean": known}
    return {
        family: Metric(
            float(np.mean([metrics[f"{family}/{name}"].value for name in part])),
            count,
            *interval(draws[family].mean(axis=1)),
        )
        for family, part in parts.items()
        if part
    }


def _notes(
    rated: NDArray[np.bool_],
    names: Sequence[str],
    known: Sequence[str],
    ranked: Sequence[str],
    means: Mapping[str, float],
) -> list[str]:
    """What was left out, and which constant the baseline predicts."""
    notes = [
        f"{name}: {missing} of {len(rated)} responses have no rating and are left out."
        for name, missing in zip(names, (~rated).sum(axis=0).tolist(), strict=True)
        if missing
    ]
    constant = [name for name in known if name not in ranked]
    if constant:
        notes.append(
            f"No Spearman for {', '.join(constant)}: the ratings or predictions are all equal."
        )
    here = [name for name in known if name not in means]
    for source, part in (
        ("training's mean", set(known) - set(here)),
        ("these ratings' mean", here),
    ):
        if part:
            notes.append(f"mse_of_mean predicts {source} for {', '.join(sorted(part))}.")
    return notes
