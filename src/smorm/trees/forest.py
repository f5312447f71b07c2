"""The forest: token sequences that begin alike, packed so that each shared token stands once.

Sequences are sorted, neighbours' common prefixes give a trie over token ids, and the trie is
written in depth-first order into one row. One rule says which row attends to which:

    row q attends to row k   exactly when   k <= q < end[k]

where `end[k]` is where the subtree below k ends. Positions count depth, so a token has the position
that it has in its own sequence.

The same rule as work for kernels: a sequence's new tokens form a *chain* (a causal run), and a
chain attends to all of its ancestors. Chains that hang from the same stretch of an ancestor stand
side by side, so together they form a *rectangle* (no mask at all).

A `Padded` batch holds the same sequences in one row each: the forest is verified against it.

Shapes: T rows (packed tokens), S sequences, C chains, M rectangles."""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from smorm.arrays import Ints, Tokens

Range = tuple[int, int]
"""Rows: the first, and the one past the last."""
Rectangle = tuple[int, int, int, int]
"""Query rows (first, past last) and key rows (first, past last): every query sees every key."""
MIN_SHARE = 8
"""Fewer common tokens than this start a new tree: a shared BOS alone is not worth a fork."""


@dataclass(frozen=True, slots=True)
class Forest:
    """A packed batch."""

    # Of each row: its token id, its depth in its tree, where the subtree below it ends, [T].
    input_ids: torch.Tensor
    positions: torch.Tensor
    end: torch.Tensor
    # Row of each sequence's last token, in the order of the sequences, [S].
    leaves: torch.Tensor
    # The causal runs, side by side over 0..T, [C]; pairs of row ranges without a mask between
    # them, [M]; per chain, the rows that it attends to besides itself, root first, [C].
    chains: list[Range]
    rectangles: list[Rectangle]
    ancestors: list[list[Range]]
    max_position: int

    @property
    def num_tokens(self) -> int:
        """Rows computed, T."""
        return int(self.input_ids.numel())

    @property
    def device(self) -> torch.device:
        return self.input_ids.device

    @property
    def queries(self) -> list[Range]:
        """The runs of queries that see the same keys: the chains."""
        return self.chains

    @property
    def keys(self) -> list[list[Range]]:
        """Per chain, its ancestors and itself. Laid end to end, key i has position i."""
        keys = []
        for ancestors, chain in zip(self.ancestors, self.chains, strict=True):
            keys.append([*ancestors, chain])
        return keys

    def to(self, device: torch.device | str) -> Forest:
        """The same forest with its tensors on a device."""
        if self.device == torch.device(device):
            return self
        names = ("input_ids", "positions", "end", "leaves")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})


def common_prefix(a: Tokens, b: Tokens) -> int:
    """How many tokens two sequences share from their start."""
    length = min(len(a), len(b))
    differs = a[:length] != b[:length]
    if not differs.any():
        return length
    return int(differs.argmax())


def sort_key(tokens: Tokens) -> bytes:
    """Bytes that sort like the token ids, a prefix before what it begins."""
    # Big-endian: byte order is then numeric order.
    return tokens.astype(">u4").tobytes()


def forest_rows(sequences: Sequence[Tokens]) -> int:
    """How many rows a forest of these sequences has: every shared token counts once."""
    # Sorted, each sequence shares most with its neighbour: one comparison each is enough.
    ordered = sorted(sequences, key=sort_key)
    rows = sum(map(len, ordered))
    for before, tokens in itertools.pairwise(ordered):
        shared = common_prefix(before, tokens)
        # A forest does not branch for less.
        if shared >= MIN_SHARE or shared == len(tokens):
            rows -= shared
    return rows


def end_of_last(tokens: Tokens, pattern: Tokens) -> int | None:
    """Where the last occurrence of `pattern` ends, past its last token; None without one."""
    if not len(pattern) or len(tokens) < len(pattern):
        return None
    windows = np.lib.stride_tricks.sliding_window_view(np.asarray(tokens), len(pattern))
    starts = np.flatnonzero((windows == pattern).all(axis=1))
    if not len(starts):
        return None
    return int(starts[-1]) + len(pattern)


def grow(sequences: Sequence[Tokens], *, share: bool = True, min_share: int = MIN_SHARE) -> Forest:
    """Pack S arrays of token ids, none empty, in any order; equal ones become one leaf. Without
    `share` they are laid side by side. Fewer common tokens than `min_share` are not shared."""
    if not sequences or not all(map(len, sequences)):
        raise ValueError("a forest needs at least one sequence, and none may be empty")
    order: Iterable[int] = range(len(sequences))
    if share:
        # Sorted, the longest prefix that a sequence shares with any before it is the one that it
        # shares with its neighbour.
        order = sorted(order, key=lambda index: sort_key(sequences[index]))
    builder = _Builder(sum(map(len, sequences)))
    leaves = np.zeros(len(sequences), dtype=np.int64)
    previous: Tokens = sequences[0][:0]
    for index in order:
        tokens = sequences[index]
        shared = common_prefix(previous, tokens) if share else 0
        # A sequence equal to its neighbour, or a beginning of it, needs no row of its own however
        # short it is.
        if shared < min_share and shared < len(tokens):
            shared = 0
        leaves[index] = builder.add(tokens, shared)
        previous = tokens
    return builder.finish(leaves)


