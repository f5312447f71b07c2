"""A tiny trained model and its data, made once per session: what most end-to-end tests need."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

from smorm.config import parse_config
from smorm.training.loop import train
from smorm.world import backbone_path, write_dataset


@functools.cache
def world() -> dict[str, Path]:
    """Files of a small generated world."""
    folder = Path(tempfile.mkdtemp(prefix="smorm-world-"))
    return write_dataset(
        folder, seed=5, num_pairs=120, num_rated=60, num_dev_pairs=30, num_eval_pairs=60,
        num_eval_rated=40,
    )  # fmt: skip


def config_values(folder: Path, **changes: dict[str, Any]) -> dict[str, Any]:
    """Plain values of a short joint run on the world; `changes` go into its sections."""
    values: dict[str, Any] = {
        "model": {"backbone": str(backbone_path())},
        "data": {
            "preference": str(world()["train-pairs"]),
            "rated": str(world()["train-rated"]),
            "max_tokens": 256,
        },
        "objective": {},
        "training": {"max_steps": 6, "batch_size": 16, "learning_rate": 1e-3, "threads": 1},
        "evaluation": {},
        "output": {"folder": str(folder)},
    }
    for section, change in changes.items():
        values[section].update(change)
    return values


@functools.cache
def trained(kind: str = "joint") -> Path:
    """The model folder of a short run."""
    folder = Path(tempfile.mkdtemp(prefix=f"smorm-{kind}-"))
    return train(parse_config(config_values(folder / "run", objective={"kind": kind})))
