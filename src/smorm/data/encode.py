"""Records become token ids here, and what cannot be used is counted.

A pair whose sides are the same tokens teaches nothing, whether they were equal from the start or
became so (7 % of UltraFeedback at 512 tokens): it is dropped and counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from smorm.data.census import Census
from smorm.data.records import Candidates, Messages, Preference, Rated
from smorm.errors import DataError
from smorm.text.chat import Renderer
from smorm.text.limits import Fitted, Overlong, fit

Tokens = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Encoder:
    """Renders records within a limit, and counts in `census` what it drops or shortens."""

    renderer: Renderer
    max_tokens: int
    overlong: Overlong
    census: Census
    on_bad_record: Literal["stop", "skip"] = "stop"

    def conversations(
        self, prompt: Messages, responses: Sequence[Messages], where: str
    ) -> list[Tokens] | None:
        """Tokens of each `prompt + response`, or None when the record was dropped (and counted).

        Raises:
            DataError: over-long under `error`, or not renderable under `stop`.
        """
        fitted = self._fit(prompt, responses, where)
        if fitted is None or fitted.tokens is None:
            if fitted is not None:
                self.census.add(f"dropped: {fitted.dropped}", where)
            return None
        if fitted.truncated:
            self.census.add("prompt shortened to the limit", where)
        return [np.asarray(tokens, dtype=np.int32) for tokens in fitted.tokens]

    def _fit(self, prompt: Messages, responses: Sequence[Messages], where: str) -> Fitted | None:
        try:
            return fit(self.renderer, prompt, responses, self.max_tokens, self.overlong)
        except DataError as error:
            if self.on_bad_record == "stop":
                raise DataError(f"{where}: {error}" if where else str(error)) from error
            self.census.add("bad record skipped: cannot be rendered", where)
            return None


@dataclass(frozen=True, slots=True)
class TokenPair:
    """A preference as tokens; `prompt` identifies pairs over one prompt (for clustering)."""

    chosen: Tokens
    rejected: Tokens
    margin: float
    prompt: str
    where: str


@dataclass(frozen=True, slots=True)
class TokenRated:
    """A rated response as tokens; `record` keeps its scores."""

    tokens: Tokens
    record: Rated
    prompt: str


@dataclass(frozen=True, slots=True)
class TokenCandidates:
    """N responses to one prompt as tokens."""

    tokens: list[Tokens]
    record: Candidates
    prompt: str


def prompt_key(prompt: Messages) -> str:
    """What makes two prompts the same one."""
    return "\x1e".join(f"{message.role}\x1f{message.content}" for message in prompt)


def encode_preferences(records: Iterable[Preference], encoder: Encoder) -> Iterator[TokenPair]:
    """Pairs whose two sides differ as tokens; the others are counted."""
    for record in records:
        sides = encoder.conversations(record.prompt, [record.chosen, record.rejected], record.where)
        if sides is None:
            continue
        chosen, rejected = sides
        if np.array_equal(chosen, rejected):
            encoder.census.add("dropped: both sides are the same tokens", record.where)
            continue
        margin = 0.0 if record.margin is None else record.margin
        yield TokenPair(chosen, rejected, margin, prompt_key(record.prompt), record.where)


def encode_rated(records: Iterable[Rated], encoder: Encoder) -> Iterator[TokenRated]:
    """Rated responses that fit."""
    for record in records:
        tokens = encoder.conversations(record.prompt, [record.response], record.where)
        if tokens is not None:
            yield TokenRated(tokens[0], record, prompt_key(record.prompt))


def encode_candidates(records: Iterable[Candidates], encoder: Encoder) -> Iterator[TokenCandidates]:
    """Best-of-N records that fit."""
    for record in records:
        tokens = encoder.conversations(record.prompt, record.responses, record.where)
        if tokens is not None:
            yield TokenCandidates(tokens, record, prompt_key(record.prompt))
