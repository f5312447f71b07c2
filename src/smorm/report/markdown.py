"""Markdown of a model card: text from outside is shown as text, never as markup."""

from __future__ import annotations

import re
from collections.abc import Sequence

from smorm.evaluation.metrics import Metric
from smorm.report.rows import Row
from smorm.report.style import clean, show, show_interval, style_of

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#~])")


def plain(text: object) -> str:
    """Text on one line in which no character means anything to Markdown or HTML."""
    words = " ".join(clean(text).split())
    return _SPECIAL.sub(r"\\\1", words).replace("&", "&amp;")


def code(text: object) -> str:
    """Inline code, whatever it holds."""
    # A bar ends a table's cell even inside code, and cannot be escaped there.
    words = " ".join(clean(text).split()).replace("|", "¦")
    longest = max(map(len, re.findall(r"`+", words)), default=0)
    fence = "`" * (longest + 1)
    return f"{fence} {words} {fence}" if longest else f"`{words}`"


def fenced(text: str, language: str = "") -> str:
    """A code block that its own text cannot close."""
    longest = max(map(len, re.findall(r"`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{language}\n{clean(text).rstrip()}\n{fence}"


def results_table(rows: Sequence[Row], names: Sequence[str]) -> str:
    """Methods as lines and numbers as columns, with n once for each line."""
    lines = []
    for row in rows:
        # n differs by column where few responses have a rating of an attribute.
        counts = sorted(row.metrics[name].n for name in names if name in row.metrics)
        size = f"{counts[0]}"
        if counts[-1] > counts[0]:
            size += f"–{counts[-1]}"
        if row.seeds > 1:
            size += f" × {row.seeds} seeds"
        numbers = [number(row.metrics.get(name), name) for name in names]
        lines.append([plain(row.label), plain(row.view), *numbers, size])
    headings = ["model", "view", *(plain(style_of(name).heading) for name in names), "n"]
    rule = ["---", "---", *["---:"] * (len(headings) - 2)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (headings, rule, *lines))


def number(metric: Metric | None, name: str) -> str:
    """Value and interval."""
    if metric is None:
        return "–"
    style = style_of(name)
    interval = show_interval(metric, style)
    return show(metric.value, style) + f" ({interval})" * bool(interval)
