"""A tiny trained model of each architecture, and its export as one row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.commands import run_smorm
from smorm.config import parse_config
from smorm.model.card import read_card
from smorm.training.loop import train
from smorm.world import write_dataset

VIEW = "M"
WINDOW = 32  # tokens; far shorter than the longest conversations, so that a missing window shows
COMMON = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
HEAD = {"head_dim": 32}
GEMMA = {**HEAD, "sliding_window": WINDOW, "query_pre_attn_scalar": 32}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": HEAD,
    "gemma": HEAD,
    "gemma2": GEMMA,
    "gemma3_text": {**GEMMA, "layer_types": ["sliding_attention", "full_attention"]},
    "mistral": {**HEAD, "sliding_window": WINDOW},
    "phi3": {"sliding_window": WINDOW},
    "olmo2": {},
}


@dataclass(frozen=True, slots=True)
class TinyModel:
    """A trained model's folder, and the folder that its view M was exported to."""

    architecture: str
    folder: Path
    export: Path

    @property
    def constant(self) -> float:
        """What the view adds to the export's one row, whose head has no bias."""
        return read_card(self.export).offset


def make_data(folder: Path) -> dict[str, Path]:
    """Pairs and ratings of the generated world."""
    return write_dataset(
        folder, seed=5, num_pairs=120, num_rated=60, num_dev_pairs=30, num_eval_pairs=60,
        num_eval_rated=40,
    )  # fmt: skip


def make_model(folder: Path, architecture: str, data: Mapping[str, Path]) -> TinyModel:
    """Train a few steps from random weights and export; RuntimeError where the export fails."""
    values = {
        "model": {
            "backbone": {"architecture": architecture, **COMMON, **ARCHITECTURES[architecture]},
            "tokenizer": {"train": "bpe", "vocab_size": 1000},
        },
        "data": {
            "preference": str(data["train-pairs"]),
            "rated": str(data["train-rated"]),
            "max_tokens": 512,
        },
        "training": {"max_steps": 10, "batch_size": 16, "learning_rate": 3e-3, "threads": 1},
        "output": {"folder": str(folder / "run")},
    }
    model = train(parse_config(values))
    export = folder / "export"
    run_smorm("export", model, "--view", VIEW, "--output", export)
    return TinyModel(architecture, model, export)
