"""A study small enough for a test: few records, few steps, small pools."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

from smorm.lab.config import LabConfig
from smorm.lab.world_artifacts import WorldArtifacts

WORK = Path(tempfile.mkdtemp(prefix="smorm-study-"))


def small(**changes: Any) -> LabConfig:
    """A configuration; `changes` replace its keys."""
    values: dict[str, Any] = {
        "output": WORK / "output",
        "work": WORK / "work",
        "methods": ["Single", "Multi", "SM", "SMORM-F", "SMORM-M"],
        "seeds": 1,
        "regimes": ["ID", "far"],
        "data": {
            "pairs": 80,
            "rated": 40,
            "dev_pairs": 30,
            "eval_pairs": 40,
            "eval_rated": 30,
        },
        "pools": {"prompts": 3, "answers": 8},
        "training": {"max_steps": 5, "batch_size": 16},
    }
    return LabConfig(**{**values, **changes})


@functools.cache
def store() -> WorldArtifacts:
    """Where the parts of `small()` are."""
    config = small()
    assert config.work is not None
    return WorldArtifacts(config)
