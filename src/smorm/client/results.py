"""What our own server answers, as values that were checked: every number is finite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from smorm.arrays import is_finite_number
from smorm.client.transport import RefusedError, RewardServerError
from smorm.printing import shorten

# Errors of an item that another try may not have: the server's own failures, not the item's.
PASSING_KINDS = frozenset({"deadline", "model_failed", "stalled", "stopping"})


class ItemError(RefusedError):
    """One response has no score. `kind` is the server's word for it, such as `bad_item` (it cannot
    be read, or does not fit), `deadline` or `model_failed`; `text` is what it says."""

    def __init__(self, kind: str, text: str, where: str = "") -> None:
        super().__init__(f"{where}the server gave an error in its place: {kind}: {text}")
        self.kind, self.text = kind, text


@dataclass(frozen=True, slots=True)
class Score:
    """A response's scores.

    Attributes:
        value: by the first view that was requested; without any, the server's own.
        views: by each requested view.
        preference: the preference row; None where the reward has none.
        attributes: by name, each on its own scale.
        tokens: of the conversation; None where the server does not count them.
        truncated: whether its prompt was shortened to fit.
        changes: what the chat template did not write of it.
    """

    value: float
    views: Mapping[str, float]
    preference: float | None
    attributes: Mapping[str, float]
    tokens: int | None
    truncated: bool
    changes: tuple[str, ...] = ()

    def __float__(self) -> float:
        return self.value


@dataclass(frozen=True, slots=True)
class Verdict:
    """Responses by one view: `order` from best to worst, the `best`, its `margin` over the next."""

    order: tuple[int, ...]
    best: int
    margin: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Responses to one prompt: the scores of each, a verdict by each view, and the probability of
    the first response over the second by the preference row (None without one)."""

    responses: tuple[Score, ...]
    views: Mapping[str, Verdict]
    probability: float | None


def read_score(entry: Any, views: Sequence[str]) -> Score | ItemError:
    """An entry of `/v1/score`; RewardServerError where it is neither scores nor an error."""
    if not isinstance(entry, Mapping):
        raise _unfit("an item", entry)
    if "error" in entry:
        return _read_error(entry["error"])
    values = _numbers(entry.get("views"), "views", entry)
    for view in views:
        if view not in values:
            names = shorten(", ".join(values))
            raise RewardServerError(f"the server gave no view {view!r}, but {names or 'none'}")
    if not values or (not views and len(values) > 1):
        raise _unfit("the scores of one view", entry)
    preference = entry.get("preference")
    if preference is not None:
        preference = _number(preference, entry)
    tokens, changes = entry.get("tokens"), entry.get("changes") or ()
    if not isinstance(changes, list | tuple):
        raise _unfit("a list of changes", entry)
    return Score(
        value=values[views[0]] if views else next(iter(values.values())),
        views=values,
        preference=preference,
        attributes=_numbers(entry.get("attributes") or {}, "attributes", entry),
        tokens=tokens if _is_whole(tokens) else None,
        truncated=entry.get("truncated") is True,
        changes=tuple(map(str, changes)),
    )


def read_comparison(answer: Any, count: int, views: Sequence[str]) -> Comparison:
    """The answer of `/v1/compare` for `count` responses; RewardServerError for anything else."""
    if not isinstance(answer, Mapping) or not isinstance(answer.get("views"), Mapping):
        raise _unfit("a comparison", answer)
    entries = answer.get("responses")
    if not isinstance(entries, list) or len(entries) != count:
        raise _unfit(f"{count} responses", entries)
    verdicts = {name: _read_verdict(value, count) for name, value in answer["views"].items()}
    missing = [view for view in views if view not in verdicts]
    if missing or not verdicts:
        raise _unfit(f"a verdict by {', '.join(missing) or 'a view'}", answer["views"])
    responses: list[Score] = []
    for entry in entries:
        score = read_score(entry, views or list(verdicts))
        if isinstance(score, ItemError):
            raise score
        responses.append(score)
    probability = answer.get("probability")
    if probability is not None and not 0 <= _number(probability, answer) <= 1:
        raise _unfit("a probability", probability)
    return Comparison(tuple(responses), verdicts, probability)


def _read_error(error: Any) -> ItemError:
    if isinstance(error, Mapping):
        kind = shorten(error.get("type") or "error", 40)
        return ItemError(kind, shorten(error.get("message") or error, 500))
    return ItemError("error", shorten(repr(error), 500))


def _read_verdict(value: Any, count: int) -> Verdict:
    if not isinstance(value, Mapping) or not isinstance(value.get("order"), list):
        raise _unfit("a verdict", value)
    order, margin = value["order"], _number(value.get("margin"), value)
    if not all(map(_is_whole, order)) or sorted(order) != list(range(count)):
        raise _unfit(f"an order of {count} responses", order)
    if value.get("best") != order[0] or margin < 0:
        raise _unfit("a verdict", value)
    return Verdict(tuple(order), order[0], margin)


def _numbers(values: Any, name: str, entry: Any) -> dict[str, float]:
    if not isinstance(values, Mapping):
        raise RewardServerError(f"the server gave no {name} for an item: {_short(entry)}")
    return {str(key): _number(value, entry) for key, value in values.items()}


def _number(value: Any, entry: Any) -> float:
    if not is_finite_number(value):
        raise RewardServerError(f"the server gave {_short(value)} as a score: {_short(entry)}")
    return float(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _unfit(expected: str, value: Any) -> RewardServerError:
    return RewardServerError(f"the server gave {_short(value)} where {expected} belongs")


def _short(value: Any) -> str:
    return shorten(repr(value), 120)
