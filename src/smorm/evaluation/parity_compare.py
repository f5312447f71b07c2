"""One path's scores against the reference, training's path.

Shapes: N conversations, M of them within the gate, C scores of each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smorm.arrays import Floats
from smorm.evaluation.conversations import Conversation
from smorm.evaluation.failures import Cause, CauseKind
from smorm.evaluation.parity_causes import FailureContext, causes
from smorm.evaluation.parity_paths import Path
from smorm.model.export import PlainModel
from smorm.model.views import View, apply_view
from smorm.scoring.reward_model import RewardModel

GATES = {"float32": 1e-5, "bfloat16": 0.02}
"""Largest difference allowed, in units of the spread."""


def allowed_gap(spread: Floats, gate: float, dtype: str) -> Floats:
    """The largest difference allowed of scores with this spread [C].

    In fp32 the gate holds as an absolute number too: rounding does not shrink with the spread.
    """
    return np.maximum(gate * spread, gate if dtype == "float32" else 0.0)


@dataclass(frozen=True, slots=True)
class Ours:
    """Our own paths, training's first. Taken before an export merges adapters, they check that
    too."""

    model: RewardModel
    conversations: Sequence[Conversation]
    paths: Sequence[Path]
    dtype: str
    notes: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Lens:
    """What of the head's rows is compared: a view, or (None) all of them.

    `constant` is what a folded view's head, which has no bias, cannot hold.
    """

    model: RewardModel
    view: View | None
    constant: float = 0.0

    def __call__(self, rows: Floats, constant: bool = False) -> Floats:
        """Rows [N, 1 + K] -> what is compared [N, C], with the constant or without."""
        if self.view is None:
            return rows
        values = apply_view(self.view, rows, self.model.card.scales)
        return (values if constant else values - self.constant)[:, None]


@dataclass(frozen=True, slots=True)
class Compared:
    """One path against the reference.

    Attributes:
        difference: the largest, in units of the score; NaN where the path gave no scores.
        in_spreads: the largest, in units of the spread.
        worst: the conversation (from 0) that differs most.
        same_tokens: whether token ids (or, of a server, their numbers) agree; None if not known.
        apart: the largest difference, in spreads, of conversations outside the gate: those with
            control tokens in their text, on a path that takes them for real ones.
    """

    path: Path
    difference: float
    in_spreads: float
    worst: int | None
    same_tokens: bool | None
    passed: bool
    apart: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """An item of the result file."""
        error = {} if self.path.error is None else {"error": self.path.error}
        return {
            "path": self.path.name,
            "difference": self.difference,
            "in_spreads": self.in_spreads,
            "worst": self.worst,
            "same_tokens": self.same_tokens,
            "passed": self.passed,
            **error,
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """All that paths are compared by: `spread` and `allowed` are [C]."""

    ours: Ours
    lens: Lens
    gate: float
    plain: PlainModel | None = None

    @property
    def reference(self) -> Floats:
        """Rows of training's path [N, 1 + K]."""
        rows = self.ours.paths[0].rows
        assert rows is not None
        return rows

    @property
    def spread(self) -> Floats:
        """Standard deviation over the conversations, of each score."""
        return np.asarray(self.lens(self.reference).std(axis=0))

    @property
    def allowed(self) -> Floats:
        """The largest difference allowed."""
        return allowed_gap(self.spread, self.gate, self.ours.dtype)

    def gated(self, path: Path) -> NDArray[np.bool_]:
        """Which conversations the gate holds for on a path."""
        usual = np.array([not one.control for one in self.ours.conversations])
        return usual if usual.any() and not path.control_is_text else np.ones_like(usual)

    def values(self, path: Path) -> tuple[Floats, Floats]:
        """What is expected of a path, and what it gave: [N, C] both."""
        assert path.rows is not None
        found = self.lens(path.rows) if path.kind == "ours" else path.rows
        return self.lens(self.reference, path.constant), found

    def compare(self, path: Path) -> Compared:
        """A path against the reference."""
        gated = self.gated(path)
        same = self._same_tokens(path, gated)
        if path.rows is None:
            return Compared(path, math.nan, math.nan, None, same, False)
        expected, found = self.values(path)
        if found.shape != expected.shape:
            due = f"{found.shape[1]} scores a conversation where {expected.shape[1]} were due"
            failed = replace(path, rows=None, error=f"gives {due}", cause=CauseKind.HEAD)
            return Compared(failed, math.nan, math.nan, None, same, False)
        gaps = np.abs(found - expected)
        in_spreads = (gaps / np.maximum(self.spread, 1e-12)).max(axis=1)
        over = np.nan_to_num((gaps / self.allowed).max(axis=1), nan=np.inf)
        worst = int(np.argmax(np.where(gated, over, -1.0)))
        return Compared(
            path,
            difference=float(gaps[gated].max()),
            in_spreads=float(in_spreads[gated].max()),
            worst=worst,
            same_tokens=same,
            passed=bool(over[worst] <= 1.0),
            apart=0.0 if gated.all() else float(in_spreads[~gated].max()),
        )

    def _same_tokens(self, path: Path, gated: NDArray[np.bool_]) -> bool | None:
        own = [one.tokens for one in self.ours.conversations]
        places = np.flatnonzero(gated).tolist()
        if path.tokens is not None:
            return all(own[at].tolist() == path.tokens[at] for at in places)
        if path.counts is None or all(count is None for count in path.counts):
            return None
        return all(path.counts[at] in (None, len(own[at])) for at in places)

    def explain(self, row: Compared, rows: Sequence[Compared]) -> list[Cause]:
        """Likely causes of a path's failure."""
        path, places = row.path, np.flatnonzero(self.gated(row.path)).tolist()
        scores = None
        if path.rows is not None:
            expected, found = self.values(path)
            scores = (expected[places], found[places])
        alone = [one for one in rows if one.path.kind == path.kind and one.path.batch == 1]
        names = self.ours.model.card.rows if self.lens.view is not None else ()
        scene = FailureContext(
            path=path,
            scores=scores,
            allowed=self.allowed,
            ours=[self.ours.conversations[at].tokens.tolist() for at in places],
            theirs=None if path.tokens is None else [path.tokens[at] for at in places],
            counts=None if path.counts is None else [path.counts[at] for at in places],
            same_tokens=row.same_tokens,
            constant=self.lens.constant,
            others={name: self.reference[places, at] for at, name in enumerate(names)},
            alone_passes=path.batch > 1 and bool(alone) and all(one.passed for one in alone),
            half=self.ours.dtype != "float32",
            plain=self.plain,
            messages=[self.ours.conversations[at].messages for at in places],
            renderer=self.ours.model.renderer,
        )
        return causes(scene)
