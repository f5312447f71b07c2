"""Which pairs stand in a step, chosen by seeds and never by looking at a result.

Shapes: P pairs of the set, B pairs a step.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from bench.ours import Batch, Indices
from smorm.training.setup import Prepared
from smorm.trees.forest import grow

SEEDS = 200
NONE: Indices = np.zeros(0, dtype=np.int64)


def random_batches(prepared: Prepared, seed: int = 0) -> list[Batch]:
    """An epoch in smorm's own seeded order (TRL's default is a random order too)."""
    order = replace(prepared.order, seed=seed)
    return [order.step(step) for step in range(len(prepared.train.pairs) // order.batch_size)]


def length_grouped_batches(
    prepared: Prepared, size: int, seed: int = 0, among: Indices | None = None
) -> list[Batch]:
    """An epoch of transformers' `group_by_length`, over the pairs `among`, in random order.

    The sampler gives the longest batch of each stretch first; taking the first ones would time long
    batches only. Lengths are the longer side's, which is what a pair is padded to.
    """
    from transformers.trainer_pt_utils import get_length_grouped_indices

    chosen = np.arange(len(prepared.train.pairs)) if among is None else among
    pairs = [prepared.train.pairs[int(i)] for i in chosen]
    lengths = [max(len(pair.chosen), len(pair.rejected)) for pair in pairs]
    draw = torch.Generator().manual_seed(seed)
    indices = np.array(get_length_grouped_indices(lengths, size, generator=draw), dtype=np.int64)
    whole = chosen[indices[: len(indices) // size * size]].reshape(-1, size)
    order = np.random.default_rng(seed).permutation(len(whole))
    return [(whole[i], NONE) for i in order]


def prompt_batches(
    prepared: Prepared, pairs_a_prompt: int, prompts: int, seed: int = 0
) -> list[Batch]:
    """An epoch of steps of so many prompts, in random order, each with all of its pairs.

    Prompts that lost a pair to the token limit are left out on both sides.

    Raises:
        ValueError: fewer such prompts than one step takes.
    """
    groups: dict[Any, list[int]] = defaultdict(list)
    for index, pair in enumerate(prepared.train.pairs):
        groups[pair.prompt].append(index)
    whole = [group for group in groups.values() if len(group) == pairs_a_prompt]
    if len(whole) < prompts:
        raise ValueError(f"{len(whole)} prompts have {pairs_a_prompt} pairs within the limit")
    order = np.random.default_rng(seed).permutation(len(whole))
    steps = [order[i : i + prompts] for i in range(0, len(order) - prompts + 1, prompts)]
    return [(np.concatenate([np.array(whole[i]) for i in step]), NONE) for step in steps]


def typical(
    prepared: Prepared,
    draw: Callable[[int], tuple[list[Batch], list[Batch]]],
    timed: tuple[int, int],
    length: int | None = None,
) -> tuple[list[Batch], list[Batch]]:
    """The first drawn epochs whose timed batches have the whole set's token ratio to 3 %.

    Twelve batches of one set save a fifth more or less than twelve others. Only token counts are
    looked at.

    Args:
        draw: both sides' epochs from a seed.
        timed: first and past last of the batches that will be timed.
        length: see `facts`.

    Raises:
        ValueError: none of 200 seeds gives such batches.
    """
    for seed in range(SEEDS):
        theirs, ours = draw(seed)
        last = min(timed[1], len(theirs), len(ours))
        found = facts(prepared, theirs, ours, (min(timed[0], last - 1), last), length)
        if abs(found["token ratio, timed"] / found["token ratio, whole set"] - 1) < 0.03:
            return theirs, ours
    raise ValueError(f"none of {SEEDS} seeds gives batches whose token ratio is the whole set's")


def only_pairs(batches: Sequence[Batch]) -> Indices:
    """The pairs of these batches, each once, sorted."""
    return np.unique(np.concatenate([pairs for pairs, _ in batches]))


def real_tokens(prepared: Prepared, batch: Batch) -> int:
    """Tokens of a batch's conversations, without padding and without sharing."""
    rated = sum(len(prepared.train.rated[int(i)].tokens) for i in batch[1])
    return rated + sum(len(pair.chosen) + len(pair.rejected) for pair in _pairs(prepared, batch))


def padded_tokens(prepared: Prepared, batch: Batch, length: int | None = None) -> int:
    """Rows of the batch when all is padded to `length`, or to the longest of all."""
    pairs = _pairs(prepared, batch)
    if length is not None:
        return (2 * len(pairs) + len(batch[1])) * length
    return 2 * len(pairs) * max(max(len(p.chosen), len(p.rejected)) for p in pairs)


def forest_tokens(prepared: Prepared, batch: Batch) -> int:
    """Rows of the batch as one forest."""
    sides = [side for p in _pairs(prepared, batch) for side in (p.chosen, p.rejected)]
    return grow(sides + [prepared.train.rated[int(i)].tokens for i in batch[1]]).num_tokens


def _pairs(prepared: Prepared, batch: Batch) -> list[Any]:
    return [prepared.train.pairs[int(i)] for i in batch[0]]


def facts(
    prepared: Prepared,
    theirs: Sequence[Batch],
    ours: Sequence[Batch],
    timed: tuple[int, int],
    length: int | None = None,
) -> dict[str, float]:
    """Whether the timed batches are typical: token statistics of them and of the whole set.

    Args:
        theirs, ours: each side's epoch.
        timed: first and past last of the timed batches.
        length: what the baseline pads to, where it is not the longest sequence.
    """
    found: dict[str, float] = {}
    for name, (first, last) in (("timed", timed), ("whole set", (0, len(theirs)))):
        left, right = theirs[first:last], ours[first:last]
        padded = sum(padded_tokens(prepared, batch, length) for batch in left)
        real = [sum(real_tokens(prepared, batch) for batch in side) for side in (left, right)]
        shared = sum(forest_tokens(prepared, batch) for batch in right)
        # by real token, because the two sides need not hold the same pairs
        found[f"token ratio, {name}"] = round(padded / real[0] * real[1] / shared, 3)
        found[f"padded / real tokens, {name}"] = round(padded / real[0], 3)
        found[f"real / forest tokens, {name}"] = round(real[1] / shared, 3)
        pairs = sum(len(batch[0]) for batch in left)
        found[f"real tokens a pair, {name}"] = round(real[0] / pairs, 1)
    return found
