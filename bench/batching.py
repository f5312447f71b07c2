"""Which pairs are in a step, chosen by seeds and never by looking at a result.

Shapes: P pairs of the set, B pairs a step."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch

from bench.smorm_run import Batch
from smorm.arrays import Ints, Tokens
from smorm.training.setup import Prepared
from smorm.trees.forest import grow

SEEDS = 200
TOLERANCE = 0.03
NO_RATED: Ints = np.zeros(0, dtype=np.int64)


class Batches(NamedTuple):
    """An epoch of either run: the same one, or each run's grouping of the same pairs."""

    baseline: Sequence[Batch]
    smorm: Sequence[Batch]

    def span(self, first: int, last: int) -> Batches:
        """Steps `first` to `last`, the last one excluded."""
        return Batches(self.baseline[first:last], self.smorm[first:last])


def random_batches(prepared: Prepared, seed: int = 0) -> list[Batch]:
    """An epoch in smorm's own seeded order (TRL's default is a random order too)."""
    order = replace(prepared.order, seed=seed)
    # full batches only: a short last one would have another token ratio
    return [order.step(step) for step in range(len(prepared.train.pairs) // order.batch_size)]


def length_grouped_batches(
    prepared: Prepared, size: int, seed: int = 0, among: Ints | None = None
) -> list[Batch]:
    """An epoch of transformers' `group_by_length`, over the pairs `among`, in random order.

    Lengths are the longer response's, which is what a pair is padded to."""
    from transformers.trainer_pt_utils import get_length_grouped_indices

    pairs = np.arange(len(prepared.train.pairs)) if among is None else among
    lengths = _lengths(prepared, pairs).max(axis=1).tolist()
    draw = torch.Generator().manual_seed(seed)
    indices = np.array(get_length_grouped_indices(lengths, size, generator=draw), dtype=np.int64)
    steps = pairs[indices[: len(indices) // size * size]].reshape(-1, size)
    # The sampler gives the longest batch of each stretch first: the first ones in its order would
    # time long batches only.
    return [(step, NO_RATED) for step in np.random.default_rng(seed).permutation(steps)]


def prompt_batches(
    prepared: Prepared, pairs_a_prompt: int, prompts: int, seed: int = 0
) -> list[Batch]:
    """An epoch of steps of `prompts` prompts, in random order, each with all of its pairs.

    Prompts that lost a pair to the token limit are in no batch of either run.

    Raises:
        ValueError: fewer such prompts than one step takes."""
    groups: dict[Any, list[int]] = defaultdict(list)
    for index, pair in enumerate(prepared.train.pairs):
        groups[pair.prompt].append(index)
    complete = np.array([group for group in groups.values() if len(group) == pairs_a_prompt])
    if len(complete) < prompts:
        raise ValueError(f"{len(complete)} prompts have {pairs_a_prompt} pairs within the limit")
    drawn = np.random.default_rng(seed).permutation(complete)
    steps = drawn[: len(drawn) // prompts * prompts].reshape(-1, prompts * pairs_a_prompt)
    return [(step, NO_RATED) for step in steps]


def typical(
    prepared: Prepared,
    draw: Callable[[int], Batches],
    timed: tuple[int, int],
    length: int | None = None,
) -> Batches:
    """The first drawn epochs whose timed batches have the whole set's token ratio to 3 %.

    Twelve batches of one set save a fifth more or less than twelve others. Only token counts
    decide.

    Args:
        draw: both runs' epochs from a seed.
        timed: first and past last of the batches that will be timed.
        length: see `token_statistics`.

    Raises:
        ValueError: none of 200 seeds gives such batches."""
    # The first seed that fits, not the best one: nothing is chosen by what it would measure.
    for seed in range(SEEDS):
        batches = draw(seed)
        # A set of few batches (in tests) is timed to its end.
        last = min(timed[1], len(batches.baseline), len(batches.smorm))
        statistics = token_statistics(prepared, batches, (min(timed[0], last - 1), last), length)
        ratio = statistics["token ratio, timed"] / statistics["token ratio, whole set"]
        if abs(ratio - 1) < TOLERANCE:
            return batches
    raise ValueError(f"none of {SEEDS} seeds gives batches whose token ratio is the whole set's")


def distinct_pairs(batches: Sequence[Batch]) -> Ints:
    """The pairs of these batches, each once, sorted."""
    return np.unique(np.concatenate([pairs for pairs, _ in batches]))


def real_tokens(prepared: Prepared, batch: Batch) -> int:
    """Tokens of a batch's conversations, without padding and without sharing."""
    return sum(map(len, sequences_of(prepared, batch)))


def padded_tokens(prepared: Prepared, batch: Batch, length: int | None = None) -> int:
    """Positions of the batch when all is padded to `length`, or to the longest of all."""
    if length is not None:
        return (2 * len(batch[0]) + len(batch[1])) * length
    return 2 * len(batch[0]) * int(_lengths(prepared, batch[0]).max())


def forest_tokens(prepared: Prepared, batch: Batch) -> int:
    """Positions of the batch as one forest."""
    return grow(sequences_of(prepared, batch)).num_tokens


def sequences_of(prepared: Prepared, batch: Batch) -> list[Tokens]:
    """A batch's token ids: chosen and rejected of each pair, then the rated responses."""
    sequences: list[Tokens] = []
    for index in batch[0]:
        pair = prepared.train.pairs[int(index)]
        sequences += [pair.chosen, pair.rejected]
    for index in batch[1]:
        sequences.append(prepared.train.rated[int(index)].tokens)
    return sequences


def _lengths(prepared: Prepared, pairs: Ints) -> Ints:
    """Tokens of chosen and rejected [P, 2]."""
    lengths = list(map(len, sequences_of(prepared, (pairs, NO_RATED))))
    return np.array(lengths).reshape(-1, 2)


def token_statistics(
    prepared: Prepared, batches: Batches, timed: tuple[int, int], length: int | None = None
) -> dict[str, float]:
    """Whether the timed batches are typical: token statistics of them and of the whole set.

    Args:
        timed: first and past last of the timed batches.
        length: what the baseline pads to, where it is not the longest sequence."""
    statistics: dict[str, float] = {}
    spans = {"timed": timed, "whole set": (0, len(batches.baseline))}
    for name, (first, last) in spans.items():
        baseline, smorm = batches.span(first, last)
        padded = sum(padded_tokens(prepared, batch, length) for batch in baseline)
        real = sum(real_tokens(prepared, batch) for batch in baseline)
        ours = sum(real_tokens(prepared, batch) for batch in smorm)
        shared = sum(forest_tokens(prepared, batch) for batch in smorm)
        pairs = sum(len(batch[0]) for batch in baseline)
        # by real token, because the two runs need not take the same pairs
        statistics[f"token ratio, {name}"] = round(padded / real * ours / shared, 3)
        statistics[f"padded / real tokens, {name}"] = round(padded / real, 3)
        statistics[f"real / forest tokens, {name}"] = round(ours / shared, 3)
        statistics[f"real tokens a pair, {name}"] = round(real / pairs, 1)
    return statistics
