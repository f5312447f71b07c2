"""The rewards that are optimised against: of a model every requested view, of all else one."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from smorm.arrays import Floats
from smorm.data.census import Census, DropReason
from smorm.data.records import Item
from smorm.errors import ConfigError
from smorm.rewards.model import ModelReward
from smorm.rewards.protocol import CachedReward, Reward, RewardView, ScoringOptions, open_reward
from smorm.rewards.section import RewardSection, display_names
from smorm.scoring.scorer import Scored
from smorm.stress.config import ProxySection
from smorm.text.limits import Unscored


@dataclass(frozen=True, slots=True)
class ProxyReward:
    """One entry of `models`, ready to score."""

    name: str  # as results call it
    reward: Reward
    views: list[RewardView]  # that are optimised against
    seed: int | None = None  # tells runs of one name apart
    # The views F and L of a model that has both, else none.
    heads: list[RewardView] = field(default_factory=list)

    def attributes_beside(self, view: RewardView) -> RewardView | None:
        """The mean attribute, with which alarms compare a view's picks; None where the model has
        not both heads, or the view is it."""
        if self.heads and view.name != self.heads[1].name:
            return self.heads[1]
        return None

    def score(self, items: Sequence[Item], census: Census) -> list[list[Floats | Unscored]]:
        """Of each view the values [N] of each item, or why it has none; shortened prompts are
        counted."""
        columns: list[list[Floats | Unscored]] = [[] for _ in self.views]
        for item, result in zip(items, self.reward.score(items), strict=True):
            if isinstance(result, Scored) and result.truncated:
                census.add(DropReason.SHORTENED, item.where)
            for view, column in zip(self.views, columns, strict=True):
                column.append(view.read(result.rows) if isinstance(result, Scored) else result)
        return columns


def provenance_of(reward: Reward, view: RewardView) -> dict[str, Any]:
    """What a view of a reward is, for a fingerprint."""
    provenance = dict(reward.provenance)
    if view.definition:
        provenance["view"] = dict(view.definition)
    return provenance


def names_of(sections: Sequence[ProxySection]) -> list[str]:
    """A name for each entry: its own, else its place's."""
    names = display_names([section.place for section in sections])
    runs: Counter[tuple[str, int | None]] = Counter()
    for index, section in enumerate(sections):
        names[index] = section.name or names[index]
        runs[names[index], section.seed] += 1
    for (name, _), count in runs.items():
        if count > 1:
            raise ConfigError(
                f"models: {name} is there twice: give each its own name, or a seed where they are "
                "runs of one method"
            )
    return names


def open_proxy(section: ProxySection, name: str, options: ScoringOptions) -> ProxyReward:
    """Load what an entry names."""
    reward = open_reward(section, replace(options, views=tuple(section.views or ())))
    views = [reward.view(view) for view in section.views or [None]]
    heads = []
    if isinstance(reward, ModelReward) and reward.model.has_both_heads:
        heads = [reward.view("F"), reward.view("L")]
    # What is computed here is cheaper to repeat than to keep; a server or function may not be.
    if reward.cacheable and not reward.parameters:
        reward = CachedReward(reward)
    return ProxyReward(name, reward, views, section.seed, heads)


def open_gold(section: RewardSection, options: ScoringOptions) -> Reward:
    """The gold that a section names; one that costs something keeps what it has scored."""
    gold = open_reward(section, options)
    return CachedReward(gold) if gold.cacheable else gold
