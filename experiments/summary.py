"""The statistics of the comparison: means over seeds, intervals over prompts, paired differences.

An item's outcome is averaged over the seeds first; the interval then resamples whole prompts
(95 %). It is about which items were sampled, for the mean of these very seeds. What another seed
would do is seen in the seeds' own values, always shown beside it, and for differences in Student's
t interval over the seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.outcomes import PairOutcomes, RatedOutcomes, label_of, pair_table, rated_table
from experiments.runs import METHODS, Finished
from experiments.tasks import Files
from smorm.arrays import Floats
from smorm.evaluation.correlation import spearman, spearman_draws
from smorm.evaluation.metrics import (
    Metric,
    bootstrap_means,
    interval,
    mean_metric,
    mean_over_seeds,
    share_metric,
)

DIFFERENCES = (("SMORM-F", "Single"), ("SMORM-M", "Single"), ("SMORM-L", "Multi"))

Summary = dict[str, Any]


def summarise(finished: Sequence[Finished], files: Files) -> Summary:
    """Everything that the table of one task shows, as plain values."""
    pairs, rated = pair_table(finished, files), rated_table(finished, files)
    first = next(r for done in finished for r in done.results if r.suite.startswith("pairs/"))
    return {
        "seeds": sorted({done.run.seed for done in finished}),
        "prompts": len(set(pairs.prompts)),
        "pairs": len(pairs.prompts),
        "rated": len(rated.prompts),
        "accuracy": accuracies(pairs),
        "length_correlation": _length_correlations(finished),
        "length_only": first.metrics["length_only_accuracy"].as_dict(),
        "differences": accuracy_differences(pairs),
        "spearman": attribute_table(rated, "spearman"),
        "mse": attribute_table(rated, "mse"),
        "mse_of_mean": _training_mean_error(finished),
        "cost": _cost(finished),
    }


def accuracies(pairs: PairOutcomes) -> Summary:
    """Each label's accuracy with its interval over prompts, and the seeds' own values."""
    return {
        label: {
            **share_metric(outcomes.mean(axis=0), pairs.prompts).as_dict(),
            "seeds": outcomes.mean(axis=1).tolist(),
        }
        for label, outcomes in pairs.by_label.items()
    }


def accuracy_differences(pairs: PairOutcomes) -> Summary:
    """Paired differences: the same pairs and the same seed on both sides."""
    found: Summary = {}
    for a, b in DIFFERENCES:
        gaps = pairs.by_label[a] - pairs.by_label[b]
        metric = mean_metric(gaps.mean(axis=0), pairs.prompts)
        found[f"{a} − {b}"] = _with_seeds(metric, gaps.mean(axis=1))
    return found


def _with_seeds(metric: Metric, seeds: Floats) -> Summary:
    """A difference with its interval over prompts, and Student's t over the seeds beside it."""
    over = mean_over_seeds(seeds.tolist(), metric.n).as_dict()
    return {
        **metric.as_dict(),
        "seeds": seeds.tolist(),
        "seeds_low": over["low"],
        "seeds_high": over["high"],
    }


def attribute_table(rated: RatedOutcomes, family: str) -> Summary:
    """Spearman or squared error: of each attribute, their mean, and SMORM − Multi of that mean.

    An attribute whose ratings are all equal has no rank correlation and is left out.
    """
    measure = _spearman if family == "spearman" else _squared_error
    found: Summary = {}
    means: dict[str, tuple[Floats, Floats]] = {}
    for label, predicted in rated.by_label.items():
        parts = [measure(one, rated) for one in predicted]
        value, draw = (np.stack(part) for part in zip(*parts, strict=True))  # [S, K], [S, R, K]
        kept = np.isfinite(value).all(axis=0)
        count = len(rated.prompts)
        rows = {"mean": (value[:, kept].mean(axis=1), draw[:, :, kept].mean(axis=(0, 2)))}
        means[label] = rows["mean"]
        for at, name in enumerate(rated.names):
            rows[name] = (value[:, at], draw[:, :, at].mean(axis=0))
        found[label] = {name: _row(each, over, count) for name, (each, over) in rows.items()}
    seeds, draws = (means["SMORM"][at] - means["Multi"][at] for at in (0, 1))
    metric = Metric(float(seeds.mean()), len(rated.prompts), *interval(draws))
    found["SMORM − Multi"] = {"mean": _with_seeds(metric, seeds)}
    return found


def _row(seeds: Floats, draws: Floats, count: int) -> Summary:
    metric = Metric(float(seeds.mean()), count, *interval(draws))
    finite = [value if np.isfinite(value) else None for value in seeds.tolist()]
    return {**metric.as_dict(), "seeds": finite}


def _spearman(predicted: Floats, rated: RatedOutcomes) -> tuple[Floats, Floats]:
    """Values [K] and draws [R, K] of one seed; the draws resample the same prompts for all."""
    values, draws = [], []
    for column, ratings in zip(predicted.T, rated.ratings.T, strict=True):
        keep = np.isfinite(ratings)
        values.append(spearman(column[keep], ratings[keep]))
        draws.append(spearman_draws(column, ratings, rated.prompts))
    return np.array(values), np.stack(draws, axis=1)


def _squared_error(predicted: Floats, rated: RatedOutcomes) -> tuple[Floats, Floats]:
    errors = (predicted - rated.ratings) ** 2
    return np.nanmean(errors, axis=0), bootstrap_means(errors, rated.prompts)


def _length_correlations(finished: Sequence[Finished]) -> Summary:
    """Rank correlation of score and length within a prompt, each label's mean over seeds."""
    found: dict[str, list[float]] = {}
    for result in (r for done in finished for r in done.results if r.suite.startswith("pairs/")):
        value = result.metrics["length_correlation_within_prompt"].value
        found.setdefault(label_of(result), []).append(value)
    return {label: float(np.mean(values)) for label, values in found.items()}


def _training_mean_error(finished: Sequence[Finished]) -> Summary:
    """The baseline of the squared error: predicting training's mean rating."""
    result = next(r for done in finished for r in done.results if r.suite.startswith("rated/"))
    return {
        name.partition("/")[2] or "mean": metric.as_dict()
        for name, metric in result.metrics.items()
        if name.partition("/")[0] == "mse_of_mean"
    }


def _cost(finished: Sequence[Finished]) -> Summary:
    """Means over seeds for each method."""
    found: Summary = {}
    for method in METHODS:
        costs = [done.cost for done in finished if done.run.method == method]
        found[method] = {key: float(np.mean([cost[key] for cost in costs])) for key in costs[0]}
    return found
