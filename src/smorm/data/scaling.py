"""Ratings on one scale: each attribute's offset and scale, fitted once and kept with the model."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from smorm.arrays import Floats
from smorm.data.census import Census, DropReason
from smorm.data.records import Rated
from smorm.errors import DataError

Method = Literal["standardize", "unit", "none"]


@dataclass(frozen=True, slots=True)
class AttributeScale:
    """`scaled = (rating - offset) / scale`, with `scale` above 0; both in the rating's units."""

    name: str
    offset: float = 0.0
    scale: float = 1.0


def attribute_names(*sources: Iterable[Rated]) -> list[str]:
    """The union of attribute names over records of one or more sources, in order of appearance."""
    names: dict[str, None] = {}
    for record in itertools.chain(*sources):
        names.update(dict.fromkeys(record.scores))
    return list(names)


def rating_matrix(records: Sequence[Rated], names: Sequence[str]) -> Floats:
    """Ratings [R, K]; NaN where a record does not rate the attribute."""
    rows = [[record.scores.get(name) for name in names] for record in records]
    return np.array(rows, dtype=np.float64).reshape(len(records), len(names))


def fit_scales(
    names: Sequence[str], ratings: Floats, method: Method, census: Census
) -> list[AttributeScale]:
    """One scale an attribute from training ratings [R, K], NaN where missing: `standardize` takes
    mean and population standard deviation, `unit` minimum and range (0..1), `none` changes nothing.
    A constant attribute keeps scale 1 and is counted. `DataError`: an attribute without any rating,
    or ratings too large to scale."""
    columns = zip(names, ratings.T, strict=True)
    return [_fit(name, column[~np.isnan(column)], method, census) for name, column in columns]


def apply_scales(scales: Sequence[AttributeScale], ratings: Floats) -> Floats:
    """Ratings [R, K] to scaled values [R, K]; NaN, a rating that is missing, stays NaN."""
    offsets, widths = _vectors(scales)
    return (ratings - offsets) / widths


def restore_scales(scales: Sequence[AttributeScale], scaled: Floats) -> Floats:
    """Scaled values [R, K] back to ratings [R, K]."""
    offsets, widths = _vectors(scales)
    return scaled * widths + offsets


def _vectors(scales: Sequence[AttributeScale]) -> tuple[Floats, Floats]:
    offsets = np.array([scale.offset for scale in scales], np.float64)
    return offsets, np.array([scale.scale for scale in scales], np.float64)


def _fit(name: str, ratings: Floats, method: Method, census: Census) -> AttributeScale:
    if not len(ratings):
        raise DataError(f"attribute {name!r}: no training record rates it: leave it out")
    low, high = float(ratings.min()), float(ratings.max())
    # not by the standard deviation, which rounding leaves at 1e-17
    if low == high:
        census.add(DropReason.CONSTANT_ATTRIBUTE, detail=repr(name))
    if method == "none":
        return AttributeScale(name)
    offset, scale = low, high - low
    if method == "standardize":
        # an overflow becomes infinity, which is refused below with the range in the message
        with np.errstate(over="ignore"):
            offset, scale = float(ratings.mean()), float(ratings.std())
    if not (np.isfinite(offset) and np.isfinite(scale)):
        raise DataError(f"attribute {name!r}: ratings from {low:g} to {high:g} are too large")
    # a range below the smallest normal number cannot be divided by without overflow
    if low == high or scale <= np.finfo(np.float64).tiny:
        scale = 1.0
    return AttributeScale(name, offset, scale)
