"""What follows from the intervals, in plain words: no sentence says more than its interval does.

A difference is claimed where its 95 % interval leaves 0 out; otherwise the sentence says that none
was found, which is not that there is none. One run of each method is an illustration.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from smorm.evaluation.metrics import Metric
from smorm.report.curves import Curve
from smorm.report.falls import LISTED, falls
from smorm.report.methods import mark
from smorm.report.names import show_reach, show_set, show_signed, style_of
from smorm.report.paired import Paired, larger_shift
from smorm.report.rows import Row

_ONE_RUN = (
    "There is one run of each method: what follows is an illustration. Intervals (in brackets; * "
    "leaves 0 out) are over prompts and about these models; another seed may turn the order round."
)
_READING = "In brackets: 95 % intervals over seeds. * leaves 0 out, † after Holm's correction too."
_PUSHED = ("stress", "rl")


def conclusions(
    rows: Sequence[Row], curves: Sequence[Curve], paired: Sequence[Paired]
) -> list[str]:
    """Sentences for the reader; empty where nothing was compared and no curve was measured.

    The first ones say how to read them. Gold against the first baseline comes before falls of gold,
    other baselines, and other numbers.
    """
    leads = [one for one in paired if one.metric == _headline(paired, one.suite)]
    pushed = [one for one in leads if one.kind in _PUSHED]
    main = [one for one in pushed if one.base == pushed[0].base]
    others = [one for one in pushed if one.base != pushed[0].base]
    found = [
        *_comparisons(main),
        *falls(rows, curves),
        *_shifts(main),
        *_comparisons(others),
        *_shifts(others),
        *_comparisons([one for one in leads if one.kind not in _PUSHED]),
    ]
    if not found:
        return []
    kinds = {one.kind for one in paired} | set(_PUSHED)
    one_run = all(row.seeds == 1 for row in rows if row.kind in kinds)
    return [_ONE_RUN if one_run else _READING, *_count(paired), *found]


def _comparisons(paired: Sequence[Paired]) -> list[str]:
    """For each suite and baseline: who is better, who is worse, of whom neither was found."""
    couples = dict.fromkeys((one.suite, one.base) for one in paired)
    families = list(dict.fromkeys(suite.partition("/")[0] for suite, _ in couples))
    ordered = sorted(couples, key=lambda couple: _order(couple[0], families))
    return [
        _against([one for one in paired if (one.suite, one.base) == couple]) for couple in ordered
    ]


def _order(suite: str, families: Sequence[str]) -> tuple[int, bool]:
    family, _, name = suite.partition("/")
    return families.index(family), name.upper() != "ID"


def _against(members: Sequence[Paired]) -> str:
    """All about one suite, number and baseline: a sentence for each direction."""
    one = members[0]
    good, bad = _verbs(one)
    better, worse = [m for m in members if m.better], [m for m in members if m.worse]
    neither = [m for m in members if not (m.better or m.worse)]
    parts = [
        f"{_who(chosen)} {verb} than {one.base}: {_amounts(chosen)}."
        for verb, chosen in ((good, better), (bad, worse))
        if chosen
    ]
    if neither:
        none = f"{'No' if parts else 'no'} difference in {_number(one)}"
        many = len(neither) > LISTED
        told = (
            f"{_who(neither)} (see the tables)" if many else f"{_who(neither)}: {_amounts(neither)}"
        )
        parts.append(f"{none} from {one.base} was found for {told}.")
    return " ".join([f"{_where(one)}, {_over(members)},", *parts])


def _who(members: Sequence[Paired]) -> str:
    return members[0].label if len(members) == 1 else f"{len(members)} methods"


def _amounts(members: Sequence[Paired]) -> str:
    """By how much, the largest first."""
    if len(members) == 1:
        return _amount(members[0])
    ordered = sorted(members, key=lambda one: -one.difference.value)
    return ", ".join(f"{one.label} {_amount(one)}" for one in ordered)


def _amount(one: Paired) -> str:
    style = style_of(one.metric)
    unit = " percentage points" if style.percent else ""
    reach = show_reach(one.difference, style)
    return f"{show_signed(one.difference.value, style)}{unit} ({reach}){mark(one)}"


def _over(members: Sequence[Paired]) -> str:
    counts = sorted({one.difference.n for one in members if one.over == "seeds"})
    if not counts:
        return "one run each (an illustration)"
    return f"{counts[0]} seeds" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"


def _verbs(one: Paired) -> tuple[str, str]:
    """What the better and the worse method did, by the number that is compared."""
    family, _, _ = one.suite.partition("/")
    place = one.metric.partition("@")[2]
    if one.kind == "stress":
        picked = "picked answers of"
        return f"{picked} higher gold out of {place}", f"{picked} lower gold out of {place}"
    if one.kind == "rl":
        return f"led {family} to higher gold", f"led {family} to lower gold"
    label = style_of(one.metric).label
    return f"had a higher {label}", f"had a lower {label}"


def _number(one: Paired) -> str:
    """What is compared."""
    place = one.metric.partition("@")[2]
    if one.kind == "stress":
        return f"gold out of {place}"
    return "gold" if one.kind == "rl" else style_of(one.metric).label


def _where(one: Paired) -> str:
    family, _, name = one.suite.partition("/")
    if one.kind in _PUSHED:
        return f"On {show_set(name)}"
    kind = {"rated": "ratings"}.get(family, family)
    return f"In {kind} on {show_set(name)}" if name else f"In {kind}"


def _shifts(paired: Sequence[Paired]) -> list[str]:
    """Whether a gain over a baseline is larger or smaller out of distribution than in it."""
    within = {
        (one.suite.partition("/")[0], one.label, one.base): one
        for one in paired
        if one.suite.endswith("/ID")
    }
    found: list[str] = []
    outside = [one for one in paired if not one.suite.endswith("/ID")]
    for suite, base in dict.fromkeys((one.suite, one.base) for one in outside):
        family = suite.partition("/")[0]
        members = [one for one in outside if (one.suite, one.base) == (suite, base)]
        shifts = {
            one.label: larger_shift(one, within[family, one.label, base])
            for one in members
            if (family, one.label, base) in within
        }
        found += _told_shifts(shifts, members[0], base)
    return found


def _told_shifts(shifts: Mapping[str, Metric | None], one: Paired, base: str) -> list[str]:
    style, name = style_of(one.metric), show_set(one.suite.partition("/")[2])
    directions: tuple[tuple[str, Callable[[Metric], bool]], ...] = (
        ("larger", lambda shift: shift.low > 0),
        ("smaller", lambda shift: shift.high < 0),
    )
    found = []
    for word, fits in directions:
        each = [
            f"{label} {show_signed(shift.value, style)} ({show_reach(shift, style)})"
            for label, shift in shifts.items()
            if shift and fits(shift)
        ]
        if each:
            gain = f"the gold gained over {base} is {word} than on ID"
            found.append(f"On {name}, {gain}: {', '.join(each)}.")
    return found


def _count(paired: Sequence[Paired]) -> list[str]:
    """How many comparisons were made, so that chance findings can be reckoned with."""
    tested = [one for one in paired if one.over == "seeds"]
    if not tested:
        return []
    apart = [one for one in tested if one.better or one.worse]
    kept = [one for one in apart if mark(one) == "†"]
    unpaired = max(one.unpaired for one in tested)
    text = (
        f"{len(tested)} comparisons over seeds were made on this page; the intervals of "
        f"{len(apart)} leave 0 out, where chance alone would give about "
        f"{len(tested) / 20:.1f}. {len(kept)} of them "
        f"{'stays' if len(kept) == 1 else 'stay'} after Holm's correction (†). Falls, and gains "
        "that differ between sets of prompts, are told by their own intervals and are not counted."
    )
    if unpaired:
        text += f" Common seeds alone are compared: up to {unpaired} seeds of a pair are left out."
    return [text]


def _headline(paired: Sequence[Paired], suite: str) -> str:
    """The number that sums a suite up: gold at the end, or at the largest n."""
    names = [one.metric for one in paired if one.suite == suite]
    return "gold@last" if "gold@last" in names else names[-1]
