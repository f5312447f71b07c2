"""A finding, and the table of thresholds that decides how bad it is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Severity = Literal["must fix", "look", "fine"]
SEVERITIES: tuple[Severity, ...] = ("must fix", "look", "fine")
PLACES = 5


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Where a finding turns from one severity to the next; shares are of what the finding counts.

    Attributes:
        near: estimated Jaccard similarity of two texts' 5-word shingles that makes them near
            duplicates (Broder, 1997).
        duplicates: share of exact or near duplicates beyond which to look.
        near_leakage: share of held-out prompts with a near twin in training that must be fixed. An
            exact twin must always be.
        conflicts: share of pairs whose opposite is in the data too that must be fixed.
        rating_spread: part of an attribute's range by which two ratings of one response differ
            before they are called conflicting.
        rating_conflicts: share of rated responses with conflicting ratings that must be fixed.
        overlap: share of a benchmark's items whose prompt is in the data that must be fixed; fewer,
            or responses alone, are to be looked at.
        length_wins: distance of "the longer side is chosen" from one half beyond which to look
            (where the interval leaves one half out as well).
        length_correlation: size of an attribute's rank correlation with length beyond which to
            look.
        missing: share of missing ratings of an attribute beyond which to look.
        over_limit: share of conversations over the token limit beyond which to look.
    """

    near: float = 0.8
    duplicates: float = 0.01
    near_leakage: float = 0.01
    conflicts: float = 0.02
    rating_spread: float = 0.25
    rating_conflicts: float = 0.05
    overlap: float = 0.01
    length_wins: float = 0.1
    length_correlation: float = 0.3
    missing: float = 0.5
    over_limit: float = 0.01


THRESHOLDS = Thresholds()


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found.

    Attributes:
        code: a short name that does not change.
        count: how many.
        of: what they are counted among, in words ("7,550 pairs"); "" where there is no such thing.
        share: `count` as a share of those, or None.
        meaning: what it means and what to do, in one sentence.
        places: up to five of them, as `file:line`, in the order of reading.
    """

    code: str
    severity: Severity
    count: int
    meaning: str
    of: str = ""
    share: float | None = None
    places: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The JSON object."""
        return asdict(self)


def among(count: int, total: int, noun: str) -> dict[str, Any]:
    """`of` and `share` of a finding: so many of so many things."""
    return {"of": f"{total:,} {noun}", "share": count / total if total else None}


def severest_first(findings: Iterable[Finding]) -> list[Finding]:
    """Sorted by severity; within one, as they came."""
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


@dataclass(slots=True)
class Tally:
    """Counts by code, each with the first few places."""

    counts: dict[str, int] = field(default_factory=dict)
    places: dict[str, list[str]] = field(default_factory=dict)

    def add(self, code: str, where: str) -> None:
        """Count one more, seen at `where`."""
        self.counts[code] = self.counts.get(code, 0) + 1
        kept = self.places.setdefault(code, [])
        if len(kept) < PLACES:
            kept.append(where)

    def __getitem__(self, code: str) -> int:
        return self.counts.get(code, 0)

    def where(self, code: str) -> tuple[str, ...]:
        """The first places of a code."""
        return tuple(self.places.get(code, ()))
