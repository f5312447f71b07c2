"""Views: every reward that a user names is weights over the head's rows, and an offset.

Because a view is linear and all rows read the same hidden state, it folds exactly into one row of
weights: any trained model becomes a plain one-label reward model.

The attribute rows are trained on scaled targets; a view is stated on the attributes' own scale, so
folding also undoes the scaling.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from smorm.data.scaling import AttributeScale
from smorm.errors import ConfigError

PREFERENCE = "preference"
NAMED_VIEWS = ("F", "L", "M")


@dataclass(frozen=True, slots=True)
class View:
    """A linear combination of rows: `sum(weights[row] * row) + offset`.

    Weights refer to rows on their own scale (an attribute on 0 to 4 counts as 0 to 4).
    """

    name: str
    weights: Mapping[str, float]
    offset: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """JSON form, as accepted by `parse_view`."""
        return {"name": self.name, "weights": dict(self.weights), "offset": self.offset}


def named_view(name: str, attributes: Sequence[str]) -> View:
    """F = preference row; L = mean of the attribute rows; M = (F + L) / 2 (paper, section 3).

    Raises:
        ConfigError: unknown name, or a view that needs attributes on a model without any.
    """
    if name not in NAMED_VIEWS:
        raise ConfigError(f"view: unknown view {name!r}; expected F, L, M or a JSON file")
    if name == "F":
        return View("F", {PREFERENCE: 1.0})
    if not attributes:
        raise ConfigError(f"view: {name} needs attribute rows, and this model has none: use F")
    share = 1.0 / len(attributes)
    if name == "L":
        return View("L", dict.fromkeys(attributes, share))
    return View("M", {PREFERENCE: 0.5, **dict.fromkeys(attributes, 0.5 * share)})


def parse_view(value: Any, attributes: Sequence[str]) -> View:
    """A view from its name or from `{"name", "weights": {row: weight}, "offset"}`.

    Raises:
        ConfigError: unknown name or row, no weights, or one that is not a finite number.
    """
    if isinstance(value, View):
        return value
    if isinstance(value, str):
        return named_view(value, attributes)
    if not isinstance(value, Mapping) or not isinstance(value.get("weights"), Mapping):
        raise ConfigError('view: expected F, L, M or {"name", "weights": {row: weight}}')
    known = {PREFERENCE, *attributes}
    weights = dict(value["weights"])
    for row, weight in weights.items():
        if row not in known:
            raise ConfigError(f"view: no row {row!r}; this model has {', '.join(sorted(known))}")
        if not _is_number(weight):
            raise ConfigError(f"view: weight of {row!r} is {weight!r}; expected a number")
    if not weights:
        raise ConfigError(f"view: no weights; expected some of {', '.join(sorted(known))}")
    offset = value.get("offset", 0.0)
    if not _is_number(offset):
        raise ConfigError(f"view: offset is {offset!r}; expected a number")
    return View(str(value.get("name", "weighted")), weights, float(offset))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _coefficients(
    view: View, scales: Sequence[AttributeScale]
) -> tuple[NDArray[np.float64], float]:
    """Weights over the raw rows [1 + K], and the offset that undoing the scaling leaves."""
    weights = [view.weights.get(PREFERENCE, 0.0)]
    offset = view.offset
    for scale in scales:
        weight = view.weights.get(scale.name, 0.0)
        weights.append(weight * scale.scale)
        offset += weight * scale.offset
    return np.asarray(weights, dtype=np.float64), offset


def apply_view(
    view: View, rows: NDArray[np.floating[Any]], scales: Sequence[AttributeScale]
) -> NDArray[np.float64]:
    """Raw rows [N, 1 + K] -> the view's values [N]."""
    weights, offset = _coefficients(view, scales)
    values: NDArray[np.float64] = rows.astype(np.float64) @ weights + offset
    return values


def fold(
    view: View, weight: torch.Tensor, scales: Sequence[AttributeScale]
) -> tuple[torch.Tensor, float]:
    """Head weight [1 + K, D] -> one row [1, D] in fp32, and the constant that a bias-free head
    cannot hold (it cancels in every comparison)."""
    coefficients, offset = _coefficients(view, scales)
    row = torch.from_numpy(coefficients)[None, :] @ weight.detach().double().cpu()
    return row.float(), offset
