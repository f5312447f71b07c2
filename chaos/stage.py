"""What trials start from: a small world's data, a trained model, and results of it; made once."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chaos.trial import run_in_child, verb
from smorm.config import parse_config
from smorm.training.loop import train
from smorm.world import backbone_path, write_dataset


@dataclass(frozen=True, slots=True)
class Stage:
    """Paths of files that trials read and never change."""

    folder: Path
    pairs: Path
    rated: Path
    model: Path
    result: Path  # of `smorm eval`
    scores: Path  # of `smorm score`, two responses a line
    exported: Path  # of `smorm export`

    def rows(self, path: Path, count: int) -> list[dict[str, Any]]:
        """The first rows of one of the data files."""
        with path.open(encoding="utf-8") as lines:
            return [json.loads(next(lines)) for _ in range(count)]


def config_values(pairs: Path | str, rated: Path | str, output: Path | str) -> dict[str, Any]:
    """A joint run of two steps on the small world's backbone."""
    return {
        "model": {"backbone": str(backbone_path())},
        "data": {"preference": str(pairs), "rated": str(rated), "max_tokens": 256},
        "objective": {"kind": "joint"},
        "training": {"max_steps": 2, "batch_size": 8, "learning_rate": 1e-3, "threads": 1},
        "output": {"folder": str(output)},
    }


def set_stage(folder: Path) -> Stage:
    """Make everything; a few seconds."""
    world = write_dataset(
        folder / "world", seed=5, num_pairs=40, num_rated=20, num_dev_pairs=10, num_eval_pairs=20,
        num_eval_rated=20,
    )  # fmt: skip
    pairs, rated = world["train-pairs"], world["train-rated"]
    model = train(parse_config(config_values(pairs, rated, folder / "run")))
    result, scores = folder / "result.json", folder / "scores.jsonl"
    commands = (
        ["eval", str(model), "--suite", f"pairs={pairs}", "-o", str(result)],
        ["score", str(model), "--input", str(pairs), "--output", str(scores)],
        ["export", str(model), "--view", "M", "--output", str(folder / "exported")],
    )
    for command in commands:
        ended = run_in_child(verb(*command), folder)
        if ended.code != 0:
            raise RuntimeError(f"smorm {command[0]}: {ended.output}")
    return Stage(folder, pairs, rated, model, result, scores, folder / "exported")
