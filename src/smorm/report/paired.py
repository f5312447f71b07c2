"""Differences between methods, paired seed by seed.

Methods that were trained with the same seeds on the same data share much of their noise: the mean
of their differences over common seeds has a far narrower interval. Where there is one run each, the
measured difference over prompts is used instead: it is about two models, not about methods."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Literal

import numpy as np

from smorm.errors import ConfigError
from smorm.evaluation.metric_names import MetricName
from smorm.evaluation.metrics import Metric, mean_over_seeds
from smorm.evaluation.result import Result
from smorm.report.rows import NOT_COMPARED, Group, groups_of
from smorm.report.selection import by_attribute, distinct, grouped, present_in, reject, select

SIGNIFICANCE = 0.05
_HEADLINES = ("accuracy", "overall", "spearman")
_POLICY_HEADLINES = ("gold@last", "gold@peak", "fall")
_MAX_SIZES = 3
_MIN_SEEDS = 2


@dataclass(frozen=True, slots=True)
class Paired:
    """A method's number less a baseline's."""

    kind: str
    suite: str
    metric: str
    label: str
    base: str
    difference: Metric  # the mean difference; over seeds its n is the number of common seeds
    over: Literal["seeds", "prompts"]  # what the interval is over
    unpaired: int = 0  # seeds that only one of the two has; they are not used
    p_value: float = math.nan  # two-sided, of Student's t test over seeds (NaN without one)
    adjusted: float = math.nan  # after Holm's correction for all comparisons of a report
    by_seed: tuple[tuple[str, float], ...] = ()  # the differences of the common seeds

    @property
    def runs(self) -> int:
        """How many runs of each method the difference is over."""
        return self.difference.n if self.over == "seeds" else 1

    @property
    def better(self) -> bool:
        """Whether the interval lies above 0."""
        return self.difference.low > 0

    @property
    def worse(self) -> bool:
        """Whether the interval lies below 0."""
        return self.difference.high < 0

    @property
    def symbol(self) -> str:
        """* where the interval excludes 0, † where it does so after Holm's correction too."""
        if not (self.better or self.worse):
            return ""
        return "†" if self.adjusted < SIGNIFICANCE else "*"


def paired_differences(results: Sequence[Result], baselines: Sequence[str] = ()) -> list[Paired]:
    """Every method less every baseline (label or model; by default the first, and "SM", the naive
    ensemble of a preference and an attribute model), and a model's further views less its first."""
    groups = reject(groups_of(results), kind=NOT_COMPARED)
    models, labels = distinct(groups, "model"), distinct(groups, "label")
    for name in baselines:
        if name not in labels and name not in models:
            raise ConfigError(f"baseline {name}: no result is of it; there are {', '.join(models)}")
    names = baselines or [*models[:1], *present_in(["SM"], models[1:])]
    paired: list[Paired] = []
    for members in grouped(groups, lambda group: (group.kind, group.suite)).values():
        for method, base in _couples(members, names):
            shared = present_in(method.members[0].metrics, base.members[0].metrics)
            # Over seeds where there are two or more: one run says nothing about a method.
            for name in leading(method.kind, shared):
                pair = _over_seeds(method, base, name) or _over_prompts(method, base, name, results)
                if pair is not None:
                    paired.append(pair)
    adjusted = holm(list(map(attrgetter("p_value"), paired)))
    return [replace(pair, adjusted=p) for pair, p in zip(paired, adjusted, strict=True)]


def leading(kind: str, names: Iterable[str]) -> list[str]:
    """The numbers of a suite that are compared: gold at up to three sizes n, or accuracy."""
    present = list(names)
    if kind == "rl":
        return present_in(_POLICY_HEADLINES, present)
    return representative_sizes(present) or present_in(_HEADLINES, present)[:1]


def representative_sizes(names: Iterable[str]) -> list[str]:
    """Of `gold@n` for many n the largest, and those nearest its roots: 16, 64 and 256 of 256."""
    by_size: dict[int, str] = {}
    for name in names:
        parsed = MetricName.parse(name)
        if parsed.name == "gold" and parsed.n is not None and parsed.n > 1:
            by_size[parsed.n] = name
    sizes = np.array(sorted(by_size))
    if len(sizes) > _MAX_SIZES:
        logs = np.log(sizes)
        targets = logs[-1] * np.array([0.5, 0.75, 1.0])
        # On a log scale, since gold grows with the log of n.
        nearest = np.abs(logs[None] - targets[:, None]).argmin(axis=1)
        sizes = sizes[np.unique(nearest)]
    return [by_size[size] for size in sizes]


