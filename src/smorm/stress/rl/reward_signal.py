"""What the policy is rewarded with: the proxy's score, normalised, and a multiplier.

Shapes: `B` answers of a step."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Literal

import numpy as np

from smorm.arrays import Floats
from smorm.data.census import Census, DropReason
from smorm.data.records import Item
from smorm.errors import DataError
from smorm.stress.proxies import ProxyReward
from smorm.stress.rl.actor import TokenisedPrompt
from smorm.text.limits import Unscored


@dataclass(frozen=True, slots=True)
class Proxy:
    """One view of a reward, and a census of what it did not score."""

    reward: ProxyReward
    view_index: int
    census: Census = field(default_factory=Census)

    def values(self, items: Sequence[Item]) -> list[Floats | Unscored]:
        """Scores of each item's answers, or why it has none."""
        return self.reward.score(items, self.census)[self.view_index]

    def with_attributes(self, items: Sequence[Item]) -> list[list[Floats | Unscored]]:
        """`values`, and behind them those of the mean attribute, where the reward is another view
        of a model that has both heads."""
        view = self.reward.views[self.view_index]
        views = [view, *filter(None, [self.reward.attributes_beside(view)])]
        return replace(self.reward, views=views).score(items, self.census)

    def score_answers(self, prompts: Sequence[TokenisedPrompt], texts: Sequence[str]) -> Floats:
        """Scores of answers [B]; NaN, and counted, where there is none."""
        # Neighbouring answers to one prompt go together: a model scores them in one tree.
        items = []
        rows = zip(prompts, texts, strict=True)
        for _, group in groupby(rows, key=lambda row: id(row[0])):
            of_prompt, of_texts = zip(*group, strict=True)
            items.append(of_prompt[0].item(of_texts))
        scores: list[float] = []
        for item, values in zip(items, self.values(items), strict=True):
            if isinstance(values, Unscored):
                # One answer that does not fit takes its whole item with it.
                scores += self._score_separately(item)
            else:
                scores += values.tolist()
        if all(map(math.isnan, scores)):
            raise DataError(f"{self.reward.name}: scores none of the {len(scores)} sampled answers")
        return np.array(scores)

    def _score_separately(self, item: Item) -> list[float]:
        scores = []
        for values in self.values([item.having([response]) for response in item.responses]):
            if isinstance(values, Unscored):
                self.census.add(DropReason.UNSCORED_SAMPLE, item.where)
                scores.append(math.nan)
            else:
                scores.append(float(values[0]))
        return scores


@dataclass(slots=True)
class Normaliser:
    """Scores less their mean, over their standard deviation: those of the first step for good
    (`first`, the published protocol), of all steps so far (`running`), or not at all (`none`)."""

    kind: Literal["first", "running", "none"] = "first"
    count: float = 0.0
    mean: float = 0.0
    squares: float = 0.0

    @property
    def std(self) -> float:
        """The standard deviation so far."""
        return math.sqrt(self.squares / self.count) if self.count else math.nan

    def __call__(self, raw: Floats) -> Floats:
        """Normalised scores [B]; NaN stays. DataError where all of the first step are the same."""
        if self.count == 0 or self.kind == "running":
            self.add(raw[np.isfinite(raw)])
        if self.kind == "none":
            return raw
        # Relative to the mean: equal scores of 1e6 differ by rounding. `not >` refuses NaN too.
        if not self.std > 1e-12 * abs(self.mean):
            raise DataError(
                "all answers of the first step have the same reward: there is nothing to learn "
                "from, and no standard deviation to normalise by (normalise_rewards: none goes on "
                "regardless)"
            )
        return np.asarray((raw - self.mean) / self.std)

    def add(self, values: Floats) -> None:
        """Chan's update of a mean and a sum of squared deviations by another batch's."""
        total = self.count + len(values)
        gap = float(values.mean()) - self.mean
        self.squares += float(((values - values.mean()) ** 2).sum())
        self.squares += gap**2 * self.count * len(values) / total
        self.mean += gap * len(values) / total
        self.count = total


@dataclass(slots=True)
class Multiplier:
    """The Lagrange multiplier λ of E[proxy] = threshold, within −1 and 1; it begins at 1. After
    each step's sampling, with gap = (threshold − mean proxy) / std (that of the first step): Λ ←
    clip(Λ + rate · gap, −1, 1), the gradient step of Moskovitz et al. 2023 (arXiv 2310.04373), and
    λ = clip(Λ + damping · gap, −1, 1) (the proportional term of Stooke et al. 2020, arXiv
    2007.03964)."""

    threshold: float
    rate: float
    damping: float = 1.0
    value: float = 1.0  # λ
    integral: float = 1.0  # Λ
    std: float = math.nan

    def update(self, raw: Floats) -> None:
        """Move by the raw scores of a step [B]."""
        if math.isnan(self.std):
            self.std = float(np.nanstd(raw)) or 1.0
        gap = (self.threshold - float(np.nanmean(raw))) / self.std
        # The integral alone reacts one step late for ever, so that λ and the proxy swing against
        # each other; the term in the present gap damps that.
        self.integral = float(np.clip(self.integral + self.rate * gap, -1.0, 1.0))
        self.value = float(np.clip(self.integral + self.damping * gap, -1.0, 1.0))


@dataclass(slots=True)
class RewardSignal:
    """Rewards of a step's answers: the proxy through the normaliser, without the multiplier."""

    proxy: Proxy
    normaliser: Normaliser
    constraint: Multiplier | None = None

    @property
    def multiplier(self) -> float:
        """What the rewards are to be multiplied by, 1 without a constraint."""
        return 1.0 if self.constraint is None else self.constraint.value

    def __call__(self, prompts: Sequence[TokenisedPrompt], texts: Sequence[str]) -> Floats:
        """Normalised rewards [B], NaN where there is none; the multiplier moves."""
        raw = self.proxy.score_answers(prompts, texts)
        if self.constraint is not None:
            self.constraint.update(raw)
        return self.normaliser(raw)
