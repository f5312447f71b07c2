"""What a record is, once its source's shape has been left behind.

A conversation is a tuple of messages. A preference holds one prompt and two continuations, a rated
record one prompt, one continuation and scores, a candidates record one prompt and N continuations.
A continuation is a tuple of messages (most often one of the assistant's), so that multi-turn
continuations need no special case.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from smorm.text.chat import Message

Messages = tuple[Message, ...]
Kind = Literal["preference", "rated", "candidates"]


@dataclass(frozen=True, slots=True)
class Item:
    """N responses to one prompt, to be scored."""

    prompt: Messages
    responses: tuple[Messages, ...]
    where: str = ""


@dataclass(frozen=True, slots=True)
class Preference:
    """A pair: under `prompt`, `chosen` was preferred to `rejected`.

    `margin` is the strength of the preference in units of the reward (Bradley–Terry with margin).
    `where` names the source as `file:line`.
    """

    prompt: Messages
    chosen: Messages
    rejected: Messages
    margin: float | None = None
    id: str | None = None
    source: str | None = None
    where: str = ""

    @property
    def item(self) -> Item:
        """Its prompt and responses: chosen, rejected."""
        return Item(self.prompt, (self.chosen, self.rejected), _place(self.where, self.id))

    def swap(self) -> Preference:
        """The same pair with the opposite label."""
        return Preference(
            self.prompt, self.rejected, self.chosen, self.margin, self.id, self.source, self.where
        )


@dataclass(frozen=True, slots=True)
class Rated:
    """A response with scores; an attribute that is absent or None was not rated."""

    prompt: Messages
    response: Messages
    scores: Mapping[str, float | None] = field(default_factory=dict)
    id: str | None = None
    source: str | None = None
    where: str = ""

    @property
    def item(self) -> Item:
        """Its prompt and the one response."""
        return Item(self.prompt, (self.response,), _place(self.where, self.id))


@dataclass(frozen=True, slots=True)
class Candidates:
    """N responses to one prompt, to be scored (best-of-N, benchmarks, plain scoring).

    The first `chosen` responses are the good ones, all others are not; None where nobody judged.
    """

    prompt: Messages
    responses: tuple[Messages, ...]
    id: str | None = None
    source: str | None = None
    where: str = ""
    chosen: int | None = None

    @property
    def item(self) -> Item:
        """Its prompt and all responses."""
        return Item(self.prompt, self.responses, _place(self.where, self.id))


def _place(where: str, identity: str | None) -> str:
    return where or identity or "record"


Record = Preference | Rated | Candidates


def prompt_key(prompt: Messages) -> str:
    """What makes two prompts the same one."""
    return "\x1e".join(f"{message.role}\x1f{message.content}" for message in prompt)


def prompt_hash(prompt: Messages) -> int:
    """64 bits of the key's BLAKE2b: among a million prompts two collide with probability 3e-8."""
    key = prompt_key(prompt).encode("utf-8", errors="surrogatepass")
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little")
