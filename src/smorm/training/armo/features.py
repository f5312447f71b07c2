"""Hidden states of the data, computed once, and what is read off them.

Shapes: P pairs, R rated responses, K attributes, D hidden size, U different prompts.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from smorm.arrays import Floats, Tokens
from smorm.errors import ConfigError, DataError
from smorm.model.inference import Prompted, prompted_units
from smorm.training.armo.ridge import RidgeRow, held_out_prompts, ridge_rows
from smorm.training.cost import Cost
from smorm.training.methods.armo import ArmoSection
from smorm.training.responses import assistant_header
from smorm.training.setup import Prepared
from smorm.trees.search import end_of_last

log = logging.getLogger(__name__)

TOGETHER = 2048
"""Records whose hidden states are computed at a time."""
LENGTH = "length"


@dataclass(frozen=True, slots=True)
class Stage1:
    """What is fitted to the ratings: a row for each attribute, and the row of verbosity (None
    where nothing is debiased)."""

    rows: list[RidgeRow]
    verbosity: RidgeRow | None


@dataclass(frozen=True, slots=True)
class Pairs:
    """What the gate sees of the pairs.

    Attributes:
        ratings: the attribute rows of both sides, [P, 2, K].
        verbosity: the row of verbosity of both, [P, 2].
        prompts: states at the ends of prompts, [U, D].
        which: prompt of either side, [P, 2].
        margins: [P].
    """

    ratings: torch.Tensor
    verbosity: torch.Tensor
    prompts: torch.Tensor
    which: torch.Tensor
    margins: torch.Tensor


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads hidden states at the ends of sequences and of their prompts.

    Attributes:
        header: the tokens that the chat template writes before a response.
        cost: gets the tokens that were computed.
    """

    prepared: Prepared
    header: Tokens
    cost: Cost

    @classmethod
    def of(cls, prepared: Prepared, cost: Cost) -> Reader:
        """A reader for the run's chat template.

        Raises:
            ConfigError: the template writes nothing before a response.
        """
        header = assistant_header(prepared.renderer)
        if not len(header):
            raise ConfigError(
                "model.chat_template: objective.kind armo reads the end of the prompt, and this "
                "template writes nothing between a prompt and its response"
            )
        return cls(prepared, header, cost)

    def states(self, units: Sequence[list[Tokens]]) -> Iterator[Prompted]:
        """Hidden states of units, in order."""
        network, budget = self.prepared.network, self.prepared.batch_tokens
        for first in range(0, len(units), TOGETHER):
            part = units[first : first + TOGETHER]
            for batch in network.micro_batches(part, budget):
                arranged = network.arrange([tokens for at in batch for tokens in part[at]])
                self.cost.first_pass_tokens += arranged.num_tokens
            yield from prompted_units(network, part, self.header, budget)

    def prompt_end(self, tokens: Tokens, where: str) -> int:
        """Where the response begins.

        Raises:
            DataError: there is no turn of an assistant.
        """
        end = end_of_last(tokens, self.header)
        if end is None:
            raise DataError(
                f"{where}: no turn of an assistant begins in it: objective.kind armo reads the end "
                "of the prompt, so give messages or a prompt and a response"
            )
        return end


def fit_rows(reader: Reader) -> Stage1:
    """Stage 1: ridge rows of the attributes and of verbosity.

    Raises:
        ConfigError: `debias` names no attribute.
        DataError: an attribute that too few prompts have, or none that varies.
    """
    prepared, data = reader.prepared, reader.prepared.train
    chosen, names = prepared.config.objective.settings(ArmoSection), list(prepared.card.attributes)
    if chosen.debias not in (None, LENGTH, *names):
        raise ConfigError(
            f"objective.armo.debias: {chosen.debias!r}: expected length, null or one of "
            f"{', '.join(names)}"
        )
    lengths = _lengths(reader)
    targets, wanted = data.targets, list(names)
    if chosen.debias == LENGTH and LENGTH not in names:
        targets, wanted = np.column_stack([targets, lengths]), [*names, LENGTH]
    units = [[one.tokens] for one in data.rated]
    states = np.concatenate([one.hidden.astype(np.float32) for one in reader.states(units)])
    seed = prepared.config.training.seed
    rows = ridge_rows(
        states, targets, held_out_prompts(data.rated_prompts, chosen.held_out, seed), wanted
    )
    if not any(row.weights.any() for row in rows[: len(names)]):
        raise DataError(
            f"no rating varies ({', '.join(names)}): there is nothing for a gate to mix"
        )
    for name, row in zip(wanted, rows, strict=True):
        log.info("ridge, %s: alpha %g, squared error %.4f over %d held-out ratings",
                 name, row.alpha, row.errors[row.alpha], row.held_out)  # fmt: skip
    verbosity = None if chosen.debias is None else rows[wanted.index(chosen.debias)]
    return Stage1(rows[: len(names)], verbosity)


def _lengths(reader: Reader) -> Floats:
    """Tokens of the rated responses, standardised, [R]."""
    found = np.array([len(one.tokens) - reader.prompt_end(one.tokens, one.where)
                      for one in reader.prepared.train.rated], dtype=np.float64)  # fmt: skip
    return np.asarray((found - found.mean()) / (found.std() or 1.0))


def read_pairs(reader: Reader, stage1: Stage1) -> Pairs:
    """The rows on all pairs, and the states at the ends of their prompts."""
    weights = np.stack([row.weights for row in stage1.rows], axis=1)
    verbosity = np.zeros(len(weights)) if stage1.verbosity is None else stage1.verbosity.weights
    rows = np.column_stack([weights, verbosity])
    units, margins = [], []
    for pair in reader.prepared.train.pairs:
        for side in (pair.chosen, pair.rejected):
            reader.prompt_end(side, pair.where)
        units.append([pair.chosen, pair.rejected])
        margins.append(pair.margin)
    scores, which, prompts = [], [], []
    known = 0
    for one in reader.states(units):
        scores.append(one.hidden @ rows)
        which.append([known + place for place in one.which])
        prompts.append(one.prompts.astype(np.float32))
        known += len(one.prompts)
    table = torch.from_numpy(np.stack(scores)).float()
    return Pairs(
        table[..., :-1],
        table[..., -1],
        torch.from_numpy(np.concatenate(prompts)),
        torch.tensor(which),
        torch.tensor(margins),
    )
