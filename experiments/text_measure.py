"""Measured rewards: accuracy on pairs, rank correlation with ratings, cost, and statistics over
seeds.

Every set is measured for models trained on its own training split (ID) and on the other data set's
(OOD). Attributes have other names there, so a reward is also compared with one number that every
rated set has: the mean of its ratings, each in units of its standard deviation in training.

A summary has two 95 % intervals for each number. *Over prompts*: each seed's number is resampled
over the same prompts and averaged over the seeds; it covers the sampling of prompts, for the mean
of these very seeds. *Over seeds*: Student's t over the numbers of the seeds; it covers the order of
data and the initial head, and is wide with few seeds. The pretrained backbone is the same for all.

Shapes: N items, K attributes, R draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.text_rewards import BASELINE, Reward, label_of
from experiments.text_runs import ScoredRun, Sets, records_of
from smorm.arrays import Floats
from smorm.data.census import Census
from smorm.data.records import Preference, Rated, prompt_key
from smorm.data.scaling import apply_scales, fit_scales, rating_matrix
from smorm.evaluation.accuracy import measure_pairs
from smorm.evaluation.attributes import RatedOutcomes, measure_rated
from smorm.evaluation.correlation import centred, spearman, spearman_draws, spearman_metric
from smorm.evaluation.metric_names import MetricName, SuiteName
from smorm.evaluation.metrics import (
    Metric,
    bootstrap_means,
    cluster_codes,
    interval,
    mean_over_seeds,
)
from smorm.evaluation.outcomes import Outcomes
from smorm.evaluation.result import Measurement, Result
from smorm.evaluation.suites import hash_of, words
from smorm.files import fingerprint
from smorm.model.store import versions

OVERALL = "overall"
# Numbers of each kind of suite that are summarised.
MEASURED = {
    "pairs": ("accuracy",),
    OVERALL: ("spearman", "spearman_within_prompt"),
    "rated": ("spearman",),
    "best-of-n": ("gain", "area", "regret"),
}
# Quantities of which every attribute's, or every n's number is summarised too.
ALSO_MEASURED = {"rated": "spearman", "best-of-n": "gold"}
# Single has no attribute rows.
RATED_BASELINE = ("Multi", "attributes")

Summary = dict[str, Any]
# A seed's number, and its draws [R] over resampled prompts.
Sample = tuple[float, Floats]
BySeed = dict[Any, Sample]


@dataclass(frozen=True, slots=True)
class TextSuite:
    """A kind of suite, the data set that was trained on, and the one that is measured on."""

    kind: str
    trained: str
    measured: str

    @classmethod
    def parse(cls, text: str) -> TextSuite:
        """From `pairs/ID-ukp` or `pairs/OOD-truthfulqa-to-ukp`."""
        suite = SuiteName.parse(text)
        regime, _, names = suite.label.partition("-")
        trained, _, measured = names.partition("-to-")
        return cls(suite.kind, trained, trained if regime == "ID" else measured)

    @property
    def in_distribution(self) -> bool:
        """Whether it is measured on the data set that was trained on."""
        return self.trained == self.measured

    def __str__(self) -> str:
        label = f"OOD-{self.trained}-to-{self.measured}"
        if self.in_distribution:
            label = f"ID-{self.measured}"
        return str(SuiteName(self.kind, label))


@dataclass(frozen=True, slots=True)
class HeldOutSet:
    """A test set, and the labels of its items.

    Attributes:
        key: its name among a run's sets, such as `pairs/ukp`.
        overall: of a rated set the mean of the standardised ratings [N]."""

    key: str
    records: list[Any]
    prompts: list[str]
    data: str
    overall: Floats | None = None

    @property
    def kind(self) -> str:
        """`pairs` or `rated`."""
        return SuiteName.parse(self.key).kind

    @property
    def name(self) -> str:
        """The data set's name."""
        return SuiteName.parse(self.key).label

    @property
    def locations(self) -> list[str]:
        """The file and line of each record, which match items of two results."""
        return [record.where for record in self.records]


def read_tests(sets: Sets, rated_training: Mapping[str, list[Any]]) -> list[HeldOutSet]:
    """Every set of pairs and ratings among `sets`; `rated_training` are training ratings by
    data set, from which a rating's unit is taken."""
    tests = []
    for key, definition in sets.items():
        suite = SuiteName.parse(key)
        if suite.kind in ("pairs", "rated"):
            records = records_of(*definition)
            overall = None
            if suite.kind == "rated":
                overall = overall_rating(records, rated_training[suite.label])
            data = fingerprint([hash_of(record) for record in records])
            tests.append(HeldOutSet(key, records, prompts_of(records), data, overall))
    return tests


