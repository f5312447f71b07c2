"""The paper's four claims put to a study, with a verdict that follows from the intervals.

A claim *holds* where the interval of its difference lies on its side of 0, is *contradicted* where
it lies on the other, and is *undecided* otherwise. "F is about M" holds where the whole interval is
within a margin.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from experiments.lab.numbers import Numbers, holds, shown, table
from smorm.evaluation.metrics import Metric

MARGIN = 0.01
"""Of gold: what F and M may differ by and still be about the same."""


@dataclass(frozen=True)
class Line:
    """One difference that speaks for or against a claim; `sign` is the side that it claims, `ahead`
    on how many seeds it is above 0."""

    regime: str
    what: str
    difference: Metric
    sign: int = 1
    ahead: str = "–"

    @property
    def verdict(self) -> str:
        """What the interval says."""
        if not holds(self.difference):
            return "undecided"
        return "holds" if self.difference.value * self.sign > 0 else "contradicted"

    @property
    def same(self) -> str:
        """What the interval says of being about the same."""
        low, high = self.difference.low, self.difference.high
        if low >= -MARGIN and high <= MARGIN:
            return "holds"
        return "contradicted" if low > MARGIN or high < -MARGIN else "undecided"


def scarce_head(numbers: Numbers, regimes: Sequence[str]) -> list[Line]:
    """Joint training lifts the scarce attribute head: SMORM's rows against Multi's."""
    lines = []
    for regime in regimes:
        for metric, what, sign in (
            ("mse", "squared error", -1),
            ("spearman", "rank correlation", 1),
        ):
            gain = numbers.gain(f"rated/{regime}", "SMORM", "Multi", metric)
            ahead = numbers.ahead(f"rated/{regime}", "SMORM", "Multi", metric)
            told = f"{what} of the attributes, SMORM − Multi"
            lines.append(Line(regime, told, gain, sign, ahead))
        lines += _gains(numbers, regime, "SMORM-L", "Multi")
    return lines


def robust_head(numbers: Numbers, regimes: Sequence[str]) -> list[Line]:
    """The preference head gains, and out of distribution more than in distribution."""
    lines = [one for regime in regimes for one in _gains(numbers, regime, "SMORM-F", "Single")]
    for regime in regimes[1:]:
        for metric, suite in (("accuracy", "pairs"), (middle(numbers), "best-of-n")):
            suites = (f"{suite}/{regimes[0]}", f"{suite}/{regime}")
            more = numbers.shift(suites, "SMORM-F", "Single", metric)
            what = f"{metric}: gain here − gain in distribution"
            lines.append(Line(regime, what, more))
    return lines


def f_is_m(numbers: Numbers, regimes: Sequence[str]) -> list[Line]:
    """F is about M."""
    return [one for regime in regimes for one in _gains(numbers, regime, "SMORM-M", "SMORM-F")]


def weak_ensemble(numbers: Numbers, regimes: Sequence[str]) -> list[Line]:
    """The naive ensemble is held back by its weak head: below Single, and below SMORM-M."""
    lines = []
    for regime in regimes:
        for base in ("Single", "SMORM-M"):
            found = _gains(numbers, regime, "SM", base)
            lines += [replace(one, sign=-1) for one in found]
    return lines


def _gains(numbers: Numbers, regime: str, label: str, base: str) -> list[Line]:
    places = [(f"pairs/{regime}", "accuracy")]
    places += [(f"best-of-n/{regime}", metric) for metric in (middle(numbers), largest(numbers))]
    return [
        Line(
            regime,
            f"{metric}, {label} − {base}",
            numbers.gain(suite, label, base, metric),
            ahead=numbers.ahead(suite, label, base, metric),
        )
        for suite, metric in places
    ]


def sizes(numbers: Numbers) -> list[int]:
    """Sizes of best-of-n that were measured."""
    found = {name for _, _, name in numbers.values if name.startswith("gold@")}
    return sorted(int(name.partition("@")[2]) for name in found)


def middle(numbers: Numbers) -> str:
    """Gold at about a quarter of the largest n."""
    known = sizes(numbers)
    return f"gold@{known[-3]}"


def largest(numbers: Numbers) -> str:
    """Gold at the largest n."""
    return f"gold@{sizes(numbers)[-1]}"


CLAIMS = (
    ("Joint training lifts the scarce attribute head", scarce_head),
    ("The preference head gains robustness, out of distribution more than in", robust_head),
    ("F is about M", f_is_m),
    ("The naive ensemble is held back by its weak head", weak_ensemble),
)


def in_short(numbers: Numbers, regimes: Sequence[str]) -> str:
    """A line for each claim: what its intervals say all together."""
    return "\n".join(
        f"{place}. {title}: {_summed(_verdicts(lines_of, lines_of(numbers, regimes)))}"
        for place, (title, lines_of) in enumerate(CLAIMS, start=1)
    )


def _summed(said: Sequence[str]) -> str:
    holding, against = said.count("holds"), said.count("contradicted")
    counts = f"({holding} of {len(said)} differences hold, {against} contradict)"
    if holding and against:
        return f"mixed {counts}."
    if not holding and not against:
        return f"undecided: no interval is apart from 0 {counts}."
    return f"{'holds' if holding else 'contradicted'} wherever anything is decided {counts}."


def _verdicts(lines_of: Callable[..., list[Line]], lines: Sequence[Line]) -> list[str]:
    return [line.same if lines_of is f_is_m else line.verdict for line in lines]


def account_of_claims(numbers: Numbers, regimes: Sequence[str]) -> str:
    """The four claims, each with its differences and how many of them hold."""
    parts = []
    for place, (title, lines_of) in enumerate(CLAIMS, start=1):
        lines = lines_of(numbers, regimes)
        said = _verdicts(lines_of, lines)
        counts = ", ".join(
            f"{said.count(word)} {word}" for word in ("holds", "undecided", "contradicted")
        )
        rows = [
            [line.regime, line.what, shown(line.difference, signed=True), line.ahead, verdict]
            for line, verdict in zip(lines, said, strict=True)
        ]
        heading = [
            "prompts",
            "difference",
            "mean ± half its 95 % interval",
            "seeds above 0",
            "the claim",
        ]
        parts.append(f"### {place}. {title}\n\n{counts}.\n\n{table(heading, rows)}")
    return "\n\n".join(parts)
