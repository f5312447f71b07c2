"""What a reward is: it scores the responses of items by columns of numbers, of which its views read
one. Where there is no number it gives `Unscored` with the reason; no reward ever makes one up.
Shapes: N responses of an item, C columns of a reward."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from smorm.arrays import Floats
from smorm.data.census import Census, Defect, DropReason
from smorm.data.items import as_items
from smorm.data.records import Item, prompt_key
from smorm.errors import ConfigError, DataError
from smorm.files import fingerprint
from smorm.rewards.section import REWARDS, RewardSection
from smorm.scoring.reward_model import Dtype
from smorm.scoring.scorer import DEFAULT_BATCH_TOKENS, Scored
from smorm.text.limits import LEFT_OUT, Overlong, Unscored, UnscoredReason

Results = list[Scored | Unscored]

_BAD_RECORDS = {
    UnscoredReason.OVER_LIMIT: Defect.OVER_LIMIT,
    UnscoredReason.REFUSED: Defect.NOT_RENDERED,
}


@dataclass(frozen=True, slots=True)
class ScoringOptions:
    """How rewards are computed."""

    device: str = "cpu"  # of models
    # Tokens of a model's forward pass; no score depends on it.
    max_batch_tokens: int = DEFAULT_BATCH_TOKENS
    # What becomes of conversations over a model's limit; None is as in training.
    overlong: Overlong | None = None
    # What will be read beside a section's own view; a server must know beforehand.
    views: tuple[Any, ...] = ()
    dtype: Dtype = "float32"  # of models
    # The longest conversation of a model; None is as in training.
    max_tokens: int | None = None
    # Used by models in place of their own.
    chat_template: str | None = None


@dataclass(frozen=True, slots=True)
class RewardView:
    """One number per response out of a reward's columns."""

    name: str
    read: Callable[[Floats], Floats]  # columns [N, C] to values [N]
    # Plain values that say what it computes, for a fingerprint.
    definition: Mapping[str, Any] = field(default_factory=dict)


class Reward(ABC):
    """Whatever gives responses a number."""

    kind: str = "reward"  # its name in the registry
    name: str = "reward"  # what results call it
    # Of each model that makes a forward pass for a score: what a score costs. Of a server or
    # function that is not known, and counts as no pass.
    parameters: tuple[int, ...] = ()
    # Names of the columns that predict ratings; most rewards have none.
    attributes: tuple[str, ...] = ()
    # Their mean ratings in training, where they are known.
    training_means: Mapping[str, float] | None = None
    reads_text: bool = True  # whether it can judge a response that no file holds
    cacheable: bool = True  # whether a score is a function of the texts, and worth keeping
    # Whether a long response may shorten the prompt of the others of its item.
    shares_prompt: bool = False
    # Whether the responses of an item can be scored apart.
    by_response: bool = True
    # Is called with numbers of items that are done, where `score` can tell before it returns.
    advance: Callable[[int], None] | None = None

    @classmethod
    def open(cls, section: RewardSection, options: ScoringOptions) -> Self:
        """The reward that a section of its kind names; by default by the section's argument."""
        return cls(section.argument)  # type: ignore[call-arg]

    @classmethod  # noqa: B027 - most kinds have nothing to look for
    def find(cls, section: RewardSection) -> None:
        """Look for what a section names without loading it, before anything takes long."""

    @property
    @abstractmethod
    def provenance(self) -> dict[str, Any]:
        """What it is, as plain values for a fingerprint."""

    @abstractmethod
    def score(self, items: Sequence[Item]) -> Results:
        """Columns [N, C] of each item, in order, or why it has none; SmormError where scoring
        failed as a whole (a server is gone, a function raised)."""

    def view(self, value: Any = None) -> RewardView:
        """A view by its name or definition; None is the one that its section names."""
        if value is not None:
            raise ConfigError(f"view {value}: a {self.kind} has no views")
        return RewardView(self.kind, lambda rows: rows[:, 0])

    def ratings(self, rows: Floats) -> Floats:
        """The ratings [N, K] that its columns predict, on the attributes' own scales."""
        raise ConfigError(f"{self.name}: a {self.kind} predicts no ratings")

    def fields(self, rows: Floats) -> list[dict[str, Any]]:
        """What a line of a scores file holds of each response beside its view."""
        return [{"preference": None, "attributes": {}} for _ in rows]

    def score_records(self, records: Sequence[Any], view: Any = None) -> Floats:
        """A view's values of every response of every record (`RewardModel.score`), in order."""
        items: list[Item] = []
        for index, record in enumerate(records):
            items += as_items(record, index)
        # Of no record there are no values, which concatenate alone would refuse.
        return np.concatenate([np.zeros(0), *values_of(self, items, view)])