def prompts_of(records: Sequence[Any]) -> list[str]:
    """A label of each record's prompt, which intervals resample."""
    return [fingerprint(prompt_key(record.prompt)) for record in records]


def overall_rating(records: Sequence[Rated], training: Sequence[Rated]) -> Floats:
    """Mean of a response's ratings [N], each standardised by the training split."""
    # Units come from training, so that they do not depend on the test set.
    names = sorted({name for record in training for name in record.scores})
    scales = fit_scales(names, rating_matrix(training, names), "standardize", Census())
    return np.asarray(np.nanmean(apply_scales(scales, rating_matrix(records, names)), axis=1))


def measure_reward(reward: Reward, test: HeldOutSet) -> Result:
    """Accuracy on pairs, or rank correlation with the overall rating."""
    values = reward.values(test.key)
    if test.kind == "pairs":
        kind, measured = "pairs", _accuracy(test, values)
    else:
        kind, measured = OVERALL, _overall(test, values)
    suite = TextSuite(kind, reward.trained_on, test.name)
    provenance = {
        "members": [member.scored.hashes for member in reward.members],
        "data": test.data,
        "versions": versions(),
        "seed": reward.seed,
    }
    return Result(
        "eval", str(suite), reward.name, reward.view, measured.metrics,
        fingerprint=provenance, notes=measured.notes, outcomes=measured.outcomes,
    )  # fmt: skip


def _accuracy(test: HeldOutSet, values: Sequence[Floats]) -> Measurement:
    records: list[Preference] = test.records
    scores = np.stack(values)  # [N, 2]: chosen, rejected
    return measure_pairs(
        scores[:, 0],
        scores[:, 1],
        test.prompts,
        chosen_lengths=np.array([float(words(record.chosen)) for record in records]),
        rejected_lengths=np.array([float(words(record.rejected)) for record in records]),
        length_unit="words",
        keys=test.locations,
    )


def _overall(test: HeldOutSet, values: Sequence[Floats]) -> Measurement:
    """Spearman over all responses, and with reward and rating centred within each prompt, since
    Bradley–Terry leaves a prompt's offset open."""
    assert test.overall is not None
    reward = np.concatenate(values)
    inner = (centred(reward, test.prompts), centred(test.overall, test.prompts))
    metrics = {
        "spearman": spearman_metric(reward, test.overall, test.prompts),
        "spearman_within_prompt": spearman_metric(*inner, test.prompts),
    }
    # The two numbers are two columns, so that their draws are those of attributes.
    outcomes = RatedOutcomes(
        np.stack([reward, inner[0]], axis=1),
        np.stack([test.overall, inner[1]], axis=1),
        list(metrics),
        cluster_codes(test.prompts, len(reward))[0].tolist(),
        test.locations,
    )
    return Measurement(metrics, (), outcomes)


def measure_attributes(scored: ScoredRun, test: HeldOutSet) -> Result:
    """Each attribute's rank correlation and squared error, of a model trained on this data set."""
    measured = measure_rated(
        scored.attributes[test.key],
        rating_matrix(test.records, scored.names),
        scored.names,
        test.prompts,
        training_means=scored.means,
        keys=test.locations,
    )
    suite = TextSuite("rated", test.name, test.name)
    provenance = {
        "hashes": scored.hashes,
        "data": test.data,
        "versions": versions(),
        "seed": scored.run.seed,
    }
    return Result(
        "eval", str(suite), scored.run.name, "attributes", measured.metrics,
        fingerprint=provenance, notes=measured.notes, outcomes=measured.outcomes,
    )  # fmt: skip


def curve_of(scored: ScoredRun) -> Result:
    """The training curve of a run."""
    run = scored.run
    provenance = {"hashes": scored.hashes, "epochs": scored.epochs, "seed": run.seed}
    return Result(
        "training", f"training/{run.task.name}", run.name, "",
        {"loss": Metric(scored.curve[-1]["loss"], 1)}, items=scored.curve, fingerprint=provenance,
    )  # fmt: skip


def cost_of(reward: Reward) -> Result:
    """The cost of scoring with a reward, and of training all its members."""
    totals = dict.fromkeys(
        ("parameters", "trained_parameters", "passes_per_score", "training_passes",
         "training_tokens", "minutes"), 0.0,
    )  # fmt: skip
    for member in reward.members:
        cost = member.scored.cost
        totals["parameters"] += cost["parameters"]["model"]
        totals["trained_parameters"] += cost["parameters"]["trained"]
        totals["passes_per_score"] += cost["passes_per_score"]
        totals["training_passes"] += cost["passes"]
        totals["training_tokens"] += sum(cost["tokens"].values())
        totals["minutes"] += member.scored.minutes
    metrics = {name: Metric(float(value), 1) for name, value in totals.items()}
    return Result(
        "cost", f"cost/{reward.trained_on}", reward.name, reward.view, metrics,
        fingerprint={"seed": reward.seed},
    )  # fmt: skip


