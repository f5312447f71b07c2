"""`model.head_start: probe`: before the first step the rows of the head are fitted to the hidden
states that the backbone begins with (Kumar et al., 2022, arXiv 2202.10054: linear probing, then
fine-tuning). Training then begins at the probe's loss: the rows are applied as they were fitted.

At most `RECORDS` pairs and `RECORDS` rated responses are read, drawn by the seed. Shapes: P pairs,
R rated responses, D hidden size, K attributes."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from smorm import files
from smorm.arrays import Floats, Ints, Tokens
from smorm.config import decisive
from smorm.errors import ConfigError
from smorm.model.heads import WEIGHT, ScoreHead
from smorm.model.inference import pooled_units
from smorm.objectives.terms import Rows
from smorm.printing import get_logger
from smorm.training.folder import LENGTH
from smorm.training.linear_fits import (
    Comparisons,
    Fit,
    Spectra,
    States,
    fit_logistic,
    fit_ridge,
    folds_of,
)
from smorm.training.methods import method_class
from smorm.training.setup import Prepared

log = get_logger(__name__)

RECORDS = 16_384
"""The most records of each kind that are read; their states are held in fp32, 4 x D bytes for each
response."""
BLOCK = 2048
"""Records whose states are computed at a time."""
FILE = "head_start.safetensors"
"""The fitted rows in the run's folder, from which a run that goes on takes them."""


def start_rows(prepared: Prepared, *, resume: bool) -> dict[str, Any]:
    """Fit the rows where the configuration asks for it, and put them into the head; a run that goes
    on reads those of its beginning. Returns what `cost.json` says of it: the kind, records, tokens,
    seconds, and of each row its penalty, loss and held-out loss; nothing for other starts.

    Raises:
        ConfigError: a row has data under one prompt only, so that no penalty can be chosen."""
    if prepared.config.head_start != "probe":
        return {}
    head, ranks, path = prepared.network.head, prepared.ranks, prepared.config.output.folder / FILE
    assert isinstance(head, ScoreHead)
    weight, report = head.weight.detach().cpu().clone(), None
    if resume and ranks.is_first:
        report = _read(path, prepared, weight)
    if ranks.gather(report is not None)[0]:
        log.info("head start: the rows that this run began with, from %s", path)
    else:
        fitted = _fit(prepared, weight)
        # One rank fits, and all have the same rows.
        if ranks.is_first:
            report = fitted
            _write(path, prepared, weight, fitted)
    report = ranks.gather(report)[0]
    if not ranks.is_first:
        weight.zero_()
    ranks.sum(weight)
    head.weight.data.copy_(weight)
    return dict(report or {})


@dataclass(frozen=True, slots=True)
class Probe:
    """Rows by name, fitted to so many records, whose states took so many computed tokens."""

    fits: dict[str, Fit]
    records: int
    tokens: int


def _fit(prepared: Prepared, weight: Tensor) -> dict[str, Any]:
    """Write the fitted rows over those of `weight` [1 + K, D], on the first rank; the others
    compute their share of the states."""
    started, method, head = time.monotonic(), method_class(prepared.config), prepared.network.head
    assert isinstance(head, ScoreHead)
    pairs = rated = Probe({}, 0, 0)
    if method.uses_pairs and len(prepared.train.pairs):
        pairs = _fit_pairs(prepared, preference=not head.row_given)
    if method.uses_ratings and len(prepared.train.rated):
        rated = _fit_rated(prepared)
    fits = pairs.fits | rated.fits
    for row, name in enumerate(("preference", *prepared.card.attributes)):
        # A row that is used at length one must not become zero.
        if name in fits and (fits[name].weights.any() or not head.unit_rows):
            weight[row] = torch.from_numpy(fits[name].weights).float()
    tokens, seconds = pairs.tokens + rated.tokens, time.monotonic() - started
    log.info("head start: a probe of %d pairs and %d rated responses, %d tokens, %.1f s: %s",
             pairs.records, rated.records, tokens, seconds, _described(fits))  # fmt: skip
    rows = {}
    for name, fit in fits.items():
        rows[name] = {"penalty": fit.penalty, "loss": fit.loss, "held_out": fit.held_out}
    report = {"kind": "probe", "pairs": pairs.records, "rated": rated.records}
    return {**report, "tokens": tokens, "seconds": round(seconds, 3), "rows": rows}


def _fit_pairs(prepared: Prepared, *, preference: bool) -> Probe:
    """The preference row, where it is trained and asked for, and attribute rows that learn from
    the responses of pairs."""
    method, data, objective = (
        method_class(prepared.config),
        prepared.train,
        prepared.config.objective,
    )
    seed, names = prepared.config.training.seed, prepared.card.attributes
    sample = _sample(len(data.pairs), seed)
    records = [data.pairs[index] for index in sample]
    states, tokens = _states(prepared, [[pair.chosen, pair.rejected] for pair in records])
    fits: dict[str, Fit] = {}
    if not prepared.ranks.is_first:
        return Probe(fits, len(records), tokens)
    folds = folds_of(data.pair_prompts[sample], seed)
    if preference and Rows.PREFERENCE in method.trains:
        margins = np.zeros(len(records))
        if objective.use_margin:
            margins = np.array([pair.margin for pair in records], dtype=np.float64)
        gaps = states[0::2] - states[1::2]
        compared = Comparisons(gaps, margins, objective.label_smoothing)
        fits["preference"] = _usable(fit_logistic(compared, folds), "pairs have")
    targets = method.response_targets(prepared, sample)
    if targets is not None:
        columns = targets.reshape(2 * len(records), len(names))
        fits |= _fit_attributes(states, columns, np.repeat(folds, 2), names)
    return Probe(fits, len(records), tokens)


