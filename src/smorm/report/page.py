"""One HTML file from result files: the answer first, then tables, the rest folded.

The file carries its style and its figures, runs no script, and forbids the browser to load more."""

import functools
import json
import re
from collections.abc import Mapping, Sequence
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from smorm.errors import ConfigError, DataError
from smorm.evaluation.alarms import alarm_lines
from smorm.evaluation.result import parse_result
from smorm.files import write_text
from smorm.printing import printable
from smorm.report.blocks import write_figures
from smorm.report.curves import OPTIMISED, curves_of
from smorm.report.findings import findings_of
from smorm.report.paired import paired_differences
from smorm.report.rows import rows_of
from smorm.report.sections import sections_of
from smorm.report.selection import distinct, refuse_too_many, select

_MAX_SOURCES = 24  # fingerprints in sight; more are folded


def write_page(
    results: Sequence[Mapping[str, Any]],
    output: Path | str,
    title: str,
    intro: str = "",
    *,
    figures: Path | str | None = None,
    baselines: Sequence[str] = (),
    highlighted: Sequence[str] = (),
) -> list[Path]:
    """Write the report of any list of results (objects of the result file's contract).

    `intro` is plain text; an empty line begins a new paragraph. Results that differ in
    `fingerprint.seed` only become one row, the mean over seeds. With `figures` every figure is
    written to that folder too, as SVG and PNG; their paths are returned. Methods are compared with
    `baselines`; curves show those that are `highlighted` in colour in any case."""
    # Checked before anything is drawn, which takes seconds.
    parsed = [parse_result(value, f"result {n}") for n, value in enumerate(results, start=1)]
    if not parsed:
        raise DataError("no results to report: give at least one result file")
    refuse_too_many(parsed)
    rows, curves = rows_of(parsed), curves_of(parsed)
    paired = paired_differences(parsed, baselines)
    labels = distinct(select(curves, kind=OPTIMISED), "label")
    for label in highlighted:
        if label not in labels:
            raise ConfigError(f"highlight {label}: no curve has this name; there are {labels}")
    sections = sections_of(rows, curves, paired, highlighted)
    drawn = list(chain.from_iterable(map(attrgetter("figures"), sections)))
    # The first figure stands above all sections, and no section repeats it.
    with_figures = list(filter(attrgetter("figures"), sections))
    if with_figures:
        with_figures[0].figures.pop(0)
    html = _template().render(
        results=parsed, failed=list(filter(attrgetter("failures"), rows)), title=title,
        alarms=[(row, *alarm_lines(row.alarms)) for row in rows if row.alarms],
        paragraphs=list(filter(None, re.split(r"\n\s*\n", intro.strip()))),
        findings=findings_of(rows, curves, paired), figure=next(iter(drawn), None),
        # Without its only figure a section can be empty.
        sections=[each for each in sections if each.blocks or each.figures or each.folds],
        max_sources=_MAX_SOURCES,
    )  # fmt: skip
    # The page first: figures without it would have no captions.
    write_text(output, html)
    if figures is None:
        return []
    return write_figures(Path(figures), drawn)


def _template() -> Template:
    # All text is escaped, and freed of control characters and secrets.
    environment = Environment(
        loader=PackageLoader("smorm.report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
        # Markup is known by `__html__`: the output of a macro, or an SVG.
        finalize=lambda value: value if hasattr(value, "__html__") else printable(value),
    )  # fmt: skip
    # A value of a fingerprint: text as it is, all else as JSON.
    to_json = functools.partial(json.dumps, ensure_ascii=False, sort_keys=True, default=str)
    environment.filters["fact"] = lambda value: value if isinstance(value, str) else to_json(value)
    return environment.get_template("page.html.j2")
