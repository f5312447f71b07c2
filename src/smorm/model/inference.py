"""Scores of many sequences: token-budget batches, each score independent of its neighbours."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from smorm.arrays import Floats, Tokens
from smorm.errors import DataError, NonFiniteScoreError
from smorm.model.heads import GatedHead
from smorm.model.network import Batch, RewardNetwork
from smorm.text.limits import Unscored, UnscoredReason
from smorm.trees.forest import end_of_last

Advance = Callable[[int], None]
Units = Sequence[Sequence[Tokens]]
"""Sequences that belong together (a record's responses)."""

_NO_PROMPT = (
    "no turn of an assistant begins in it, so that the head cannot read the end of the prompt: "
    "give messages, not raw text"
)


def score_units(
    network: RewardNetwork,
    units: Units,
    max_batch_tokens: int,
    *,
    advance: Advance | None = None,
    share: tuple[int, int] = (0, 1),
) -> list[Floats]:
    """All rows of the head for every sequence of every unit, in their order: [sequences, 1 + K] per
    unit, on the training scale. `advance` is called with the number of units done. Of a `share`
    (i, n) batch i of every n is computed; rows of other batches' units are 0.

    Raises `NonFiniteScoreError`, and `DataError` where the head reads prompts' ends and a sequence
    has none (`unscorable`)."""
    if isinstance(network.head, GatedHead):
        return _in_order(_gated_rows(network, network.head, units, max_batch_tokens, advance))
    computed = dict(_rows(network, network, "score", units, max_batch_tokens, advance, share))
    rows = []
    for index, unit in enumerate(units):
        nothing = np.zeros((len(unit), network.head.count))
        rows.append(computed.get(index, nothing))
    return rows


def pooled_units(
    network: RewardNetwork,
    units: Units,
    max_batch_tokens: int,
    *,
    share: tuple[int, int] = (0, 1),
) -> list[Floats]:
    """The hidden state that the head reads, for every sequence of every unit: [sequences, D]. Times
    the head's weight transposed it gives the scores. `share` as in `score_units`."""
    what, pooled = "hidden state", network.pooled
    computed = dict(_rows(network, pooled, what, units, max_batch_tokens, None, share))
    width = network.backbone.config.get_text_config().hidden_size
    states = []
    for index, unit in enumerate(units):
        states.append(computed[index] if index in computed else np.zeros((len(unit), width)))
    return states


def unscorable(network: RewardNetwork, sequences: Sequence[Sequence[int]]) -> Unscored | None:
    """Why the network's head cannot score sequences, or None."""
    head = network.head
    if isinstance(head, GatedHead):
        for tokens in sequences:
            if end_of_last(np.asarray(tokens), head.header_tokens) is None:
                return Unscored(UnscoredReason.NO_ASSISTANT_TURN, _NO_PROMPT)
    return None


@dataclass(frozen=True, slots=True)
class Prompted:
    """A unit's hidden states at each sequence's end [sequences, D], at the end of each of its
    different prompts [prompts, D], and which prompt each sequence has [sequences]."""

    hidden: Floats
    prompts: Floats
    which: list[int]


def prompted_units(
    network: RewardNetwork, units: Units, header: Tokens, max_batch_tokens: int
) -> list[Prompted]:
    """Hidden states at sequences' ends and at their prompts' ends: behind the last `header`. A
    sequence without a header is a `DataError`."""
    extended, which = _with_prompts(units, header)
    states = pooled_units(network, extended, max_batch_tokens)
    prompted = []
    for rows, prompt_of in zip(states, which, strict=True):
        count = len(prompt_of)
        prompted.append(Prompted(rows[:count], rows[count:], prompt_of))
    return prompted


def _with_prompts(units: Units, header: Tokens) -> tuple[list[list[Tokens]], list[list[int]]]:
    """Units with their different prompts behind their sequences, and each sequence's prompt."""
    # A prompt as a sequence of its own costs nothing where its tokens are shared.
    extended, which = [], []
    for unit in units:
        prompts: dict[bytes, Tokens] = {}
        keys = []
        for tokens in unit:
            end = end_of_last(tokens, header)
            if end is None:
                raise DataError(_NO_PROMPT)
            prompt = np.asarray(tokens[:end])
            keys.append(prompt.tobytes())
            prompts.setdefault(keys[-1], prompt)
        extended.append([*unit, *prompts.values()])
        index = dict(zip(prompts, range(len(prompts)), strict=True))
        which.append([index[key] for key in keys])
    return extended, which


def _gated_rows(
    network: RewardNetwork,
    head: GatedHead,
    units: Units,
    max_batch_tokens: int,
    advance: Advance | None,
) -> Iterator[tuple[int, Floats]]:
    """As `_rows`, of a head that reads prompts' ends too."""
    extended, which = _with_prompts(units, head.header_tokens)
    what = "hidden state"
    # Unit by unit: hidden states are kept no longer than a batch.
    for index, rows in _rows(network, network.pooled, what, extended, max_batch_tokens, advance):
        states = torch.from_numpy(rows).to(network.device)
        hidden, prompts = states[: len(which[index])], states[len(which[index]) :]
        with torch.inference_mode():
            scores = _checked(head(hidden, prompts[which[index]]), "score", "head is")
        yield index, scores


def _rows(
    network: RewardNetwork,
    forward: Callable[[Batch], Tensor],
    what: str,
    units: Units,
    max_batch_tokens: int,
    advance: Advance | None,
    share: tuple[int, int] = (0, 1),
) -> Iterator[tuple[int, Floats]]:
    """Index and rows of each unit, batch by batch: `forward`'s result for every sequence."""
    training = network.training
    network.eval()
    first, every = share
    for batch in network.micro_batches(units, max_batch_tokens)[first::every]:
        sequences: list[Tokens] = []
        for index in batch:
            sequences += units[index]
        # Not around the loop: the mode would hold for the consumer of a suspended generator too.
        with _no_gradient(network):
            rows = _checked(forward(network.arrange(sequences)), what, "weights are")
        start = 0
        for index in batch:
            yield index, rows[start : start + len(units[index])]
            start += len(units[index])
        if advance is not None:
            advance(len(batch))
    network.train(training)


def _no_gradient(network: RewardNetwork) -> AbstractContextManager[None]:
    """Inference mode; weights that are gathered in it (FSDP) could not be trained afterwards."""
    return torch.no_grad() if network.sharded else torch.inference_mode()


def _checked(rows: Tensor, what: str, culprit: str) -> Floats:
    values: Floats = rows.double().cpu().numpy()
    if not np.isfinite(values).all():
        problem = f"the model gave a {what} that is not finite: its {culprit} broken"
        raise NonFiniteScoreError(problem)
    return values


def _in_order(results: Iterator[tuple[int, Floats]]) -> list[Floats]:
    by_index = dict(results)
    return [by_index[index] for index in sorted(by_index)]
