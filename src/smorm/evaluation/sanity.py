"""Sanity tests of a model on a suite's pairs: what must hold of any reward model.

They find what an accuracy does not show: scores that hang on the place in a batch, on nothing, or
on another token than the last; heads that nobody trained; activations on the score. A failure names
its likely cause by looking at the folder, the head and the rendered tokens.

Shapes: P pairs, K attributes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from smorm.arrays import Floats
from smorm.data.records import Item
from smorm.errors import DataError, ModelError
from smorm.evaluation.failures import Cause, CauseKind
from smorm.evaluation.result import Result
from smorm.evaluation.sanity_causes import Inspector, head_notes
from smorm.evaluation.sanity_tests import (
    Bench,
    Found,
    run_tests,
)
from smorm.model.store import versions
from smorm.scoring.reward_model import RewardModel
from smorm.scoring.scorer import Scorer

LIMIT = 200
"""Pairs that are tested: drawn at random from larger suites."""


def check_sanity(
    model: RewardModel, items: Sequence[Item], view: Any = None, *, seed: int = 0
) -> Result:
    """Test a model on pairs; each test gives a metric, and a failure with its cause.

    Args:
        items: two responses each, the better one first; at most 200 are drawn by `seed`.
        view: as for `RewardModel.view`.

    Metrics: `finite`; `swapped`, the accuracy plus that of the swapped sides less 1; `shuffled`,
    the accuracy under labels drawn by a coin (both are scored anew); `equal/...`, the shares of
    equal scores of different responses, under different prompts, without the last word, without
    the response; `batch_difference` and `plain_difference` (plain transformers, padded on either
    side) in units of the scores' spread; `raw`, whether the score is the head's own output.

    Raises:
        DataError: an item has fewer than two responses, or none can be scored.
        ConfigError: an unknown view.
    """
    if any(len(item.responses) < 2 for item in items):
        raise DataError("sanity tests need pairs: an item has fewer than two responses")
    rng, found = np.random.default_rng(seed), Found()
    drawn = _drawn(items, rng, found)
    scorer = Scorer(model.network, model.renderer, model.card.overlong)  # type: ignore[arg-type]
    chosen = model.view(view)
    bench = Bench(model, chosen, scorer, Inspector(model, chosen))
    rows = _first_scores(bench, drawn, found)
    if rows is not None:
        kept = [item for item, own in zip(drawn, rows, strict=True) if own is not None]
        if not kept:
            raise DataError("sanity tests: no pair could be scored (too long, or not renderable)")
        if len(kept) < len(drawn):
            found.notes.append(f"{len(drawn) - len(kept)} pairs could not be scored: left out.")
        own = np.array([one for one in rows if one is not None])
        run_tests(bench, kept, own, found, rng)
    config = model.network.backbone.config.get_text_config()
    trained = bool(model.card.hashes)  # by `smorm train`
    weight, names = model.network.head.weight, model.card.rows
    found.notes += head_notes(weight, names, None if trained else config)
    marks = {
        "model": dict(model.card.hashes),
        "renderer": model.renderer.fingerprint,
        "seed": seed,
        "pairs": len(drawn),
        "versions": versions(),
    }
    return Result(
        "sanity", "sanity", model.name, chosen.name, found.metrics, fingerprint=marks,
        notes=tuple(found.notes), failures=tuple(found.failures),
    )  # fmt: skip


def _drawn(items: Sequence[Item], rng: np.random.Generator, found: Found) -> list[Item]:
    """At most `LIMIT` pairs, in their order."""
    order = np.sort(rng.permutation(len(items))[:LIMIT])
    if len(items) > LIMIT:
        found.notes.append(f"{LIMIT} of {len(items)} pairs were drawn.")
    return [replace(items[at], responses=items[at].responses[:2]) for at in order]


def _first_scores(bench: Bench, items: list[Item], found: Found) -> list[Floats | None] | None:
    """Rows of each pair; None where a score is not finite, which ends all tests."""
    try:
        rows = bench.rows(items)
    except ModelError as error:
        if "not finite" not in str(error):
            raise
        broken = Cause(CauseKind.WEIGHTS, str(error))
        found.add("finite", 0.0, len(items), broken)
        return None
    found.add("finite", 1.0, len(items), None)
    return rows
