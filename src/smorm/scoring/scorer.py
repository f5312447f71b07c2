"""Scores of records: rendered as in training, batched by tokens, returned in their order.

A score depends on its own conversation alone, not on its neighbours, its batch or its place."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from smorm.arrays import Floats
from smorm.data.records import Item
from smorm.errors import DataError, OverLimitError
from smorm.model.inference import score_units, unscorable
from smorm.model.network import RewardNetwork
from smorm.text.changes import Change
from smorm.text.chat import Renderer
from smorm.text.limits import Fitted, Overlong, Unscored, UnscoredReason, fit

DEFAULT_BATCH_TOKENS = 8192


@dataclass(frozen=True, slots=True)
class Scored:
    """Rows [N, 1 + K] of an item's responses, their lengths in tokens (None where they are not
    known), whether the prompt was shortened, and what the template did not write of them."""

    rows: Floats
    tokens: list[int | None]
    truncated: bool
    changes: tuple[Change, ...] = ()


@dataclass(frozen=True, slots=True)
class Scorer:
    """Scores items with one network and one renderer."""

    network: RewardNetwork
    renderer: Renderer
    overlong: Overlong
    max_batch_tokens: int = DEFAULT_BATCH_TOKENS

    def score(
        self, items: Sequence[Item], *, advance: Callable[[int], None] | None = None
    ) -> list[Scored | Unscored]:
        """One result an item, in order: scores, or the reason why there are none."""
        fits = list(map(self._fit, items))
        # All items in one call, so that batches are filled across them.
        as_ids = partial(np.asarray, dtype=np.int32)
        units = [list(map(as_ids, fit.tokens or [])) for fit in fits if isinstance(fit, Fitted)]
        rows = iter(score_units(self.network, units, self.max_batch_tokens, advance=advance))
        results: list[Scored | Unscored] = []
        for fitted in fits:
            if isinstance(fitted, Unscored):
                results.append(fitted)
            else:
                lengths: list[int | None] = list(map(len, fitted.tokens or []))
                results.append(Scored(next(rows), lengths, fitted.truncated, fitted.changes))
        return results

    def _fit(self, item: Item) -> Fitted | Unscored:
        try:
            fitted = fit(
                self.renderer, item.prompt, item.responses, self.renderer.max_tokens, self.overlong
            )
        except OverLimitError as error:
            return Unscored(UnscoredReason.OVER_LIMIT, str(error))
        except DataError as error:
            return Unscored(UnscoredReason.REFUSED, str(error))
        # A reason without a sentence: nothing is wrong with the record but its length.
        if fitted.dropped is not None:
            return Unscored(fitted.dropped)
        return unscorable(self.network, fitted.tokens or []) or fitted
