"""What follows from the intervals, as fixed sentences filled with numbers.

A difference is claimed where its 95 % interval excludes 0; otherwise the sentence says that none
was found, which is not that there is none. One run of each method is an illustration.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from smorm.evaluation.metric_names import MetricName, SuiteName
from smorm.evaluation.metrics import Metric
from smorm.report.curves import OPTIMISED, Curve, Peak
from smorm.report.paired import Paired, growth_of, leading
from smorm.report.rows import SEPARATE, Row
from smorm.report.style import (
    show,
    show_interval,
    show_prompts,
    show_signed,
    show_signed_interval,
    style_of,
)
from smorm.report.tables import peak_for

_ONE_RUN = (
    "One run of each method: an illustration. Intervals (in brackets; * excludes 0) are over "
    "prompts and about these models; another seed may reverse the order."
)
_SEEDS = "In brackets: 95 % intervals over seeds. * excludes 0, † after Holm's correction too."
_COMPARISON = "On {where} ({runs}), {quantity} compared with {base}: {outcome}."
_DROP = "On {where} ({runs}), gold under {family} after its peak: {outcome}."
_GROWTH = "On {where}, gold gained over {base} compared with ID: {outcome}."
_MEASUREMENT = "On {suite}, {label}: {metric} {value}{interval}, n = {n}."
_COUNT = (
    "{tested} comparisons over seeds; {excluding} intervals exclude 0, where about {expected:.1f} "
    "would by chance; {adjusted} remain after Holm's correction (†). Drops after a peak, and gains "
    "that differ between sets of prompts, are not among them.{unpaired}"
)
_UNPAIRED = " Up to {unpaired} seeds that only one method of a pair has are left out."
_MAX_LISTED = 4
_LEADING = 3
_UNMEASURED = (*SEPARATE, "training", "cost")


class FindingKind(Enum):
    """What a finding is about."""

    COMPARISON = "comparison"
    DROP = "drop"
    GROWTH = "growth"
    MEASUREMENT = "measurement"


@dataclass(frozen=True, slots=True)
class Finding:
    """A sentence, what it is about, and whether it claims more than that nothing was found."""

    kind: FindingKind
    text: str
    claims: bool = True


@dataclass(frozen=True, slots=True)
class Findings:
    """What a report found.

    Attributes:
        reading: how to read the sentences; "" where nothing was compared.
        count: how many comparisons were made; "" without any over seeds.
        leading: at most three findings: the first claim of each kind, then the next ones.
        further: all others.
    """

    reading: str
    count: str
    leading: tuple[str, ...]
    further: tuple[str, ...]

    @property
    def sentences(self) -> tuple[str, ...]:
        """All findings."""
        return self.leading + self.further


def findings_of(rows: Sequence[Row], curves: Sequence[Curve], paired: Sequence[Paired]) -> Findings:
    """The findings of a report.

    Gold against the first baseline comes before drops of gold, other baselines, and other numbers.
    Where nothing was compared, the best method's leading number of each suite is all there is.
    """
    headlines = [pair for pair in paired if pair.metric == _headline(paired, pair.suite)]
    optimised = [pair for pair in headlines if pair.kind in OPTIMISED]
    others = [pair for pair in headlines if pair.kind not in OPTIMISED]
    first = [pair for pair in optimised if pair.base == optimised[0].base]
    rest = [pair for pair in optimised if pair.base != optimised[0].base]
    findings = [
        *_comparisons(first), *_drops(rows, curves), *_growths(first),
        *_comparisons(rest), *_growths(rest), *_comparisons(others),
    ]  # fmt: skip
    reading = ""
    if findings:
        kinds = {*OPTIMISED, *(pair.kind for pair in paired)}
        seeds = max((row.seeds for row in rows if row.kind in kinds), default=1)
        reading = _SEEDS if seeds > 1 else _ONE_RUN
    else:
        findings = _measurements(rows)
    lead = _leading(findings)
    further = tuple(finding.text for finding in findings if finding not in lead)
    return Findings(reading, _count(paired), tuple(finding.text for finding in lead), further)


def _leading(findings: Sequence[Finding]) -> list[Finding]:
    """The first claim of each kind, then the next findings, three in all."""
    first_of_kind: dict[FindingKind, Finding] = {}
    for finding in sorted(findings, key=lambda finding: not finding.claims):
        first_of_kind.setdefault(finding.kind, finding)
    ordered = dict.fromkeys([*first_of_kind.values(), *findings])
    return list(ordered)[:_LEADING]


def _headline(paired: Sequence[Paired], suite: str) -> str:
    """The number that sums a suite up: gold at the end, or at the largest n."""
    names = [pair.metric for pair in paired if pair.suite == suite]
    return "gold@last" if "gold@last" in names else names[-1]


def _comparisons(paired: Sequence[Paired]) -> list[Finding]:
    """For each suite and baseline: which methods are higher, lower, or not found to differ."""
    families: dict[str, int] = {}
    members: dict[tuple[str, str], list[Paired]] = {}
    for pair in paired:
        families.setdefault(_family(pair.suite), len(families))
        members.setdefault((pair.suite, pair.base), []).append(pair)

    def order(suite_and_base: tuple[str, str]) -> tuple[int, bool]:
        suite = suite_and_base[0]
        return families[_family(suite)], _prompts(suite).upper() != "ID"

    return [_comparison(members[key]) for key in sorted(members, key=order)]


def _comparison(members: Sequence[Paired]) -> Finding:
    first = members[0]
    by_size = sorted(members, key=lambda pair: -pair.difference.value)
    higher = [_amount(pair) for pair in by_size if pair.better]
    lower = [_amount(pair) for pair in reversed(by_size) if pair.worse]
    similar = [_amount(pair) for pair in by_size if not (pair.better or pair.worse)]
    claims = {"higher for": higher, "lower for": lower}
    text = _COMPARISON.format(
        where=_where(first), runs=_runs(members), quantity=_quantity(first), base=first.base,
        outcome=_outcome(claims, "no difference found for", similar),
    )  # fmt: skip
    return Finding(FindingKind.COMPARISON, text, claims=bool(higher or lower))


def _outcome(claims: Mapping[str, Sequence[str]], nothing: str, rest: Sequence[str]) -> str:
    """Each claim with the methods that it holds for, then those of which nothing was found."""
    clauses = []
    for claim, methods in claims.items():
        if len(methods) > _MAX_LISTED:
            listed = ", ".join(methods[: _MAX_LISTED - 1])
            clauses.append(f"{claim} {len(methods)} methods, most for {listed}")
        elif methods:
            clauses.append(f"{claim} {', '.join(methods)}")
    if len(rest) > _MAX_LISTED:
        clauses.append(f"{nothing} {len(rest)} methods")
    elif rest:
        clauses.append(f"{nothing} {', '.join(rest)}")
    return "; ".join(clauses)


def _amount(pair: Paired) -> str:
    style = style_of(pair.metric)
    points = " percentage points" * style.percent
    interval = show_signed_interval(pair.difference, style)
    value = show_signed(pair.difference.value, style)
    return f"{pair.label} {value}{points} ({interval}){pair.symbol}"


def _runs(members: Sequence[Paired]) -> str:
    return _seeds([pair.difference.n if pair.over == "seeds" else 1 for pair in members])


def _seeds(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    if high == 1:
        return "one run each"
    return f"{low} seeds" if low == high else f"{low} to {high} seeds"


def _quantity(pair: Paired) -> str:
    """What is compared."""
    if pair.kind == "stress":
        return f"gold of the best of {MetricName.parse(pair.metric).n}"
    if pair.kind == "rl":
        return f"gold after {_family(pair.suite)}"
    return style_of(pair.metric).label


def _where(pair: Paired) -> str:
    prompts = show_prompts(_prompts(pair.suite))
    if pair.kind in OPTIMISED:
        return prompts
    family = _family(pair.suite)
    return f"{family}, {prompts}" if _prompts(pair.suite) else family


def _family(suite: str) -> str:
    return SuiteName.parse(suite).kind


def _prompts(suite: str) -> str:
    return SuiteName.parse(suite).label


def _drops(rows: Sequence[Row], curves: Sequence[Curve]) -> list[Finding]:
    """For each set of prompts: whose gold dropped after its peak, and of whom no drop was found."""
    by_suite: dict[tuple[str, str], dict[str, Curve]] = {}
    for curve in curves:
        if curve.kind in OPTIMISED:
            by_suite.setdefault((curve.family, curve.prompts), {})[curve.label] = curve
    families = list(dict.fromkeys(family for family, _ in by_suite))
    findings = []
    for family, prompts in sorted(
        by_suite, key=lambda suite: (families.index(suite[0]), suite[1].upper() != "ID")
    ):
        of_suite = by_suite[family, prompts]
        peaks: dict[str, Peak] = {}
        for row in rows:
            peak = peak_for(row, of_suite)
            if peak and row.suite == of_suite[row.label].suite and row.kind in OPTIMISED:
                peaks[row.label] = peak
        if peaks:
            seeds = _seeds([curve.seeds for curve in of_suite.values()])
            findings.append(_drop(peaks, family, show_prompts(prompts), seeds))
    return findings


def _drop(peaks: Mapping[str, Peak], family: str, where: str, runs: str) -> Finding:
    axis = "n =" if family.startswith("best-of") else "step"
    style = style_of("fall")
    dropping, steady = [], []
    for label, peak in sorted(peaks.items(), key=lambda entry: -entry[1].drop.value):
        amount = f"{show(peak.drop.value, style)} ({show_signed_interval(peak.drop, style)})"
        if peak.drops:
            dropping.append(f"{label} by {amount} from {axis} {peak.at:g} to {peak.last:g}")
        else:
            steady.append(label)
    outcome = _outcome({"it drops for": dropping}, "no drop found for", steady)
    text = _DROP.format(where=where, runs=runs, family=family, outcome=outcome)
    return Finding(FindingKind.DROP, text, claims=bool(dropping))


def _growths(paired: Sequence[Paired]) -> list[Finding]:
    """Where a gain over a baseline is larger or smaller out of distribution than in it."""
    in_distribution = {}
    outside: dict[tuple[str, str], list[Paired]] = {}
    for pair in paired:
        if _prompts(pair.suite) == "ID":
            in_distribution[_family(pair.suite), pair.label, pair.base] = pair
        else:
            outside.setdefault((pair.suite, pair.base), []).append(pair)
    findings = []
    for (suite, base), members in outside.items():
        larger, smaller = [], []
        for pair in members:
            reference = in_distribution.get((_family(suite), pair.label, base))
            growth = growth_of(pair, reference) if reference else None
            if growth is None:
                continue
            style = style_of(pair.metric)
            interval = show_signed_interval(growth, style)
            amount = f"{pair.label} by {show(abs(growth.value), style)} ({interval})"
            if growth.low > 0:
                larger.append(amount)
            elif growth.high < 0:
                smaller.append(amount)
        if larger or smaller:
            outcome = _outcome({"larger for": larger, "smaller for": smaller}, "", ())
            text = _GROWTH.format(where=show_prompts(_prompts(suite)), base=base, outcome=outcome)
            findings.append(Finding(FindingKind.GROWTH, text))
    return findings


def _measurements(rows: Sequence[Row]) -> list[Finding]:
    """The best method's leading number of each suite."""
    by_suite: dict[str, list[Row]] = {}
    for row in rows:
        if row.kind not in _UNMEASURED:
            by_suite.setdefault(row.suite, []).append(row)
    findings = []
    for suite, members in by_suite.items():
        names = leading(members[0].kind, members[0].metrics)[-1:]
        for name in names:
            row = max(members, key=lambda row: _value_or_least(row.metrics.get(name)))
            findings.append(_measurement(suite, row, name))
    return findings


def _value_or_least(metric: Metric | None) -> float:
    return -math.inf if metric is None or math.isnan(metric.value) else metric.value


def _measurement(suite: str, row: Row, name: str) -> Finding:
    style, metric = style_of(name), row.metrics[name]
    ends = show_interval(metric, style)
    text = _MEASUREMENT.format(
        suite=suite, label=row.label, metric=style.heading, value=show(metric.value, style),
        interval=f" ({ends})" if ends else "", n=metric.n,
    )  # fmt: skip
    return Finding(FindingKind.MEASUREMENT, text)


def _count(paired: Sequence[Paired]) -> str:
    """How many comparisons were made, so that chance findings can be allowed for."""
    tested = [pair for pair in paired if pair.over == "seeds"]
    if not tested:
        return ""
    unpaired = max(pair.unpaired for pair in tested)
    return _COUNT.format(
        tested=len(tested),
        excluding=sum(pair.symbol != "" for pair in tested),
        expected=len(tested) / 20,
        adjusted=sum(pair.symbol == "†" for pair in tested),
        unpaired=_UNPAIRED.format(unpaired=unpaired) if unpaired else "",
    )