def growth_of(difference: Paired, reference: Paired) -> Metric | None:
    """How much larger one difference is than another of the same methods, over common seeds."""
    values, reference_values = dict(difference.by_seed), dict(reference.by_seed)
    common = present_in(values, reference_values)
    growths = [values[seed] - reference_values[seed] for seed in common]
    if len(growths) < _MIN_SEEDS:
        return None
    return mean_over_seeds(growths, len(growths))


def two_sided(values: Sequence[float]) -> float:
    """The p value of Student's t test of a zero mean; NaN with fewer than two finite values."""
    # The CDF behind scipy.stats.t, whose package takes seconds to import.
    from scipy.special import stdtr

    count = len(values)
    if count < _MIN_SEEDS or not np.isfinite(values).all():
        return math.nan
    mean, std = np.mean(values), np.std(values, ddof=1)
    # Equal differences leave rounding noise in the standard deviation, which is no evidence.
    if std <= 1e-15 * abs(mean) * count:
        return float(mean == 0)
    statistic = abs(mean) / (std / math.sqrt(count))
    return float(2 * stdtr(count - 1, -statistic))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p values in the given order; NaN (no test) stays NaN and is not counted.

    Source: Holm (1979), "A simple sequentially rejective multiple test procedure"."""
    raw = np.asarray(p_values, dtype=np.float64)
    tests = int(np.isfinite(raw).sum())
    # NaN sorts last, and so is cut off here.
    order = np.argsort(raw, kind="stable")[:tests]
    scaled = np.minimum(1.0, raw[order] * np.arange(tests, 0, -1))
    adjusted = np.full_like(raw, np.nan)
    # The running maximum keeps adjusted values in the order of the raw ones.
    adjusted[order] = np.maximum.accumulate(scaled)
    return list(map(float, adjusted))


def _couples(members: Sequence[Group], names: Sequence[str]) -> list[tuple[Group, Group]]:
    baselines: list[Group] = []
    for name in names:
        baselines += [group for group in members if name in (group.label, group.model)][:1]
    of_model = by_attribute(members, "model")
    couples: list[tuple[Group, Group]] = []
    for method in members:
        opponents = baselines or list(members[:1])
        # A baseline meets the earlier ones only: each two are compared once.
        if method in baselines:
            opponents = baselines[: baselines.index(method)]
        first_view = of_model[method.model][0]
        if first_view not in opponents:
            opponents = [*opponents, first_view]
        couples += [(method, opponent) for opponent in opponents if opponent is not method]
    return couples


def _over_seeds(method: Group, base: Group, name: str) -> Paired | None:
    values, base_values = _by_seed(method, name), _by_seed(base, name)
    # Seeds are text: by length first, so that 10 comes after 9.
    common = sorted(values.keys() & base_values.keys(), key=lambda seed: (len(seed), seed))
    if len(common) < _MIN_SEEDS:
        return None
    differences = [values[seed] - base_values[seed] for seed in common]
    return Paired(
        method.kind,
        method.suite,
        name,
        method.label,
        base.label,
        mean_over_seeds(differences, len(common)),
        "seeds",
        unpaired=len(values.keys() ^ base_values.keys()),
        p_value=two_sided(differences),
        by_seed=tuple(zip(common, differences, strict=True)),
    )


def _by_seed(group: Group, name: str) -> dict[str, float]:
    values = {}
    # A group without seeds of its own has members all the same: nothing pairs them.
    for seed, member in zip(group.seeds, group.members, strict=False):
        if name in member.metrics and math.isfinite(member.metrics[name].value):
            values[seed] = member.metrics[name].value
    return values


def _over_prompts(
    method: Group, base: Group, name: str, results: Sequence[Result]
) -> Paired | None:
    """The difference that was measured item by item of the only runs that there are."""
    if len(method.members) > 1 or len(base.members) > 1:
        return None
    # The names of a difference are for readers; its fingerprint says which two runs it is of.
    fingerprints = dict(method.members[0].fingerprint), dict(base.members[0].fingerprint)
    for result in select(results, kind=["difference"], suite=[method.suite]):
        compared = result.fingerprint.get("of"), result.fingerprint.get("less")
        if name in result.metrics and compared == fingerprints:
            key = (method.kind, method.suite, name, method.label, base.label)
            return Paired(*key, result.metrics[name], "prompts")
    return None
