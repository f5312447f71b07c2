"""Statistics over seeds: of each reward the mean, of each difference to a baseline the paired mean.

Two intervals stand beside each number, both 95 %. *Over prompts*: a number of each seed is
resampled over the same prompts and averaged over the seeds; this is about which prompts were
sampled, for the mean of these very seeds. *Over seeds*: Student's t over the seeds' own numbers;
this is about another order of data and another head, and wide with few seeds. The pretrained
backbone is the same for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.text_rewards import BASELINE, label_of
from smorm.arrays import Floats
from smorm.evaluation.attributes import RatedOutcomes
from smorm.evaluation.correlation import spearman, spearman_draws
from smorm.evaluation.metrics import bootstrap_means, interval, mean_over_seeds
from smorm.evaluation.outcomes import Outcomes
from smorm.evaluation.result import Result

Summary = dict[str, Any]
Sample = tuple[float, Floats]
"""A seed's number, and its draws [R] over resampled prompts."""

MEASURED = {
    "pairs": ("accuracy",),
    "overall": ("spearman", "spearman_within_prompt"),
    "rated": ("spearman",),
    "best-of-n": ("gain", "area", "regret"),
}
"""Numbers of each kind of suite; of best-of-n also gold at every n."""
RATED_BASELINE = ("Multi", "attributes")


def summarise(results: Sequence[Result]) -> Summary:
    """By suite and label: every number, and its difference to the suite's baseline."""
    found: Summary = {}
    for suite in dict.fromkeys(one.suite for one in results if one.outcomes is not None):
        members = [one for one in results if one.suite == suite and one.outcomes is not None]
        base = RATED_BASELINE if suite.startswith("rated/") else BASELINE
        samples = _samples(members)
        found[suite] = {
            label_of(*key): {
                name: row | {"n": _count(members, name)} | _against(of_reward, samples, base, name)
                for name, of_seeds in of_reward.items()
                for row in [_row(list(of_seeds.values()))]
            }
            for key, of_reward in samples.items()
        }
    return found


def _samples(
    members: Sequence[Result],
) -> dict[tuple[str, str], dict[str, dict[Any, Sample]]]:
    """By reward, number and seed."""
    found: dict[tuple[str, str], dict[str, dict[Any, Sample]]] = {}
    for one in members:
        of_reward = found.setdefault((one.model, one.view), {})
        for name in numbers_of(one):
            of_reward.setdefault(name, {})[one.fingerprint.get("seed")] = sample(one, name)
    return found


def numbers_of(one: Result) -> list[str]:
    """Which numbers of a result are summed up."""
    kind = one.suite.partition("/")[0]
    names = list(MEASURED[kind])
    if kind == "best-of-n":
        names += [name for name in one.metrics if name.startswith("gold@")]
    if kind == "rated":
        names += [name for name in one.metrics if name.startswith("spearman/")]
    return names


def sample(one: Result, name: str) -> Sample:
    """A result's number and its draws."""
    outcomes = one.outcomes
    if isinstance(outcomes, RatedOutcomes):
        return _ranked(outcomes, name)
    assert isinstance(outcomes, Outcomes)
    weights = outcomes.sums[name]
    table = np.stack([outcomes.columns[column] for column in weights], axis=1)
    factors = np.array(list(weights.values()))
    draws = bootstrap_means(table, outcomes.clusters) @ factors
    return one.metrics[name].value, draws


def _ranked(outcomes: RatedOutcomes, name: str) -> Sample:
    """Rank correlation of one column, or the mean over all that have one."""
    own = name.removeprefix("spearman/")
    wanted = [own] if own in outcomes.names else list(outcomes.names)
    values, draws = [], []
    for column in (outcomes.names.index(one) for one in wanted):
        predicted, rated = outcomes.predicted[:, column], outcomes.ratings[:, column]
        keep = np.isfinite(rated)
        value = spearman(predicted[keep], rated[keep])
        if np.isfinite(value):
            values.append(value)
            draws.append(spearman_draws(predicted, rated, outcomes.clusters))
    if not values:
        return float("nan"), np.full(1, np.nan)
    return float(np.mean(values)), np.mean(draws, axis=0)


def _row(samples: Sequence[Sample]) -> Summary:
    values = [value for value, _ in samples]
    over = mean_over_seeds(values, len(values)).as_dict()
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


def _against(
    of_reward: dict[str, dict[Any, Sample]],
    samples: dict[tuple[str, str], dict[str, dict[Any, Sample]]],
    base: tuple[str, str],
    name: str,
) -> Summary:
    """The paired difference to the baseline: the same prompts and the same seed on both sides. A
    reward without a seed is compared with every seed's baseline."""
    other = samples.get(base, {}).get(name)
    if other is None or of_reward is samples[base]:
        return {}
    own = of_reward[name]
    pairs = [(own.get(seed, own.get(None)), of_base) for seed, of_base in other.items()]
    gaps = [(a[0] - b[0], a[1] - b[1]) for a, b in pairs if a is not None]
    return {"difference": _row(gaps)}


def _count(members: Sequence[Result], name: str) -> int:
    return next((one.metrics[name].n for one in members if name in one.metrics), 0)