class SingleReward(Reward):
    """A reward of one number per response, computed item by item: what most kinds of one's own are
    (docs/rewards.md). `argument` is what stands behind the colon of `NAME:argument`."""

    def __init__(self, argument: str = "") -> None:
        self.argument = argument

    @property
    def provenance(self) -> dict[str, Any]:
        """Its kind and argument; its code is not hashed."""
        return {self.kind: self.argument}

    @abstractmethod
    def values(self, item: Item) -> Floats | Unscored:
        """Rewards [N] of an item's responses, or why it has none."""

    def score(self, items: Sequence[Item]) -> Results:
        """Item by item; DataError where there is not one finite number for each response."""
        return [scored_of(self.values(item), item, self.name) for item in items]


class CachedReward(Reward):
    """A reward that scores equal responses to equal prompts once, whatever item they stand in (only
    equal items, where a long response may shorten its prompt). `requested` counts the responses
    that the reward inside was asked to score, `reused` those whose score was known."""

    def __init__(self, inner: Reward) -> None:
        self.inner, self.kind, self.name = inner, inner.kind, inner.name
        self.shares_prompt = inner.shares_prompt
        self.requested = self.reused = 0
        # Of each response its columns, its tokens, and whether its prompt was shortened.
        self._known: dict[str, tuple[Floats, int | None, bool]] = {}

    @property
    def provenance(self) -> dict[str, Any]:
        return self.inner.provenance

    def view(self, value: Any = None) -> RewardView:
        return self.inner.view(value)

    def score(self, items: Sequence[Item]) -> Results:
        keys = [_keys(item, together=self.shares_prompt) for item in items]
        pending: set[str] = set()
        requests: list[tuple[Item, list[str]]] = []
        for item, item_keys in zip(items, keys, strict=True):
            # A dictionary, so that a response that stands twice in an item is requested once.
            new: dict[str, int] = {}
            for index, key in enumerate(item_keys):
                if key not in self._known and key not in pending:
                    new.setdefault(key, index)
            if new:
                pending.update(new)
                requests.append((item.only(list(new.values())), list(new)))
        failed = self._request(requests)
        # Counted by response: how much the cache saved is told in a result's notes.
        self.requested += len(pending)
        self.reused += sum(map(len, items)) - len(pending)
        return [self._result(item_keys, failed) for item_keys in keys]

    def _request(self, requests: Sequence[tuple[Item, list[str]]]) -> dict[str, Unscored]:
        """Learn the scores of items with the keys of their responses; why some have none, by key.
        The responses of an item without a score are tried one by one: one that is not to blame may
        stand in other items too."""
        failed: dict[str, Unscored] = {}
        singles: list[tuple[Item, list[str]]] = []
        if not requests:
            return failed
        results = self.inner.score([item for item, _ in requests])
        for (item, keys), result in zip(requests, results, strict=True):
            if isinstance(result, Scored):
                for key, row, tokens in zip(keys, result.rows, result.tokens, strict=True):
                    self._known[key] = (row, tokens, result.truncated)
            elif len(keys) == 1 or self.shares_prompt:
                failed |= dict.fromkeys(keys, result)
            else:
                singles += [(item.only([index]), [key]) for index, key in enumerate(keys)]
        return failed | self._request(singles)

    def _result(self, keys: Sequence[str], failed: dict[str, Unscored]) -> Scored | Unscored:
        for key in keys:
            if key in failed:
                return failed[key]
        rows, tokens, truncated = zip(*(self._known[key] for key in keys), strict=True)
        return Scored(np.stack(rows), list(tokens), any(truncated))


