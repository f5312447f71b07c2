"""One HTML file from result files: the answer first, then tables, the rest folded.

The file carries its style and its figures, runs no script, and forbids the browser to load more.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from smorm.errors import ConfigError, DataError
from smorm.evaluation.metric_names import SuiteName
from smorm.evaluation.result import Result, parse_result
from smorm.files import write_text
from smorm.report.blocks import Figure, Section, write_figures
from smorm.report.curves import OPTIMISED, Curve, curves_of
from smorm.report.drawing import PALETTE
from smorm.report.findings import Findings, findings_of
from smorm.report.paired import Paired, paired_differences
from smorm.report.rows import SEPARATE, Row, grouped, rows_of
from smorm.report.sections import (
    accuracy_section,
    cost_section,
    optimisation_section,
    suite_section,
    training_section,
)
from smorm.report.style import clean

_MAX_SOURCES = 24
"""How many fingerprints are in sight; more are folded."""


@dataclass(frozen=True, slots=True)
class PageOptions:
    """What a reader of many methods may choose.

    Attributes:
        baselines: what methods are compared with; see `paired_differences`.
        highlighted: labels that curves show in colour in any case.
    """

    baselines: tuple[str, ...] = ()
    highlighted: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Page:
    """All that the template renders; `figure` is the first one, which no section repeats."""

    results: Sequence[Result]
    rows: Sequence[Row]
    findings: Findings
    figure: Figure | None
    sections: Sequence[Section]

    @property
    def figures(self) -> list[Figure]:
        """All figures, in the page's order."""
        figures = [self.figure] if self.figure else []
        for section in self.sections:
            figures += section.figures
        return figures


def write_page(
    results: Sequence[Mapping[str, Any]],
    output: Path | str,
    title: str,
    intro: str = "",
    *,
    figures: Path | str | None = None,
    options: PageOptions | None = None,
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
    parsed = [parse_result(value, f"result {n}") for n, value in enumerate(results, start=1)]
    if not parsed:
        raise DataError("no results to report: give at least one result file")
    page = _page(parsed, options or PageOptions())
    write_text(output, _rendered(page, title, intro))
    return [] if figures is None else write_figures(Path(figures), page.figures)


def page_html(results: Sequence[Result], title: str, intro: str = "") -> str:
    """The HTML text of the report."""
    return _rendered(_page(results, PageOptions()), title, intro)


def _page(results: Sequence[Result], options: PageOptions) -> Page:
    rows, curves = rows_of(results), curves_of(results)
    paired = paired_differences(results, options.baselines)
    _check_highlighted(options.highlighted, curves)
    sections = _sections(rows, curves, paired, options.highlighted)
    figure = next((figure for section in sections for figure in section.figures), None)
    for section in sections:
        if section.figures[:1] == [figure]:
            section.figures.pop(0)
            break
    shown = [section for section in sections if not section.is_empty]
    return Page(results, rows, findings_of(rows, curves, paired), figure, shown)


def _check_highlighted(highlighted: Sequence[str], curves: Sequence[Curve]) -> None:
    drawn = list(dict.fromkeys(curve.label for curve in curves if curve.kind in OPTIMISED))
    for label in highlighted:
        if label not in drawn:
            raise ConfigError(f"highlight {label}: no curve has this name; there are {drawn}")


def _sections(
    rows: Sequence[Row],
    curves: Sequence[Curve],
    paired: Sequence[Paired],
    highlighted: Sequence[str],
) -> list[Section]:
    measured = [row for row in rows if row.kind not in SEPARATE]
    labels = dict.fromkeys(row.label for row in [*measured, *rows])
    colours = {label: index for index, label in enumerate(labels)}
    sections: list[Section | None] = []
    optimised = [curve for curve in curves if curve.kind in OPTIMISED]
    families = grouped(optimised, lambda curve: (curve.kind, curve.family))
    for number, of_family in enumerate(families.values(), start=1):
        suites = {(curve.kind, curve.suite) for curve in of_family}
        members = [row for row in rows if (row.kind, row.suite) in suites]
        differences = [pair for pair in paired if (pair.kind, pair.suite) in suites]
        sections.append(optimisation_section(number, members, of_family, differences, highlighted))
    pairs = [row for row in measured if SuiteName.parse(row.suite).kind == "pairs"]
    accuracy = accuracy_section(pairs, colours)
    sections.append(accuracy)
    # The overview's bars once more would be, of many methods, a megabyte for each suite.
    drawn = {row.suite for row in pairs if accuracy and len(labels) > len(PALETTE)}
    shown = {(curve.kind, curve.suite) for curve in optimised}
    shown |= {(row.kind, row.suite) for row in rows if row.kind in ("training", "cost")}
    others = [row for row in rows if (row.kind, row.suite) not in shown]
    paired_by_suite = grouped(paired, lambda pair: pair.suite)
    # A suite's sanity tests and differences have its name, and sections of their own.
    by_suite = grouped(others, lambda row: (row.suite, SEPARATE.get(row.kind)))
    for number, ((suite, _), members) in enumerate(by_suite.items(), start=1):
        differences = paired_by_suite.get(suite, [])
        section = suite_section(number, members, differences, colours, drawn=suite in drawn)
        sections.append(section)
    sections += [training_section(curves), cost_section(rows)]
    return [section for section in sections if section]


def _rendered(page: Page, title: str, intro: str) -> str:
    paragraphs = [text.strip() for text in intro.split("\n\n") if text.strip()]
    template = _templates().get_template("page.html.j2")
    return template.render(
        page=page, title=title, paragraphs=paragraphs, max_sources=_MAX_SOURCES
    )  # fmt: skip


@functools.cache
def _templates() -> Environment:
    """The templates of pages; all text is escaped, and freed of control characters."""
    environment = Environment(
        loader=PackageLoader("smorm.report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, finalize=_printable,
    )  # fmt: skip
    environment.filters["fact"] = _fact
    return environment


def _fact(value: Any) -> str:
    """A value of a fingerprint: text as it is, all else as JSON."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)


def _printable(value: Any) -> Any:
    """What templates write: text without control characters; markup as it is."""
    return value if hasattr(value, "__html__") else clean(value)
