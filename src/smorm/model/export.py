"""Export: a plain model folder that other programs load with no code of ours.

A view folds into one row; the folder is then an ordinary one-label `...ForSequenceClassification`.
After writing, it is loaded again by plain transformers and must give the same scores.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from smorm.errors import ModelError, SmormError
from smorm.model import lora
from smorm.model.backbone import quiet
from smorm.model.inference import score_units
from smorm.model.network import RewardNetwork
from smorm.model.store import ModelCard, save_model, save_view
from smorm.model.verify import probe_sequences
from smorm.model.views import View, apply_view, fold

TOLERANCE = 1e-5
"""Largest difference between a view and its export, in units of the scores' spread, in fp32."""

_TEXTS = ("What is 2 + 2? It's 4, isn't it?", "def f(x):\n    return x ** 12345", "naïve 你好 🙂")


@dataclass(frozen=True, slots=True)
class Exported:
    """Where the folder is, the constant that its head cannot hold, the difference measured, and
    whether plain transformers' `AutoTokenizer` makes the same tokens of text (for some model types
    it prefers a class of its own to the one that is written down)."""

    folder: Path
    offset: float
    difference: float
    spread: float
    same_tokens: bool


def export_view(
    folder: Path | str, network: RewardNetwork, tokenizer: Any, card: ModelCard, view: View
) -> Exported:
    """Fold `view` into one row, write it, load it back and compare. Adapters are merged.

    Raises:
        ModelError: transformers has no classification class for the architecture.
        SmormError: the export gives other scores.
        OutputError: the folder could not be written.
    """
    _merge(network)
    row, offset = fold(view, network.head.weight, card.scales)
    folded = replace(
        card,
        attributes=(),
        scales=(),
        default_view="F",
        preference_trained=True,
        offset=offset,
        view=view.as_dict(),
        base=None,
    )
    save_view(folder, network, tokenizer, folded, row)
    expected = _probe(network, lambda rows: apply_view(view, rows, card.scales) - offset)
    return _compare(Path(folder), expected[:, None], offset, tokenizer)


def export_all_rows(
    folder: Path | str, network: RewardNetwork, tokenizer: Any, card: ModelCard
) -> Exported:
    """Write all rows as one folder without adapters, load it back and compare.

    Raises:
        SmormError: the export gives other scores.
        OutputError: the folder could not be written.
    """
    _merge(network)
    save_model(folder, network, tokenizer, replace(card, base=None))
    return _compare(Path(folder), _probe(network, lambda rows: rows), 0.0, tokenizer)


def _merge(network: RewardNetwork) -> None:
    if lora.is_lora(network.backbone):
        network.backbone = lora.merge_lora(network.backbone)


def _sequences(network: RewardNetwork) -> list[Any]:
    embedding = network.backbone.get_input_embeddings().weight
    # Plain transformers finds the last token by looking for the pad id, so the probes have none.
    sequences = probe_sequences(embedding.shape[0])
    return [tokens[tokens != network.pad_id] for tokens in sequences]


def _probe(network: RewardNetwork, values: Any) -> Any:
    rows = score_units(network, [[tokens] for tokens in _sequences(network)], 4096)
    return values(np.concatenate(rows))


def _same_tokens(folder: Path, tokenizer: Any) -> bool:
    from transformers import AutoTokenizer

    with quiet():
        plain = AutoTokenizer.from_pretrained(folder)
    return all(plain(text)["input_ids"] == tokenizer(text)["input_ids"] for text in _TEXTS)


def _compare(folder: Path, expected: Any, offset: float, tokenizer: Any) -> Exported:
    """The largest difference to what plain transformers makes of the folder."""
    from transformers import AutoModelForSequenceClassification

    with quiet():
        try:
            model, info = AutoModelForSequenceClassification.from_pretrained(
                folder, output_loading_info=True, dtype=torch.float32
            )
        except ValueError as error:
            raise ModelError(f"{folder}: plain transformers cannot load it: {error}") from error
    if info["missing_keys"] or info["mismatched_keys"]:
        raise SmormError(f"{folder}: plain transformers misses {sorted(info['missing_keys'])}")
    vocabulary = model.get_input_embeddings().weight.shape[0]
    pad = model.config.get_text_config().pad_token_id
    sequences = [tokens[tokens != pad] for tokens in probe_sequences(vocabulary)]
    with torch.inference_mode():
        found = np.concatenate(
            [
                model.eval()(torch.from_numpy(tokens.astype(np.int64))[None]).logits.numpy()
                for tokens in sequences
            ]
        )
    spread = float(max(expected.std(0).max(), 1e-6))
    difference = float(np.abs(found - expected).max())
    if difference > TOLERANCE * max(1.0, spread):
        raise SmormError(
            f"{folder}: plain transformers gives other scores (by {difference:.1e}, where scores "
            f"spread by {spread:.2f}): do not use it"
        )
    return Exported(folder, offset, difference, spread, _same_tokens(folder, tokenizer))
