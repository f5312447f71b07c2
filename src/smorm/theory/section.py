"""What one section of a diagnosis found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from smorm.evaluation.metrics import Metric


@dataclass(slots=True)
class DiagnosisSection:
    """Metrics by name, what was counted or left out, and advice that no metric says."""

    metrics: dict[str, Metric] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def add(self, prefix: str, found: Mapping[str, Metric]) -> None:
        """Take metrics in under `prefix/`."""
        self.metrics |= {f"{prefix}/{name}": metric for name, metric in found.items()}

    def merge(self, other: DiagnosisSection) -> None:
        """Take all of another section in."""
        self.metrics |= other.metrics
        self.notes += other.notes
        self.said += other.said
