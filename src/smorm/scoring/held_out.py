"""Held-out scores that a view is fitted on, their folds and their resamples.

A fit is a function of the data and of how often each prompt counts. Folds (0 or 1) and the
bootstrap (0, 1, 2, ...) are therefore the same thing, and both keep a prompt's responses together.

Shapes: N responses, K attributes, G prompts, C columns."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smorm.arrays import Floats, Ints
from smorm.data.scaling import AttributeScale
from smorm.errors import ConfigError, DataError
from smorm.model.views import View, apply_view

FOLDS = 5
FEWEST_PROMPTS = 2 * FOLDS


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
    generator = np.random.default_rng(seed)
    count = data.num_prompts
    views = []
    for _ in range(resamples):
        # Counts of prompts drawn with replacement.
        weight = generator.multinomial(count, np.full(count, 1.0 / count)).astype(np.float64)
        try:
            views.append(fit(data, weight))
        except DataError:  # e.g. all weights 0 in this resample; the caller counts what is missing
            continue
    return views
