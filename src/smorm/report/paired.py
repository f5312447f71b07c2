"""Differences between methods, paired seed by seed.

Two methods that were trained with the same seeds on the same data share much of their luck. The
mean over common seeds of one's number less the other's has a far narrower interval than the two
numbers side by side. Where there is one run each, the paired difference over prompts that the
stress test or evaluation took is used instead: it is about those two models, not about methods.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from smorm.errors import ConfigError
from smorm.evaluation.compare import KIND as DIFFERENCE
from smorm.evaluation.metrics import Metric, mean_over_seeds
from smorm.evaluation.result import Result
from smorm.report.rows import Group, groups_of
from smorm.report.student import holm, two_sided

Over = Literal["seeds", "prompts"]
_NOT_COMPARED = (DIFFERENCE, "sanity", "training", "cost")
_LEADS = ("accuracy", "overall", "spearman")
_OF_POLICIES = ("gold@last", "gold@peak", "fall")
_SIZES_SHOWN = 3
_LEAST_SEEDS = 2


@dataclass(frozen=True, slots=True)
class Paired:
    """A method's number less a baseline's.

    Attributes:
        kind, suite, metric: what was measured.
        label, base: the method and what it is compared with.
        difference: the mean difference; over seeds its n is the number of common seeds.
        over: what the interval is over.
        unpaired: how many seeds only one of the two has; they are left out.
        chance: two-sided p value of Student's t test over seeds (NaN without one).
        corrected: the same after Holm's correction for all comparisons of a report.
        by_seed: the differences of the common seeds.
    """

    kind: str
    suite: str
    metric: str
    label: str
    base: str
    difference: Metric
    over: Over
    unpaired: int = 0
    chance: float = math.nan
    corrected: float = math.nan
    by_seed: tuple[tuple[str, float], ...] = ()

    @property
    def better(self) -> bool:
        """Whether the interval lies above 0."""
        return self.difference.low > 0

    @property
    def worse(self) -> bool:
        """Whether the interval lies below 0."""
        return self.difference.high < 0


def paired_differences(results: Sequence[Result], baselines: Sequence[str] = ()) -> list[Paired]:
    """Every method less every baseline, and a model's further views less its first.

    Args:
        results: of any kind; the leading numbers of best-of-n, policies and evaluations count.
        baselines: labels or names of models. By default the first model, and "SM" (the naive
            ensemble of a preference and an attribute model) where there is one.

    Raises:
        ConfigError: no result is of a baseline that was named.
    """
    groups = [group for group in groups_of(results) if group.kind not in _NOT_COMPARED]
    bases = _baselines(groups, baselines)
    found: list[Paired] = []
    for suite in dict.fromkeys((group.kind, group.suite) for group in groups):
        members = [group for group in groups if (group.kind, group.suite) == suite]
        for one, base in _couples(members, bases):
            found += _differences(one, base, results)
    corrected = holm([one.chance for one in found])
    return [replace(one, corrected=p) for one, p in zip(found, corrected, strict=True)]


def leading(kind: str, names: Iterable[str]) -> list[str]:
    """The numbers of a suite that are compared: gold at up to three sizes n, or accuracy."""
    present = list(names)
    if kind == "rl":
        return [name for name in _OF_POLICIES if name in present]
    sizes = sizes_shown([name for name in present if name.startswith("gold@")])
    return sizes or [name for name in _LEADS if name in present][:1]


def sizes_shown(names: Sequence[str]) -> list[str]:
    """Of `gold@n` for many n the largest, and those nearest its roots: 16, 64 and 256 of 256."""
    by_size = {float(name.partition("@")[2]): name for name in names if _is_size(name)}
    sizes = sorted(size for size in by_size if size > 1)
    if len(sizes) <= _SIZES_SHOWN:
        return [by_size[size] for size in sizes]
    top = math.log(sizes[-1])
    wanted = (top / 2, top * 3 / 4, top)
    chosen = {min(sizes, key=lambda size: abs(math.log(size) - want)) for want in wanted}
    return [by_size[size] for size in sorted(chosen)]


def larger_shift(ours: Paired, other: Paired) -> Metric | None:
    """How much larger one difference is than another of the same methods, over common seeds."""
    there = dict(other.by_seed)
    both = [value - there[seed] for seed, value in ours.by_seed if seed in there]
    return mean_over_seeds(both, len(both)) if len(both) >= _LEAST_SEEDS else None


def _is_size(name: str) -> bool:
    return name.partition("@")[2].isdigit()


def _baselines(groups: Sequence[Group], asked: Sequence[str]) -> list[str]:
    names = list(dict.fromkeys(group.key[2] for group in groups))
    labels = {group.label for group in groups}
    for one in asked:
        if one not in labels and one not in names:
            raise ConfigError(f"baseline {one}: no result is of it; there are {', '.join(names)}")
    return list(asked) or [*names[:1], *(name for name in names[1:] if name == "SM")]


def _couples(members: Sequence[Group], bases: Sequence[str]) -> list[tuple[Group, Group]]:
    """Who is compared with whom in one suite; nobody twice, and no two both ways."""
    chosen: list[Group] = []
    for name in bases:
        chosen += [group for group in members if name in (group.label, group.key[2])][:1]
    couples: list[tuple[Group, Group]] = []
    for one in members:
        first = next(group for group in members if group.key[2] == one.key[2])
        before = chosen[: chosen.index(one)] if one in chosen else chosen or members[:1]
        others = before if first in before else [*before, first]
        couples += [(one, other) for other in others if other is not one]
    return couples


def _differences(one: Group, base: Group, results: Sequence[Result]) -> list[Paired]:
    names = [name for name in one.members[0].metrics if name in base.members[0].metrics]
    found = []
    for name in leading(one.kind, names):
        pair = _over_seeds(one, base, name) or _over_prompts(one, base, name, results)
        found += [pair] if pair else []
    return found


def _over_seeds(one: Group, base: Group, name: str) -> Paired | None:
    """The difference over common seeds, or None where there are not two of them."""
    mine, theirs = _by_seed(one, name), _by_seed(base, name)
    common = sorted(set(mine) & set(theirs), key=lambda seed: (len(seed), seed))
    if len(common) < _LEAST_SEEDS:
        return None
    values = [mine[seed] - theirs[seed] for seed in common]
    return Paired(
        one.kind, one.suite, name, one.label, base.label,
        mean_over_seeds(values, len(values)), "seeds", len(set(mine) ^ set(theirs)),
        two_sided(values), by_seed=tuple(zip(common, values, strict=True)),
    )  # fmt: skip


def _by_seed(group: Group, name: str) -> dict[str, float]:
    found = {
        seed: member.metrics[name].value
        for seed, member in zip(group.seeds, group.members, strict=False)
        if name in member.metrics
    }
    return {seed: value for seed, value in found.items() if math.isfinite(value)}


def _over_prompts(one: Group, base: Group, name: str, results: Sequence[Result]) -> Paired | None:
    """The difference that was taken item by item of the only runs that there are."""
    if len(one.members) > 1 or len(base.members) > 1:
        return None
    marks = (dict(one.members[0].fingerprint), dict(base.members[0].fingerprint))
    for result in results:
        told = result.fingerprint
        fits = result.kind == DIFFERENCE and result.suite == one.suite and name in result.metrics
        if fits and (told.get("of"), told.get("less")) == marks:
            return Paired(
                one.kind, one.suite, name, one.label, base.label, result.metrics[name], "prompts"
            )
    return None
