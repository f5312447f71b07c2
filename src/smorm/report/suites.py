"""The section of a suite: its table, the bars that suit it, and what was counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from smorm.report.blocks import Figure, PageSection, folded
from smorm.report.figures import bars
from smorm.report.heat import heat_table
from smorm.report.names import SHARES, Style, style_of
from smorm.report.rows import Row
from smorm.report.tables import detail_table, escape, metric_names, summary_table

# Suites with a chance level: their leading metric, and which metrics are drawn under which name.
_LEADS = {
    "accuracy": {
        "accuracy": "all pairs",
        "accuracy_chosen_longer": "preferred is longer",
        "accuracy_chosen_shorter": "preferred is shorter",
        "length_only_accuracy": "length-only rule",
    },
    "overall": {name: name for name in SHARES},
}
APART = {"difference": "differences", "sanity": "sanity tests"}
"""Kinds of results that stand in a section of their own beside what they are about."""
_NOTES_SHOWN = 6


def suite_section(
    number: int, suite: str, rows: Sequence[Row], colours: Mapping[str, int], *, drawn: bool
) -> PageSection:
    """A suite's section.

    Args:
        number: of its anchor.
        suite: its name as shown.
        rows: its models and views.
        colours: the place of each method in the palette.
        drawn: whether curves show it already; its tables are then folded and have no bars.
    """
    whole, parts = metric_names(rows)
    kinds = ", ".join(dict.fromkeys(row.kind for row in rows))
    summary = summary_table(rows, whole)
    if drawn:
        summary = folded(f"All {len(whole)} numbers of each method", summary)
    blocks: list[str | Figure] = [summary]
    if rows[0].kind not in APART and not drawn:
        blocks += _bars(suite, rows, colours)
    blocks.append(heat_table(rows) if rows[0].kind not in APART else "")
    if parts:
        blocks.append(folded(f"All {len(parts)} parts", detail_table(rows, parts)))
    return PageSection(f"suite-{number}", suite, kinds, [*blocks, _notes(rows)])


def _bars(suite: str, rows: Sequence[Row], colours: Mapping[str, int]) -> list[str | Figure]:
    """The bars that suit a suite's metrics; for an unknown suite, those of its first metric."""
    names = list(dict.fromkeys(name for row in rows for name in row.metrics))
    if not names:
        return []
    lead = next((name for name in _LEADS if name in names), names[0])
    parts = {name: name.partition("/")[2] for name in names if name.startswith(f"{lead}/")}
    sizes = {name: f"best of {name.partition('@')[2]}" for name in names if _is_size_of_gold(name)}
    chosen = sizes or _LEADS.get(lead) or parts or {lead: suite}
    groups = {
        label: {row.label: row.metrics[name] for row in rows if name in row.metrics}
        for name, label in chosen.items()
        if name in names
    }
    style = _bar_style(lead, bool(sizes))
    drawing = bars(
        groups,
        style,
        f"{suite}: {style.label}",
        reference=("chance", 0.5) if lead in _LEADS else None,
        colours=colours,
    )
    caption = f"{suite}: {style.heading}; lines are 95 % intervals."
    return [Figure(f"{suite}-{rows[0].kind}", drawing, caption)]


def _is_size_of_gold(name: str) -> bool:
    base, _, size = name.partition("@")
    return base == "gold" and size.isdigit()


def _bar_style(lead: str, of_sizes: bool) -> Style:
    if of_sizes:
        return style_of("gold")
    return Style("comparisons won", True) if lead == "overall" else style_of(lead)


def _notes(rows: Sequence[Row]) -> str:
    """What was counted; a note that all rows share is told once, many single ones fold away."""
    shared = [note for note in rows[0].notes if all(note in row.notes for row in rows)]
    own = [
        f"<li><b>{escape(row.label)}:</b> {escape(note)}</li>"
        for row in rows
        for note in row.notes
        if note not in shared
    ]
    text = "".join(f"<li>{escape(note)}</li>" for note in shared)
    if len(own) <= _NOTES_SHOWN:
        return f'<ul class="notes">{text}{"".join(own)}</ul>' if text or own else ""
    listed = f'<ul class="notes">{"".join(own)}</ul>'
    return f'<ul class="notes">{text}</ul>' + folded(f"{len(own)} notes on single rows", listed)
