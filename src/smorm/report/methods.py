"""The tables of methods under optimisation pressure: gold, peak, fall, and paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from smorm.report.curves import Curve
from smorm.report.names import show, show_reach, show_signed, style_of
from smorm.report.paired import Paired, sizes_shown
from smorm.report.peaks import Peak, peak_of
from smorm.report.rows import Row
from smorm.report.tables import cell, escape, table

_SUMS = {"stress": ("gain", "regret"), "rl": ("gold@first", "gold@peak", "gold@last", "kl@last")}
_CHANCE = 0.05
MARKS = (
    "* the interval leaves 0 out; † it does so after Holm's correction for all comparisons of "
    "this page too."
)


def methods_table(
    rows: Sequence[Row], curves: Mapping[str, Curve], paired: Sequence[Paired]
) -> str:
    """A row for each method on one set of prompts.

    Args:
        rows: of one suite of kind "stress" or "rl".
        curves: of the same suite by label.
        paired: differences of the same suite; those of its last number become columns.
    """
    present = list(dict.fromkeys(name for row in rows for name in row.metrics))
    sizes = sizes_shown([name for name in present if name.startswith("gold@")])
    sums = [name for name in _SUMS[rows[0].kind] if name in present]
    last = _last_metric(paired)
    bases = _bases_of_many([one for one in paired if one.metric == last], len(rows))
    headings = [
        "method",
        *(style_of(name).heading for name in sizes),
        *(f"{style_of(last).label} − {base}" for base in bases),
        *(style_of(name).heading for name in sums),
        f"largest gold at {'n' if rows[0].kind == 'stress' else 'step'}",
        "gold lost after it",
    ]
    lines = []
    for row in rows:
        cells = [
            *(cell(row, name, brief=True) for name in sizes),
            *(_paired_cell(_find(paired, row.label, base, last), row, base)
              for base in bases),
            *(cell(row, name, brief=True) for name in sums),
            *_peak_cells(row, curves),
        ]  # fmt: skip
        head = f'<th scope="row">{escape(row.label)}{_runs(row)}</th>'
        lines.append(f"<tr>{head}{''.join(cells)}</tr>")
    return table(headings, lines)


def _bases_of_many(paired: Sequence[Paired], methods: int) -> list[str]:
    """The baselines of at least half of all methods: a view's first view is none."""
    bases = [one.base for one in paired]
    return [base for base in dict.fromkeys(bases) if 2 * bases.count(base) >= methods - 1]


def _runs(row: Row) -> str:
    view = [f"view {row.view}"] if row.view and row.label == row.model else []
    seeds = [f"{row.seeds} seeds"] if row.seeds > 1 else []
    return f'<br><span class="soft">{escape(" · ".join([*view, *seeds]))}</span>'


def paired_table(paired: Sequence[Paired]) -> str:
    """Every comparison of some suites: a row for two methods, a column for each number."""
    names = list(dict.fromkeys(one.metric for one in paired))
    couples = list(dict.fromkeys((one.suite, one.label, one.base) for one in paired))
    lines = []
    for suite, label, base in couples:
        cells = [
            _paired_cell(
                next((p for p in paired if (p.suite, p.label, p.base, p.metric)
                      == (suite, label, base, name)), None)
            )
            for name in names
        ]  # fmt: skip
        head = f"{escape(label)} − {escape(base)}<br><span class='soft'>{escape(suite)}</span>"
        lines.append(f'<tr><th scope="row">{head}</th>{"".join(cells)}</tr>')
    return table(["difference", *(style_of(name).heading for name in names)], lines)


def peak_for(row: Row, curves: Mapping[str, Curve]) -> Peak | None:
    """The peak of a row's curve of gold."""
    curve = curves.get(row.label)
    return peak_of(curve, row.metrics.get("fall")) if curve else None


def mark(one: Paired) -> str:
    """* or † as `MARKS` says, or nothing."""
    if not (one.better or one.worse):
        return ""
    return "†" if one.corrected < _CHANCE else "*"


def _last_metric(paired: Sequence[Paired]) -> str:
    names = list(dict.fromkeys(one.metric for one in paired))
    if "gold@last" in names:
        return "gold@last"
    return names[-1] if names else ""


def _find(paired: Sequence[Paired], label: str, base: str, metric: str) -> Paired | None:
    wanted = (label, base, metric)
    return next((one for one in paired if (one.label, one.base, one.metric) == wanted), None)


def _peak_cells(row: Row, curves: Mapping[str, Curve]) -> list[str]:
    peak = peak_for(row, curves)
    if peak is None:
        return ['<td title="not measured">–</td>'] * 2
    runs = curves[row.label].runs.values()
    tops = [curves[row.label].at[run["gold"].index(max(run["gold"]))] for run in runs]
    spread = f"<small>seeds: {min(tops):g} to {max(tops):g}</small>" if tops else ""
    if peak.at == peak.last and peak.fall.value == 0:
        return [f"<td>{peak.at:g}{spread}</td>", "<td>none</td>"]
    style = style_of("fall")
    reach = show_reach(peak.fall, style)
    star = " *" if peak.falls else ""
    return [
        f"<td>{peak.at:g}{spread}</td>",
        f"<td>{show(peak.fall.value, style)}{star}<small>{reach}</small></td>",
    ]


def _paired_cell(one: Paired | None, row: Row | None = None, base: str = "") -> str:
    """A difference; how many seeds it has where the row does not say so."""
    if one is None:
        return f"<td>{'baseline' if row and row.label == base else '–'}</td>"
    style, difference = style_of(one.metric), one.difference
    sign = mark(one)
    kind = ' class="best"' if sign else ""
    same = row is not None and one.over == "seeds" and row.seeds == difference.n
    over = "" if same else f"<small>{difference.n} {one.over}</small>"
    return (
        f"<td{kind}>{show_signed(difference.value, style)} {sign}"
        f"<small>{show_reach(difference, style)}</small>{over}</td>"
    )
