"""The paper's four claims put to a study, with a verdict that follows from the intervals.

A claim *holds* where the interval of its difference lies on its side of 0, is *contradicted* where
it lies on the other, and is *undecided* otherwise. "F is about M" holds where the whole interval is
within a margin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from experiments.lab.numbers import Numbers
from experiments.tables import excludes_zero, plus_minus, table
from smorm.evaluation.metrics import Metric

# Of gold or accuracy: the difference up to which F and M are about the same.
MARGIN = 0.01
DIFFERENCE_HEADINGS = (
    "prompts", "difference", "mean ± half its 95 % interval", "seeds above 0", "the claim",
)  # fmt: skip


class Verdict(StrEnum):
    """What an interval says of a claim."""

    HOLDS = "holds"
    UNDECIDED = "undecided"
    CONTRADICTED = "contradicted"


@dataclass(frozen=True)
class Line:
    """One difference that supports or contradicts a claim.

    Attributes:
        sign: the side of 0 that the claim is on.
        ahead: on how many seeds the difference is above 0.
        margin: where it is set, the claim is that the difference is at most this, either way."""

    regime: str
    title: str
    difference: Metric
    sign: int = 1
    ahead: str = "–"
    margin: float | None = None

    @property
    def verdict(self) -> Verdict:
        """What the interval says."""
        low, high = self.difference.low, self.difference.high
        if self.margin is not None:
            if -self.margin <= low and high <= self.margin:
                return Verdict.HOLDS
            outside = low > self.margin or high < -self.margin
            return Verdict.CONTRADICTED if outside else Verdict.UNDECIDED
        if not excludes_zero(self.difference):
            return Verdict.UNDECIDED
        agrees = self.difference.value * self.sign > 0
        return Verdict.HOLDS if agrees else Verdict.CONTRADICTED


def scarce_head(numbers: Numbers, regimes: Sequence[str]) -> list[Line]:
    """Joint training lifts the scarce attribute head: SMORM's rows against Multi's."""
    lines = []
    for regime in regimes:
        suite = f"rated/{regime}"
        for metric, name, sign in (
            ("mse", "squared error", -1),
            ("spearman", "rank correlation", 1),
        ):
            gain = numbers.gain(suite, "SMORM", "Multi", metric)
            ahead = numbers.ahead(suite, "SMORM", "Multi", metric)
            title = f"{name} of the attributes, SMORM − Multi"
            lines.append(Line(regime, title, gain, sign, ahead))
        lines += _gains(numbers, regime, "SMORM-L", "Multi")
    return lines


def robust_head(numbers: Numbers, regimes: Sequence[str]) -> list[Line]:
    """The preference head gains, and out of distribution more than in distribution."""
    lines = []
    for regime in regimes:
        lines += _gains(numbers, regime, "SMORM-F", "Single")
    # The first regime is the one in distribution.
    for regime in regimes[1:]:
        for metric, kind in (("accuracy", "pairs"), (numbers.middle_gold, "best-of-n")):
            suites = (f"{kind}/{regimes[0]}", f"{kind}/{regime}")
            shift = numbers.shift(suites, "SMORM-F", "Single", metric)
            lines.append(Line(regime, f"{metric}: gain here − gain in distribution", shift))
    return lines


def f_is_m(numbers: Numbers, regimes: Sequence[str]) -> list[Line]:
    """F is about M."""
    lines = []
    for regime in regimes:
        lines += _gains(numbers, regime, "SMORM-M", "SMORM-F")
    # An interval that holds 0 is no evidence of sameness; one inside a margin is.
    return [replace(line, margin=MARGIN) for line in lines]


def weak_ensemble(numbers: Numbers, regimes: Sequence[str]) -> list[Line]:
    """The naive ensemble is held back by its weak head: below Single, and below SMORM-M."""
    lines = []
    for regime in regimes:
        for base in ("Single", "SMORM-M"):
            lines += _gains(numbers, regime, "SM", base)
    return [replace(line, sign=-1) for line in lines]


def _gains(numbers: Numbers, regime: str, label: str, base: str) -> list[Line]:
    lines = []
    for suite, metric in numbers.comparisons(regime):
        gain = numbers.gain(suite, label, base, metric)
        ahead = numbers.ahead(suite, label, base, metric)
        lines.append(Line(regime, f"{metric}, {label} − {base}", gain, ahead=ahead))
    return lines


CLAIMS = (
    ("Joint training lifts the scarce attribute head", scarce_head),
    ("The preference head gains robustness, out of distribution more than in", robust_head),
    ("F is about M", f_is_m),
    ("The naive ensemble is held back by its weak head", weak_ensemble),
)


def claim_counts(numbers: Numbers, regimes: Sequence[str]) -> str:
    """A row for each claim: how many of its differences hold and contradict it."""
    rows = []
    for index, (title, lines_of) in enumerate(CLAIMS, start=1):
        verdicts = [line.verdict for line in lines_of(numbers, regimes)]
        counts = [verdicts.count(Verdict.HOLDS), verdicts.count(Verdict.CONTRADICTED)]
        rows.append([f"{index}. {title}", str(len(verdicts)), *map(str, counts)])
    return table(["claim", "differences", "hold", "contradict it"], rows)


def claim_sections(numbers: Numbers, regimes: Sequence[str]) -> str:
    """The four claims, each with its differences and how many of them hold."""
    sections = []
    for index, (title, lines_of) in enumerate(CLAIMS, start=1):
        lines = lines_of(numbers, regimes)
        verdicts = [line.verdict for line in lines]
        counts = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in Verdict)
        rows = []
        for line in lines:
            difference = plus_minus(line.difference, signed=True)
            rows.append([line.regime, line.title, difference, line.ahead, line.verdict.value])
        sections.append(f"### {index}. {title}\n\n{counts}.\n\n{table(DIFFERENCE_HEADINGS, rows)}")
    return "\n\n".join(sections)
