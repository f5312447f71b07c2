"""A reward that scores no response twice."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from smorm.arrays import Floats
from smorm.data.records import Item, prompt_key
from smorm.files import fingerprint
from smorm.rewards.protocol import Results, Reward, RewardView
from smorm.scoring.scorer import Scored
from smorm.text.limits import Unscored


class CachedReward(Reward):
    """Equal responses to equal prompts are scored once, whatever item they stand in.

    Where a long response may shorten its item's prompt only equal items are one.

    Attributes:
        requested: responses that the reward inside was asked to score.
        reused: responses whose score was known."""

    def __init__(self, inner: Reward) -> None:
        self.inner, self.kind, self.name = inner, inner.kind, inner.name
        self.shares_prompt, self.drops_overlong = inner.shares_prompt, inner.drops_overlong
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
