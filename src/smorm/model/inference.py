"""Scores of many sequences: token-budget batches, each score independent of its neighbours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smorm.errors import DataError, NonFiniteScoreError
from smorm.model.heads import GatedHead
from smorm.model.network import Batch, RewardNetwork
from smorm.text.limits import Unscored, UnscoredReason
from smorm.trees.forest import Tokens, end_of_last

Rows = NDArray[np.float64]
Advance = Callable[[int], None]


def score_units(
    network: RewardNetwork,
    units: Sequence[Sequence[Tokens]],
    max_batch_tokens: int,
    *,
    advance: Advance | None = None,
) -> list[Rows]:
    """All rows of the head for every sequence of every unit.

    Args:
        units: sequences that belong together (a record's responses); their order is kept.
        max_batch_tokens: rows a forward pass.
        advance: called with the number of units done, for a progress bar.

    Returns:
        Per unit an array [sequences, 1 + K], on the training scale.

    Raises:
        ModelError: a score is NaN or infinite.
        DataError: the head reads prompts' ends, and a sequence has none (`unscorable`).
    """
    head = network.head
    if isinstance(head, GatedHead):
        return _gated_units(network, head, units, max_batch_tokens, advance)
    return _of_units(network, network, "score", units, max_batch_tokens, advance)


def unscorable(network: RewardNetwork, sequences: Sequence[Sequence[int]]) -> Unscored | None:
    """Why the network's head cannot score sequences, or None."""
    head = network.head
    if not isinstance(head, GatedHead):
        return None
    ends = [end_of_last(np.asarray(tokens), head.header_tokens) for tokens in sequences]
    if None not in ends:
        return None
    return Unscored(UnscoredReason.NO_ASSISTANT_TURN, _NO_PROMPT)


_NO_PROMPT = (
    "no turn of an assistant begins in it, so that the head cannot read the end of the prompt: "
    "give messages, not raw text"
)


@dataclass(frozen=True, slots=True)
class Prompted:
    """A unit's hidden states.

    Attributes:
        hidden: at each sequence's end [sequences, D].
        prompts: at the end of each of its different prompts [prompts, D].
        which: each sequence's prompt [sequences].
    """

    hidden: Rows
    prompts: Rows
    which: list[int]


def prompted_units(
    network: RewardNetwork,
    units: Sequence[Sequence[Tokens]],
    header: Tokens,
    max_batch_tokens: int,
    *,
    advance: Advance | None = None,
) -> list[Prompted]:
    """Hidden states at sequences' ends and at their prompts' ends: behind the last `header`.

    A prompt goes along as a sequence of its own, which costs nothing where its tokens are shared.

    Raises:
        DataError: a sequence without a header.
        ModelError: a hidden state is NaN or infinite.
    """
    own = [_prompts(unit, header) for unit in units]
    together = [[*unit, *prompts] for unit, (prompts, _) in zip(units, own, strict=True)]
    found = pooled_units(network, together, max_batch_tokens, advance=advance)
    return [
        Prompted(rows[: len(which)], rows[len(which) :], which)
        for rows, (_, which) in zip(found, own, strict=True)
    ]


def _prompts(unit: Sequence[Tokens], header: Tokens) -> tuple[list[Tokens], list[int]]:
    """The different prompts of a unit's sequences, and which of them is each one's."""
    places: dict[bytes, int] = {}
    prompts: list[Tokens] = []
    which: list[int] = []
    for tokens in unit:
        end = end_of_last(tokens, header)
        if end is None:
            raise DataError(_NO_PROMPT)
        prompt = np.asarray(tokens[:end])
        place = places.setdefault(prompt.tobytes(), len(prompts))
        if place == len(prompts):
            prompts.append(prompt)
        which.append(place)
    return prompts, which


def _gated_units(
    network: RewardNetwork,
    head: GatedHead,
    units: Sequence[Sequence[Tokens]],
    max_batch_tokens: int,
    advance: Advance | None,
) -> list[Rows]:
    """Rows of a head that reads prompts' ends; hidden states are kept no longer than a batch."""
    own = [_prompts(unit, head.header_tokens) for unit in units]

    def scores(index: int, states: Rows) -> Rows:
        which = own[index][1]
        hidden, prompts = (
            torch.from_numpy(part).to(network.device)
            for part in (states[: len(which)], states[len(which) :])
        )
        rows = head(hidden, prompts[which]).double().cpu().numpy()
        if not np.isfinite(rows).all():
            raise NonFiniteScoreError(
                "the model gave a score that is not finite: its head is broken"
            )
        return np.asarray(rows)

    together = [[*unit, *prompts] for unit, (prompts, _) in zip(units, own, strict=True)]
    return _of_units(
        network, _pooled(network), "hidden state", together, max_batch_tokens, advance, scores
    )


def pooled_units(
    network: RewardNetwork,
    units: Sequence[Sequence[Tokens]],
    max_batch_tokens: int,
    *,
    advance: Advance | None = None,
) -> list[Rows]:
    """The hidden state that the head reads, for every sequence of every unit.

    Args:
        units, max_batch_tokens, advance: as for `score_units`.

    Returns:
        Per unit an array [sequences, D]; times the head's weight transposed it gives the scores.

    Raises:
        ModelError: a hidden state is NaN or infinite.
    """
    return _of_units(network, _pooled(network), "hidden state", units, max_batch_tokens, advance)


def _pooled(network: RewardNetwork) -> Callable[[Batch], Tensor]:
    return lambda batch: network.pooled(batch.to(network.device))


def _of_units(
    network: RewardNetwork,
    forward: Callable[[Batch], Tensor],
    what: str,
    units: Sequence[Sequence[Tokens]],
    max_batch_tokens: int,
    advance: Advance | None,
    finish: Callable[[int, Rows], Rows] = lambda _, rows: rows,
) -> list[Rows]:
    """What `forward` gives for every sequence, unit by unit, and `finish` makes of a unit's."""
    results: list[Rows | None] = [None] * len(units)
    training = network.training
    network.eval()
    with torch.inference_mode():
        for batch in network.micro_batches(units, max_batch_tokens):
            sequences = [tokens for index in batch for tokens in units[index]]
            rows = forward(network.arrange(sequences)).double().cpu().numpy()
            if not np.isfinite(rows).all():
                raise NonFiniteScoreError(
                    f"the model gave a {what} that is not finite: its weights are broken"
                )
            start = 0
            for index in batch:
                results[index] = finish(index, rows[start : start + len(units[index])])
                start += len(units[index])
            if advance is not None:
                advance(len(batch))
    network.train(training)
    return [rows for rows in results if rows is not None]
