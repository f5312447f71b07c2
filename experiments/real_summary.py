"""The statistics of the comparison: means over seeds, intervals over prompts, paired differences.

An item's outcome is averaged over the seeds first; the interval then resamples whole prompts
(95 %). It covers the sampling of items, for the mean of these very seeds. Another seed's result
shows in the value of each seed, and for differences in Student's t interval over the seeds.

Shapes: `S` seeds, `N` items, `K` attributes, `R` draws. Items are in the order of the test file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.runs import Run
from experiments.tasks import Files
from smorm.arrays import Floats
from smorm.data.census import Census
from smorm.data.reading import Source, read_preferences, read_rated
from smorm.data.records import prompt_key
from smorm.data.scaling import rating_matrix
from smorm.errors import DataError
from smorm.evaluation.correlation import spearman, spearman_draws
from smorm.evaluation.metric_names import MetricName, SuiteName
from smorm.evaluation.metrics import (
    Metric,
    bootstrap_means,
    interval,
    mean_metric,
    mean_over_seeds,
    pair_outcomes,
    share_metric,
)
from smorm.evaluation.result import Result

# Each view against the method that was trained on its labels alone; M, which has both, with F.
DIFFERENCES = (("SMORM-F", "Single"), ("SMORM-M", "Single"), ("SMORM-L", "Multi"))

Summary = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Finished:
    """A run's results and its cost."""

    run: Run
    results: list[Result]
    cost: dict[str, float]


@dataclass(frozen=True, slots=True)
class PairOutcomes:
    """Outcomes [S, N] of each method's view (1 right, 0.5 tie, 0 wrong), and the prompts [N]."""

    prompts: list[str]
    by_label: dict[str, Floats]


@dataclass(frozen=True, slots=True)
class RatedOutcomes:
    """Predictions [S, N, K] of each method on the ratings' own scale, ratings [N, K], prompts."""

    prompts: list[str]
    names: list[str]
    ratings: Floats
    by_label: dict[str, Floats]


def label_of(result: Result) -> str:
    """`SMORM-F`, or only the method where it has one view."""
    return f"SMORM-{result.view}" if result.model == "SMORM" else result.model


def results_of_kind(finished: Sequence[Finished], kind: str) -> list[Result]:
    """Results of a kind of suite by seed, so that equal positions of two methods are one seed."""
    results: list[Result] = []
    for done in sorted(finished, key=lambda done: done.run.seed):
        results += [r for r in done.results if SuiteName.parse(r.suite).kind == kind]
    return results


def pair_table(finished: Sequence[Finished], files: Files) -> PairOutcomes:
    """Outcomes of every pairs suite, matched to the test file by location.

    Raises:
        DataError: a result has other items than the file."""
    records = list(read_preferences(Source(files.test_pairs), census=Census()))
    where, prompts = _locations(records)
    outcomes: dict[str, list[Floats]] = {}
    for result in results_of_kind(finished, "pairs"):
        scores = np.array([item["scores"] for item in _items(result, where)])
        correct, _ = pair_outcomes(scores[:, 0], scores[:, 1])
        outcomes.setdefault(label_of(result), []).append(correct)
    return PairOutcomes(prompts, _stack_seeds(outcomes))


def rated_table(finished: Sequence[Finished], files: Files) -> RatedOutcomes:
    """Predictions of every rated suite, matched to the test file by location.

    Raises:
        DataError: a result has other items than the file, or methods have other attributes."""
    records = list(read_rated(Source(files.test_rated), census=Census()))
    where, prompts = _locations(records)
    predictions: dict[str, list[Floats]] = {}
    names: list[str] = []
    for result in results_of_kind(finished, "rated"):
        items = _items(result, where)
        names = names or list(items[0]["attributes"])
        rows = [list(map(item["attributes"].get, names)) for item in items]
        predictions.setdefault(result.model, []).append(np.array(rows, dtype=float))
    return RatedOutcomes(prompts, names, rating_matrix(records, names), _stack_seeds(predictions))


def _locations(records: Sequence[Any]) -> tuple[list[str], list[str]]:
    """The file and line of each record, which match items of results, and a key of its prompt."""
    where, prompts = [], []
    for record in records:
        where.append(record.where)
        prompts.append(prompt_key(record.prompt))
    return where, prompts


def _stack_seeds(by_label: dict[str, list[Floats]]) -> dict[str, Floats]:
    return {label: np.stack(seeds) for label, seeds in by_label.items()}


def _items(result: Result, where: Sequence[str]) -> list[dict[str, Any]]:
    items = result.items
    # Numbers of other items would be averaged and compared without an error.
    if not isinstance(items, list) or [item["where"] for item in items] != list(where):
        raise DataError(f"{result.suite}: {result.model}: its items are not those of the file")
    return items


def summarise(finished: Sequence[Finished], files: Files) -> Summary:
    """All numbers of the page of one task, as plain values."""
    pairs, rated = pair_table(finished, files), rated_table(finished, files)
    # The length rule reads no model, so that any result has it.
    first = results_of_kind(finished, "pairs")[0]
    length_only = str(MetricName("accuracy", over="length_only"))
    return {
        "seeds": sorted({done.run.seed for done in finished}),
        "prompts": len(set(pairs.prompts)),
        "pairs": len(pairs.prompts),
        "rated": len(rated.prompts),
        "accuracy": accuracies(pairs),
        "length_correlation": _length_correlations(finished),
        "length_only": first.metrics[length_only].as_dict(),
        "differences": accuracy_differences(pairs),
        "spearman": attribute_table(rated, "spearman"),
        "mse": attribute_table(rated, "mse"),
        "mse_of_mean": _training_mean_error(finished),
        "cost": _cost(finished),
    }


