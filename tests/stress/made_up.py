"""Small pools whose numbers are known."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from smorm.data.records import Item
from smorm.text.chat import Message


def pool(prompt: str, answers: list[str], given: list[dict[str, Any]] | None = None) -> Item:
    responses = tuple((Message("assistant", text),) for text in answers)
    return Item((Message("user", prompt),), responses, f"{prompt}:1", fields=tuple(given or ()))


def enumerated(proxy: np.ndarray, gold: np.ndarray, size: int) -> float:
    """Best-of-n by going through all subsets; tied bests share."""
    means = []
    for subset in combinations(range(len(proxy)), size):
        inside = np.array(subset)
        best = inside[proxy[inside] == proxy[inside].max()]
        means.append(gold[best].mean())
    return float(np.mean(means))


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_bytes(b"\n".join(map(orjson.dumps, rows)))
    return path


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def half_length(prompts: list[Any], completions: list[Any], **_: Any) -> list[float]:
    """A reward in the shape of TRL's: half the words of the answer."""
    return [len(one[-1]["content"].split()) / 2 for one in completions]


def broken(prompts: list[Any], completions: list[Any]) -> list[Any]:
    return [None] * len(completions)


def raising(prompts: list[Any], completions: list[Any]) -> list[Any]:
    raise RuntimeError("no such luck")


def constant(prompts: list[Any], completions: list[Any]) -> list[float]:
    return [1.0] * len(completions)


def one_short(prompts: list[Any], completions: list[Any]) -> list[float]:
    return [1.0] * (len(completions) - 1)
