"""Views fitted on held-out data: learned weights, calibrated M, pessimistic ones.

Every fit takes the data and how often each prompt counts (`smorm.scoring.held_out`).

Shapes: P pairs, K attributes, G prompts, R rows that the view reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from smorm.errors import DataError
from smorm.model.views import PREFERENCE, Pessimism, PessimisticView, View
from smorm.scoring.held_out import (
    FOLDS,
    Floats,
    HeldOut,
    fold_of_prompts,
    held_out,
    held_out_values,
    spread_of,
)
from smorm.scoring.nonnegative import fit_weights, log_loss

__all__ = [
    "choose_l2",
    "fit_calibrated",
    "fit_learned",
    "fit_pessimistic",
    "held_out",
    "held_out_values",
    "learn_view",
]

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""L2 strengths to choose from, of weights over rows standardised by their differences."""


def learn_view(
    chosen: Floats,
    rejected: Floats,
    attributes: Sequence[str],
    *,
    name: str = "learned",
    prompts: Sequence[Any] | None = None,
    free_sign: Sequence[str] = (),
) -> View:
    """Weights by non-negative logistic regression of preference on the rows' differences.

    Args:
        chosen: rows of the preferred responses, on their own scales [P, 1 + K].
        rejected: rows of the others [P, 1 + K].
        attributes: names of rows 1 to K.
        prompts: a label of each pair's prompt [P]; by default every pair has its own.
        free_sign: rows that may get a negative weight, such as verbosity.

    Raises:
        DataError: fewer than 10 prompts, no row favours the chosen responses, or bad numbers.
        ConfigError: no such row.
    """
    rows = np.stack([chosen, rejected], axis=1).reshape(2 * len(chosen), -1)
    each = range(len(chosen)) if prompts is None else prompts
    labels = [label for label in each for _ in ("chosen", "rejected")]
    names = (PREFERENCE, *attributes)
    data = held_out(rows, names, labels, paired=True)
    return fit_learned(data, data.everything, rows=names, free_sign=free_sign, name=name)


def fit_learned(
    data: HeldOut,
    weight: Floats,
    *,
    rows: Sequence[str],
    free_sign: Sequence[str] = (),
    l2: float | None = None,
    name: str = "learned",
) -> View:
    """Learned weights (`learn_view`) where prompt g counts `weight[g]` times.

    Rows are divided by the root mean square of their differences before the penalty is applied, so
    that a row's units have no influence. The view's differences are log odds of preference.

    Raises:
        DataError: no row favours the chosen responses.
    """
    differences, counts, spreads = _differences(data, weight, rows)
    bounded = np.array([row not in free_sign for row in rows])
    strength = choose_l2(data, weight, rows=rows, free_sign=free_sign) if l2 is None else l2
    scaled = fit_weights(differences, counts, bounded, strength)
    if not scaled.any():
        raise DataError(
            f"no row of {', '.join(rows)} favours the chosen responses: non-negative weights are "
            "all 0. Are chosen and rejected swapped? Else let a row have either sign (--free-sign)."
        )
    found = np.divide(scaled, spreads, out=np.zeros_like(scaled), where=spreads > 0)
    return View(name, dict(zip(rows, map(float, found), strict=True)))


def choose_l2(
    data: HeldOut, weight: Floats, *, rows: Sequence[str], free_sign: Sequence[str] = ()
) -> float:
    """The strength with the smallest log loss on held-out folds of prompts."""
    folds = fold_of_prompts(weight, seed=1)
    bounded = np.array([row not in free_sign for row in rows])
    losses = np.zeros(len(STRENGTHS))
    for fold in range(FOLDS):
        differences, counts, _ = _differences(data, weight * (folds != fold), rows)
        left_out = (weight * (folds == fold))[data.prompts[0::2]]
        for index, strength in enumerate(STRENGTHS):
            margins = differences @ fit_weights(differences, counts, bounded, strength)
            losses[index] += left_out.sum() * log_loss(margins, left_out)
    return STRENGTHS[int(losses.argmin())]


def _differences(
    data: HeldOut, weight: Floats, rows: Sequence[str]
) -> tuple[Floats, Floats, Floats]:
    """Differences in units of their root mean square [P, R], counts [P], that root [R]."""
    columns = data.columns(rows)
    differences = columns[0::2] - columns[1::2]
    counts = weight[data.prompts[0::2]]
    spreads = np.sqrt(np.average(differences**2, axis=0, weights=counts))
    return differences / np.where(spreads > 0, spreads, 1.0), counts, spreads


def fit_calibrated(
    data: HeldOut, weight: Floats, *, rows: Sequence[str], name: str = "calibrated"
) -> View:
    """M with preference and mean attribute each standardised first; `rows` are the attributes.

    Their spread is taken within prompts: a view compares responses to one prompt, and
    Bradley–Terry leaves the preference row's offset between prompts open.

    Raises:
        DataError: one of them does not vary.
    """
    mean = data.columns(rows).mean(axis=1)
    both = np.column_stack([data.rows[:, 0], mean])
    what = (PREFERENCE, "the mean attribute")
    centres, spreads = _standard(both, data, weight, what, within=data.within)
    halves = 0.5 / spreads
    weights = {PREFERENCE: float(halves[0])}
    weights |= dict.fromkeys(rows, float(halves[1]) / len(rows))
    return View(name, weights, -float(halves @ centres))


def fit_pessimistic(
    data: HeldOut,
    weight: Floats,
    *,
    rows: Sequence[str],
    kind: Pessimism,
    kappa: float = 0.0,
    name: str | None = None,
) -> PessimisticView:
    """Centres and spreads over all responses: which row is lowest depends on the rows' levels, so
    each is measured against responses in general.

    Raises:
        DataError: a row does not vary.
    """
    centres, spreads = _standard(data.columns(rows), data, weight, rows, within=False)
    return PessimisticView(
        name=name or kind,
        kind=kind,
        centres=dict(zip(rows, map(float, centres), strict=True)),
        spreads=dict(zip(rows, map(float, spreads), strict=True)),
        kappa=kappa,
    )


def _standard(
    columns: Floats, data: HeldOut, weight: Floats, names: Sequence[str], *, within: bool
) -> tuple[Floats, Floats]:
    """Means and standard deviations of columns [N, C]; the latter pooled within prompts or not."""
    counts = weight[data.prompts]
    centres = np.average(columns, axis=0, weights=counts)
    spreads = spread_of(columns, data.prompts, counts, within=within)
    # Rounding leaves a constant column a spread of about 1e-16 of its size.
    flat = spreads <= 1e-12 * np.maximum(np.abs(columns).max(axis=0), 1e-300)
    if flat.any():
        raise DataError(
            f"{names[int(flat.argmax())]} does not vary over these responses: it cannot be "
            "standardised. Leave it out, or use other data."
        )
    return centres, spreads
