"""`max_batch_tokens: auto`: the largest micro-batch that fits the memory that may be used."""

from __future__ import annotations

import heapq
import itertools
import logging
from dataclasses import replace
from pathlib import Path

import torch
import yaml

from smorm.config import Config
from smorm.training.memory import (
    FREE_SHARE,
    MemoryModel,
    free_bytes,
    largest_batch,
    parse_bytes,
    told,
)
from smorm.training.probe import measure
from smorm.training.setup import Prepared
from smorm.training.sources import TokenSet
from smorm.trees.forest import Tokens

log = logging.getLogger(__name__)

LONGEST = 16
"""So many of the longest records are what is measured."""


def resolve_batch_tokens(prepared: Prepared, *, resume: bool) -> Prepared:
    """The same with a number in place of `max_batch_tokens: auto`; the log says which and why.

    A resumed run takes the number of its beginning, which its `config.yaml` holds: another one
    would split the steps in another way and change the last bits.

    Raises:
        ConfigError: the budget does not even hold what is needed without any token.
    """
    training = prepared.config.training
    if training.max_batch_tokens != "auto":
        return prepared
    recorded = _recorded(prepared.config.output.folder) if resume else None
    if recorded is not None:
        log.info("max_batch_tokens: auto is %d, as when this run began", recorded)
        return _with_tokens(prepared, recorded)
    return _with_tokens(prepared, _choose(prepared))


def _recorded(folder: Path) -> int | None:
    try:
        values = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        found = values["training"]["max_batch_tokens"]
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        return None
    return found if isinstance(found, int) else None


def _with_tokens(prepared: Prepared, tokens: int) -> Prepared:
    config: Config = prepared.config
    training = config.training.model_copy(update={"max_batch_tokens": tokens})
    return replace(prepared, config=config.model_copy(update={"training": training}))


def _choose(prepared: Prepared) -> int:
    """Measure, solve, tell."""
    network, training = prepared.network, prepared.config.training
    units = longest_units(prepared.train)
    need = measure(network, units, half=training.precision == "bf16")
    budget = _budget(training.memory_budget, need, network.device)
    tokens = largest_batch(need, budget, network.device)
    log.info(
        "max_batch_tokens: auto is %d: a step takes about %s of %s (%s before it, %s gradients and "
        "moments, %.0f kB a token)",
        tokens,
        told(need.of(tokens)),
        told(budget),
        told(need.there),
        told(need.state),
        need.per_token * (1 + need.spare) / 1e3,
    )
    longest = max(network.arrange(unit).num_tokens for unit in units)
    if longest > tokens:
        log.warning(
            "the longest record has %d tokens, more than max_batch_tokens: it is a batch of its "
            "own and takes about %s",
            longest,
            told(need.of(longest)),
        )
    return tokens


def longest_units(data: TokenSet, most: int = LONGEST) -> list[list[Tokens]]:
    """The longest training records, each as what stays in one forward pass, longest first."""
    pairs = ([pair.chosen, pair.rejected] for pair in data.pairs)
    rated = ([response.tokens] for response in data.rated)
    return heapq.nlargest(most, itertools.chain(pairs, rated), key=lambda unit: max(map(len, unit)))


def _budget(asked: str | None, need: MemoryModel, device: torch.device) -> int:
    if asked is not None:
        return parse_bytes(asked)
    return need.there + int(FREE_SHARE * free_bytes(device))
