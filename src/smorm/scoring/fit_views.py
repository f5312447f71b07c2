"""Views fitted on held-out scores: learned weights, calibrated M, pessimistic views.

A fit is a function of the data and of how often each prompt counts. Folds (0 or 1) and the
bootstrap (0, 1, 2, ...) are therefore the same thing, and both keep a prompt's responses together.

Shapes: N responses, P pairs, G prompts, C columns, R rows that the view reads."""

import contextlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from smorm.arrays import Bools, Floats, Ints
from smorm.data.scaling import AttributeScale
from smorm.errors import ConfigError, DataError, SmormError
from smorm.model.views import PREFERENCE, Pessimism, PessimisticView, View, apply_view

FOLDS = 5
FEWEST_PROMPTS = 2 * FOLDS
# L2 strengths to choose from, of weights over rows standardised by their differences.
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Scores that a view is fitted on."""

    names: tuple[str, ...]  # the rows, the preference row first
    rows: Floats  # scores of the responses on the rows' own scales [N, 1 + K]
    prompts: Ints  # each response's prompt, numbered 0 to G - 1 [N]
    paired: bool  # responses 2i and 2i + 1 are chosen and rejected of pair i

    @property
    def num_prompts(self) -> int:
        """Number of prompts, G."""
        return int(self.prompts.max()) + 1

    @property
    def num_repeated(self) -> int:
        """Number of prompts with two responses or more."""
        return int((np.bincount(self.prompts) > 1).sum())

    @property
    def within(self) -> bool:
        """Whether enough prompts have several responses for a deviation within prompts."""
        return self.num_repeated >= FEWEST_PROMPTS

    @property
    def everything(self) -> Floats:
        """Weights under which every prompt counts once [G]."""
        return np.ones(self.num_prompts)

    def values(self, view: View) -> Floats:
        """A view's values [N]."""
        return apply_view(view, self.rows, list(map(AttributeScale, self.names[1:])))

    def columns(self, rows: Sequence[str]) -> Floats:
        """Some of the rows [N, len(rows)]."""
        indices = []
        for row in rows:
            if row not in self.names:
                raise ConfigError(f"no row {row!r}; there are {', '.join(self.names)}")
            indices.append(self.names.index(row))
        return self.rows[:, indices]


Fit = Callable[[HeldOut, Floats], View]


def held_out(
    rows: Floats, names: Sequence[str], prompts: Sequence[Any] | NDArray[Any], *, paired: bool
) -> HeldOut:
    """Check scores [N, 1 + K] and number their prompts; the order of prompts has no influence.
    DataError: shapes differ, a score is NaN or infinite, or there are fewer than 10 prompts."""
    rows = np.asarray(rows, dtype=np.float64)
    if rows.ndim != 2 or rows.shape[1] != len(names) or len(rows) != len(prompts) or not len(rows):
        raise DataError(f"scores of shape {rows.shape} for {len(names)} rows, {len(prompts)} texts")
    if not np.isfinite(rows).all():
        raise DataError("a score is NaN or infinite: no view can be fitted")
    # Through a dictionary, not an array of texts: a long prompt would pad every row to its length.
    labels = dict(zip(sorted(set(prompts)), itertools.count(), strict=False))
    if len(labels) < FEWEST_PROMPTS:
        raise DataError(
            f"{len(labels)} prompts are too few to fit and check a view: give {FEWEST_PROMPTS} or "
            "more, better some hundred"
        )
    codes = np.fromiter(map(labels.__getitem__, prompts), np.int64, len(rows))
    return HeldOut(tuple(names), rows, codes, paired)


def fit_learned(
    data: HeldOut,
    weight: Floats,
    *,
    rows: Sequence[str],
    free_sign: Sequence[str] = (),
    l2: float | None = None,
    name: str = "learned",
) -> View:
    """Weights by non-negative logistic regression of preference on the rows' differences, so that a
    view's differences are log odds of preference. Rows of `free_sign`, such as verbosity, may get a
    negative weight; `l2` is by default the best on held-out folds of prompts. Differences are
    divided by their root mean square before the penalty: a row's units have no influence. Raises
    DataError where no row favours the chosen responses, ConfigError where there is no such row."""
    differences, counts, scales = _scaled_differences(data, weight, rows)
    bounded = np.array([row not in free_sign for row in rows])
    if l2 is None:
        l2 = choose_l2(data, weight, rows=rows, free_sign=free_sign)
    scaled = fit_weights(differences, counts, bounded, l2)
    if not scaled.any():
        raise DataError(
            f"no row of {', '.join(rows)} favours the chosen responses: non-negative weights are "
            "all 0. Are chosen and rejected swapped? Else let a row have either sign (--free-sign)."
        )
    weights = np.divide(scaled, scales, out=np.zeros_like(scaled), where=scales > 0)
    return View(name, dict(zip(rows, weights.tolist(), strict=True)))


