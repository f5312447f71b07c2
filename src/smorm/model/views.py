"""Views: every reward that a user names is made of the head's rows.

A linear view is weights over the rows, and an offset. Because all rows read the same hidden state,
it folds exactly into one row of weights. A pessimistic view is not linear and does not fold. The
attribute rows are trained on scaled targets; a view is stated on the attributes' own scale."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smorm.arrays import Floats, is_finite_number
from smorm.data.scaling import AttributeScale, restore_scales
from smorm.errors import ConfigError

PREFERENCE = "preference"
Pessimism = Literal["min", "mean_minus_spread"]
PESSIMISMS: tuple[Pessimism, ...] = ("min", "mean_minus_spread")

_HELPSTEER2 = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")

PUBLISHED: dict[str, dict[str, float]] = {
    "helpsteer2-nemotron-340b": dict(zip(_HELPSTEER2, (0.3, 0.74, 0.46, 0.47, -0.33), strict=True)),
    "helpsteer2-llama3-70b": dict(zip(_HELPSTEER2, (0.65, 0.8, 0.45, 0.55, -0.4), strict=True)),
}
"""Weights over HelpSteer2's attributes on their scale of 0 to 4 (the model card of
nvidia/Nemotron-4-340B-Reward; HelpSteer2, appendix H)."""

NAMED_VIEWS = ("F", "L", "M", *PUBLISHED)

_HIGHEST_RATING = 4.0  # of HelpSteer2; the lowest is 0
_LINEAR_KEYS = {"name", "weights", "offset", "fitted"}
_PESSIMISTIC_KEYS = {"name", "kind", "rows", "centres", "spreads", "kappa", "fitted"}


@dataclass(frozen=True, slots=True)
class View:
    """`sum(weights[row] * row) + offset`, each row on its own scale: an attribute rated on 0 to 4
    counts as 0 to 4."""

    name: str
    weights: Mapping[str, float]
    offset: float = 0.0

    @property
    def rows(self) -> tuple[str, ...]:
        """The rows that the view reads."""
        return tuple(row for row, weight in self.weights.items() if weight)

    def as_dict(self) -> dict[str, Any]:
        """JSON form, as accepted by `parse_view`."""
        return {"name": self.name, "weights": dict(self.weights), "offset": self.offset}


@dataclass(frozen=True, slots=True, kw_only=True)
class PessimisticView(View):
    """Over standardised rows `z = (row - centre) / spread`: their minimum, or their mean minus
    `kappa` times their standard deviation (Coste et al. 2023 over an ensemble; here over the rows
    of one head). Not linear, so it cannot be folded into one row. `centres` and `spreads` (each
    row's standard deviation, above 0) are in the row's own units."""

    weights: Mapping[str, float] = field(default_factory=dict, init=False)
    offset: float = field(default=0.0, init=False)
    kind: Pessimism
    centres: Mapping[str, float]
    spreads: Mapping[str, float]
    kappa: float = 0.0

    @property
    def rows(self) -> tuple[str, ...]:
        return tuple(self.spreads)

    def as_dict(self) -> dict[str, Any]:
        values: dict[str, Any] = {
            "name": self.name,
            "kind": self.kind,
            "rows": list(self.rows),
            "centres": dict(self.centres),
            "spreads": dict(self.spreads),
        }
        if self.kind != "min":
            values["kappa"] = self.kappa
        return values


def largest_monotone_kappa(rows: int) -> float:
    """The largest kappa at which a better row never lowers the value of a `mean_minus_spread`."""
    # The derivative with respect to row i is (1 - kappa * z_i) / R, with z_i the row's own z-score
    # among the R rows, which is at most sqrt(R - 1) (Samuelson's inequality).
    return float(max(rows - 1, 1) ** -0.5)


def named_view(name: str, attributes: Sequence[str]) -> View:
    """F = preference row; L = mean of the attribute rows; M = (F + L) / 2 (paper, section 3); or
    one of the published sets of weights."""
    if name not in NAMED_VIEWS:
        known = ", ".join(NAMED_VIEWS)
        raise ConfigError(f"view: unknown view {name!r}; expected {known} or a JSON file")
    if name in PUBLISHED:
        weights = PUBLISHED[name]
        missing = ", ".join(row for row in weights if row not in attributes)
        if missing:
            raise ConfigError(
                f"view: {name} needs the rows {', '.join(weights)}; this model lacks "
                f"{missing}. A JSON file gives weights of your own."
            )
        return View(name, dict(weights))
    if name == "F":
        return View("F", {PREFERENCE: 1.0})
    if not attributes:
        raise ConfigError(f"view: {name} needs attribute rows, and this model has none: use F")
    weight = 1.0 / len(attributes)
    if name == "L":
        return View("L", dict.fromkeys(attributes, weight))
    return View("M", {PREFERENCE: 0.5, **dict.fromkeys(attributes, 0.5 * weight)})


def doubt_of_scale(
    name: str, scales: Sequence[AttributeScale], means: Mapping[str, float]
) -> str | None:
    """What is in doubt about attributes being on HelpSteer2's scale of 0 to 4, as far as a model
    card can show; None where every attribute is confirmed, `ConfigError` where one cannot be."""
    # A card keeps the offset and scale that training subtracted and divided by (mean and standard
    # deviation, minimum and range, or 0 and 1) and the mean rating. Ratings of 0 to 4 bound all of
    # them, so another scale can be refuted.
    unsure = []
    for scale in scales:
        if scale.name not in PUBLISHED[name]:
            continue
        mean = means.get(scale.name)
        if not _may_be_on_scale(scale, mean):
            rating = "" if mean is None else f"mean rating {mean:.4g}, "
            raise ConfigError(
                f"view: {name} is for ratings of 0 to 4; this model's {scale.name} was trained on "
                f"another scale ({rating}offset {scale.offset:.4g}, scale {scale.scale:.4g}). "
                "A JSON file gives weights of your own."
            )
        # Possible, and proven only by a minimum of 0 with a range of 4.
        if (scale.offset, scale.scale) != (0.0, _HIGHEST_RATING):
            unsure.append(scale.name)
    if not unsure:
        return None
    return (
        f"view {name} is for ratings of 0 to 4; what the model folder says about "
        f"{', '.join(unsure)} allows that scale but does not prove it"
    )


def _may_be_on_scale(scale: AttributeScale, mean: float | None) -> bool:
    slack = 1e-6
    low, width, top = scale.offset, scale.scale, _HIGHEST_RATING
    if not -slack <= low <= top + slack or (mean is not None and not -slack <= mean <= top):
        return False
    if mean is not None and abs(low - mean) <= slack:
        # Standardised: a variance on [0, top] is at most mean * (top - mean) (Bhatia and Davis).
        return width == 1.0 or width**2 <= low * (top - low) + slack
    return low + width <= top + slack


def parse_view(value: Any, attributes: Sequence[str]) -> View:
    """A view from its name or its JSON form: `{row: weight}`, the same with a name and an offset
    `{"name", "weights": {row: weight}, "offset"}`, or pessimistic `{"name", "kind", "rows",
    "centres": {row: number}, "spreads": {row: number}, "kappa"}`. Both may say under `fitted`
    where they come from, which is not read."""
    if isinstance(value, View):
        return value
    if isinstance(value, str):
        return named_view(value, attributes)
    known = (PREFERENCE, *attributes)
    # First: a row may have any name, that of a key too.
    if isinstance(value, Mapping) and value and all(map(is_finite_number, value.values())):
        value = {"name": _short_name(value), "weights": value}
    if isinstance(value, Mapping) and "kind" in value:
        return _parse_pessimistic(value, known)
    if not isinstance(value, Mapping) or not isinstance(value.get("weights"), Mapping):
        raise ConfigError('view: expected F, L, M or {"name", "weights": {row: weight}}')
    _check_keys(value, _LINEAR_KEYS)
    weights = dict(value["weights"])
    _check_rows("weight", weights, known)
    if not weights:
        raise ConfigError(f"view: no weights; expected some of {', '.join(sorted(known))}")
    offset = _number("offset", value.get("offset", 0.0))
    return View(str(value.get("name", "weighted")), weights, offset)


def _short_name(weights: Mapping[Any, Any]) -> str:
    """What a view of weights alone is called: its row, where it is that row as it is."""
    if list(weights.values()) == [1]:
        return str(next(iter(weights)))
    return "weighted"


def shift_preference(view: View, offset: float) -> View:
    """The view for a preference row to which `offset` is added."""
    if isinstance(view, PessimisticView):
        if PREFERENCE not in view.centres:
            return view
        centres = {**view.centres, PREFERENCE: view.centres[PREFERENCE] - offset}
        return replace(view, centres=centres)
    return replace(view, offset=view.offset + view.weights.get(PREFERENCE, 0.0) * offset)


def label_example(labels: Sequence[str]) -> str:
    """The option that reads one label, as one would type it."""
    # The last: classifiers name the better class after the worse one.
    return "--view '" + json.dumps({labels[-1]: 1}, ensure_ascii=False) + "'"


def _parse_pessimistic(value: Mapping[str, Any], known: Sequence[str]) -> PessimisticView:
    kind = value["kind"]
    if kind not in PESSIMISMS:
        raise ConfigError(f"view: kind is {kind!r}; expected one of {', '.join(PESSIMISMS)}")
    _check_keys(value, _PESSIMISTIC_KEYS)
    rows: Any = value.get("rows")
    named = isinstance(rows, list) and all(isinstance(row, str) for row in rows)
    if not named or len(rows) < 2 or len(set(rows)) < len(rows):
        raise ConfigError(f"view: rows of {kind!r}: expected a list of two or more different rows")
    centres = _row_table(value, "centres", rows, known)
    spreads = _row_table(value, "spreads", rows, known)
    for row in rows:
        if spreads[row] <= 0:
            raise ConfigError(f"view: spread of {row!r} must be above 0")
    # `min` takes no kappa; the mean has no default, because its price is a choice.
    kappa = _number("kappa", value.get("kappa", 0.0 if kind == "min" else None))
    if kappa < 0 or (kind == "min" and kappa):
        raise ConfigError(f"view: kappa is {kappa:g}; expected 0 or more, and none with min")
    name = str(value.get("name", kind))
    return PessimisticView(name=name, kind=kind, kappa=kappa, centres=centres, spreads=spreads)


def _row_table(
    value: Mapping[str, Any], key: str, rows: list[str], known: Sequence[str]
) -> dict[str, float]:
    table = value.get(key)
    if not isinstance(table, Mapping) or set(table) != set(rows):
        raise ConfigError(f"view: {key}: expected one number for each of {', '.join(rows)}")
    _check_rows(key.removesuffix("s"), table, known)
    return {row: float(table[row]) for row in rows}


def _check_keys(value: Mapping[str, Any], keys: set[str]) -> None:
    unknown = sorted(map(str, set(value) - keys))
    if unknown:
        expected = f"expected some of {', '.join(sorted(keys))}"
        raise ConfigError(f"view: unknown key {unknown[0]!r}; {expected}")


def _check_rows(what: str, table: Mapping[str, Any], known: Iterable[str]) -> None:
    for row, number in table.items():
        if row not in known:
            raise ConfigError(f"view: no row {row!r}; this model has {', '.join(sorted(known))}")
        _number(f"{what} of {row!r}", number)


def _number(what: str, value: Any) -> float:
    if not is_finite_number(value):
        raise ConfigError(f"view: {what} is {value!r}; expected a number")
    return float(value)


def _coefficients(view: View, scales: Sequence[AttributeScale]) -> tuple[Floats, float]:
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
) -> Floats:
    """Raw rows [N, 1 + K] -> the view's values [N]."""
    # In double precision, so that undoing a scale costs no digit of the fp32 rows.
    exact = rows.astype(np.float64)
    if isinstance(view, PessimisticView):
        restored = np.column_stack([exact[:, 0], restore_scales(scales, exact[:, 1:])])
        names = [PREFERENCE, *(scale.name for scale in scales)]
        columns = list(map(names.index, view.rows))
        centres = np.array(list(map(view.centres.__getitem__, view.rows)))
        spreads = np.array(list(map(view.spreads.__getitem__, view.rows)))
        standard = (restored[:, columns] - centres) / spreads
        if view.kind == "min":
            return np.asarray(standard.min(axis=1))
        return np.asarray(standard.mean(axis=1) - view.kappa * standard.std(axis=1))
    weights, offset = _coefficients(view, scales)
    values: Floats = exact @ weights + offset
    return values


def fold(view: View, weight: Tensor, scales: Sequence[AttributeScale]) -> tuple[Tensor, float]:
    """Head weight [1 + K, D] -> one row [1, D] in fp32, and the constant that a bias-free head
    cannot hold (it cancels in every comparison)."""
    if isinstance(view, PessimisticView):
        what = "a minimum" if view.kind == "min" else "a mean minus spread"
        raise ConfigError(
            f"view {view.name}: {what} is not linear: it cannot be folded into one row. Score "
            f"with smorm, or export --all-rows and take {what} of the standardised rows yourself."
        )
    coefficients, offset = _coefficients(view, scales)
    # In double precision: the folded row is rounded once.
    row = torch.from_numpy(coefficients)[None, :] @ weight.detach().double().cpu()
    return row.float(), offset
