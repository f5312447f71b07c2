"""What to evaluate on: a suite's name, and where its records are.
A suite is named `KIND` or `KIND/LABEL`; KIND is `pairs`, `rated`, or one of the benchmarks."""

from __future__ import annotations

from dataclasses import dataclass

from smorm.data.reading import Source
from smorm.data.records import Kind
from smorm.errors import ConfigError
from smorm.evaluation.benchmarks import BENCHMARKS
from smorm.evaluation.metric_names import SuiteName

PLAIN: dict[str, Kind] = {"pairs": "preference", "rated": "rated"}


@dataclass(frozen=True, slots=True)
class Suite:
    """What to evaluate on: `name` as above, and where its records are."""

    name: str
    source: Source | None = None  # the one source of records, or None
    # a benchmark's sources with their labels, where it has several
    labelled: tuple[tuple[str, Source], ...] = ()

    @property
    def kind(self) -> str:
        """The kind in its name."""
        kind = SuiteName.parse(self.name).kind
        if kind not in PLAIN and kind not in BENCHMARKS:
            kinds = ", ".join((*PLAIN, *BENCHMARKS))
            raise ConfigError(f"suite {self.name!r}: expected KIND or KIND/LABEL of {kinds}")
        return kind

    @property
    def sources(self) -> tuple[tuple[str, Source], ...]:
        """Every source with the label of its records."""
        return self.labelled if self.source is None else (("", self.source), *self.labelled)


def parse_suite(text: str) -> Suite:
    """`NAME=PATH`, e.g. `pairs/dev=data/dev.jsonl`; a benchmark of the hub without a path."""
    name, separator, path = text.partition("=")
    if not name or (separator and not path):
        raise ConfigError(f"suite {text!r}: expected NAME=PATH, e.g. pairs/dev=dev.jsonl")
    # The kind is checked before the path: a misspelt name should not be looked for on the hub.
    kind = Suite(name).kind
    if kind in BENCHMARKS:
        return Suite(name, labelled=tuple(BENCHMARKS[kind].sources(path or None)))
    if not path:
        raise ConfigError(f"suite {text!r}: expected NAME=PATH, e.g. {kind}/dev=dev.jsonl")
    return Suite(name, Source(path))
