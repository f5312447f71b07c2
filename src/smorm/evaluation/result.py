"""The result file: what a suite measured, of which model, and with what.

    {"kind", "suite", "model", "view", "metrics": {name: {"value", "n", "low", "high"}},
     "items": path or list, "fingerprint": {...}, "notes": [...],
     "failures": [{"test", "cause", "text"}], "chance": {name: value},
     "checks": [{"test", "expected", "observed", "passed"}],
     "alarms": [{"name", "prompts", "value", "n", "low", "high", "threshold", "fired",
                 "in_distribution", "text"}]}

A file holds one such object, or a list of them. Numbers that do not exist are null. `notes` reports
what was counted; `failures` is there where a test failed; `chance` is what random scores are
expected to get, of the metrics that have such a level; `checks` are all tests of a model; `alarms`
are signs of over-optimisation that need no gold (`smorm.evaluation.alarms`)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from operator import attrgetter
from pathlib import Path
from typing import Any, Protocol

from smorm.errors import DataError
from smorm.evaluation.alarms import Alarm, AlarmKind
from smorm.evaluation.metrics import Metric
from smorm.files import read_json, write_json
from smorm.printing import brief

_NAMES = ("kind", "suite", "model", "view")
_KEYS = (
    *(*_NAMES, "metrics", "items", "fingerprint", "notes", "failures", "chance", "checks"),
    "alarms",
)
_OLD_PREFIX = "failed: "


class CauseKind(StrEnum):
    """The usual causes of wrong scores; the value is how files and texts name the cause."""

    ACTIVATION = "activation"
    BATCHING = "batching"
    HEAD = "head"
    NO_SCORES = "no scores"
    OFFSET = "offset"
    ORDER = "order"
    PADDING = "padding"
    PADDING_OR_PRECISION = "padding or precision"
    PAD_TOKEN = "pad token"
    POOLING = "pooling"
    PRECISION = "precision"
    REFUSED = "refused"
    TEMPLATE = "template"
    TOKENIZER = "tokenizer"
    TOKEN_COUNTS = "token counts differ"
    TOKEN_IDS = "token ids differ"
    TRUNCATION = "truncation"
    UNKNOWN = "unknown"
    WEIGHTS = "weights"
    WEIGHTS_OR_PRECISION = "weights or precision"


@dataclass(frozen=True, slots=True)
class Cause:
    """A likely cause, and what was seen of it."""

    kind: CauseKind
    detail: str

    def __str__(self) -> str:
        return f"{self.kind.value}: {self.detail}"


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed test of a model; its string is the sentence for a reader."""

    test: str  # its name: a metric of the sanity tests, or the paths of a parity check
    cause: CauseKind  # the kind of its likely cause
    text: str  # the full sentence for a reader

    def __str__(self) -> str:
        return self.text

    def as_dict(self) -> dict[str, str]:
        """As in a result file."""
        return {"test": self.test, "cause": self.cause.value, "text": self.text}


@dataclass(frozen=True, slots=True)
class Check:
    """A test of a model: what was expected, with its margin, and what was seen."""

    test: str  # its name, as in `Failure`
    expected: str
    observed: str
    passed: bool


class Comparable(Protocol):
    """The outcomes of items, of which the difference of two models can be measured."""

    def difference(self, base: Any) -> dict[str, Metric]:
        """Numbers of this less those of the base, over the items that both have."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """What a suite measured; its parts become those of a `Result`."""

    metrics: dict[str, Metric]
    notes: tuple[str, ...] = ()
    outcomes: Comparable | None = None
    chance_levels: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Result:
    """One suite's measurement of one view of one model."""

    kind: str
    suite: str  # such as "pairs/OODlong"
    model: str  # as shown to readers, like the view
    view: str
    metrics: Mapping[str, Metric]
    items: str | list[Any] = field(default_factory=list)  # or the path of the per-item scores
    # names config, data and code, and the `seed` where there were several
    fingerprint: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    # what a paired difference needs; not written
    outcomes: Comparable | None = field(default=None, compare=False, repr=False)
    failures: tuple[Failure, ...] = ()  # of sanity tests and parity checks
    checks: tuple[Check, ...] = ()  # all sanity tests; files of earlier versions have none
    # what random scores get, by metric
    chance_levels: Mapping[str, float] = field(default_factory=dict)
    alarms: tuple[Alarm, ...] = ()  # that were measured, fired or not

    def as_dict(self) -> dict[str, Any]:
        """The JSON object of the contract."""
        written: dict[str, Any] = {
            **dict(zip(_NAMES, attrgetter(*_NAMES)(self), strict=True)),
            "metrics": {name: metric.as_dict() for name, metric in self.metrics.items()},
            "items": self.items,
            "fingerprint": dict(self.fingerprint),
            "notes": list(self.notes),
        }
        if self.failures:
            written["failures"] = list(map(Failure.as_dict, self.failures))
        if self.chance_levels:
            written["chance"] = dict(self.chance_levels)
        if self.checks:
            written["checks"] = list(map(asdict, self.checks))
        if self.alarms:
            written["alarms"] = list(map(Alarm.as_dict, self.alarms))
        return written

    @property
    def reported(self) -> tuple[str, ...]:
        """All that a reader must know, as sentences: failures first, then the notes."""
        return (*(f"failed: {failure}" for failure in self.failures), *self.notes)

    def write(self, path: Path | str) -> None:
        """Write the file whole or not at all (OutputError)."""
        write_json(path, self.as_dict())


