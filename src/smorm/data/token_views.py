"""Several stores as one sequence of records, each made when it is asked for.

Shapes: P pairs, R rated responses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from smorm.data.encode import Tokens
from smorm.data.token_store import TokenStore

T = TypeVar("T")
Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TokenPair:
    """A preference as tokens; `prompt` is the same number for pairs over one prompt."""

    chosen: Tokens
    rejected: Tokens
    margin: float
    prompt: int
    where: str


@dataclass(frozen=True, slots=True)
class TokenRated:
    """A rated response as tokens; its ratings are the set's `targets`."""

    tokens: Tokens
    prompt: int
    where: str


@dataclass(frozen=True, slots=True, eq=False)
class Joined(Sequence[T], Generic[T]):
    """Records of several stores behind one another.

    Attributes:
        kept: record numbers, counted over all stores, in the order of this sequence.
        make: (store, number in the store, number in this sequence) to a record.
    """

    stores: tuple[TokenStore, ...]
    kept: Ids
    make: Callable[[TokenStore, int, int], T]

    def __len__(self) -> int:
        return len(self.kept)

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> list[T]: ...

    def __getitem__(self, index: int | slice) -> T | list[T]:
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        place = int(self.kept[index])
        for store in self.stores:
            if place < len(store):
                return self.make(store, place, index % len(self))
            place -= len(store)
        raise IndexError(index)


def pairs_of(stores: Sequence[TokenStore], prompts: Ids) -> Joined[TokenPair]:
    """All pairs of preference stores; `prompts` [P] are their prompt ids."""

    def make(store: TokenStore, row: int, index: int) -> TokenPair:
        chosen, rejected = store.sequence(2 * row), store.sequence(2 * row + 1)
        margin = float(store.arrays["margins"][row])
        return TokenPair(chosen, rejected, margin, int(prompts[index]), store.where(row))

    return Joined(tuple(stores), np.arange(sum(map(len, stores))), make)


def rated_of(stores: Sequence[TokenStore], kept: Ids, prompts: Ids) -> Joined[TokenRated]:
    """The rated responses `kept` [R] of rated stores; `prompts` [R] are their prompt ids."""

    def make(store: TokenStore, row: int, index: int) -> TokenRated:
        return TokenRated(store.sequence(row), int(prompts[index]), store.where(row))

    return Joined(tuple(stores), kept, make)


def places_of(stores: Sequence[TokenStore], numbers: Ids) -> list[str]:
    """`file:line` of records, numbered over all stores."""
    return list(Joined(tuple(stores), numbers, lambda store, row, _: store.where(row)))


def prompt_ids(
    pairs: Sequence[TokenStore], rated: Sequence[TokenStore], kept: Ids
) -> tuple[Ids, Ids]:
    """Ids of the distinct prompts, from 0 in order of first appearance: of every pair [P], and of
    the rated responses `kept` [R]. A prompt has one id for both."""
    first = _hashes(pairs)
    both = np.concatenate([first, _hashes(rated)[kept]])
    _, firsts, groups = np.unique(both, return_index=True, return_inverse=True)
    rank = np.empty(len(firsts), dtype=np.int64)
    rank[np.argsort(firsts)] = np.arange(len(firsts))
    ids = rank[groups]
    return ids[: len(first)], ids[len(first) :]


def _hashes(stores: Sequence[TokenStore]) -> NDArray[np.uint64]:
    none = np.empty(0, dtype=np.uint64)
    return np.concatenate([none, *(store.arrays["prompts"] for store in stores)])
