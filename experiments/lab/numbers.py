"""Numbers of studies by method and seed, and paired differences between them."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

from smorm.evaluation.metric_names import MetricName, SuiteName
from smorm.evaluation.metrics import Metric, mean_over_seeds
from smorm.printing import text_of_cell

# Suite, label and metric.
Key = tuple[str, str, str]


class Numbers:
    """Every number of a study, by suite, label (`SMORM-F`) and metric, one a seed.

    Read from the table that `smorm lab` writes (`smorm.lab.run`)."""

    def __init__(self, lines: Iterable[Mapping[str, str]]) -> None:
        # Rules that read no model have no seed, and no paired difference.
        rows = [line for line in lines if line["seed"]]
        views: dict[str, set[str]] = {}
        for row in rows:
            if row["kind"] != "rated":
                views.setdefault(row["model"], set()).add(row["view"])
        self.values: dict[Key, dict[int, float]] = {}
        for row in rows:
            label = row["model"]
            # Ratings are measured of all attribute rows together, whatever the views.
            if row["kind"] != "rated" and len(views[label]) > 1:
                label += f"-{row['view']}"
            # The correlation with a constant does not exist, and takes no part in a mean.
            value = float(row["value"])
            if math.isfinite(value):
                key = (_suite(row["kind"], row["set"]), label, row["metric"])
                self.values.setdefault(key, {})[int(row["seed"])] = value

    @classmethod
    def read(cls, path: Path) -> Numbers:
        """Those of a `numbers.csv`."""
        with path.open(encoding="utf-8", newline="") as stream:
            return cls([_plain(line) for line in csv.DictReader(stream)])

    @property
    def seeds(self) -> int:
        """The most seeds that any number has."""
        return max(map(len, self.values.values()))

    def labels(self, suite: str) -> list[str]:
        """The methods that a suite measured, in order."""
        return list(dict.fromkeys(label for name, label, _ in self.values if name == suite))

    @property
    def sizes(self) -> list[int]:
        """Sizes of best-of-n that were measured, ascending."""
        sizes = set()
        for text in {metric for _, _, metric in self.values}:
            name = MetricName.parse(text)
            if name.name == "gold" and name.n is not None:
                sizes.add(name.n)
        return sorted(sizes)

    @property
    def middle_gold(self) -> str:
        """Gold at about a quarter of the largest n."""
        # A reward can gain here and be over-optimised at the largest n.
        return gold_at(self.sizes[-3])

    @property
    def largest_gold(self) -> str:
        """Gold at the largest n."""
        return gold_at(self.sizes[-1])

    def comparisons(self, regime: str) -> list[tuple[str, str]]:
        """Suite and metric of the three numbers by which methods are compared in a regime."""
        picks = f"best-of-n/{regime}"
        return [
            (f"pairs/{regime}", "accuracy"),
            (picks, self.middle_gold),
            (picks, self.largest_gold),
        ]

    def mean(self, suite: str, label: str, metric: str) -> Metric | None:
        """The mean over seeds with Student's t interval; None where it was not measured."""
        by_seed = self.values.get((suite, label, metric))
        if by_seed is None:
            return None
        return mean_over_seeds(list(by_seed.values()), len(by_seed))

    def gain(self, suite: str, label: str, base: str, metric: str) -> Metric:
        """The difference of a method to another, paired by seed.

        Raises:
            KeyError: one of them was not measured."""
        differences = self._by_seed(suite, label, base, metric)
        return mean_over_seeds(list(differences.values()), len(differences))

    def change(self, suite: str, label: str, before: str, after: str) -> Metric:
        """A method's metric `after` less its metric `before`, paired by seed."""
        values = self.values
        differences = paired(values[suite, label, after], values[suite, label, before])
        return mean_over_seeds(list(differences.values()), len(differences))

    def ahead(self, suite: str, label: str, base: str, metric: str) -> str:
        """On how many of the seeds a method is above another, as `5 of 6`."""
        differences = self._by_seed(suite, label, base, metric).values()
        return f"{sum(value > 0 for value in differences)} of {len(differences)}"

    def shift(self, suites: tuple[str, str], label: str, base: str, metric: str) -> Metric:
        """How much larger the gain is on the second suite than on the first, paired by seed."""
        before = self._by_seed(suites[0], label, base, metric)
        shifts = paired(self._by_seed(suites[1], label, base, metric), before)
        return mean_over_seeds(list(shifts.values()), len(shifts))

    def _by_seed(self, suite: str, label: str, base: str, metric: str) -> dict[int, float]:
        return paired(self.values[suite, label, metric], self.values[suite, base, metric])


def _plain(line: Mapping[str, str]) -> dict[str, str]:
    return {column: text_of_cell(cell) for column, cell in line.items()}


def gold_at(size: int) -> str:
    """The name of gold at a size of best-of-n."""
    return str(MetricName("gold", size))


def paired(values: Mapping[int, float], subtracted: Mapping[int, float]) -> dict[int, float]:
    """Differences by seed, of the seeds that both have."""
    # A seed's luck in data and prompts is the same on both sides, and cancels.
    differences = {}
    for seed, value in values.items():
        if seed in subtracted:
            differences[seed] = value - subtracted[seed]
    return differences


def _suite(kind: str, name: str) -> str:
    if kind == "cost":
        return kind
    if kind == "stress":
        kind = "best-of-n"
    return str(SuiteName(kind, name))
