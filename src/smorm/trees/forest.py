"""The forest: token sequences that begin alike, packed so that each shared token stands once.

Sequences are sorted, neighbours' common prefixes give a trie over token ids, and the trie is
written in depth-first order into one row. One rule says who sees whom:

    row q attends to row k   exactly when   k <= q < end[k]

where `end[k]` is where the subtree below k ends. Positions count depth, so a token's position is
the one that it has in its own sequence.

The same rule as a list of kernels' work: a sequence's new tokens form a *chain* (a causal run),
and a chain sees all of its ancestors. Chains that hang from the same stretch of an ancestor stand
side by side, so together they form a *rectangle* (no mask at all).

Shapes: T rows (packed tokens), S sequences, C chains, M rectangles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from smorm.arrays import Tokens as Tokens

MIN_SHARE = 8
"""Fewer common tokens than this start a new tree: a shared BOS alone is not worth a fork."""


@dataclass(slots=True)
class Forest:
    """A packed batch.

    Attributes:
        input_ids: token ids, [T].
        positions: depth of each row in its tree, [T].
        end: where the subtree below each row ends, [T].
        leaves: row of each sequence's last token, in the order of the sequences, [S].
        chains: rows (first, past last) of each causal run; runs lie side by side over 0..T, [C, 2].
        rectangles: (q first, q past last, k first, k past last), every q sees every k, [M, 4].
        ancestors: per chain, the row ranges that it sees besides itself, root first.
    """

    input_ids: torch.Tensor
    positions: torch.Tensor
    end: torch.Tensor
    leaves: torch.Tensor
    chains: list[tuple[int, int]]
    rectangles: list[tuple[int, int, int, int]]
    ancestors: list[list[tuple[int, int]]]
    max_position: int
    cache: dict[Any, Any] = field(default_factory=dict)

    @property
    def num_tokens(self) -> int:
        """Rows computed, T."""
        return int(self.input_ids.numel())

    def to(self, device: torch.device | str) -> Forest:
        """The same forest with its tensors on a device."""
        if self.input_ids.device == torch.device(device):
            return self
        tensors = (self.input_ids, self.positions, self.end, self.leaves)
        ids, positions, end, leaves = (tensor.to(device) for tensor in tensors)
        return replace(self, input_ids=ids, positions=positions, end=end, leaves=leaves, cache={})

    def gather_plan(self) -> tuple[torch.Tensor, list[int], list[int]]:
        """Keys of every chain laid end to end: what variable-length attention takes.

        Returns:
            key rows [sum of key lengths], chain lengths [C], key lengths [C]. A chain's keys are
            its ancestors, root first, and itself: key i of a chain has position i.
        """
        device = self.input_ids.device
        if "gather" not in self.cache:
            rows = [
                np.arange(first, last)
                for chain, ancestors in zip(self.chains, self.ancestors, strict=True)
                for first, last in [*ancestors, chain]
            ]
            index = torch.from_numpy(np.concatenate(rows)).to(device)
            query_lengths = [last - first for first, last in self.chains]
            key_lengths = [
                query + sum(last - first for first, last in ancestors)
                for query, ancestors in zip(query_lengths, self.ancestors, strict=True)
            ]
            self.cache["gather"] = (index, query_lengths, key_lengths)
        plan: tuple[torch.Tensor, list[int], list[int]] = self.cache["gather"]
        return plan

    def dense_mask(self, window: int | None = None) -> torch.Tensor:
        """The rule written out, [T, T] booleans: for tests and small batches only."""
        rows = torch.arange(self.num_tokens, device=self.end.device)
        query, key = rows[:, None], rows[None, :]
        allowed = (key <= query) & (query < self.end[None, :])
        if window is not None:
            allowed &= self.positions[:, None] - self.positions[None, :] < window
        return allowed


def common_prefix(a: Tokens, b: Tokens) -> int:
    """How many tokens two sequences share from their start."""
    length = min(len(a), len(b))
    if not length:
        return 0
    differs = a[:length] != b[:length]
    first = int(differs.argmax())
    return first if differs[first] else length


def sort_key(tokens: Tokens) -> bytes:
    """Bytes that sort like the token ids, a prefix before what it begins."""
    return tokens.astype(">u4").tobytes()


def grow(sequences: Sequence[Tokens], *, share: bool = True, min_share: int = MIN_SHARE) -> Forest:
    """Pack sequences into a forest.

    Args:
        sequences: S arrays of token ids, none empty, in any order; equal ones become one leaf.
        share: False lays the sequences side by side without sharing (plain packing).
        min_share: fewer common tokens than this are not shared.

    Raises:
        ValueError: there is no sequence, or one is empty.
    """
    if not sequences or any(len(tokens) == 0 for tokens in sequences):
        raise ValueError("a forest needs at least one sequence, and none may be empty")
    order = range(len(sequences))
    if share:
        order = sorted(order, key=lambda i: sort_key(sequences[i]))  # type: ignore[assignment]
    builder = _Builder(sum(map(len, sequences)))
    leaves = np.zeros(len(sequences), dtype=np.int64)
    previous: Tokens = sequences[0][:0]
    for index in order:
        tokens = sequences[index]
        shared = common_prefix(previous, tokens) if share else 0
        if shared < min_share and shared < len(tokens):
            shared = 0
        leaves[index] = builder.add(tokens, shared)
        previous = tokens
    return builder.finish(leaves)


class _Builder:
    """Writes sorted sequences depth first; `path` holds the rows of the current sequence."""

    def __init__(self, capacity: int) -> None:
        self.ids = np.empty(capacity, dtype=np.int64)
        self.positions = np.empty(capacity, dtype=np.int64)
        self.ends = np.empty(capacity, dtype=np.int64)
        self.size = 0
        self.path: list[tuple[int, int]] = []
        self.depth = 0
        self.chains: list[tuple[int, int]] = []
        self.ancestors: list[list[tuple[int, int]]] = []
        self.spans: dict[tuple[int, int], list[int]] = {}

    def add(self, tokens: Tokens, shared: int) -> int:
        """Append what is new in `tokens` behind its first `shared`; return its last token's row."""
        grows_on = 0 < shared == self.depth and self.chains[-1][1] == self.path[-1][1]
        self._cut_path(shared)
        first, last = self.size, self.size + len(tokens) - shared
        if last > first:
            self.ids[first:last] = tokens[shared:]
            self.positions[first:last] = np.arange(shared, len(tokens))
            self.size = last
            if grows_on:
                self._extend(last)
            else:
                self._new_chain(first, last)
            self.depth = len(tokens)
        return self.path[-1][1] - 1

    def _extend(self, last: int) -> None:
        """The previous sequence is a prefix of this one: its chain simply goes on."""
        first = self.chains[-1][0]
        self.chains[-1] = (first, last)
        self.path[-1] = (self.path[-1][0], last)
        for key in self.path[:-1]:
            self.spans[key][1] = last

    def _new_chain(self, first: int, last: int) -> None:
        self.chains.append((first, last))
        self.ancestors.append(list(self.path))
        for key in self.path:
            self.spans.setdefault(key, [first, last])[1] = last
        self.path.append((first, last))

    def _cut_path(self, depth: int) -> None:
        """Leave everything on the path below `depth`: its subtrees end here."""
        while self.depth > depth:
            first, last = self.path.pop()
            keep = max(0, last - first - (self.depth - depth))
            self.ends[first + keep : last] = self.size
            self.depth -= last - first - keep
            if keep:
                self.path.append((first, first + keep))

    def finish(self, leaves: NDArray[np.int64]) -> Forest:
        positions = self.positions[: self.size]
        self._cut_path(0)
        return Forest(
            input_ids=torch.from_numpy(self.ids[: self.size].copy()),
            positions=torch.from_numpy(positions.copy()),
            end=torch.from_numpy(self.ends[: self.size].copy()),
            leaves=torch.from_numpy(leaves),
            chains=self.chains,
            rectangles=[(q[0], q[1], k[0], k[1]) for k, q in self.spans.items()],
            ancestors=self.ancestors,
            max_position=int(positions.max()),
        )
