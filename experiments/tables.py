"""Markdown tables of results: a number with its interval, a paired difference, each seed's value.

A *summary row* is the plain mapping that summary files hold: `value`, `low` and `high` (95 %, over
prompts), and, where there are several seeds, `seeds`, `seeds_low` and `seeds_high` (Student's t).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any

from smorm.evaluation.metrics import Metric

Row = Mapping[str, Any]
DASH = "–"
INTERVALS = ("95 % over prompts", "over seeds")
# Below this a bootstrap over prompts is too narrow, and pages say so.
FEW_PROMPTS = 10


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def number(value: float | None, form: str = ".3f") -> str:
    """A number; a dash where there is none, as for the correlation with a constant."""
    if value is None or math.isnan(value):
        return DASH
    return f"{value:{form}}"


def interval(low: float | None, high: float | None, form: str = ".3f") -> str:
    """`[0.712, 0.769]`; empty where there is no interval."""
    if low is None or high is None:
        return ""
    return f"[{low:{form}}, {high:{form}}]"


def with_interval(metric: Metric | None, form: str = ".3f") -> str:
    """`0.741 [0.712, 0.769]`."""
    if metric is None:
        return DASH
    return f"{metric.value:{form}} {interval(metric.low, metric.high, form)}"


def plus_minus(metric: Metric | None, *, signed: bool = False, digits: int = 3) -> str:
    """`0.741 ± 0.029`, the half-width of the interval; a signed number is bold where its interval
    excludes 0."""
    if metric is None or math.isnan(metric.value):
        return DASH
    form = f".{digits}f"
    text = f"{metric.value:+{form}}" if signed else f"{metric.value:{form}}"
    half_width = (metric.high - metric.low) / 2
    if not math.isnan(half_width):
        text += f" ± {half_width:{form}}"
    return f"**{text}**" if signed and excludes_zero(metric) else text


def excludes_zero(metric: Metric) -> bool:
    """Whether an interval exists and 0 is outside it."""
    return math.isfinite(metric.low) and not metric.low <= 0 <= metric.high


def over_prompts(row: Row, form: str = ".3f") -> str:
    """The interval over prompts of a summary row."""
    return interval(row.get("low"), row.get("high"), form)


def over_seeds(row: Row, form: str = ".3f") -> str:
    """The interval over seeds of a summary row."""
    return interval(row["seeds_low"], row["seeds_high"], form)


def each_seed(row: Row, form: str = ".3f") -> str:
    """The value of each seed."""
    return ", ".join(number(value, form) for value in row["seeds"])


def difference_cells(row: Row, form: str = "+.3f") -> list[str]:
    """A difference and its two intervals."""
    return [number(row["value"], form), over_prompts(row, form), over_seeds(row, form)]


class Verdict(StrEnum):
    """What the two intervals of a difference show."""

    ABOVE = "above 0, over prompts and over seeds"
    BELOW = "below 0, over prompts and over seeds"
    ABOVE_OVER_PROMPTS = "above 0 over prompts for the mean of these seeds, but not over seeds"
    BELOW_OVER_PROMPTS = "below 0 over prompts for the mean of these seeds, but not over seeds"
    OPEN = "not distinguishable from 0"
    OPEN_SAME_SIGN = "not distinguishable from 0, with the same sign in every seed"
    NO_INTERVAL = "no interval, so nothing is shown"


def verdict_of(row: Row) -> Verdict:
    """What a difference shows: over prompts, over seeds, over both or over neither."""
    if row["low"] is None:
        return Verdict.NO_INTERVAL
    # Prompts first: what is open for the mean of these very seeds is open for others too.
    prompts = _side(row["low"], row["high"])
    seeds = _side(row["seeds_low"], row["seeds_high"])
    if prompts == 0:
        signs = {_side(value, value) for value in row["seeds"]}
        return Verdict.OPEN_SAME_SIGN if signs in ({1}, {-1}) else Verdict.OPEN
    if prompts == seeds:
        return Verdict.ABOVE if prompts > 0 else Verdict.BELOW
    return Verdict.ABOVE_OVER_PROMPTS if prompts > 0 else Verdict.BELOW_OVER_PROMPTS


def _side(low: float | None, high: float | None) -> int:
    """1 or -1 where an interval is above or below 0; 0 where it holds 0, or there is none."""
    if low is None or high is None:
        return 0
    return int(low > 0) - int(high < 0)


def highest(rows: Mapping[str, Row], *, without: Sequence[str] = ()) -> str:
    """The label of the largest value; the first of equals."""
    labels = [label for label in rows if label not in without]
    return max(labels, key=lambda label: float(rows[label]["value"]))