def _keys(item: Item, *, together: bool) -> list[str]:
    responses = list(map(prompt_key, item.responses))
    context = [prompt_key(item.prompt)]
    # What else stands in the item decides how much of the prompt is read.
    if together:
        context += sorted(set(responses))
    return [fingerprint([*context, response]) for response in responses]


def scored_of(values: Any, item: Item, name: str) -> Scored | Unscored:
    """Numbers [N] of an item's responses; DataError where one is not finite, or missing."""
    if isinstance(values, Unscored):
        return values
    # NaN and infinity are what a broken reward gives most often, and what no mean survives.
    column = np.asarray(values, dtype=np.float64)
    if column.shape != (len(item),) or not np.isfinite(column).all():
        raise DataError(
            f"{item.where}: {name} gave {column.tolist()}, expected {len(item)} finite numbers"
        )
    return Scored(column[:, None], [None] * len(item), False)


def open_reward(section: RewardSection, options: ScoringOptions | None = None) -> Reward:
    """The reward that a section names."""
    reward = REWARDS[section.kind].open(section, options or ScoringOptions())
    # A class may be registered under several names; the section says which one was meant.
    reward.kind, reward.name = section.kind, section.title
    return reward


def split_rows(rows: Floats, tokens: Sequence[int | None], items: Sequence[Item]) -> Results:
    """Scores [N, C] of all responses of all items, one after the other, by item."""
    results: Results = []
    start = 0
    for item in items:
        end = start + len(item)
        results.append(Scored(rows[start:end], list(tokens[start:end]), False))
        start = end
    return results


def count_changes(result: Scored, where: str, census: Census) -> None:
    """Count a shortened prompt, and what the template did not write."""
    if result.truncated:
        census.add(DropReason.SHORTENED, where)
    for change in result.changes:
        census.add(change, where)


def score_all(
    reward: Reward,
    items: Sequence[Item],
    census: Census,
    *,
    skip: bool,
    reason: DropReason = DropReason.UNSCORED_RECORD,
    what: str = "",
) -> list[Scored | None]:
    """As `reward.score`; an item without a score stops it, or with `skip` is None and counted as
    `reason`. One that the policy for long conversations leaves out is None, counted, in any case.
    `what` is missing (`gold`), for the error and the count."""
    results: list[Scored | None] = []
    missing = f"no {what}: " if what else ""
    # All items in one call: a model fills its batches across them, a server its requests.
    for item, result in zip(items, reward.score(items), strict=True):
        if isinstance(result, Scored):
            count_changes(result, item.where, census)
            results.append(result)
        elif result.reason in LEFT_OUT:
            census.add(DropReason.DROPPED, item.where, detail=result.reason)
            results.append(None)
        elif skip:
            kind, detail = reason, what
            # In the words of training, which skips such a record too.
            if not what and result.reason in _BAD_RECORDS:
                kind, detail = DropReason.BAD_RECORD, _BAD_RECORDS[result.reason]
            census.add(kind, item.where, detail=detail)
            results.append(None)
        else:
            raise DataError(
                f"{item.where}: {missing}{result}. Skipping bad records leaves it out, counted."
            )
    return results


def score_each(reward: Reward, items: Sequence[Item]) -> list[Scored]:
    """As `reward.score`; DataError for an item without a score, whatever the reason."""
    results: list[Scored] = []
    for item, result in zip(items, reward.score(items), strict=True):
        if isinstance(result, Unscored):
            raise DataError(f"{item.where}: {result}")
        results.append(result)
    return results


def values_of(reward: Reward, items: Sequence[Item], view: Any = None) -> list[Floats]:
    """Values [N] of each item by a view; DataError for an item without a score."""
    read = reward.view(view).read
    return [read(result.rows) for result in score_each(reward, items)]
