"""What a reward is: whatever gives responses a number.

A reward has a name, says what it costs and what it is made of, and scores items: for each of their
responses it gives columns of numbers, from which its views read one. Where there is no number it
gives `Unscored` with the reason; no reward ever makes one up.

Shapes: N responses of an item, C columns of a reward.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from smorm.arrays import Floats
from smorm.data.census import Census, DropReason
from smorm.data.records import Item
from smorm.errors import ConfigError, DataError
from smorm.rewards.section import REWARDS, RewardSection
from smorm.scoring.reward_model import as_items
from smorm.scoring.scorer import DEFAULT_BATCH_TOKENS, Scored
from smorm.text.limits import Overlong, Unscored

Advance = Callable[[int], None]
Results = list[Scored | Unscored]


@dataclass(frozen=True, slots=True)
class ScoringOptions:
    """How rewards are computed.

    Attributes:
        device: of models.
        max_batch_tokens: tokens of a model's forward pass; no score depends on it.
        overlong: what becomes of conversations over a model's limit; None is as in training.
    """

    device: str = "cpu"
    max_batch_tokens: int = DEFAULT_BATCH_TOKENS
    overlong: Overlong | None = None


@dataclass(frozen=True, slots=True)
class Cost:
    """What one score costs: forward passes here, and the parameters of each model that makes one.

    A server's or a function's cost is not known here, and counts as no pass.
    """

    parameters: tuple[int, ...] = ()

    @property
    def passes(self) -> int:
        """Forward passes a response."""
        return len(self.parameters)

    def __str__(self) -> str:
        passes = "1 forward pass" if self.passes == 1 else f"{self.passes} forward passes"
        each = " + ".join(f"{count:,}" for count in self.parameters)
        return f"cost: {passes} a response, {sum(self.parameters):,} parameters ({each})"


@dataclass(frozen=True, slots=True)
class RewardView:
    """One number per response out of a reward's columns.

    Attributes:
        read: columns [N, C] to values [N].
        definition: plain values that say what it computes, for a fingerprint.
    """

    name: str
    read: Callable[[Floats], Floats]
    definition: Mapping[str, Any] = field(default_factory=dict)


def first_column(rows: Floats) -> Floats:
    """The values [N] of a reward with one column [N, 1]."""
    return rows[:, 0]


class Reward(ABC):
    """Whatever gives responses a number.

    Attributes:
        kind: its name in the registry.
        name: what results call it.
        attributes: names of the columns that predict ratings; most rewards have none.
        training_means: their mean ratings in training, where they are known.
        reads_text: whether it can judge a response that no file holds.
        shares_prompt: whether a long response may shorten the prompt of the others of its item.
        cacheable: whether a score is a function of the texts, and worth keeping.
        drops_overlong: whether what is too long is to be left out rather than to stop everything.
    """

    kind: str = "reward"
    name: str = "reward"
    attributes: tuple[str, ...] = ()
    training_means: Mapping[str, float] | None = None
    reads_text: bool = True
    shares_prompt: bool = False
    drops_overlong: bool = False
    cacheable: bool = True

    @classmethod
    def open(cls, section: RewardSection, options: ScoringOptions, views: Sequence[Any]) -> Self:
        """The reward that a section of its kind names.

        Args:
            views: the views that will be read, where more than the section's own.

        Raises:
            ConfigError, ModelError, DataError, SmormError: it is not there.
        """
        raise ConfigError(f"a {cls.kind} cannot be opened from a configuration")

    @classmethod  # noqa: B027 - most kinds have nothing to look for
    def find(cls, section: RewardSection) -> None:
        """Look for what a section names without loading it, before anything takes long.

        Raises:
            ConfigError, ModelError: it is not there.
        """

    @property
    @abstractmethod
    def provenance(self) -> dict[str, Any]:
        """What it is, as plain values for a fingerprint."""

    @property
    def cost(self) -> Cost:
        """What one score costs."""
        return Cost()

    @abstractmethod
    def score(self, items: Sequence[Item], *, advance: Advance | None = None) -> Results:
        """Columns [N, C] of each item, in order, or why it has none.

        Args:
            advance: called with the number of items done, for a progress bar.

        Raises:
            SmormError: scoring failed as a whole (a server is gone, a function raised).
        """

    def score_records(self, records: Sequence[Any], view: Any = None) -> Floats:
        """A view's values of every response of every record, in order.

        Args:
            records: as `RewardModel.score` takes them: `(prompt, response)`, rows or records.

        Raises:
            DataError: a record that is not usable, or has no score.
            ConfigError: no such view.
        """
        items = []
        for index, record in enumerate(records):
            items += as_items(record, index)
        values = values_of(self, items, view)
        return np.concatenate([np.zeros(0), *values])

    def view(self, value: Any = None) -> RewardView:
        """A view by its name or definition; None is the one that its section asked for.

        Raises:
            ConfigError: it has no such view.
        """
        if value is not None:
            raise ConfigError(f"view {value}: a {self.kind} has no views")
        return RewardView(self.kind, first_column)

    def ratings(self, rows: Floats) -> Floats:
        """The ratings [N, K] that its columns predict, on the attributes' own scales."""
        raise ConfigError(f"{self.name}: a {self.kind} predicts no ratings")

    def fields(self, rows: Floats) -> list[dict[str, Any]]:
        """What a line of a scores file holds of each response beside its view."""
        return [{"preference": None, "attributes": {}} for _ in rows]


