"""What was run and what came of it: rows, one JSON file, kept between runs of single parts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np

from smorm import files
from smorm.arrays import Floats
from smorm.evaluation.parity.paths import GATES, allowed_difference

DTYPE = "float32"
RESULTS = "results.json"


class Outcome(StrEnum):
    """How a comparison ended."""

    AGREES = "agrees"
    DIFFERS = "differs"  # a score was given, and it is another one
    REFUSED = "refused"  # no score, or not for every conversation


@dataclass(frozen=True, slots=True)
class Row:
    """Scores of one engine, or of one client at one server, against smorm's."""

    name: str  # the engine or the client
    target: str  # what gave the scores: `vLLM`, `smorm serve`, `export`
    architecture: str
    outcome: Outcome
    compared: int  # conversations with a score on both sides
    conversations: int
    # the largest, in standard deviations of the scores; None where there were none
    difference: float | None = None
    same_tokens: bool | None = None  # None where it does not show them
    problem: str = ""  # what it said, or what is known of the cause
    options: str = ""  # of its command line, beyond those that every row has
    detail: Any = None

    @property
    def key(self) -> tuple[str, ...]:
        """What a later run's row replaces."""
        return (self.name, self.target, self.architecture, self.options)


@dataclass(slots=True)
class Results:
    """The content of the JSON file."""

    machine: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, dict[str, str]] = field(default_factory=dict)
    engines: list[Row] = field(default_factory=list)
    clients: list[Row] = field(default_factory=list)

    @classmethod
    def load(cls, folder: Path) -> Results:
        """Of a folder of results; empty where it has none. DataError: it is no such file."""
        path = folder / RESULTS
        if not path.is_file():
            return cls()
        content = files.read_json(path)
        rows = {}
        for part in ("engines", "clients"):
            rows[part] = [
                Row(**{**row, "outcome": Outcome(row["outcome"])}) for row in content[part]
            ]
        return cls(content["machine"], content["versions"], **rows)

    def save(self, folder: Path) -> None:
        """Write the JSON file; OutputError where that is not possible."""
        folder.mkdir(parents=True, exist_ok=True)
        files.write_json(folder / RESULTS, asdict(self))

    def failures(self) -> list[Row]:
        """Rows that should agree and do not.

        A wrong score always is one. An engine's refusal is one unless it agrees on the same
        architecture when it is asked in another way, or started with other options."""
        settled = set()
        for row in self.engines:
            if row.outcome == Outcome.AGREES:
                settled.add((row.name, row.architecture))
        failures = []
        for row in self.engines:
            refused = row.outcome == Outcome.REFUSED
            known = refused and (row.name, row.architecture) in settled
            if row.outcome != Outcome.AGREES and not known:
                failures.append(row)
        return failures + [row for row in self.clients if row.outcome != Outcome.AGREES]


def put(rows: list[Row], row: Row) -> None:
    """Add a row, in the place of an earlier one of the same."""
    for index, earlier in enumerate(rows):
        if earlier.key == row.key:
            rows[index] = row
            return
    rows.append(row)


def compare(
    name: str,
    target: str,
    architecture: str,
    scores: Sequence[float | None],
    errors: Sequence[str | None],
    expected: Floats,
) -> Row:
    """A client's scores (None where it gave none, with its error) against those expected [N]."""
    if len(scores) != len(expected):
        problem = f"gave {len(scores)} scores"
        return Row(name, target, architecture, Outcome.REFUSED, 0, len(expected), problem=problem)
    std = expected.std()
    (allowed,) = allowed_difference(np.array([std]), GATES[DTYPE], DTYPE)
    largest, compared = -math.inf, 0
    for score, wanted in zip(scores, expected, strict=True):
        if score is not None:
            # A score that is NaN is as far away as can be.
            difference = abs(score - wanted) if math.isfinite(score) else math.inf
            largest, compared = max(largest, difference), compared + 1
    problem = next((error for error in errors if error), "")
    outcome = Outcome.AGREES if largest <= allowed else Outcome.DIFFERS
    if compared < len(expected):
        problem = problem or "no score for some"
        outcome = Outcome.DIFFERS if outcome == Outcome.DIFFERS and compared else Outcome.REFUSED
    in_stds = largest / std if compared and std and math.isfinite(largest) else None
    return Row(
        name, target, architecture, outcome, compared, len(expected), in_stds, problem=problem
    )
