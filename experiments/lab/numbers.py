"""Numbers of studies by method and seed, and paired differences between them."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from smorm.evaluation.metrics import Metric, mean_over_seeds

Key = tuple[str, str, str]
"""Suite, label and metric."""


class Numbers:
    """Every number of a study, by suite, label (`SMORM-F`) and metric, one a seed.

    Read from the table that `smorm lab` writes (`smorm.lab.table`).
    """

    def __init__(self, lines: Iterable[Mapping[str, str]]) -> None:
        rows = [line for line in lines if line["seed"]]
        views: dict[str, set[str]] = {}
        for row in rows:
            if row["kind"] != "rated":
                views.setdefault(row["model"], set()).add(row["view"])
        self.values: dict[Key, dict[int, float]] = {}
        for row in rows:
            several = len(views.get(row["model"], ())) > 1 and row["kind"] != "rated"
            label = f"{row['model']}-{row['view']}" if several else row["model"]
            if math.isfinite(value := float(row["value"])):
                key = (_suite(row["kind"], row["set"]), label, row["metric"])
                self.values.setdefault(key, {})[int(row["seed"])] = value

    @classmethod
    def read(cls, path: Path) -> Numbers:
        """Those of a `numbers.csv`."""
        with path.open(encoding="utf-8", newline="") as stream:
            return cls(list(csv.DictReader(stream)))

    @property
    def seeds(self) -> int:
        """The most seeds that any number has."""
        return max(map(len, self.values.values()))

    def labels(self, suite: str) -> list[str]:
        """The methods that a suite measured, in order."""
        return list(dict.fromkeys(label for place, label, _ in self.values if place == suite))

    def mean(self, suite: str, label: str, metric: str) -> Metric | None:
        """The mean over seeds with Student's t interval; None where it was not measured."""
        found = self.values.get((suite, label, metric))
        return mean_over_seeds(list(found.values()), len(found)) if found else None

    def gain(self, suite: str, label: str, base: str, metric: str) -> Metric:
        """What a method has over another, paired seed by seed.

        Raises:
            KeyError: one of them was not measured.
        """
        differences = self._by_seed(suite, label, base, metric)
        return mean_over_seeds(list(differences.values()), len(differences))

    def change(self, suite: str, label: str, before: str, after: str) -> Metric:
        """What a method has more of a metric `after` than of `before`, paired seed by seed."""
        one, other = self.values[suite, label, after], self.values[suite, label, before]
        differences = [one[seed] - other[seed] for seed in one if seed in other]
        return mean_over_seeds(differences, len(differences))

    def ahead(self, suite: str, label: str, base: str, metric: str) -> str:
        """On how many of the seeds a method has more than another, as `5 of 6`."""
        found = list(self._by_seed(suite, label, base, metric).values())
        return f"{sum(one > 0 for one in found)} of {len(found)}"

    def shift(self, suites: tuple[str, str], label: str, base: str, metric: str) -> Metric:
        """How much larger the gain is on the second suite than on the first, paired by seed."""
        one, other = (self._by_seed(suite, label, base, metric) for suite in suites)
        both = [other[seed] - one[seed] for seed in one if seed in other]
        return mean_over_seeds(both, len(both))

    def _by_seed(self, suite: str, label: str, base: str, metric: str) -> dict[int, float]:
        one, other = self.values[suite, label, metric], self.values[suite, base, metric]
        return {seed: one[seed] - other[seed] for seed in one if seed in other}


def _suite(kind: str, name: str) -> str:
    return {"stress": f"best-of-n/{name}", "cost": "cost"}.get(kind, f"{kind}/{name}")


def shown(metric: Metric | None, *, signed: bool = False, digits: int = 3) -> str:
    """`.741 ± .029`; a difference with its sign, bold where the interval leaves 0 out."""
    if metric is None or math.isnan(metric.value):
        return "–"
    half = (metric.high - metric.low) / 2
    reach = "" if math.isnan(half) else f" ± {half:.{digits}f}"
    text = f"{metric.value:{'+' if signed else ''}.{digits}f}{reach}"
    return f"**{text}**" if signed and holds(metric) else text


def holds(metric: Metric) -> bool:
    """Whether a difference's interval leaves 0 out."""
    return math.isfinite(metric.low) and not metric.low <= 0 <= metric.high


def table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
