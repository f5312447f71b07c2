"""What a record is, once its source's shape has been left behind."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from smorm.text.chat import INPUTS, Message

# A conversation, and each continuation of it: multi-turn continuations need no special case.
Messages = tuple[Message, ...]
# What a source says of each response beside its text [N]; () where that was not read.
Fields = tuple[Mapping[str, Any], ...]
Kind = Literal["preference", "rated", "candidates"]
Identity = str | int | float
"""A record's id as its source gives it."""


@dataclass(frozen=True, slots=True)
class Item:
    """N responses to one prompt, to be scored; `where` is its place in its source, `file:line`."""

    prompt: Messages
    responses: tuple[Messages, ...]
    where: str = ""
    id: Identity | None = None
    fields: Fields = field(default=(), compare=False)

    @property
    def texts(self) -> list[str]:
        """The responses as text [N]."""
        return [text_of(response) for response in self.responses]

    def __len__(self) -> int:
        return len(self.responses)

    def only(self, indices: Sequence[int]) -> Item:
        """The item with some of its responses, in the order of `indices`."""
        responses = tuple(self.responses[index] for index in indices)
        fields = self.fields and tuple(self.fields[index] for index in indices)
        return replace(self, responses=responses, fields=fields)

    def having(self, responses: Sequence[Messages]) -> Item:
        """Other responses to the same prompt, of which no source says anything."""
        return replace(self, responses=tuple(responses), fields=())


def text_of(messages: Messages) -> str:
    """The text of a response or a prompt."""
    return "\n".join(message.content for message in messages if message.role != INPUTS)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Record:
    """What every record may say of itself: `where` it stands, as `file:line`, and its `fields`."""

    id: Identity | None = None
    source: str | None = None
    where: str = ""
    fields: Fields = field(default=(), compare=False)

    def _item(self, prompt: Messages, responses: tuple[Messages, ...]) -> Item:
        return Item(prompt, responses, self.where or str(self.id or "record"), self.id, self.fields)


@dataclass(frozen=True, slots=True)
class Preference(_Record):
    """Under `prompt`, `chosen` was preferred to `rejected`, by `margin` in units of the reward."""

    prompt: Messages
    chosen: Messages
    rejected: Messages
    margin: float | None = None

    @property
    def item(self) -> Item:
        return self._item(self.prompt, (self.chosen, self.rejected))

    def swap(self) -> Preference:
        """The same pair with the opposite label."""
        fields = self.fields[::-1]
        return replace(self, chosen=self.rejected, rejected=self.chosen, fields=fields)


@dataclass(frozen=True, slots=True)
class Rated(_Record):
    """A response with scores; an attribute that is absent or None was not rated. `raters`: of how
    many ratings a score is the mean, for attributes that several people rated."""

    prompt: Messages
    response: Messages
    scores: Mapping[str, float | None] = field(default_factory=dict)
    raters: Mapping[str, int] = field(default_factory=dict, compare=False)

    @property
    def item(self) -> Item:
        return self._item(self.prompt, (self.response,))


@dataclass(frozen=True, slots=True)
class Candidates(_Record):
    """N responses to one prompt. The first `chosen` are the good ones; None where nobody judged.

    `order` is each response's place in its row where it is not its place here. `unusable` says what
    is wrong with responses that are left out, by their place (`Source.every_response`)."""

    prompt: Messages
    responses: tuple[Messages, ...]
    chosen: int | None = None
    order: tuple[int, ...] = ()
    unusable: Mapping[int, str] = field(default_factory=dict, compare=False)

    @property
    def places(self) -> tuple[int, ...]:
        """Each response's place in its row."""
        return self.order or tuple(range(len(self.responses)))

    @property
    def item(self) -> Item:
        return self._item(self.prompt, self.responses)


Record = Preference | Rated | Candidates


def joined_item(records: Sequence[Record], where: str) -> Item:
    """All responses of records that one row made, which have one prompt."""
    items = [record.item for record in records]
    responses = tuple(itertools.chain(*(item.responses for item in items)))
    fields = tuple(itertools.chain(*(item.fields for item in items)))
    return Item(items[0].prompt, responses, where, items[0].id, fields)


def _turn_key(message: Message) -> str:
    # Control characters as separators: no text can pose as the end of a turn.
    key = f"{message.role}\x1f{message.content}"
    if message.fields:
        key += f"\x1f{message.fields}"
    return key


def prompt_key(prompt: Messages) -> str:
    """What makes two prompts the same one."""
    return "\x1e".join(map(_turn_key, prompt))


def prompt_hash(prompt: Messages) -> int:
    """64 bits of the key's BLAKE2b: among a million prompts two collide with probability 3e-8."""
    # lone surrogates can stand in a text from Python, and UTF-8 has none
    key = prompt_key(prompt).encode("utf-8", errors="surrogatepass")
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little")
