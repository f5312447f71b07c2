"""Clean records to plant faults in, and short ways to check them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from smorm.checks.findings import Finding
from smorm.checks.plan import Plan
from smorm.checks.report import Report, check
from smorm.checks.scan import CheckedSource
from smorm.data.reading import Source
from tests.data.sources import jsonl

Row = dict[str, Any]

LETTERS = "etaoinshrdlucmfwypvbgk"


def vocabulary(seed: int = 7, size: int = 2000) -> list[str]:
    """Made-up words."""
    rng = random.Random(seed)
    return ["".join(rng.choices(LETTERS, k=rng.randint(3, 8))) for _ in range(size)]


def text(rng: random.Random, words: int) -> str:
    """So many words at random."""
    return " ".join(rng.choices(VOCABULARY, k=words))


def pairs(count: int, seed: int = 0, words: int = 20) -> list[Row]:
    """Pairs whose longer side is chosen in every second one."""
    rng = random.Random(seed)
    return [
        {
            "prompt": text(rng, words),
            "chosen": text(rng, words + 5 * (at % 2)),
            "rejected": text(rng, words + 5 * ((at + 1) % 2)),
        }
        for at in range(count)
    ]


def rated(count: int, seed: int = 0, words: int = 20) -> list[Row]:
    """Responses with two attributes that do not go with length."""
    rng = random.Random(seed)
    return [
        {
            "prompt": text(rng, words),
            "response": text(rng, words + at % 3),
            "scores": {"helpful": rng.randint(0, 4), "honest": rng.random()},
        }
        for at in range(count)
    ]


def checked(
    folder: Path,
    rows: Sequence[Any],
    held_out: Sequence[Any] = (),
    against: Sequence[Any] = (),
    **settings: Any,
) -> Report:
    """The report on rows written to files."""
    readings = [CheckedSource(Source(jsonl(folder / "data.jsonl", rows)))]
    if held_out:
        dev = jsonl(folder / "dev.jsonl", held_out)
        readings.append(CheckedSource(Source(dev), held_out=True))
    named = ()
    if against:
        named = (("bench", (Source(jsonl(folder / "bench.jsonl", against)),)),)
    return check(Plan(tuple(readings), named, **settings))


def found(report: Report, code: str) -> Finding:
    """The one finding of a code."""
    (one,) = [finding for finding in report.findings if finding.kind == code]
    return one


def codes(report: Report) -> set[str]:
    """The codes of all findings."""
    return {finding.kind for finding in report.findings}


VOCABULARY = vocabulary()