def choose_l2(
    data: HeldOut, weight: Floats, *, rows: Sequence[str], free_sign: Sequence[str] = ()
) -> float:
    """The L2 strength with the smallest log loss on held-out folds of prompts."""
    # Another seed than that of the folds that measure the view: its choice must not fit them.
    folds = fold_of_prompts(weight, seed=1)
    bounded = np.array([row not in free_sign for row in rows])
    losses = np.zeros(len(STRENGTHS))
    for fold in range(FOLDS):
        differences, counts, _ = _scaled_differences(data, weight * (folds != fold), rows)
        # The loss is summed by counts, so that uneven folds weigh as they should.
        test_counts = (weight * (folds == fold))[data.prompts[0::2]]
        for index, strength in enumerate(STRENGTHS):
            margins = differences @ fit_weights(differences, counts, bounded, strength)
            losses[index] += test_counts.sum() * log_loss(margins, test_counts)
    return STRENGTHS[int(losses.argmin())]


def with_fixed_l2(data: HeldOut, fit: Fit) -> Fit:
    """For the bootstrap: a learned fit with the L2 strength that all the data choose."""
    if not isinstance(fit, partial) or fit.func is not fit_learned:
        return fit
    # Choosing it anew in each resample would cost 25 fits and measure another estimator.
    rows, free_sign = fit.keywords["rows"], fit.keywords["free_sign"]
    return partial(fit, l2=choose_l2(data, data.everything, rows=rows, free_sign=free_sign))


def _scaled_differences(
    data: HeldOut, weight: Floats, rows: Sequence[str]
) -> tuple[Floats, Floats, Floats]:
    """Differences over their root mean square [P, R], counts [P], root mean squares [R]."""
    columns = data.columns(rows)
    differences = columns[0::2] - columns[1::2]
    counts = weight[data.prompts[0::2]]
    scales = np.sqrt(np.average(differences**2, axis=0, weights=counts))
    return differences / np.where(scales > 0, scales, 1.0), counts, scales


def fit_weights(differences: Floats, counts: Floats, bounded: Bools, l2: float) -> Floats:
    """Weights u [R] of a Bradley–Terry regression, the bounded ones not below 0.

        minimise over u   sum_i p_i log(1 + exp(-z_i u)) + l2 / 2 |u|^2   with u_r >= 0 if bounded

    `differences` are z, chosen minus rejected [P, R], columns of comparable size; p are the shares
    of `counts` [P]. `l2` is above 0: without it separable pairs have no finite minimiser.
    SmormError: no convergence (numbers that are not finite)."""
    # Shares and not counts: the strength of the penalty then does not depend on their number.
    shares = counts / counts.sum()

    def loss_and_gradient(weights: Floats) -> tuple[float, Floats]:
        margins = differences @ weights
        error = np.exp(-np.logaddexp(0.0, margins))  # 1 - probability of the label
        loss = log_loss(margins, shares) + 0.5 * l2 * float(weights @ weights)
        return loss, l2 * weights - differences.T @ (shares * error)

    bounds = np.column_stack([np.where(bounded, 0.0, -np.inf), np.full(len(bounded), np.inf)])
    # SLSQP and not L-BFGS-B: with two rows nearly alike the latter stops 1e-4 from the optimum.
    solved = minimize(
        loss_and_gradient,
        np.zeros(len(bounded)),
        jac=True,
        method="SLSQP",
        bounds=bounds,
        options={"ftol": 1e-18, "maxiter": 500},
    )
    # The solver may end at machine precision without claiming success, so optimality (Karush,
    # Kuhn, Tucker) is tested here: the gradient is 0, or points outwards at a bound.
    stepped = solved.x - loss_and_gradient(solved.x)[1]
    # A weight that the gradient pushes over its bound is exactly 0, not 1e-17: its row is unread.
    weights = np.where(bounded & (stepped <= 0), 0.0, solved.x)
    residual = np.abs(weights - np.where(bounded, np.maximum(stepped, 0.0), stepped)).max()
    if not residual <= 1e-6:
        raise SmormError(f"weights of a view: no convergence, gradient residual {residual:.1e}")
    return weights


def log_loss(margins: Floats, counts: Floats) -> float:
    """Mean of -log sigmoid over margins [P] that count `counts` [P] times, in nats."""
    return float(np.average(np.logaddexp(0.0, -margins), weights=counts))


def fit_calibrated(
    data: HeldOut, weight: Floats, *, rows: Sequence[str], name: str = "calibrated"
) -> View:
    """M with preference and mean attribute each standardised first; `rows` are the attributes.
    Standard deviations are taken within prompts: a view compares responses to one prompt, and
    Bradley–Terry leaves the preference row's offset between prompts open."""
    mean = data.columns(rows).mean(axis=1)
    # Attributes are averaged first, in their common unit, then standardised as one column.
    columns = np.column_stack([data.rows[:, 0], mean])
    names = (PREFERENCE, "the mean attribute")
    centres, stds = _mean_and_std(columns, data, weight, names, within=data.within)
    halves = 0.5 / stds
    weights = {PREFERENCE: float(halves[0])}
    weights |= dict.fromkeys(rows, float(halves[1]) / len(rows))
    return View(name, weights, -float(halves @ centres))


