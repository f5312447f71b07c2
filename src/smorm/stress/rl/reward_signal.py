"""What the policy is rewarded with: the proxy's score, normalised, times a multiplier.

Shapes: `B` answers of a step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Literal

import numpy as np

from smorm.data.census import Census, DropReason
from smorm.data.records import Item
from smorm.errors import DataError
from smorm.evaluation.metrics import Floats
from smorm.stress.proxies import ProxyReward
from smorm.stress.rl.prompts import Asked
from smorm.text.limits import Unscored


@dataclass(frozen=True, slots=True)
class Proxy:
    """One view of a reward, and what was counted while it scored."""

    pusher: ProxyReward
    place: int
    census: Census = field(default_factory=Census)

    def values(self, pools: Sequence[Item]) -> list[Floats | Unscored]:
        """Scores of pools, or why one has none."""
        return self.pusher.score(pools, self.census)[self.place]

    def each(self, asked: Sequence[Asked], texts: Sequence[str]) -> Floats:
        """Scores of answers [B]; NaN, and counted, where there is none. Neighbouring answers to one
        prompt are scored together.

        Raises:
            DataError: no answer has a score.
        """
        rows = list(zip(asked, texts, strict=True))
        pools = [one.item([text for _, text in run]) for one, run in _runs(rows)]
        found: list[float] = []
        for pool, scores in zip(pools, self.values(pools), strict=True):
            # one answer that does not fit takes its pool with it: one by one then
            found += self._alone(pool) if isinstance(scores, Unscored) else scores.tolist()
        if all(map(math.isnan, found)):
            raise DataError(f"{self.pusher.name}: scores none of the {len(found)} sampled answers")
        return np.array(found)

    def _alone(self, pool: Item) -> list[float]:
        found = []
        for scores in self.values([pool.having([one]) for one in pool.responses]):
            if isinstance(scores, Unscored):
                self.census.add(DropReason.UNSCORED_SAMPLE, pool.where)
            found.append(math.nan if isinstance(scores, Unscored) else float(scores[0]))
        return found


def _runs(rows: Sequence[tuple[Asked, str]]) -> list[tuple[Asked, list[tuple[Asked, str]]]]:
    grouped = [list(run) for _, run in groupby(rows, key=lambda row: id(row[0]))]
    return [(run[0][0], run) for run in grouped]


@dataclass(slots=True)
class Normaliser:
    """Scores less their mean, over their standard deviation: those of the first step for good
    (`first`, the published protocol), of all steps so far (`running`), or not at all (`none`)."""

    kind: Literal["first", "running", "none"] = "first"
    count: float = 0.0
    mean: float = 0.0
    squares: float = 0.0

    @property
    def spread(self) -> float:
        """The standard deviation so far."""
        return math.sqrt(self.squares / self.count) if self.count else math.nan

    def __call__(self, raw: Floats) -> Floats:
        """Normalised scores [B]; NaN stays.

        Raises:
            DataError: all scores of the first step are the same.
        """
        if self.count == 0 or self.kind == "running":
            self._add(raw[np.isfinite(raw)])
        if self.kind == "none":
            return raw
        if not self.spread > 1e-12 * abs(self.mean):
            raise DataError(
                "all answers of the first step have the same reward: there is nothing to learn "
                "from, and no spread to normalise by (normalise_rewards: none goes on regardless)"
            )
        return np.asarray((raw - self.mean) / self.spread)

    def _add(self, values: Floats) -> None:
        """Chan's update of a mean and a sum of squares by another batch's."""
        total = self.count + len(values)
        gap = float(values.mean()) - self.mean
        self.squares += float(((values - values.mean()) ** 2).sum())
        self.squares += gap**2 * self.count * len(values) / total
        self.mean += gap * len(values) / total
        self.count = total


@dataclass(slots=True)
class Multiplier:
    """Lagrange's multiplier of E[proxy] = threshold, within −1 and 1; it begins at 1.

    After each step's sampling, with gap = (threshold − mean proxy) / spread (that of the first
    step): Λ ← clip(Λ + rate · gap, −1, 1), the gradient step of Moskovitz et al. 2023 (arXiv
    2310.04373), and λ = clip(Λ + damping · gap, −1, 1), without which λ and the proxy swing against
    each other (the proportional term of Stooke et al. 2020, arXiv 2007.03964).
    """

    threshold: float
    rate: float
    damping: float = 1.0
    value: float = 1.0
    total: float = 1.0
    spread: float = math.nan

    def update(self, raw: Floats) -> None:
        """Move by the raw scores of a step [B]."""
        if math.isnan(self.spread):
            self.spread = float(np.nanstd(raw)) or 1.0
        gap = (self.threshold - float(np.nanmean(raw))) / self.spread
        self.total = _clipped(self.total + self.rate * gap)
        self.value = _clipped(self.total + self.damping * gap)


def _clipped(value: float) -> float:
    return min(1.0, max(-1.0, value))


@dataclass(slots=True)
class Signal:
    """Rewards of a step's answers: the proxy through the normaliser; the multiplier stands apart,
    1 without a constraint."""

    proxy: Proxy
    normaliser: Normaliser
    constraint: Multiplier | None = None

    @property
    def multiplier(self) -> float:
        """What the rewards are to be multiplied by."""
        return 1.0 if self.constraint is None else self.constraint.value

    def __call__(self, asked: Sequence[Asked], texts: Sequence[str]) -> Floats:
        """Normalised rewards [B], NaN where there is none; the multiplier moves."""
        raw = self.proxy.each(asked, texts)
        if self.constraint is not None:
            self.constraint.update(raw)
        return self.normaliser(raw)
