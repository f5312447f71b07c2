"""A reward that scores no response twice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from smorm.arrays import Floats
from smorm.data.records import Item, prompt_key
from smorm.files import fingerprint
from smorm.rewards.protocol import (
    Advance,
    Cost,
    Results,
    Reward,
    RewardView,
)
from smorm.scoring.scorer import Scored
from smorm.text.limits import Unscored

_Known = tuple[Floats, int | None, bool]
_Request = tuple[Item, list[str]]


class CachedReward(Reward):
    """Equal responses to equal prompts are scored once, whatever item they stand in.

    Where a long response may shorten its item's prompt only equal items are one.

    Attributes:
        requested: responses that the reward inside was asked to score.
        reused: responses whose score was known.
    """

    def __init__(self, inner: Reward) -> None:
        self.inner, self.kind, self.name = inner, inner.kind, inner.name
        self.attributes, self.shares_prompt = inner.attributes, inner.shares_prompt
        self.drops_overlong = inner.drops_overlong
        self.requested = self.reused = 0
        self._known: dict[str, _Known] = {}

    @property
    def provenance(self) -> dict[str, Any]:
        """That of the reward inside."""
        return self.inner.provenance

    @property
    def cost(self) -> Cost:
        """That of the reward inside."""
        return self.inner.cost

    def view(self, value: Any = None) -> RewardView:
        """That of the reward inside."""
        return self.inner.view(value)

    def fields(self, rows: Floats) -> list[dict[str, Any]]:
        """Those of the reward inside."""
        return self.inner.fields(rows)

    def score(self, items: Sequence[Item], *, advance: Advance | None = None) -> Results:
        """As the reward inside, for what it has not scored yet."""
        keys = [_keys(item, together=self.shares_prompt) for item in items]
        pending: set[str] = set()
        requests: list[_Request] = []
        for item, own in zip(items, keys, strict=True):
            new = {
                key: index
                for index, key in enumerate(own)
                if key not in self._known and key not in pending
            }
            if new:
                pending.update(new)
                requests.append((item.only(list(new.values())), list(new)))
        failed = self._request(requests)
        requested = sum(len(new) for _, new in requests)
        self.requested += requested
        self.reused += sum(map(len, keys)) - requested
        if advance is not None:
            advance(len(items))
        return [self._result(own, failed) for own in keys]

    def _request(self, requests: Sequence[_Request]) -> dict[str, Unscored]:
        """Learn the scores of items with the keys of their responses; why some have none, by key.

        The responses of an item without a score are tried one by one: one that is not to blame may
        stand in other items too.
        """
        if not requests:
            return {}
        failed: dict[str, Unscored] = {}
        singles: list[_Request] = []
        results = self.inner.score([item for item, _ in requests])
        for (item, keys), result in zip(requests, results, strict=True):
            if isinstance(result, Scored):
                for index, key in enumerate(keys):
                    known = (result.rows[index], result.tokens[index], result.truncated)
                    self._known[key] = known
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
    responses = [prompt_key(response) for response in item.responses]
    context = [prompt_key(item.prompt)]
    if together:
        context += sorted(set(responses))
    return [fingerprint([*context, response]) for response in responses]
