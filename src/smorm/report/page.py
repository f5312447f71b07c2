"""One HTML file from result files: the answer first, then tables, the rest folded.

The file carries its style and its figures, runs no script, and forbids the browser to load more.
"""

import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from smorm.errors import ConfigError, DataError
from smorm.evaluation.result import Result, parse_result
from smorm.files import write_text
from smorm.report.blocks import Section, write_figures
from smorm.report.curves import OPTIMISED, Curve, curves_of
from smorm.report.drawing import PALETTE
from smorm.report.findings import findings_of
from smorm.report.paired import Paired, paired_differences
from smorm.report.rows import SEPARATE, UNMEASURED, Row, rows_of
from smorm.report.sections import (
    accuracy_section,
    cost_section,
    optimisation_section,
    suite_section,
    training_section,
)
from smorm.report.selection import distinct, grouped, reject, select
from smorm.report.style import clean

_MAX_SOURCES = 24
"""How many fingerprints are in sight; more are folded."""


@dataclass(frozen=True, slots=True)
class PageOptions:
    """What methods are compared with, and labels that curves show in colour in any case."""

    baselines: tuple[str, ...] = ()
    highlighted: tuple[str, ...] = ()


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
    """
    # Checked before anything is drawn, which takes seconds.
    parsed = [parse_result(value, f"result {n}") for n, value in enumerate(results, start=1)]
    if not parsed:
        raise DataError("no results to report: give at least one result file")
    contents = _contents(parsed, options or PageOptions())
    drawn = list(filter(None, [contents["figure"]]))
    for section in contents["sections"]:
        drawn += section.figures
    # The page first: figures without it would have no captions.
    write_text(output, _rendered(contents, title, intro))
    if figures is None:
        return []
    return write_figures(Path(figures), drawn)


def page_html(results: Sequence[Result], title: str, intro: str = "") -> str:
    """The HTML text of the report."""
    return _rendered(_contents(results, PageOptions()), title, intro)


def _contents(results: Sequence[Result], options: PageOptions) -> dict[str, Any]:
    rows, curves = rows_of(results), curves_of(results)
    paired = paired_differences(results, options.baselines)
    drawn = distinct(select(curves, kind=OPTIMISED), "label")
    for label in options.highlighted:
        if label not in drawn:
            raise ConfigError(f"highlight {label}: no curve has this name; there are {drawn}")
    sections = _sections(rows, curves, paired, options.highlighted)
    # The first figure stands above all sections, and no section repeats it.
    figure = None
    for section in sections:
        if section.figures and figure is None:
            figure = section.figures.pop(0)
    # Without its only figure a section can be empty.
    sections = [
        section for section in sections if section.blocks or section.figures or section.folds
    ]
    return {
        "results": results,
        "failed": [row for row in rows if row.failures],
        "findings": findings_of(rows, curves, paired),
        "figure": figure,
        "sections": sections,
        "max_sources": _MAX_SOURCES,
    }


def _sections(
    rows: list[Row], curves: list[Curve], paired: list[Paired], highlighted: Sequence[str]
) -> list[Section]:
    measured = reject(rows, kind=SEPARATE)
    labels = distinct([*measured, *rows], "label")
    colours = dict(zip(labels, range(len(labels)), strict=True))
    sections: list[Section | None] = []
    optimised = select(curves, kind=OPTIMISED)
    families = grouped(optimised, attrgetter("kind", "family"))
    for number, of_family in enumerate(families.values(), start=1):
        suites = {"kind": distinct(of_family, "kind"), "suite": distinct(of_family, "suite")}
        members, differences = select(rows, **suites), select(paired, **suites)
        section = optimisation_section(number, members, of_family, differences, highlighted)
        sections.append(section)
    pairs = select(measured, family=["pairs"])
    sections.append(accuracy_section(pairs, colours))
    # The overview's bars once more would be, of many methods, a megabyte for each suite.
    repeated = bool(sections[-1]) and len(labels) > len(PALETTE)
    # A suite's sanity tests and differences have its name, and sections of their own.
    rows_of_suites = reject(rows, kind=UNMEASURED)
    by_suite = grouped(rows_of_suites, lambda row: (row.suite, SEPARATE.get(row.kind)))
    # Suites with curves have their tables in the sections on over-optimisation.
    for suite in distinct(optimised, "suite"):
        by_suite.pop((suite, None), None)
    for number, ((suite, _), in_suite) in enumerate(by_suite.items(), start=1):
        differences = select(paired, suite=[suite])
        drawn = repeated and in_suite[0] in pairs
        sections.append(suite_section(number, in_suite, differences, colours, drawn=drawn))
    sections += [training_section(curves), cost_section(rows)]
    return list(filter(None, sections))


def _rendered(contents: Mapping[str, Any], title: str, intro: str) -> str:
    paragraphs = list(filter(None, re.split(r"\n\s*\n", intro.strip())))
    template = _templates().get_template("page.html.j2")
    return template.render(contents, title=title, paragraphs=paragraphs)


@functools.cache
def _templates() -> Environment:
    """The templates of pages; all text is escaped, and freed of control characters."""
    environment = Environment(
        loader=PackageLoader("smorm.report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
        # Markup is known by `__html__`: the output of a macro, or an SVG.
        finalize=lambda value: value if hasattr(value, "__html__") else clean(value),
    )  # fmt: skip
    # A value of a fingerprint: text as it is, all else as JSON.
    to_json = functools.partial(json.dumps, ensure_ascii=False, sort_keys=True, default=str)
    environment.filters["fact"] = lambda value: value if isinstance(value, str) else to_json(value)
    return environment