class _Builder:
    """Writes sorted sequences depth first; `path` holds the row ranges of the current sequence."""

    def __init__(self, capacity: int) -> None:
        self.ids = np.empty(capacity, dtype=np.int64)
        self.positions = np.empty(capacity, dtype=np.int64)
        self.ends = np.empty(capacity, dtype=np.int64)
        self.size = 0
        self.path: list[Range] = []
        self.depth = 0
        self.chains: list[Range] = []
        self.ancestors: list[list[Range]] = []
        # Stretch of an ancestor -> first and past last row of all chains that hang from it.
        self.spans: dict[Range, list[int]] = {}

    def add(self, tokens: Tokens, shared: int) -> int:
        """Append the tokens behind the first `shared`; return the last token's row."""
        # Decided before the path is cut: the previous sequence is a beginning of this one.
        continues = 0 < shared == self.depth and self.chains[-1][1] == self.path[-1][1]
        self._cut_path(shared)
        first, past = self.size, self.size + len(tokens) - shared
        if past > first:
            self.ids[first:past] = tokens[shared:]
            self.positions[first:past] = np.arange(shared, len(tokens))
            self.size = past
            if continues:
                self.chains[-1] = (self.chains[-1][0], past)
                self.path[-1] = (self.path[-1][0], past)
                for stretch in self.path[:-1]:
                    self.spans[stretch][1] = past
            else:
                self.chains.append((first, past))
                self.ancestors.append(list(self.path))
                for stretch in self.path:
                    self.spans.setdefault(stretch, [first, past])[1] = past
                self.path.append((first, past))
            self.depth = len(tokens)
        return self.path[-1][1] - 1

    def _cut_path(self, depth: int) -> None:
        """Leave everything on the path below `depth`: its subtrees end at the current size."""
        while self.depth > depth:
            first, past = self.path.pop()
            # Of the deepest range only the rows below `depth` end; the others go on.
            rest = max(0, past - first - (self.depth - depth))
            self.ends[first + rest : past] = self.size
            self.depth -= past - first - rest
            if rest:
                self.path.append((first, first + rest))

    def finish(self, leaves: Ints) -> Forest:
        """Close all subtrees and make the forest; the arrays were allocated for no sharing."""
        # What is on the path is open still, up to the last row.
        self._cut_path(0)
        positions = self.positions[: self.size]
        rectangles = []
        for stretch, (query_first, query_past) in self.spans.items():
            rectangles.append((query_first, query_past, *stretch))
        return Forest(
            input_ids=torch.from_numpy(self.ids[: self.size].copy()),
            positions=torch.from_numpy(positions.copy()),
            end=torch.from_numpy(self.ends[: self.size].copy()),
            leaves=torch.from_numpy(leaves),
            chains=self.chains,
            rectangles=rectangles,
            ancestors=self.ancestors,
            max_position=int(positions.max()),
        )


@dataclass(frozen=True, slots=True)
class Leaves:
    """Distinct leaf rows as queries against the forest's keys: all that the last layer computes."""

    # The leaf rows in ascending order, [U]; index into them of each sequence's leaf, [S].
    rows: torch.Tensor
    inverse: torch.Tensor
    # The keys of each query's own chain, up to itself, [U].
    chains: list[Range]
    # As the forest's, queries by index into `rows`.
    rectangles: list[Rectangle]
    # Per query, all keys that it attends to, root first, [U].
    keys: list[list[Range]]
    max_position: int

    @property
    def num_tokens(self) -> int:
        """Queries, U."""
        return int(self.rows.numel())

    @property
    def device(self) -> torch.device:
        return self.rows.device

    @property
    def queries(self) -> list[Range]:
        """The runs of queries that see the same keys: each query by itself."""
        return list(itertools.pairwise(range(self.num_tokens + 1)))


def find_leaves(forest: Forest) -> Leaves:
    """The forest's leaf rows, on the forest's device."""
    rows, inverse = torch.unique(forest.leaves, sorted=True, return_inverse=True)
    listed: list[int] = rows.tolist()
    chains, keys = [], []
    for (first, past), ancestors in zip(forest.chains, forest.ancestors, strict=True):
        # A leaf may lie inside of a chain, where its sequence is a beginning of another.
        for row in listed[bisect_left(listed, first) : bisect_left(listed, past)]:
            chains.append((first, row + 1))
            keys.append([*ancestors, (first, row + 1)])
    rectangles = []
    # A rectangle without a leaf among its queries is not needed.
    for query_first, query_past, key_first, key_past in forest.rectangles:
        first, past = bisect_left(listed, query_first), bisect_left(listed, query_past)
        if first < past:
            rectangles.append((first, past, key_first, key_past))
    return Leaves(rows, inverse, chains, rectangles, keys, forest.max_position)


@dataclass(slots=True)
class Padded:
    """Right-padded sequences: `input_ids` and `attention_mask` [S, L], `last` [S]."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    last: torch.Tensor

    @property
    def num_tokens(self) -> int:
        """Rows computed, padding included."""
        return int(self.input_ids.numel())

    def to(self, device: torch.device | str) -> Padded:
        ids, mask = self.input_ids.to(device), self.attention_mask.to(device)
        return Padded(ids, mask, self.last.to(device))


def pad(sequences: Sequence[Tokens], pad_id: int) -> Padded:
    """Pad to the longest sequence. There must be one, and none may be empty."""
    lengths = torch.tensor(list(map(len, sequences)))
    if not len(sequences) or int(lengths.min()) == 0:
        raise ValueError("a batch needs at least one sequence, and none may be empty")
    ids = torch.full((len(sequences), int(lengths.max())), pad_id, dtype=torch.long)
    for row, tokens in enumerate(sequences):
        ids[row, : len(tokens)] = torch.from_numpy(tokens.astype("int64"))
    # The last token by length: the pad token may occur in a text too.
    mask = torch.arange(ids.shape[1])[None, :] < lengths[:, None]
    return Padded(ids, mask.long(), lengths - 1)
