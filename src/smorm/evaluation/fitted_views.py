"""What a fitted view is worth: its numbers with intervals, and its accuracy on unseen prompts.
Shapes: N responses, P pairs."""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np

from smorm.arrays import Floats
from smorm.evaluation.metrics import Metric, interval, mean_metric, pair_outcomes, share_metric
from smorm.model.views import PREFERENCE, PessimisticView, View, largest_monotone_kappa
from smorm.scoring import fit_views
from smorm.scoring.fit_views import Fit, HeldOut

RESAMPLES = 200
ENOUGH_PER_ROW = 20  # prompts for each weight or standard deviation below which data are called few


@dataclass(frozen=True, slots=True)
class FitReport:
    """Metrics of a fit and what its reader must know.
    Metrics: of a linear view `weight/ROW` and `share/ROW` (of the sum of weight times standard
    deviation), of a pessimistic one `centre/ROW` and `spread/ROW`; intervals resample prompts and
    hold the L2 strength fixed. On pairs also `accuracy/VIEW` of the fitted view (on folds of
    prompts that its fit has not seen) and of the baselines, `gain/BASELINE` (the fitted view's less
    the baseline's), and `row_accuracy/ROW` of each row that the view counts as good."""

    metrics: dict[str, Metric]
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """As in a view's file."""
        metrics = {name: metric.as_dict() for name, metric in self.metrics.items()}
        return {"metrics": metrics, "notes": list(self.notes)}


def measure_fit(data: HeldOut, view: View, fit: Fit, baselines: Sequence[View]) -> FitReport:
    """Measure a view that `fit` made of all the data, beside baselines without a fit on pairs."""
    # The L2 strength stays as fitted: chosen anew on each resample, it would be chosen on copies of
    # the prompts that it is tested on.
    draws = fit_views.resampled_views(data, fit_views.with_fixed_l2(data, fit), resamples=RESAMPLES)
    if isinstance(view, PessimisticView):
        metrics = _intervals("centre", "centres", view, draws, data.num_prompts)
        metrics |= _intervals("spread", "spreads", view, draws, data.num_prompts)
    else:
        metrics = _intervals("weight", "weights", view, draws, data.num_prompts)
        metrics |= _shares(data, view)
    notes = _notes(data, view, len(draws))
    # Without labels there is nothing to be accurate about.
    if data.paired:
        metrics |= _accuracies(data, view, fit, baselines, notes)
        metrics |= _row_accuracies(data, view, notes)
    return FitReport(metrics, tuple(notes))


def outcomes_of(values: Floats) -> Floats:
    """Outcomes [P] of pairs whose sides' values [2P] alternate, chosen first; ties count half."""
    return pair_outcomes(values[0::2], values[1::2])[0]


def _intervals(
    name: str, attribute: str, view: View, draws: Sequence[View], count: int
) -> dict[str, Metric]:
    """`name/ROW` for a view's numbers by row, with the interval over fits on resamples."""
    numbers_of, metrics = attrgetter(attribute), {}
    for row, value in numbers_of(view).items():
        resampled = np.array([numbers_of(draw)[row] for draw in draws], dtype=np.float64)
        metrics[f"{name}/{row}"] = Metric(value, count, *interval(resampled))
    return metrics


def _shares(data: HeldOut, view: View) -> dict[str, Metric]:
    rows = list(view.weights)
    # A weight says little by itself: the row's variation decides how much it moves the view.
    ones = np.ones(len(data.rows))
    stds = fit_views.pooled_std(data.columns(rows), data.prompts, ones, within=data.within)
    # Signs cancel in a sum of weights but not in their effect.
    sizes = np.abs(list(view.weights.values())) * stds
    shares = (sizes / sizes.sum()).tolist()
    count = data.num_prompts
    return {f"share/{row}": Metric(share, count) for row, share in zip(rows, shares, strict=True)}


def _accuracies(
    data: HeldOut, view: View, fit: Fit, baselines: Sequence[View], notes: list[str]
) -> dict[str, Metric]:
    """Accuracies of the view and the baselines, and a note of those that are as good."""
    prompts = data.prompts[0::2]
    # By fits without the prompt, unlike the view itself: its own data would flatter it.
    fitted = outcomes_of(fit_views.held_out_values(data, fit))
    metrics = {f"accuracy/{view.name}": share_metric(fitted, prompts)}
    close = []
    for baseline in baselines:
        outcomes = outcomes_of(data.values(baseline))
        gain = mean_metric(fitted - outcomes, prompts)
        metrics[f"accuracy/{baseline.name}"] = share_metric(outcomes, prompts)
        metrics[f"gain/{baseline.name}"] = gain
        # Also without an interval (one prompt): what is not shown to be better is reported.
        if not gain.low > 0:
            close.append(baseline.name)
    if close:
        note = f"{view.name} is not clearly more accurate than {', '.join(close)}, which needed no "
        notes.append(f"{note}fit (the interval of the difference reaches 0).")
    return metrics


def _row_accuracies(data: HeldOut, view: View, notes: list[str]) -> dict[str, Metric]:
    """Accuracies of the rows that the view wants more of, and a note of those below one half."""
    metrics, reversed_rows = {}, []
    for row in view.weights or view.rows:
        # A row with a negative weight is wanted low; that of preference is the accuracy of F.
        if row == PREFERENCE or view.weights.get(row, 0.0) < 0:
            continue
        outcomes = outcomes_of(data.columns([row])[:, 0])
        metric = share_metric(outcomes, data.prompts[0::2])
        metrics[f"row_accuracy/{row}"] = metric
        if metric.high < 0.5:
            reversed_rows.append(f"{row} ({metric:.3f})")
    if reversed_rows:
        note = f"Chosen responses score lower than rejected ones on {', '.join(reversed_rows)}: "
        remedy = "leave such a row out (--rows), or let a learned weight be negative (--free-sign)."
        notes.append(note + remedy)
    return metrics


def _notes(data: HeldOut, view: View, draws: int) -> list[str]:
    fitted = f"{len(data.rows)} responses"
    if data.paired:
        fitted = f"{len(data.rows) // 2} pairs"
    intervals = f"95 % intervals by {draws} resamples of prompts"
    notes = [f"Fitted on {fitted} over {data.num_prompts} prompts; {intervals}."]
    # A resample may have no finite fit: it is left out of the intervals, and counted.
    if draws < RESAMPLES:
        notes.append(f"{RESAMPLES - draws} resamples allowed no fit and are missing.")
    enough = ENOUGH_PER_ROW * max(2, len(view.weights or view.rows))
    if data.num_prompts < enough:
        notes.append(f"Few data: {data.num_prompts} prompts; {enough} or more would be better.")
    if isinstance(view, PessimisticView) and view.kind == "mean_minus_spread":
        largest = largest_monotone_kappa(len(view.rows))
        if view.kappa > largest:
            above = f"kappa is above {largest:.3g} (1 / sqrt(rows - 1))"
            better = "a response that is better on one row, and equal on the others"
            notes.append(f"{above}: {better}, can get a lower value.")
    return notes
