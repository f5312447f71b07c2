"""The end of a run: the model folder gets its name when it is loaded again and scores as the
network in memory did."""

from pathlib import Path

import numpy as np
import torch

from smorm.arrays import Floats
from smorm.errors import UnprovenError
from smorm.model.base_dtype import STORED
from smorm.model.inference import score_units
from smorm.model.network import RewardNetwork
from smorm.model.store import load_model, save_model
from smorm.text.chat import Renderer
from smorm.training.setup import Prepared

RECORDS = 4
"""So many pairs and so many rated responses are scored."""
TOLERANCE = {"fp32": 1e-5, "bf16": 1e-5, "nf4": 5e-2}
"""By the base of adapters: of a score, or of its size where that is above 1. Both sides compute in
fp32, also of a run in bf16: its weights are fp32, and so are the scores of every other verb. On a
base in bf16 both compute in it; products of 4-bit weights round otherwise than those of the same
weights in bf16."""


def save_proven(prepared: Prepared) -> Path:
    """Write `<output.folder>/model` and return it. `UnprovenError`, and no such folder, where it
    would score otherwise. The network in memory is empty after it."""
    folder = prepared.config.output.folder / "model"
    units, where = [], []
    for pair in prepared.train.pairs[:RECORDS]:
        units.append([pair.chosen, pair.rejected])
        where.append(pair.where)
    for response in prepared.train.rated[:RECORDS]:
        units.append([response.tokens])
        where.append(response.where)
    network, tokenizer, card = prepared.network, prepared.tokenizer, prepared.card
    expected = score_units(network, units, prepared.batch_tokens)
    device = network.device

    def prove(written: Path) -> None:
        # Two copies of a large model may not fit: what was saved is let go.
        for weight in network.parameters():
            weight.data = torch.empty(0, dtype=weight.dtype, device=device)
        again, own_tokenizer, own_card = load_model(written, dtype=STORED[card.base_dtype])
        renderer = Renderer(own_tokenizer, own_card.chat_template, own_card.max_tokens)
        if renderer.fingerprint != card.renderer:
            raise UnprovenError(
                f"{folder}: loaded again, it renders conversations to other tokens than in training"
            )
        _same_path(again.to(device), network)
        scores = score_units(again, units, prepared.batch_tokens)
        for record, before, after in zip(where, expected, scores, strict=True):
            _compare(folder, record, before, after, TOLERANCE[card.base_dtype])

    save_model(folder, network, tokenizer, card, prove=prove)
    return folder


def _same_path(network: RewardNetwork, trained: RewardNetwork) -> None:
    """Let both compute in the same way, so that only what was saved can differ."""
    fast, attention = trained.fast_layers, trained.padded_attention
    network.use_layout(trained.layout, fast_layers=fast, padded_attention=attention)


def _compare(folder: Path, record: str, before: Floats, after: Floats, tolerance: float) -> None:
    limits = tolerance * np.maximum(1.0, np.abs(before))
    off = np.abs(before - after)
    if (off > limits).any():
        worst = np.unravel_index((off - limits).argmax(), off.shape)
        raise UnprovenError(
            f"{folder}: not written: loaded again, it scores {record} as {after[worst]:.6g}, "
            f"the network in memory as {before[worst]:.6g}; --resume tries again"
        )
