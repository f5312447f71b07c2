"""Very small runs: their data, their configurations, and what they leave behind."""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path
from typing import Any

from smorm.config import Config, parse_config
from smorm.files import sha256
from smorm.training.setup import Prepared, prepare
from smorm.world import backbone_path, write_dataset

SCRATCH = {
    "backbone": {
        "architecture": "llama",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "initializer_range": 0.2,
    },
    "tokenizer": {"train": "bpe", "vocab_size": 340},
}
LAB = {"backbone": str(backbone_path())}
LORA = {**LAB, "lora": {"rank": 4, "alpha": 8, "dropout": 0.2}}
TIMINGS = ("tokens_per_second",)


@functools.cache
def world() -> dict[str, Path]:
    """A few records of the generated world, written once per session."""
    folder = Path(tempfile.mkdtemp(prefix="smorm-runs-"))
    return write_dataset(
        folder,
        seed=11,
        num_pairs=24,
        num_rated=14,
        num_dev_pairs=6,
        num_eval_pairs=6,
        num_eval_rated=6,
    )


def config_of(folder: Path, **changes: Any) -> Config:
    """A joint run of 5 steps, each of several micro-batches; `changes` go into its sections, and
    `model` in place of it."""
    values: dict[str, Any] = {
        "model": changes.pop("model", SCRATCH),
        "data": {
            "preference": str(world()["train-pairs"]),
            "rated": str(world()["train-rated"]),
            "max_tokens": 256,
        },
        "objective": {},
        "training": {
            "max_steps": 5,
            "batch_size": 6,
            "max_batch_tokens": 300,
            "learning_rate": 3e-3,
            "log_every": 1,
            "threads": 1,
        },
        "output": {"folder": str(folder)},
    }
    for section, change in changes.items():
        values[section] = {**values.get(section, {}), **change}
    return parse_config(values)


@functools.cache
def _prepared(key: str) -> Prepared:
    return prepare(config_of(Path(tempfile.mkdtemp(prefix="smorm-step-")), **json.loads(key)))


def prepared(**changes: Any) -> Prepared:
    """What a run works with. Equal settings share one: leave its weights as they are."""
    return _prepared(json.dumps(changes, sort_keys=True))


def jsonl(path: Path, rows: list[Any]) -> str:
    """Write rows as JSON lines and return the path as text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def rows_of(name: str) -> list[dict[str, Any]]:
    """Rows of one of the world's files."""
    return [json.loads(line) for line in world()[name].read_text().splitlines()]


def metrics(folder: Path) -> dict[int, dict[str, Any]]:
    """Step to its metrics without timings; the later line of a step counts."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {
        line["step"]: {key: value for key, value in line.items() if key not in TIMINGS}
        for line in lines
    }


def bits(folder: Path) -> dict[str, str]:
    """SHA-256 of everything that training computed: the model's and the last checkpoint's."""
    last = max((folder / "checkpoints").glob("step-*"))
    paths = [*(folder / "model").glob("*.safetensors"), *last.glob("*.safetensors")]
    return {path.relative_to(folder).as_posix(): sha256(path) for path in paths}


def at_rate(config: Config, **rates: float) -> Config:
    """The configuration with a constant rate beyond what a configuration file may say."""
    training = config.training.model_copy(update={**rates, "schedule": "constant"})
    return config.model_copy(update={"training": training})