def write_results(path: Path | str, results: Sequence[Result]) -> None:
    """Write one result as an object, any other number as a list; whole or not at all."""
    # One result stands alone, so that a file of one is the contract's object and not a list.
    objects = list(map(Result.as_dict, results))
    write_json(path, objects[0] if len(objects) == 1 else objects)


def read_results(path: Path | str) -> list[Result]:
    """Read every result of a file (an object or a list)."""
    value = read_json(path)
    if not isinstance(value, list):
        return [parse_result(value, str(path))]
    return [parse_result(item, f"{path}[{index}]") for index, item in enumerate(value)]


def parse_result(value: Any, where: str) -> Result:
    """Check one JSON value against the contract (DataError: `where: field: what is wrong`)."""
    if not isinstance(value, Mapping):
        raise DataError(f"{where}: not a result: expected an object, got {brief(value)}")
    missing = [key for key in (*_NAMES, "metrics") if key not in value]
    if missing:
        raise DataError(f"{where}: not a result: {', '.join(missing)} missing")
    # A field of a later version could change what the others mean: not read is not ignored.
    unknown = sorted(map(str, value.keys() - set(_KEYS)))
    if unknown:
        raise DataError(f"{where}: {unknown[0]}: unknown field; a result has {', '.join(_KEYS)}")
    for key in _NAMES:
        _expect(isinstance(value[key], str), where, key, "text", value[key])
    items, fingerprint = value.get("items", []), value.get("fingerprint", {})
    notes = value.get("notes", [])
    _expect(isinstance(items, str | list), where, "items", "a path or a list", items)
    _expect(isinstance(fingerprint, Mapping), where, "fingerprint", "an object", fingerprint)
    texts = isinstance(notes, list | tuple) and set(map(type, notes)) <= {str}
    _expect(texts, where, "notes", "a list of texts", notes)
    failures, notes = _failures(value, notes, where)
    metrics, levels = value["metrics"], value.get("chance", {})
    _expect(isinstance(metrics, Mapping), where, "metrics", "an object", metrics)
    metrics = {str(name): _metric(metrics[name], where, f"metrics.{name}") for name in metrics}
    _expect(isinstance(levels, Mapping), where, "chance", "an object", levels)
    levels = {str(name): _number(levels[name], where, f"chance.{name}") for name in levels}
    return Result(
        value["kind"],
        value["suite"],
        value["model"],
        value["view"],
        metrics,
        items,
        fingerprint=dict(fingerprint),
        notes=tuple(notes),
        failures=tuple(failures),
        chance_levels=levels,
        checks=tuple(_checks(value, where)),
        alarms=tuple(_alarms(value, where)),
    )


def _alarms(value: Mapping[str, Any], where: str) -> list[Alarm]:
    """The alarms; whether one fired and its text follow from its numbers."""
    listed, alarms = value.get("alarms", []), []
    _expect(isinstance(listed, list), where, "alarms", "a list", listed)
    for index, item in enumerate(listed):
        name = f"alarms[{index}]"
        _expect(isinstance(item, Mapping), where, name, "an object", item)
        kind, prompts = item.get("name"), item.get("prompts", "")
        known = tuple(AlarmKind)
        _expect(kind in known, where, f"{name}.name", f"one of {', '.join(known)}", kind)
        _expect(isinstance(prompts, str), where, f"{name}.prompts", "text", prompts)
        threshold = _number(item.get("threshold"), where, f"{name}.threshold")
        reference = None
        if item.get("in_distribution") is not None:
            reference = _number(item["in_distribution"], where, f"{name}.in_distribution")
        measured = _metric(item, where, name)
        alarms.append(Alarm(AlarmKind(kind), measured, threshold, prompts, reference))
    return alarms