def fit_standardised(
    data: HeldOut, weight: Floats, *, rows: Sequence[str], name: str = "calibrated"
) -> View:
    """The mean of rows with mean 0 and standard deviation 1 over all responses: a reward of its own
    on a common scale, where there are no two to be balanced."""
    column = data.columns(rows).mean(axis=1, keepdims=True)
    centres, stds = _mean_and_std(column, data, weight, (" and ".join(rows),), within=False)
    factor = 1.0 / float(stds[0])
    weights = dict.fromkeys(rows, factor / len(rows))
    return View(name, weights, -factor * float(centres[0]))


def fit_pessimistic(
    data: HeldOut,
    weight: Floats,
    *,
    rows: Sequence[str],
    kind: Pessimism,
    kappa: float = 0.0,
    name: str | None = None,
) -> PessimisticView:
    """A pessimistic view over rows standardised over all responses: which row is lowest depends on
    the rows' levels, so each is measured against responses in general."""
    centres, stds = _mean_and_std(data.columns(rows), data, weight, rows, within=False)
    levels = dict(zip(rows, centres.tolist(), strict=True))
    spreads = dict(zip(rows, stds.tolist(), strict=True))
    return PessimisticView(
        name=name or kind, kind=kind, centres=levels, spreads=spreads, kappa=kappa
    )


def _mean_and_std(
    columns: Floats, data: HeldOut, weight: Floats, names: Sequence[str], *, within: bool
) -> tuple[Floats, Floats]:
    """Means and standard deviations of columns [N, C]; the latter pooled within prompts or not."""
    counts = weight[data.prompts]
    # Centres over all responses: an offset cancels in comparisons but sets the view's zero.
    centres = np.average(columns, axis=0, weights=counts)
    stds = pooled_std(columns, data.prompts, counts, within=within)
    # Rounding leaves a constant column a deviation of about 1e-16 of its size.
    flat = stds <= 1e-12 * np.maximum(np.abs(columns).max(axis=0), 1e-300)
    if flat.any():
        raise DataError(
            f"{names[int(flat.argmax())]} does not vary over these responses: it cannot be "
            "standardised. Leave it out, or use other data."
        )
    return centres, stds


def pooled_std(columns: Floats, prompts: Ints, counts: Floats, *, within: bool) -> Floats:
    """Standard deviations [C] of columns [N, C]: over all responses, or pooled within prompts.
    `counts` [N] say how often each response counts; they are equal within a prompt."""
    # One group of everything is the plain standard deviation.
    groups = prompts
    if not within:
        groups = np.zeros_like(prompts)
    sizes = np.bincount(groups).astype(np.float64)
    totals = np.bincount(groups, counts)
    residuals = np.empty_like(columns)
    for index, column in enumerate(columns.T):
        sums = np.bincount(groups, column * counts)
        means = np.divide(sums, totals, out=np.zeros_like(sums), where=totals > 0)
        residuals[:, index] = column - means[groups]
    dof = counts.sum()
    if within:
        # One degree of freedom is lost for each prompt's mean, as often as the prompt counts.
        dof -= (totals / sizes).sum()
    # No prompt with two responses: there is no deviation within prompts.
    if dof <= 0:
        return np.zeros(columns.shape[1])
    return np.asarray(np.sqrt(counts @ residuals**2 / dof))


def fold_of_prompts(weight: Floats, *, seed: int = 0) -> Ints:
    """A fold for each prompt that counts, -1 for the rest [G]; sizes differ by one at most."""
    # Only prompts of the resample are dealt out, else folds of a bootstrap would be uneven.
    present = np.flatnonzero(weight > 0)
    folds = np.full(len(weight), -1)
    folds[present] = np.random.default_rng(seed).permutation(len(present)) % FOLDS
    return folds


def held_out_values(data: HeldOut, fit: Fit) -> Floats:
    """Values [N], each by a fit that has not seen its prompt."""
    folds = fold_of_prompts(data.everything)
    values = np.empty(len(data.rows))
    for fold in range(FOLDS):
        view = fit(data, (folds != fold).astype(np.float64))
        inside = folds[data.prompts] == fold
        values[inside] = data.values(view)[inside]
    return values


def resampled_views(data: HeldOut, fit: Fit, *, resamples: int = 200, seed: int = 0) -> list[View]:
    """Fits on bootstrap resamples of prompts; those that allow no fit are missing."""
    generator, count, views = np.random.default_rng(seed), data.num_prompts, []
    for _ in range(resamples):
        # Counts of prompts drawn with replacement.
        weight = generator.multinomial(count, np.full(count, 1.0 / count)).astype(np.float64)
        # All weights may be 0 in this resample; the caller counts what is missing.
        with contextlib.suppress(DataError):
            views.append(fit(data, weight))
    return views
