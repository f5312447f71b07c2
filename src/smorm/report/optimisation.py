"""The sections on optimisation pressure: best-of-n, and policies trained against a reward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from smorm.report.blocks import Figure, PageSection, folded
from smorm.report.curves import Curve, sets_in_order
from smorm.report.looks import HIGHLIGHTED, looks_of
from smorm.report.methods import MARKS, methods_table, paired_table
from smorm.report.names import show_set
from smorm.report.paired import Paired
from smorm.report.panels import BEHIND, alone, overview
from smorm.report.rows import Row
from smorm.report.tables import escape

KINDS = ("stress", "rl")
_TRACED = ("gold", "proxy", "kl", "length")
_BANDS = "Bands are 95 % intervals: Student's t over seeds, or over prompts where there is one run."

_PEAKS = (
    "What is lost after the peak is measured, over seeds, at the peak of the other seeds' mean; "
    "n of every number stands in the tables of the single sets below."
)


def optimisation_sections(
    rows: Sequence[Row],
    curves: Sequence[Curve],
    paired: Sequence[Paired],
    asked: Sequence[str] = (),
    first: int = 1,
) -> list[PageSection]:
    """A section for best-of-n and one for each algorithm, where there are curves.

    Args:
        rows, curves, paired: of all results.
        asked: labels that are drawn in colour in any case.
        first: the number of the first section's anchor.
    """
    found: list[PageSection] = []
    for kind, family in dict.fromkeys((c.kind, c.family) for c in curves if c.kind in KINDS):
        inside = [curve for curve in curves if (curve.kind, curve.family) == (kind, family)]
        of_family = [one for one in paired if one.suite.partition("/")[0] == family]
        blocks = [
            *_figures(inside, of_family, asked),
            *_tables([row for row in rows if row.kind == kind], inside, of_family),
        ]
        number = first + len(found)
        title = f"Over-optimisation: {family}"
        found.append(PageSection(f"part-{number}", title, _remark(kind), blocks))
    return found


def _remark(kind: str) -> str:
    if kind == "stress":
        return "gold and proxy of the answer that each reward picks out of n"
    return "gold and proxy of a policy while it is trained against each reward"


def _figures(
    curves: Sequence[Curve], paired: Sequence[Paired], asked: Sequence[str]
) -> list[str | Figure]:
    family, kind = curves[0].family, curves[0].kind
    bases = list(dict.fromkeys(one.base for one in paired))
    looks = looks_of(curves, bases or [curves[0].label], asked)
    labels = list(dict.fromkeys(curve.label for curve in curves))
    left = sum(curve.left_out for curve in curves)
    grey = len(labels) - len(looks)
    caption = _BANDS + (
        f" Named: the baselines and the methods with most gold at the end; {grey} more are grey "
        "here and have panels of their own below."
        if grey
        else ""
    )
    if kind == "rl":
        caption += " KL and gold are means over seeds at equal steps."
    if left:
        caption += f" {left} points that not every seed has are left out."
    along_kl = overview(
        curves, ("gold", "proxy"), "kl", f"{family}: gold and proxy against KL", looks=looks
    )
    found: list[str | Figure] = [Figure(f"{family}-gold-and-proxy-by-kl", along_kl, caption)]
    if kind == "rl":
        traced = [name for name in _TRACED if all(name in curve.values for curve in curves)]
        by_step = overview(curves, traced, "step", f"{family}: traced over steps", looks=looks)
        found.append(Figure(f"{family}-by-step", by_step, caption))
    if len(labels) > HIGHLIGHTED:
        found += [
            _each_alone([c for c in curves if c.prompts == name], name, next(iter(looks)))
            for name in sets_in_order(curves)
        ]
    return found


def _each_alone(curves: Sequence[Curve], prompts: str, base: str) -> Figure:
    family = curves[0].family
    title = f"{family} on {prompts or 'all prompts'}: gold, a panel for each method"
    drawing = alone(curves, "gold", "kl", title, base=base)
    others = "; grey: the others" if len(curves) <= BEHIND else ""
    caption = f"{title}. Dashed: {base}{others}. {_BANDS}"
    return Figure(f"{family}-{prompts}-each-method", drawing, caption)


def _tables(
    rows: Sequence[Row], curves: Sequence[Curve], paired: Sequence[Paired]
) -> list[str | Figure]:
    found: list[str | Figure] = []
    for name in sets_in_order(curves):
        inside = {curve.label: curve for curve in curves if curve.prompts == name}
        suites = {suite_of(curve) for curve in inside.values()}
        members = [row for row in rows if row.suite in suites]
        here = [one for one in paired if one.suite in suites]
        found += [
            f"<h3>{escape(_capital(show_set(name)))}</h3>",
            methods_table(members, inside, here),
        ]
    if paired:
        over = "over seeds" if any(one.over == "seeds" for one in paired) else "over prompts"
        told = f"Differences ({chr(0x2212)}) are paired {over}. {MARKS} {_PEAKS}"
        found.append(f'<p class="soft">{escape(told)}</p>')
        found.append(folded(f"All {len(paired)} paired differences", paired_table(paired)))
    return found


def suite_of(curve: Curve) -> str:
    """The suite that a curve's results are of."""
    return f"{curve.family}/{curve.prompts}" if curve.prompts else curve.family


def labelled(curves: Sequence[Curve]) -> Mapping[tuple[str, str], Curve]:
    """Curves by suite and label."""
    return {(suite_of(curve), curve.label): curve for curve in curves}


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
