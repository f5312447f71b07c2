"""Scored items from plain lists, for tests of the rules."""

from __future__ import annotations

import numpy as np

from smorm.evaluation.accuracy import ScoredItems
from smorm.evaluation.benchmarks.rm_bench import RM_BENCH


def scored(*items, ids=None, prompts=None):
    """Each item `(subset, good scores, other scores)`; lengths are 1, 2, 3, ... in each item."""
    size = len(items)
    scores = [np.array([*good, *other], dtype=float) for _, good, other in items]
    return ScoredItems(
        scores=scores,
        lengths=[np.arange(1.0, 1 + len(one)) for one in scores],
        chosen=[len(good) for _, good, _ in items],
        subsets=[subset for subset, _, _ in items],
        ids=ids or [""] * size,
        prompts=prompts or [f"prompt {at}" for at in range(size)],
        keys=[f"file:{at}" for at in range(size)],
    )


def values(table):
    return {name: metric.value for name, metric in table.metrics().items()}


def measure_rm_bench(chosen, rejected, domains):
    """RM-Bench of scores [N, 3] in the order of its styles; each item has a prompt of its own."""
    scores = list(np.hstack([chosen, rejected]))
    keys = [str(index) for index in range(len(scores))]
    sizes = [len(row) for row in chosen]
    return RM_BENCH.measure(ScoredItems(scores, scores, sizes, domains, keys, keys, keys))
