"""What follows from the intervals, as fixed sentences filled with numbers.

A difference is claimed where its 95 % interval excludes 0; otherwise the sentence says that none
was found, which is not that there is none. One run of each method is an illustration."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter, itemgetter

import numpy as np

from smorm.evaluation.metric_names import MetricName, SuiteName
from smorm.report.curves import OPTIMISED, Curve, Peak
from smorm.report.paired import Paired, growth_of, leading
from smorm.report.rows import NOT_COMPARED, Row, in_distribution
from smorm.report.selection import by_attribute, distinct, grouped, present_in, reject, select
from smorm.report.style import show_prompts, style_of
from smorm.report.tables import peak_for

_ONE_RUN = (
    "One run of each method: an illustration. Intervals (in brackets; * excludes 0) are over "
    "prompts and about these models; another seed may reverse the order."
)
_SEVERAL_RUNS = "In brackets: 95 % intervals over seeds. * excludes 0, † after Holm's correction."
_COMPARISON = "On {where} ({runs}), {quantity} compared with {base}: {outcome}."
_DROP = "On {where} ({runs}), gold under {family} after its peak: {outcome}."
_GROWTH = "On {where}, gold gained over {base} compared with ID: {outcome}."
_MEASUREMENT = "On {suite}, {label}: {metric} {value}{unit}{interval}, n = {n}."
_COUNT = (
    "{tested} comparisons over seeds; {excluding} intervals exclude 0, where about {expected:.1f} "
    "would by chance; {adjusted} remain after Holm's correction (†). Drops after a peak, and gains "
    "that differ between sets of prompts, are not among them.{unpaired}"
)
_UNPAIRED = " Up to {unpaired} seeds that only one method of a pair has are left out."
_MAX_LISTED = 4
_LEADING = 3


@dataclass(frozen=True, slots=True)
class Finding:
    form: str  # the template that the text fills
    text: str
    claims: bool = True  # that something was found


@dataclass(frozen=True, slots=True)
class Findings:
    reading: str = ""  # how to read the findings
    count: str = ""  # how many comparisons over seeds were made
    # At most three sentences, the first claim of each form before others; and all further ones.
    leading: Sequence[str] = ()
    further: Sequence[str] = ()

    @property
    def sentences(self) -> list[str]:
        return [*self.leading, *self.further]


def findings_of(rows: Sequence[Row], curves: Sequence[Curve], paired: Sequence[Paired]) -> Findings:
    """The findings of a report. Gold against the first baseline comes before drops of gold, other
    baselines, and other numbers. The best method's leading number of each suite comes last."""
    headlines: list[Paired] = []
    for members in by_attribute(paired, "suite").values():
        # What sums a suite up: gold of the trained policy, or at the largest n.
        metrics = distinct(members, "metric")
        headlines += select(members, metric=present_in(["gold@last"], metrics) or metrics[-1:])
    optimised = select(headlines, kind=OPTIMISED)
    first_base = distinct(optimised, "base")[:1]
    first, later = select(optimised, base=first_base), reject(optimised, base=first_base)
    others = reject(headlines, kind=OPTIMISED)
    known = in_distribution(rows)
    findings = [
        *_comparisons(first, known),
        *_drops(rows, curves),
        *_growths(first),
        *_comparisons(later, known),
        *_growths(later),
        *_comparisons(others, known),
    ]
    reading, reported = "", [*NOT_COMPARED]
    if findings:
        # What was optimised against is compared above: its numbers alone would say less.
        compared = select(rows, kind=[*OPTIMISED, *distinct(paired, "kind")])
        reading = _ONE_RUN if distinct(compared, "seeds") == [1] else _SEVERAL_RUNS
        reported += OPTIMISED
    # One number of each suite comes last: a page with a single model has findings too.
    findings += _measurements(reject(rows, kind=reported))
    # The first claim of each form comes first. Stable: within claims the order stays.
    claims_first = sorted(findings, key=lambda finding: not finding.claims)
    by_form = by_attribute(claims_first, "form")
    # In the order of the findings: the first form answers the page's main question.
    of_forms = [by_form[form][0] for form in distinct(findings, "form")]
    lead = list(dict.fromkeys([*of_forms, *findings]))[:_LEADING]
    texts = distinct([*lead, *findings], "text")
    return Findings(reading, _count(paired), texts[: len(lead)], texts[len(lead) :])


def _comparisons(paired: Sequence[Paired], known: Collection[str]) -> list[Finding]:
    by_suite = grouped(paired, lambda pair: (SuiteName.parse(pair.suite), pair.base))
    findings = []
    for suite, base in _in_order(by_suite):
        members = by_suite[suite, base]
        ranked = sorted(members, key=lambda pair: -pair.difference.value)
        higher, lower = select(ranked, better=[True]), select(ranked, worse=[True])
        clauses = {"higher for": higher, "lower for": reversed(lower)}
        clauses["no difference found for"] = reject(ranked, better=[True], worse=[True])
        outcome = _outcome({clause: map(_amount, pairs) for clause, pairs in clauses.items()})
        pair = members[0]
        where = show_prompts(suite.label, in_distribution=pair.suite in known)
        quantity = style_of(pair.metric).label
        if pair.kind == "stress":
            quantity = f"gold of the best of {MetricName.parse(pair.metric).n}"
        elif pair.kind == "rl":
            quantity = f"gold after {suite.kind}"
        else:
            where = f"{suite.kind}, {where}" if suite.label else suite.kind
        text = _COMPARISON.format(
            where=where,
            runs=_runs(distinct(members, "runs")),
            quantity=quantity,
            base=base,
            outcome=outcome,
        )
        findings.append(Finding(_COMPARISON, text, claims=bool(higher or lower)))
    return findings


