"""One HTML file from result files: conclusions, curves, tables, notes and fingerprints.

The file carries its style and its figures, runs no script, and forbids the browser to load more.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smorm.errors import ConfigError, DataError
from smorm.evaluation.result import Result, parse_result
from smorm.files import write_text
from smorm.report.blocks import Figure, PageSection, folded, write_figures
from smorm.report.canvas import PALETTE
from smorm.report.conclusions import conclusions
from smorm.report.curves import Curve, curves_of
from smorm.report.figures import comparison
from smorm.report.optimisation import KINDS, optimisation_sections, suite_of
from smorm.report.paired import paired_differences
from smorm.report.rows import Row, rows_of
from smorm.report.suites import APART, suite_section
from smorm.report.tables import escape
from smorm.report.theme import CSS
from smorm.report.training import COST, TRAINING, cost_section, training_section

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_READING = (
    "Each cell shows the value, its 95 % interval and n. Bold: the best of its column, and only "
    "where its interval is apart from every other's; in columns of differences, those whose "
    "interval leaves 0 out. A number in brackets leads to the fingerprint."
)
_SOURCES_SHOWN = 24
_SENTENCES_SHOWN = 8


@dataclass(frozen=True, slots=True)
class PageOptions:
    """What a reader of many methods may choose.

    Attributes:
        baselines: what methods are compared with; see `paired_differences`.
        highlighted: labels that curves show in colour in any case.
    """

    baselines: tuple[str, ...] = ()
    highlighted: tuple[str, ...] = ()


def write_page(
    results: Sequence[Mapping[str, Any]],
    output: Path | str,
    title: str,
    intro: str = "",
    *,
    figures: Path | str | None = None,
    choices: PageOptions | None = None,
) -> list[Path]:
    """Write the report of any list of results (objects of the result file's contract).

    `intro` is plain text; an empty line begins a new paragraph. Results that differ in
    `fingerprint.seed` only become one row, the mean over seeds. With `figures` every figure is
    written to that folder too, as SVG and PNG; their paths are returned.

    Raises:
        DataError: no results, or an object that is not a result.
        ConfigError: a baseline or method that was chosen is in no result.
        OutputError: a file could not be written.
    """
    parsed = [parse_result(one, f"result {place}") for place, one in enumerate(results, start=1)]
    if not parsed:
        raise DataError("no results to report: give at least one result file")
    sections, summary = _contents(parsed, choices or PageOptions())
    write_text(output, _html(parsed, sections, summary, title, intro))
    return [] if figures is None else write_figures(Path(figures), figures_of(sections))


def page(results: Sequence[Result], title: str, intro: str = "") -> str:
    """The HTML text of the report."""
    return _html(results, *_contents(results, PageOptions()), title, intro)


def figures_of(sections: Sequence[PageSection]) -> list[Figure]:
    """All figures, in the page's order."""
    return [block for one in sections for block in one.blocks if isinstance(block, Figure)]


def _contents(
    results: Sequence[Result], choices: PageOptions
) -> tuple[list[PageSection], list[str]]:
    """The page's sections, and what follows from the numbers."""
    rows, curves = rows_of(results), curves_of(results)
    paired = paired_differences(results, choices.baselines)
    whole = [row for row in rows if row.kind not in APART]
    labels = dict.fromkeys(row.label for row in [*whole, *rows])
    drawn = list(dict.fromkeys(curve.label for curve in curves if curve.kind in KINDS))
    for asked in choices.highlighted:
        if asked not in drawn:
            raise ConfigError(f"highlight {asked}: no curve has this name; there are {drawn}")
    colours = {label: place for place, label in enumerate(labels)}
    overview = comparison([row for row in whole if row.suite.startswith("pairs")], colours=colours)
    sections = optimisation_sections(rows, curves, paired, choices.highlighted)
    if overview:
        figure = Figure("accuracy", overview, "Accuracy by method and regime.")
        sections.append(PageSection("accuracy", "Accuracy", "", [figure]))
    # the overview's bars again, of many methods a megabyte for each suite
    shown = {row.suite for row in whole if overview and len(labels) > len(PALETTE)}
    sections += _suites(rows, curves, colours, {one for one in shown if one.startswith("pairs")})
    for one in (training_section(curves, "training"), cost_section(rows, "cost")):
        sections += [one] if one else []
    return sections, conclusions(rows, curves, paired)


def _suites(
    rows: Sequence[Row], curves: Sequence[Curve], colours: Mapping[str, int], shown: Set[str]
) -> list[PageSection]:
    suites: dict[str, list[Row]] = {}
    for row in rows:
        apart = f"{row.suite}: {APART[row.kind]}" if row.kind in APART else row.suite
        if row.kind not in (TRAINING, COST):
            suites.setdefault(apart, []).append(row)
    drawn = shown | {suite_of(curve) for curve in curves if curve.kind in KINDS}
    return [
        suite_section(number, suite, members, colours, drawn=members[0].suite in drawn)
        for number, (suite, members) in enumerate(suites.items(), start=1)
    ]


def _html(
    results: Sequence[Result],
    sections: Sequence[PageSection],
    summary: Sequence[str],
    title: str,
    intro: str,
) -> str:
    paragraphs = [f"<p>{escape(part.strip())}</p>" for part in intro.split("\n\n") if part.strip()]
    body = [
        f"<header><h1>{escape(title)}</h1>",
        *paragraphs,
        _summary(summary),
        f'<p class="soft">{_READING}</p>',
        _links(sections),
        "</header><main>",
        *(section.html() for section in sections),
        "</main>",
        _footer(results),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{CSS}</style></head>\n<body>\n"
        + "\n".join(part for part in body if part)
        + "\n</body></html>\n"
    )


def _summary(sentences: Sequence[str]) -> str:
    if not sentences:
        return ""
    first, *rest = (escape(sentence) for sentence in sentences)
    items = [f"<li>{sentence}</li>" for sentence in rest]
    listed = f"<ul>{''.join(items[:_SENTENCES_SHOWN])}</ul>"
    if more := items[_SENTENCES_SHOWN:]:
        listed += folded(f"{len(more)} more sentences", f"<ul>{''.join(more)}</ul>")
    heading = '<h2 id="conclusions">What follows from the numbers</h2>'
    return f'<section class="summary">{heading}<p class="soft">{first}</p>{listed}</section>'


def _links(sections: Sequence[PageSection]) -> str:
    if len(sections) < 2:
        return ""
    links = "".join(
        f'<li><a href="#{one.identity}">{escape(one.title)}</a></li>' for one in sections
    )
    return f'<nav aria-label="Sections"><ul>{links}</ul></nav>'


def _footer(results: Sequence[Result]) -> str:
    """Where every number comes from."""
    blocks = []
    for number, one in enumerate(results, start=1):
        facts = dict(one.fingerprint)
        if isinstance(one.items, str) and one.items:
            facts["items"] = one.items
        pairs = "".join(
            f"<dt>{escape(name)}</dt><dd>{escape(_plain(value))}</dd>"
            for name, value in facts.items()
        )
        name = " · ".join(part for part in (one.suite, one.model, one.view) if part)
        listing = f"<dl>{pairs}</dl>" if pairs else "<p>No fingerprint was recorded.</p>"
        blocks.append(f'<div id="source-{number}"><b>[{number}] {escape(name)}</b>{listing}</div>')
    text = "".join(blocks)
    if len(blocks) > _SOURCES_SHOWN:
        text = folded(f"All {len(blocks)} results", text)
    return f"<footer><h2>Fingerprints</h2>{text}</footer>"


def _plain(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)
