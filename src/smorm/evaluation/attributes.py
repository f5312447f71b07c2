"""The `rated` suite: how well the attribute rows predict ratings, on the ratings' own scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from smorm.errors import DataError
from smorm.evaluation.baselines import constants
from smorm.evaluation.correlation import spearman_draws, spearman_metric
from smorm.evaluation.metrics import (
    Clusters,
    Floats,
    Metric,
    as_floats,
    bootstrap_means,
    cluster_codes,
    interval,
    mean_metric,
    require_finite,
)
from smorm.evaluation.result import Measurement


def measure_rated(
    predicted: Floats,
    ratings: Floats,
    names: Sequence[str],
    prompts: Clusters,
    *,
    training_means: Mapping[str, float] | None = None,
) -> Measurement:
    """Spearman and mean squared error of each attribute, and their mean over attributes.

    Args:
        predicted: predictions on the ratings' own scale [N, K].
        ratings: ratings [N, K]; NaN is not rated, left out and counted.
        names: the K attributes.
        prompts: a label of the prompt for each response [N]; intervals resample prompts.
        training_means: each attribute's mean rating in training, the constant of the baseline;
            by default the mean of these ratings.

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
    return Measurement(macro | metrics, (heading, *_notes(rated, names, known, with_rank, means)))


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