class SingleReward(Reward):
    """A reward of one number per response, computed item by item: what most kinds of one's own are.

    >>> @REWARDS.add("shortest")                                           # doctest: +SKIP
    ... class Shortest(SingleReward):
    ...     def values(self, item):
    ...         return np.array([-float(len(text)) for text in item.texts])

    Args:
        argument: what stands behind the colon of `NAME:argument`.
    """

    def __init__(self, argument: str = "") -> None:
        self.argument = argument

    @classmethod
    def open(cls, section: RewardSection, options: ScoringOptions, views: Sequence[Any]) -> Self:
        """With the section's argument."""
        return cls(section.argument)

    @property
    def provenance(self) -> dict[str, Any]:
        """Its kind and argument; its code is not hashed."""
        return {self.kind: self.argument}

    @abstractmethod
    def values(self, item: Item) -> Floats | Unscored:
        """Rewards [N] of an item's responses, or why it has none."""

    def score(self, items: Sequence[Item], *, advance: Advance | None = None) -> Results:
        """Item by item.

        Raises:
            DataError: not one finite number for each response.
        """
        results: Results = []
        for item in items:
            values = self.values(item)
            if isinstance(values, Unscored):
                results.append(values)
            else:
                results.append(scored_of(values, item, self.name))
            if advance is not None:
                advance(1)
        return results


def scored_of(values: Any, item: Item, name: str) -> Scored:
    """Numbers [N] that somebody gave for an item, checked.

    Raises:
        DataError: not one finite number for each response.
    """
    values = np.asarray(values, dtype=np.float64)
    count = len(item.responses)
    if values.shape != (count,) or not np.isfinite(values).all():
        raise DataError(
            f"{item.where}: {name} gave {values.tolist()}, expected {count} finite numbers"
        )
    return Scored(values[:, None], [None] * count, False)


def open_reward(
    section: RewardSection, options: ScoringOptions | None = None, views: Sequence[Any] = ()
) -> Reward:
    """The reward that a section names.

    Raises:
        ConfigError: a kind, function or view that is not there, or an address that is none.
        ModelError: the folder is not a reward model, or has no tokenizer.
        DataError: a file of rewards or of references that is not usable.
        SmormError: the server does not answer.
    """
    reward = REWARDS[section.kind].open(section, options or ScoringOptions(), views)
    reward.kind, reward.name = section.kind, section.title
    return reward


def find_reward(section: RewardSection) -> None:
    """Look for what a section names without loading it.

    Raises:
        ConfigError, ModelError: it is not there.
    """
    REWARDS[section.kind].find(section)


def score_all(
    reward: Reward,
    items: Sequence[Item],
    census: Census,
    *,
    skip: bool,
    reason: DropReason = DropReason.UNSCORED_RECORD,
    what: str = "",
    advance: Advance | None = None,
) -> list[Scored | None]:
    """As `reward.score`; an item without a score stops it, or with `skip` is None and counted.

    Args:
        reason: what it is counted as.
        what: what is missing (`gold`), for the error and the count.

    Raises:
        DataError: an item without a score, without `skip`.
    """
    results: list[Scored | None] = []
    missing = f"no {what}: " if what else ""
    for item, result in zip(items, reward.score(items, advance=advance), strict=True):
        if isinstance(result, Scored):
            if result.truncated:
                census.add(DropReason.SHORTENED, item.where)
            results.append(result)
            continue
        if not skip:
            raise DataError(
                f"{item.where}: {missing}{result}. Skipping bad records leaves it out, counted."
            )
        census.add(reason, item.where, detail=what)
        results.append(None)
    return results


def values_of(reward: Reward, items: Sequence[Item], view: Any = None) -> list[Floats]:
    """Values [N] of each item by a view.

    Raises:
        DataError: an item without a score.
        ConfigError: no such view.
    """
    read = reward.view(view).read
    scored = score_all(reward, items, Census(), skip=False)
    return [read(result.rows) for result in scored if result is not None]
