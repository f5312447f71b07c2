"""What was dropped, skipped, cut or repaired, by kind: the one object that says so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

EXAMPLES_KEPT = 3


@dataclass(slots=True)
class Census:
    """Counts by kind and by source, with a few places to look at.

    A kind is a short phrase ("tie", "bad record: empty response"). `where` is `file:line` (or
    `dataset[split]:row`); the part before the last colon is the source.
    """

    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, where: str = "", count: int = 1) -> None:
        """Count `count` more of `kind`, seen at `where`."""
        source = where.rpartition(":")[0]
        by_source = self.counts.setdefault(kind, {})
        by_source[source] = by_source.get(source, 0) + count
        if where:
            self._remember(kind, [where])

    def merge(self, other: Census) -> None:
        """Add what another census counted."""
        for kind, by_source in other.counts.items():
            mine = self.counts.setdefault(kind, {})
            for source, count in by_source.items():
                mine[source] = mine.get(source, 0) + count
            self._remember(kind, other.examples.get(kind, []))

    def __getitem__(self, kind: str) -> int:
        """How many of `kind`, over all sources; 0 when there was none."""
        return sum(self.counts.get(kind, {}).values())

    @property
    def total(self) -> int:
        """Everything counted."""
        return sum(self[kind] for kind in self.counts)

    def totals(self) -> Mapping[str, int]:
        """Kind to count, over all sources, in order of first appearance."""
        return {kind: self[kind] for kind in self.counts}

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a result file: `{kind: {count, by_source, examples}}`."""
        return {
            kind: {
                "count": self[kind],
                "by_source": dict(by_source),
                "examples": list(self.examples.get(kind, [])),
            }
            for kind, by_source in self.counts.items()
        }

    def lines(self) -> list[str]:
        """One line a kind for the terminal; no line when nothing was counted."""
        return [self._line(kind) for kind in self.counts]

    def _line(self, kind: str) -> str:
        by_source = {name: n for name, n in self.counts[kind].items() if name}
        parts = []
        if len(by_source) > 1:
            parts.append("in " + ", ".join(f"{name} {n:,}" for name, n in by_source.items()))
        if places := self.examples.get(kind):
            parts.append("such as " + ", ".join(places))
        return f"{kind}: {self[kind]:,}" + (f" ({'; '.join(parts)})" if parts else "")

    def _remember(self, kind: str, places: list[str]) -> None:
        kept = self.examples.setdefault(kind, [])
        kept.extend(places[: EXAMPLES_KEPT - len(kept)])
