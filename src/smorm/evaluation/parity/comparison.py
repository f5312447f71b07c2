"""One path's scores against the reference, training's path.
Shapes: N conversations, M of them within the gate, C scores of each."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import compress
from operator import attrgetter
from typing import Any

import numpy as np

from smorm.arrays import Bools, Floats
from smorm.evaluation.parity.conversations import Conversation
from smorm.evaluation.parity.paths import ScorePath
from smorm.evaluation.result import CauseKind
from smorm.model.export import PlainModel
from smorm.model.views import View, apply_view
from smorm.scoring.reward_model import RewardModel

# Largest difference allowed, in standard deviations of the scores.
GATES = {"float32": 1e-5, "bfloat16": 0.02}


def dtype_of(model: RewardModel) -> str:
    """The backbone's, as torch names it."""
    return str(next(model.network.backbone.parameters()).dtype).removeprefix("torch.")


def allowed_difference(std: Floats, gate: float, dtype: str) -> Floats:
    """The largest difference allowed of scores with these standard deviations [C]."""
    # In fp32 the gate holds as an absolute number too: rounding does not shrink with the std.
    return np.maximum(gate * std, gate if dtype == "float32" else 0.0)


@dataclass(frozen=True, slots=True)
class ModelPaths:
    """A model's own paths, training's first. Taken before an export merges adapters, they check
    that too."""

    model: RewardModel
    conversations: Sequence[Conversation]
    paths: Sequence[ScorePath]
    dtype: str
    notes: Sequence[str] = ()

    @property
    def ids(self) -> list[list[int]]:
        """Our token ids of each conversation."""
        return [conversation.tokens.tolist() for conversation in self.conversations]


@dataclass(frozen=True, slots=True)
class PathResult:
    """One path against the reference."""

    path: ScorePath
    difference: float  # the largest, in units of the score; NaN where the path gave no scores
    in_stds: float  # the largest, in standard deviations of the scores
    worst: int | None  # the conversation (from 0) that differs most
    # whether token ids (or, of a server, their numbers) agree; None if not known
    same_tokens: bool | None
    passed: bool
    # the largest difference, in standard deviations, of conversations outside the gate: those with
    # control tokens in their text, on a path that takes them for real ones
    outside_gate: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """An item of the result file."""
        # The keys are those of the first result files: "spreads" are standard deviations.
        item = {
            "path": self.path.name,
            "difference": self.difference,
            "in_spreads": self.in_stds,
            "worst": self.worst,
            "same_tokens": self.same_tokens,
            "passed": self.passed,
        }
        return item if self.path.error is None else {**item, "error": self.path.error}


@dataclass(frozen=True, slots=True)
class Comparison:
    """What every path is compared with, and how."""

    ours: ModelPaths  # the model's own paths
    view: View | None  # what of the head's rows is compared; None for all of them
    constant: float  # what a folded view's head, which has no bias, cannot hold
    gate: float  # the largest difference allowed, in standard deviations of the scores
    # the target as plain transformers loads it, where it is a folder
    plain: PlainModel | None = None

    @property
    def reference(self) -> Floats:
        """Rows of training's path [N, 1 + K]."""
        rows = self.ours.paths[0].rows
        assert rows is not None
        return rows

    @property
    def std(self) -> Floats:
        """Standard deviation over the conversations, of each score [C]."""
        return np.asarray(self.viewed(self.reference).std(axis=0))

    @property
    def allowed(self) -> Floats:
        """The largest difference allowed [C]."""
        return allowed_difference(self.std, self.gate, self.ours.dtype)

    def gated(self, path: ScorePath) -> Bools:
        """Which conversations [N] the gate holds for on a path."""
        without_control = ~np.array(list(map(attrgetter("control"), self.ours.conversations)))
        # Where every conversation has control tokens, there would be nothing left to compare.
        if path.control_is_text or not without_control.any():
            return np.ones_like(without_control)
        return without_control

    def viewed(self, rows: Floats, *, constant: bool = False) -> Floats:
        """Rows [N, 1 + K] -> what is compared [N, C], with the constant or without."""
        if self.view is None:
            return rows
        # The constant cancels in every comparison, and a head without a bias cannot hold it.
        values = apply_view(self.view, rows, self.ours.model.card.scales)
        if not constant:
            values = values - self.constant
        return values[:, None]

    def values(self, path: ScorePath) -> tuple[Floats, Floats]:
        """What is expected of a path, and what it gave: [N, C] both."""
        assert path.rows is not None
        expected = self.viewed(self.reference, constant=path.constant)
        # Our own paths give the head's rows; a target gives what is compared.
        return expected, self.viewed(path.rows) if path.kind == "ours" else path.rows

    def compare(self, path: ScorePath) -> PathResult:
        """A path against the reference."""
        gated = self.gated(path)
        same_tokens = self._same_tokens(path, gated)
        if path.rows is None:
            return PathResult(path, math.nan, math.nan, None, same_tokens, False)
        expected, scores = self.values(path)
        # One label where all rows were due, or the reverse: nothing can be subtracted.
        if scores.shape != expected.shape:
            wrong = f"gives {scores.shape[1]} scores a conversation, expected {expected.shape[1]}"
            failed = replace(path, rows=None, error=wrong, cause=CauseKind.HEAD)
            return PathResult(failed, math.nan, math.nan, None, same_tokens, False)
        differences = np.abs(scores - expected)
        # Scores that are all equal have no std: any difference is then many of them.
        in_stds = (differences / np.maximum(self.std, 1e-12)).max(axis=1)
        # A score that is NaN fails: as a plain maximum it would hide behind the comparison.
        over = np.nan_to_num((differences / self.allowed).max(axis=1), nan=np.inf)
        worst = int(np.argmax(np.where(gated, over, -1.0)))
        difference, largest = float(differences[gated].max()), float(in_stds[gated].max())
        passed, outside = bool(over[worst] <= 1.0), float(in_stds[~gated].max(initial=0.0))
        return PathResult(path, difference, largest, worst, same_tokens, passed, outside)

    def _same_tokens(self, path: ScorePath, gated: Bools) -> bool | None:
        ours = list(compress(self.ours.ids, gated))
        if path.tokens is not None:
            return ours == list(compress(path.tokens, gated))
        if path.counts is None or set(path.counts) == {None}:
            return None
        # A server may report some counts only: those it leaves out agree with any.
        counts = zip(ours, compress(path.counts, gated), strict=True)
        return all(count in (None, len(ids)) for ids, count in counts)