def _in_order(suites: Iterable[tuple[SuiteName, str]]) -> list[tuple[SuiteName, str]]:
    # Families as they come, in each of them ID first: it is what the others are read against.
    keys = list(suites)
    families = distinct(map(itemgetter(0), keys), "kind")
    return sorted(keys, key=lambda key: (families.index(key[0].kind), key[0].label.upper() != "ID"))


def _outcome(clauses: Mapping[str, Iterable[str]]) -> str:
    """Each clause with the methods that it holds for; of many claims the largest."""
    texts = []
    for clause, named in clauses.items():
        methods = list(named)
        listed = ", ".join(methods)
        if len(methods) > _MAX_LISTED:
            listed = f"{len(methods)} methods"
            # Of methods without a finding, which come first would mean nothing.
            if not clause.startswith("no "):
                listed += f", most for {', '.join(methods[: _MAX_LISTED - 1])}"
        if methods:
            texts.append(f"{clause} {listed}")
    return "; ".join(texts)


def _amount(pair: Paired) -> str:
    style = style_of(pair.metric)
    points = " percentage points" * style.percent
    value, interval = style.signed(pair.difference.value), style.signed_interval(pair.difference)
    return f"{pair.label} {value}{points} ({interval}){pair.symbol}"


def _runs(counts: Sequence[int]) -> str:
    if max(counts) == 1:
        return "one run each"
    return f"{' to '.join(map(str, sorted({min(counts), max(counts)})))} seeds"


def _drops(rows: Sequence[Row], curves: Sequence[Curve]) -> list[Finding]:
    """For each set of prompts: whose gold dropped after its peak, and of whom no drop was found."""
    optimised = select(curves, kind=OPTIMISED)
    by_suite = grouped(optimised, lambda curve: (SuiteName.parse(curve.suite), curve.kind))
    findings, known = [], in_distribution(rows)
    for suite, kind in _in_order(by_suite):
        members = by_suite[suite, kind]
        by_label = {curve.label: curve for curve in members}
        peaks: dict[str, Peak] = {}
        for row in select(rows, suite=distinct(members, "suite"), kind=[kind]):
            peak = peak_for(row, by_label)
            if peak is not None:
                peaks[row.label] = peak
        if not peaks:
            continue
        dropping, steady = [], []
        axis, style = {"stress": "n =", "rl": "step"}[kind], style_of("fall")
        for label, peak in sorted(peaks.items(), key=lambda entry: -entry[1].drop.value):
            amount = f"{style.show(peak.drop.value)} ({style.signed_interval(peak.drop)})"
            if peak.drops:
                dropping.append(f"{label} by {amount} from {axis} {peak.at:g} to {peak.last:g}")
            else:
                steady.append(label)
        outcome = _outcome({"it drops for": dropping, "no drop found for": steady})
        text = _DROP.format(
            where=show_prompts(suite.label, in_distribution=members[0].suite in known),
            runs=_runs(distinct(members, "seeds")),
            family=suite.kind,
            outcome=outcome,
        )
        findings.append(Finding(_DROP, text, claims=bool(dropping)))
    return findings


def _growths(paired: Sequence[Paired]) -> list[Finding]:
    """Where a gain over a baseline is larger or smaller out of distribution than in it."""
    by_suite = grouped(paired, lambda pair: (SuiteName.parse(pair.suite), pair.base))
    findings = []
    for (suite, base), members in by_suite.items():
        references = by_suite.get((SuiteName(suite.kind, "ID"), base), ())
        by_label = {pair.label: pair for pair in references}
        larger, smaller = [], []
        for pair in members:
            if pair.label not in by_label or suite.label == "ID":
                continue
            growth = growth_of(pair, by_label[pair.label])
            if growth is None:
                continue
            style = style_of(pair.metric)
            interval = style.signed_interval(growth)
            amount = f"{pair.label} by {style.show(abs(growth.value))} ({interval})"
            # Without a claim there is no sentence: most gains differ by less than their noise.
            if growth.low > 0:
                larger.append(amount)
            elif growth.high < 0:
                smaller.append(amount)
        if larger or smaller:
            outcome = _outcome({"larger for": larger, "smaller for": smaller})
            text = _GROWTH.format(where=show_prompts(suite.label), base=base, outcome=outcome)
            findings.append(Finding(_GROWTH, text))
    return findings


def _measurements(rows: Sequence[Row]) -> list[Finding]:
    # Of each suite the best method's leading number.
    findings = []
    for suite, members in by_attribute(rows, "suite").items():
        for name in leading(members[0].kind, members[0].metrics)[-1:]:
            measured = [row for row in members if name in row.metrics]
            # A mean that does not exist is never the best.
            values = np.array([row.metrics[name].value for row in measured])
            best = measured[int(np.nan_to_num(values, nan=-np.inf).argmax())]
            metric, style = best.metrics[name], style_of(name)
            ends = style.interval(metric)
            text = _MEASUREMENT.format(
                suite=suite,
                label=best.label,
                metric=style.label,
                n=metric.n,
                value=style.show(metric.value),
                unit=" %" * style.percent,
                interval=f" ({ends})" if ends else "",
            )
            findings.append(Finding(_MEASUREMENT, text))
    return findings


def _count(paired: Sequence[Paired]) -> str:
    # A difference over prompts is of two models: it tests no method, and is not counted.
    tested = select(paired, over=["seeds"])
    if not tested:
        return ""
    symbols = list(map(attrgetter("symbol"), tested))
    unpaired = max(distinct(tested, "unpaired"))
    return _COUNT.format(
        tested=len(tested),
        excluding=len(tested) - symbols.count(""),
        expected=len(tested) / 20,
        adjusted=symbols.count("†"),
        unpaired=_UNPAIRED.format(unpaired=unpaired) * (unpaired > 0),
    )
