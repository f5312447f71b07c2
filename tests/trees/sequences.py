"""Random families of token sequences that begin alike, for the laws of the forest."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import strategies as st

from smorm.arrays import Tokens
from smorm.trees.forest import Forest


def tokens(*numbers: int) -> Tokens:
    """A sequence by hand."""
    return np.array(numbers, dtype=np.int32)


# Two symbols make long common prefixes and prefixes of each other likely; the large ids see to the
# order of bytes.
symbols = st.sampled_from([1, 2]) | st.sampled_from([255, 256, 70_000])
arrays = st.lists(symbols, min_size=1, max_size=12).map(lambda ids: tokens(*ids))
families = st.lists(arrays, min_size=1, max_size=9)


@st.composite
def grown(draw: st.DrawFn) -> list[Tokens]:
    """Sequences of which each continues a beginning of an earlier one."""
    found = [draw(arrays)]
    for _ in range(draw(st.integers(0, 7))):
        earlier = draw(st.sampled_from(found))
        kept = draw(st.integers(0, len(earlier)))
        found.append(np.concatenate([earlier[:kept], draw(arrays)]))
    return found


def random_family(seed: int, vocabulary: int = 97) -> list[Tokens]:
    """Nested forks, a prefix of another, a duplicate and a stranger; 30 to 150 rows."""
    rng = np.random.default_rng(seed)
    found = [rng.integers(0, vocabulary, rng.integers(9, 25)).astype(np.int32)]
    for _ in range(int(rng.integers(2, 8))):
        earlier = found[rng.integers(len(found))]
        kept = earlier[: rng.integers(0, len(earlier) + 1)]
        tail = rng.integers(0, vocabulary, rng.integers(1, 12)).astype(np.int32)
        found.append(np.concatenate([kept, tail]))
    branch = np.concatenate([found[0][:9], found[-1]])
    return [*found, found[0][:9], branch, found[-1].copy()]


def distinct_prefixes(sequences: list[Tokens]) -> int:
    """Nodes of the trie."""
    return len({tuple(s[: n + 1].tolist()) for s in sequences for n in range(len(s))})


def allowed_cells(forest: Forest) -> np.ndarray:
    """The rule written out from its sentence: q sees k exactly when k <= q < end[k]."""
    rows, end = forest.num_tokens, forest.end.tolist()
    return np.array([[k <= q < end[k] for k in range(rows)] for q in range(rows)])


def dense_mask(forest: Forest, window: int | None = None) -> torch.Tensor:
    """The rule as [T, T] booleans, quicker than `allowed_cells`."""
    rows = torch.arange(forest.num_tokens)
    query, key = rows[:, None], rows[None, :]
    allowed = (key <= query) & (query < forest.end[None, :])
    if window is not None:
        allowed &= forest.positions[:, None] - forest.positions[None, :] < window
    return allowed