def _checks(value: Mapping[str, Any], where: str) -> list[Check]:
    listed, checks = value.get("checks", []), []
    _expect(isinstance(listed, list), where, "checks", "a list", listed)
    names = ("test", "expected", "observed")
    for index, item in enumerate(listed):
        fits = isinstance(item, Mapping) and isinstance(item.get("passed"), bool)
        fits = fits and all(isinstance(item.get(name), str) for name in names)
        shape = "an object {test, expected, observed, passed}"
        _expect(fits, where, f"checks[{index}]", shape, item)
        test, expected, observed = map(item.__getitem__, names)
        checks.append(Check(test, expected, observed, item["passed"]))
    return checks


def _failures(
    value: Mapping[str, Any], notes: Sequence[str], where: str
) -> tuple[list[Failure], list[str]]:
    """Failures and notes. In files from before failures had a key they are notes, "failed: TEST:
    what failed": the only sentence that is parsed, since old files hold nothing else."""
    failures: list[Failure] = []
    if "failures" not in value:
        reported = []
        for note in notes:
            if note.startswith(_OLD_PREFIX):
                text = note.removeprefix(_OLD_PREFIX)
                failures.append(Failure(text.partition(": ")[0], CauseKind.UNKNOWN, text))
            else:
                reported.append(note)
        return failures, reported
    listed = value["failures"]
    _expect(isinstance(listed, list), where, "failures", "a list", listed)
    for index, item in enumerate(listed):
        fits = isinstance(item, Mapping) and {"test", "cause", "text"} <= item.keys()
        _expect(fits, where, f"failures[{index}]", "an object {test, cause, text}", item)
        # A cause that only a later version knows: the failure counts all the same.
        kind = CauseKind.UNKNOWN
        if item["cause"] in tuple(CauseKind):
            kind = CauseKind(item["cause"])
        failures.append(Failure(str(item["test"]), kind, str(item["text"])))
    return failures, list(notes)


def _metric(value: Any, where: str, name: str) -> Metric:
    _expect(isinstance(value, Mapping), where, name, "an object", value)
    # Intervals may be missing, a value without its count may not.
    for key in ("value", "n"):
        if key not in value:
            raise DataError(f"{where}: {name}.{key}: missing")
    n = value["n"]
    counts = isinstance(n, int) and not isinstance(n, bool) and n >= 0
    _expect(counts, where, f"{name}.n", "a whole number from 0", n)
    number = _number(value["value"], where, f"{name}.value")
    low = _number(value.get("low"), where, f"{name}.low")
    high = _number(value.get("high"), where, f"{name}.high")
    if low > high:
        raise DataError(f"{where}: {name}: low {low:g} is above high {high:g}")
    return Metric(number, n, low, high)


def _number(value: Any, where: str, name: str) -> float:
    # A bool is an int to Python; numbers that do not exist are null in JSON.
    numeric = value is None or (isinstance(value, int | float) and not isinstance(value, bool))
    _expect(numeric, where, name, "a number or null", value)
    return math.nan if value is None else float(value)


def _expect(fits: bool, where: str, name: str, expected: str, value: Any) -> None:
    if not fits:
        raise DataError(f"{where}: {name}: expected {expected}, got {brief(value)}")


def differences(results: Sequence[Result]) -> list[Result]:
    """For each suite what every model and view has over its baseline, item by item: a model over
    the first model under the same view, the first model's further views over its first one. The
    interval resamples prompts for both at once; DataError where two have no item in common."""
    compared = []
    for suite in dict.fromkeys(result.suite for result in results):
        members = [each for each in results if each.suite == suite and each.outcomes is not None]
        for result in members:
            base = _baseline(result, members)
            if base is not None:
                compared.append(_difference(result, base))
    return compared


def _baseline(result: Result, members: Sequence[Result]) -> Result | None:
    first = members[0]
    # A second view of the baseline model is compared with its first one, not with itself.
    if result.model == first.model:
        return None if result is first or result.view == first.view else first
    for member in members:
        if member.model == first.model and member.view == result.view:
            return member
    return first


def _difference(result: Result, base: Result) -> Result:
    assert result.outcomes is not None and base.outcomes is not None  # noqa: PT018
    metrics = result.outcomes.difference(base.outcomes)
    model, view = result.model, result.view
    if model != base.model:
        model = f"{model} − {base.model}"
    if view != base.view:
        view = f"{view} − {base.view}"
    notes = ["Differences are paired item by item; an interval without 0 is one that holds."]
    # Models may leave out different records, the ones too long for each.
    if result.fingerprint.get("data") != base.fingerprint.get("data"):
        count = max(metric.n for metric in metrics.values())
        notes.append(f"The two scored different records: the common ones count (n {count}).")
    return Result(
        "difference",
        result.suite,
        model,
        view,
        metrics,
        notes=tuple(notes),
        fingerprint={"of": dict(result.fingerprint), "less": dict(base.fingerprint)},
    )
