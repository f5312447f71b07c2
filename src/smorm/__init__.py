"""Train, check, attack and serve reward models that resist reward hacking.

    records → conversations → token trees → hidden state at each branch's end → head rows
            → loss | scores → model folder → results → report

The public names are loaded when they are first used, so that `import smorm` is quick."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from smorm.version import __version__

__all__ = ["Config", "RewardModel", "Scores", "__version__", "load_config", "train"]

_MODULES = {
    "Config": "smorm.config",
    "load_config": "smorm.config",
    "RewardModel": "smorm.scoring.reward_model",
    "Scores": "smorm.scoring.reward_model",
    "train": "smorm.training.loop",
}

if TYPE_CHECKING:
    from smorm.config import Config, load_config
    from smorm.scoring.reward_model import RewardModel, Scores
    from smorm.training.loop import train


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'smorm' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_MODULES[name]), name)