def summarise(results: Sequence[Result]) -> Summary:
    """By suite and label: every number, and its difference to the suite's baseline."""
    # Cost and curves have no outcomes, and so no draws to resample.
    by_suite: dict[str, list[Result]] = {}
    for result in results:
        if result.outcomes is not None:
            by_suite.setdefault(result.suite, []).append(result)
    summary: Summary = {}
    for suite, members in by_suite.items():
        samples: dict[tuple[str, str], dict[str, BySeed]] = {}
        for result in members:
            numbers = samples.setdefault((result.model, result.view), {})
            for name in numbers_of(result):
                seed = result.fingerprint.get("seed")
                numbers.setdefault(name, {})[seed] = sample(result, name)
        base_key = RATED_BASELINE if SuiteName.parse(suite).kind == "rated" else BASELINE
        counts: dict[str, int] = {}
        for result in members:
            for name, metric in result.metrics.items():
                counts.setdefault(name, metric.n)
        summary[suite] = {}
        for key, numbers in samples.items():
            rows = {}
            for name, by_seed in numbers.items():
                rows[name] = _row(list(by_seed.values())) | {"n": counts.get(name, 0)}
                base = samples.get(base_key, {}).get(name)
                if base is not None and key != base_key:
                    rows[name]["difference"] = _difference(by_seed, base)
            summary[suite][label_of(*key)] = rows
    return summary


def numbers_of(result: Result) -> list[str]:
    """The names of a result's numbers that are summarised."""
    kind = SuiteName.parse(result.suite).kind
    names = list(MEASURED[kind])
    for text in result.metrics:
        metric = MetricName.parse(text)
        is_single = metric.subset is not None or metric.n is not None
        if is_single and metric.name == ALSO_MEASURED.get(kind) and metric.over is None:
            names.append(text)
    return names


def sample(result: Result, name: str) -> Sample:
    """A result's number and its draws."""
    outcomes = result.outcomes
    if isinstance(outcomes, RatedOutcomes):
        return _rank_sample(outcomes, name)
    assert isinstance(outcomes, Outcomes)
    # A number is a weighted sum of column means, and so is each of its draws.
    weights = outcomes.sums[name]
    table = np.stack([outcomes.columns[column] for column in weights], axis=1)
    draws = bootstrap_means(table, outcomes.clusters) @ np.array(list(weights.values()))
    return result.metrics[name].value, draws


def _rank_sample(outcomes: RatedOutcomes, name: str) -> Sample:
    """Rank correlation of one column, or the mean over all that have one."""
    column = MetricName.parse(name).subset or name
    names = [column] if column in outcomes.names else list(outcomes.names)
    values, draws = [], []
    for index in map(outcomes.names.index, names):
        predicted, ratings = outcomes.predicted[:, index], outcomes.ratings[:, index]
        is_rated = np.isfinite(ratings)
        value = spearman(predicted[is_rated], ratings[is_rated])
        # Equal ratings have no rank correlation, and take no part in the mean.
        if np.isfinite(value):
            values.append(value)
            draws.append(spearman_draws(predicted, ratings, outcomes.clusters))
    if not values:
        return float("nan"), np.full(1, np.nan)
    return float(np.mean(values)), np.mean(draws, axis=0)


def _row(samples: Sequence[Sample]) -> Summary:
    values = [value for value, _ in samples]
    over = mean_over_seeds(values, len(values)).as_dict()
    # Draw i resamples the same prompts in every seed, so the seeds' mean is taken draw by draw.
    low, high = interval(np.mean([draws for _, draws in samples], axis=0))
    return {
        "value": over["value"],
        "low": _finite(low),
        "high": _finite(high),
        "seeds": values,
        "seeds_low": over["low"],
        "seeds_high": over["high"],
    }


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _difference(by_seed: BySeed, base: BySeed) -> Summary:
    """The paired difference to the baseline: the same prompts and the same seed on both sides. A
    reward without a seed is compared with the baseline of every seed."""
    gaps = []
    for seed, (base_value, base_draws) in base.items():
        sample_of_seed = by_seed.get(seed, by_seed.get(None))
        if sample_of_seed is not None:
            value, draws = sample_of_seed
            gaps.append((value - base_value, draws - base_draws))
    return _row(gaps)