def accuracies(pairs: PairOutcomes) -> Summary:
    """Each label's accuracy with its interval over prompts, and the value of each seed."""
    rows: Summary = {}
    for label, outcomes in pairs.by_label.items():
        # Seeds first: the interval is of the mean over these seeds, and resamples prompts only.
        metric = share_metric(outcomes.mean(axis=0), pairs.prompts)
        rows[label] = {**metric.as_dict(), "seeds": outcomes.mean(axis=1).tolist()}
    return rows


def accuracy_differences(pairs: PairOutcomes) -> Summary:
    """Paired differences: the same pairs and the same seed on both sides."""
    rows: Summary = {}
    for label, base in DIFFERENCES:
        gaps = pairs.by_label[label] - pairs.by_label[base]
        metric = mean_metric(gaps.mean(axis=0), pairs.prompts)
        rows[f"{label} − {base}"] = _difference_row(metric, gaps.mean(axis=1))
    return rows


def _difference_row(metric: Metric, seeds: Floats) -> Summary:
    """A difference with its interval over prompts, and Student's t over the seeds beside it."""
    over = mean_over_seeds(seeds.tolist(), metric.n).as_dict()
    intervals = {"seeds_low": over["low"], "seeds_high": over["high"]}
    return {**metric.as_dict(), "seeds": seeds.tolist(), **intervals}


def attribute_table(rated: RatedOutcomes, family: str) -> Summary:
    """Spearman or squared error: of each attribute, their mean, and SMORM − Multi of that mean.

    An attribute whose ratings are all equal has no rank correlation and is left out."""
    measure = _spearman if family == "spearman" else _squared_error
    count = len(rated.prompts)
    rows: Summary = {}
    means: dict[str, tuple[Floats, Floats]] = {}
    for label, predictions in rated.by_label.items():
        measured, resampled = [], []
        for predicted in predictions:
            of_seed, draws_of_seed = measure(predicted, rated)
            measured.append(of_seed)
            resampled.append(draws_of_seed)
        values, draws = np.stack(measured), np.stack(resampled)  # [S, K], [S, R, K]
        defined = np.isfinite(values).all(axis=0)
        means[label] = (values[:, defined].mean(axis=1), draws[:, :, defined].mean(axis=(0, 2)))
        rows[label] = {"mean": _attribute_row(*means[label], count)}
        for index, name in enumerate(rated.names):
            own_draws = draws[:, :, index].mean(axis=0)
            rows[label][name] = _attribute_row(values[:, index], own_draws, count)
    # The draws resample the same prompts for both, so their difference is paired.
    seeds = means["SMORM"][0] - means["Multi"][0]
    draws = means["SMORM"][1] - means["Multi"][1]
    metric = Metric(float(seeds.mean()), count, *interval(draws))
    rows["SMORM − Multi"] = {"mean": _difference_row(metric, seeds)}
    return rows


def _attribute_row(seeds: Floats, draws: Floats, count: int) -> Summary:
    metric = Metric(float(seeds.mean()), count, *interval(draws))
    values = seeds.astype(object)
    values[~np.isfinite(seeds)] = None  # JSON has no NaN
    return {**metric.as_dict(), "seeds": values.tolist()}


def _spearman(predicted: Floats, rated: RatedOutcomes) -> tuple[Floats, Floats]:
    """Values [K] and draws [R, K] of one seed; the draws resample the same prompts for all."""
    values, draws = [], []
    for column, ratings in zip(predicted.T, rated.ratings.T, strict=True):
        # Attributes are rated on different responses.
        is_rated = np.isfinite(ratings)
        values.append(spearman(column[is_rated], ratings[is_rated]))
        draws.append(spearman_draws(column, ratings, rated.prompts))
    return np.array(values), np.stack(draws, axis=1)


def _squared_error(predicted: Floats, rated: RatedOutcomes) -> tuple[Floats, Floats]:
    errors = (predicted - rated.ratings) ** 2
    # Not every response is rated on every attribute.
    return np.nanmean(errors, axis=0), bootstrap_means(errors, rated.prompts)


def _length_correlations(finished: Sequence[Finished]) -> Summary:
    """Rank correlation of score and length within a prompt, each label's mean over seeds."""
    by_label: dict[str, list[float]] = {}
    for result in results_of_kind(finished, "pairs"):
        value = result.metrics["length_correlation_within_prompt"].value
        by_label.setdefault(label_of(result), []).append(value)
    return {label: float(np.mean(values)) for label, values in by_label.items()}


def _training_mean_error(finished: Sequence[Finished]) -> Summary:
    """The baseline of the squared error: predicting training's mean rating."""
    rows: Summary = {}
    # Any result has it: training's mean is the same for all methods and seeds.
    for text, metric in results_of_kind(finished, "rated")[0].metrics.items():
        name = MetricName.parse(text)
        if name.name == "mse_of_mean":
            rows[name.subset or "mean"] = metric.as_dict()
    return rows


def _cost(finished: Sequence[Finished]) -> Summary:
    """Means over seeds for each method."""
    costs: dict[str, list[dict[str, float]]] = {}
    for done in sorted(finished, key=lambda done: done.run.seed):
        costs.setdefault(done.run.name, []).append(done.cost)
    rows: Summary = {}
    for method, seeds in costs.items():
        rows[method] = {}
        for key in seeds[0]:
            rows[method][key] = float(np.mean([cost[key] for cost in seeds]))
    return rows
