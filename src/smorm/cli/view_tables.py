"""What a fitted view is, and what it is worth, on the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
from rich.console import Console
from rich.table import Table

from smorm.evaluation.metrics import (
    Floats,
    Metric,
    interval,
    pair_outcomes,
    paired_difference,
    share_metric,
)
from smorm.model.views import (
    PREFERENCE,
    PessimisticView,
    View,
    largest_monotone_kappa,
)
from smorm.scoring.fit_views import choose_l2, fit_learned
from smorm.scoring.held_out import Fit, HeldOut, held_out_values, resampled_views, spread_of
from smorm.scoring.reward_model import RewardModel

RESAMPLES = 200
ENOUGH_PER_ROW = 20
"""Prompts for each weight or spread below which data are called few."""


def print_fit(
    model: RewardModel, data: HeldOut, view: View, fit: Fit, kind: str, told: Sequence[str]
) -> None:
    """The view's numbers with intervals; for pairs its accuracy beside F, L and M; what to heed."""
    console = Console(soft_wrap=not Console().is_terminal, markup=False)
    draws = resampled_views(data, _quick(data, fit))
    if isinstance(view, PessimisticView):
        _print_spreads(console, view, [one for one in draws if isinstance(one, PessimisticView)])
    else:
        _print_weights(console, data, view, draws)
    notes = [*told, *_notes(data, view, kind, len(draws))]
    if data.paired:
        notes += _print_accuracies(console, model, data, view, fit)
        notes += _against_the_label(data, view)
    for note in notes:
        console.print(f"  {note}", style="dim", markup=False, highlight=False)


def _quick(data: HeldOut, fit: Fit) -> Fit:
    """For the bootstrap, learned weights keep the penalty that all the data chose."""
    if not isinstance(fit, partial) or fit.func is not fit_learned:
        return fit
    options = fit.keywords
    strength = choose_l2(
        data, data.everything, rows=options["rows"], free_sign=options["free_sign"]
    )
    return partial(fit, l2=strength)


def _ranged(value: float, draws: Sequence[float], digits: int = 4) -> str:
    low, high = interval(np.array(draws, dtype=np.float64))
    text = f"{value:.{digits}g}"
    return text if math.isnan(low) else f"{text} [{low:.{digits}g}, {high:.{digits}g}]"


def _print_weights(console: Console, data: HeldOut, view: View, draws: Sequence[View]) -> None:
    table = _table(f"{view.name}: weights over rows on their own scales", "row", "weight", "share")
    rows = list(view.weights)
    counts = np.ones(len(data.rows))
    spreads = spread_of(data.columns(rows), data.prompts, counts, within=data.within)
    parts = np.abs([view.weights[row] for row in rows]) * spreads
    for row, part in zip(rows, parts, strict=True):
        found = _ranged(view.weights[row], [one.weights[row] for one in draws])
        table.add_row(row, found, f"{part / parts.sum():.0%}")
    console.print(table)
    where = "within a prompt" if data.within else "over all responses"
    console.print(f"  share: of weight times spread {where}", style="dim", highlight=False)


def _print_spreads(
    console: Console, view: PessimisticView, draws: Sequence[PessimisticView]
) -> None:
    kind = view.kind if view.kind == "min" else f"{view.kind}, kappa {view.kappa:.3g}"
    table = _table(f"{view.name}: {kind} over standardised rows", "row", "centre", "spread")
    for row in view.rows:
        centre = _ranged(view.centres[row], [one.centres[row] for one in draws])
        spread = _ranged(view.spreads[row], [one.spreads[row] for one in draws])
        table.add_row(row, centre, spread)
    console.print(table)


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left", header_style="bold")
    for heading in headings:
        table.add_column(heading)
    return table


def _print_accuracies(
    console: Console, model: RewardModel, data: HeldOut, view: View, fit: Fit
) -> list[str]:
    """Accuracy of the view on folds that its fit has not seen, beside the views without a fit."""
    prompts = data.prompts[0::2]
    new = _outcomes(held_out_values(data, fit))
    table = _table("accuracy on held-out folds", "view", "accuracy", f"{view.name} minus it")
    table.add_row(view.name, _metric(share_metric(new, prompts)), "")
    differences = {}
    for name in _named(model):
        old = _outcomes(data.values(model.view(name)))
        differences[name] = paired_difference(new, old, prompts)
        shown = (_metric(share_metric(old, prompts)), _metric(differences[name], signed=True))
        table.add_row(name, *shown)
    console.print(table)
    below = [name for name, metric in differences.items() if not metric.low > 0]
    if not below:
        return []
    return [
        f"{view.name} is not clearly more accurate than {', '.join(below)}, which needed no fit "
        "(the interval of the difference reaches 0)."
    ]


def _named(model: RewardModel) -> list[str]:
    if not model.attributes:
        return ["F"]
    return ["F", "L", "M"] if model.card.preference_trained else ["L"]


def _outcomes(values: Floats) -> Floats:
    return pair_outcomes(values[0::2], values[1::2])[0]


def _metric(metric: Metric, *, signed: bool = False) -> str:
    form = "+.3f" if signed else ".3f"
    return f"{metric.value:{form}} [{metric.low:{form}}, {metric.high:{form}}]"


def _notes(data: HeldOut, view: View, kind: str, draws: int) -> list[str]:
    pairs = f"{len(data.rows) // 2} pairs" if data.paired else f"{len(data.rows)} responses"
    notes = [
        f"Fitted on {pairs} over {data.num_prompts} prompts; intervals are of 95 %, by {draws} "
        "resamples of prompts."
    ]
    if draws < RESAMPLES:
        notes.append(f"{RESAMPLES - draws} resamples allowed no fit and are missing.")
    wanted = ENOUGH_PER_ROW * max(2, len(view.weights or view.rows))
    if data.num_prompts < wanted:
        notes.append(f"Few data: {data.num_prompts} prompts; {wanted} or more would be better.")
    if kind == "calibrated" and not data.within:
        notes.append(
            f"Only {data.num_repeated} prompts have several responses: spreads are over all "
            "responses, which mixes in differences between prompts."
        )
    if isinstance(view, PessimisticView) and view.kind == "mean_minus_spread":
        most = largest_monotone_kappa(len(view.rows))
        if view.kappa > most:
            notes.append(
                f"kappa is above {most:.3g} (1 / sqrt(rows - 1)): a response that is better on one "
                "row, and equal on the others, can get a lower value."
            )
    return notes


def _against_the_label(data: HeldOut, view: View) -> list[str]:
    """Rows that the chosen responses have less of, where the view wants more of them."""
    prompts, found = data.prompts[0::2], []
    for row in view.weights or view.rows:
        if row == PREFERENCE or view.weights.get(row, 0.0) < 0:
            continue
        metric = share_metric(_outcomes(data.columns([row])[:, 0]), prompts)
        if metric.high < 0.5:
            found.append(f"{row} ({_metric(metric)})")
    if not found:
        return []
    return [
        f"Chosen responses score lower than rejected ones on {', '.join(found)}: leave such a row "
        "out (--rows), or let a learned weight be negative (--free-sign)."
    ]
