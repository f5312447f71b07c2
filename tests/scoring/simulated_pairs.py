"""Pairs whose rows are drawn at random and whose labels follow Bradley and Terry's model."""

from __future__ import annotations

import numpy as np

from smorm.model.views import PREFERENCE, View
from smorm.scoring.fit_views import HeldOut, fit_learned, held_out

ATTRIBUTES = ("clarity", "depth", "style")
ROWS = ("preference", *ATTRIBUTES)
TRUE = np.array([1.0, 0.6, 0.0, -0.7])
"""Log odds that a unit of each row adds: style speaks against a response."""


def pairs(seed: int, count: int = 120, true=TRUE) -> tuple[np.ndarray, np.ndarray]:
    """Rows of chosen and rejected responses, labelled by Bradley and Terry's model."""
    generator = np.random.default_rng(seed)
    first, second = generator.normal(size=(2, count, len(true)))
    wins = generator.random(count) < 1 / (1 + np.exp(-(first - second) @ true))
    return np.where(wins[:, None], first, second), np.where(wins[:, None], second, first)


def data_of(seed: int, count: int = 120, per_prompt: int = 1, true=TRUE) -> HeldOut:
    """The same as held-out scores, some pairs to a prompt."""
    chosen, rejected = pairs(seed, count, true)
    rows = np.stack([chosen, rejected], axis=1).reshape(2 * count, -1)
    names = ROWS if len(true) == 4 else tuple(f"r{i}" for i in range(len(true)))
    prompts = np.repeat(np.arange(count) // per_prompt, 2)
    return held_out(rows, names, prompts, paired=True)


def learn_view(chosen, rejected, attributes, *, prompts=None, free_sign=()) -> View:
    """Learned weights of pairs, given as rows of the chosen and of the rejected responses."""
    rows = np.stack([chosen, rejected], axis=1).reshape(2 * len(chosen), -1)
    names = (PREFERENCE, *attributes)
    labels = np.repeat(np.asarray(range(len(chosen)) if prompts is None else prompts, object), 2)
    data = held_out(rows, names, labels, paired=True)
    return fit_learned(data, data.everything, rows=names, free_sign=free_sign)