def _fit_rated(prepared: Prepared) -> Probe:
    """The attribute rows, from the ratings."""
    data, seed = prepared.train, prepared.config.training.seed
    sample = _sample(len(data.rated), seed + 1)
    states, tokens = _states(prepared, [[data.rated[index].tokens] for index in sample])
    fits: dict[str, Fit] = {}
    if prepared.ranks.is_first:
        folds, names = folds_of(data.rated_prompts[sample], seed), prepared.card.attributes
        fits = _fit_attributes(states, data.targets[sample], folds, names)
    return Probe(fits, len(sample), tokens)


def _described(fits: dict[str, Fit]) -> str:
    losses = []
    for name, fit in fits.items():
        losses.append(f"{name} {fit.loss:.4f} ({fit.held_out:.4f} on held-out prompts)")
    return "loss " + ", ".join(losses)


def _fit_attributes(
    states: States, targets: Floats, folds: Ints, names: Sequence[str]
) -> dict[str, Fit]:
    """A row for each attribute, from targets [N, K]."""
    fits = {}
    # Decompositions serve all attributes that are rated together.
    spectra: Spectra = {}
    for name, target in zip(names, targets.T, strict=True):
        fit = fit_ridge(states, np.asarray(target, dtype=np.float64), folds, spectra)
        fits[name] = _usable(fit, f"ratings of {name!r} have")
    return fits


def _usable(fit: Fit | None, what: str) -> Fit:
    if fit is None:
        raise ConfigError(
            f"model.head_start: probe: all {what} one prompt, so that no penalty can be chosen on "
            "others: use random or zero"
        )
    return fit


def _sample(count: int, seed: int) -> Ints:
    """At most `RECORDS` of so many records, in their order."""
    if count <= RECORDS:
        return np.arange(count)
    drawn = np.random.default_rng(seed).choice(count, RECORDS, replace=False)
    return np.asarray(np.sort(drawn), dtype=np.int64)


def _states(
    prepared: Prepared, units: Sequence[Sequence[Tokens]]
) -> tuple[NDArray[np.float32], int]:
    """Hidden states of all sequences of the units, one behind another, [S, D], and the tokens that
    were computed. The ranks share the batches out; the first has all states, the others none."""
    network, ranks, budget = prepared.network, prepared.ranks, prepared.batch_tokens
    # All of them compute every batch together where each has a part of the weights.
    shared_out = not (ranks.world == 1 or ranks.sharded)
    share = (ranks.rank, ranks.world) if shared_out else (0, 1)
    blocks, tokens = [], 0
    for first in range(0, len(units), BLOCK):
        block = units[first : first + BLOCK]
        # Planned a second time, to count what is computed.
        for batch in network.micro_batches(block, budget):
            tokens += network.count_rows([block[index] for index in batch])
        with prepared.autocast():
            computed = pooled_units(network, block, budget, share=share)
        states = np.concatenate(computed).astype(np.float32)
        if shared_out:
            together = torch.from_numpy(states)
            ranks.gather()
            ranks.sum(together)
            states = together.numpy()
        # Rows that are centred see no mean over the entries of a state.
        if network.head.unit_rows:
            states -= states.mean(axis=1, keepdims=True)
        blocks.append(states if ranks.is_first else states[:, :0])
    if ranks.sharded:
        from smorm.training.distributed import sharded

        sharded.release(network)
    return np.concatenate(blocks), tokens


def _key(prepared: Prepared) -> str:
    """A fingerprint of all that decides the rows; how long the run is does not."""
    values = decisive(prepared.config.as_dict())
    for key in LENGTH:
        values.pop(key, None)
    return files.fingerprint([values, prepared.data_hash])


def _write(path: Path, prepared: Prepared, weight: Tensor, report: dict[str, Any]) -> None:
    metadata = {"key": _key(prepared), "report": orjson.dumps(report).decode()}
    with files.atomic_path(path) as scratch:
        save_file({WEIGHT: weight}, scratch, metadata)


def _read(path: Path, prepared: Prepared, weight: Tensor) -> dict[str, Any] | None:
    """Put the rows of a file into `weight` and return its report; None where it is not of this
    run, or cannot be read: then the rows are fitted again, to the same ones."""
    try:
        with safe_open(path, framework="pt") as stored:
            metadata = stored.metadata() or {}
            if metadata.get("key") != _key(prepared):
                return None
            report: dict[str, Any] = orjson.loads(metadata["report"])
            weight.copy_(stored.get_tensor(WEIGHT))
            return report
    except (OSError, SafetensorError, orjson.JSONDecodeError, KeyError, RuntimeError):
        return None
