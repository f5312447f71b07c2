"""Data shapes: how rows of a named format become records, one object each, registered once."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, get_args

from smorm.data.census import BadRecord, Defect
from smorm.data.fields import Context, names_of
from smorm.data.records import Candidates, Kind, Preference, Rated
from smorm.registry import Registry

Row = Mapping[str, Any]
Parsed = Sequence[Preference | Rated | Candidates | BadRecord]
Parse = Callable[[Row, Context], Parsed]
DropRow = Callable[[Row], StrEnum | None]


@dataclass(frozen=True, slots=True)
class Format:
    """How rows of one format become records of one kind.

    A row that is bad as a whole raises `BadRecord` in `parse`, a bad record among several stands as
    one. `shape` is the row's fields, as an error shows them, `signs` those by which an error
    recognises a row; `drop_row` says why a row is left out before the stride is counted."""

    kind: Kind
    parse: Parse
    shape: str
    signs: frozenset[str] = frozenset()
    drop_row: DropRow | None = None


_ROOM = "smorm.data.formats"
_BENCHMARKS = "smorm.evaluation.benchmarks"
FORMATS: Registry[Format] = Registry(
    "format",
    "smorm.formats",
    {
        "preference": f"{_ROOM}.generic:PREFERENCE",
        "rated": f"{_ROOM}.generic:RATED",
        "candidates": f"{_ROOM}.generic:CANDIDATES",
        "helpsteer2": f"{_ROOM}.helpsteer2:FORMAT",
        "ultrafeedback": f"{_ROOM}.ultrafeedback:FORMAT",
        "unified_feedback": f"{_ROOM}.unified_feedback:FORMAT",
        "skywork": f"{_ROOM}.skywork:FORMAT",
        "hh_rlhf": f"{_ROOM}.hh_rlhf:FORMAT",
        "rm_bench": f"{_BENCHMARKS}.rm_bench:FORMAT",
        "best_of_k": f"{_BENCHMARKS}.best_of_k:FORMAT",
        "rewardbench": f"{_BENCHMARKS}.rewardbench:FORMAT",
        "pref_sets": f"{_BENCHMARKS}.prior_sets:FORMAT",
        "rewardbench2": f"{_BENCHMARKS}.rewardbench_2:FORMAT",
        "rmb": f"{_BENCHMARKS}.rmb:FORMAT",
        "judgebench": f"{_BENCHMARKS}.judgebench:FORMAT",
        "ppe_human": f"{_BENCHMARKS}.ppe:HUMAN_FORMAT",
        "ppe_correctness": f"{_BENCHMARKS}.ppe:CORRECTNESS_FORMAT",
        "hhh": f"{_BENCHMARKS}.hhh:FORMAT",
        "llmbar": f"{_BENCHMARKS}.llmbar:FORMAT",
        "mt_bench": f"{_BENCHMARKS}.mt_bench:FORMAT",
    },
)
"""All formats by name. A benchmark's is found in a higher room, when it is first used."""


def data_shape(
    name: str, kind: Kind, shape: str, *, signs: Iterable[str] = (), drop_row: DropRow | None = None
) -> Callable[[Parse], Parse]:
    """Register a parse function as the format `name`, as its decorator."""

    def add(parse: Parse) -> Parse:
        FORMATS.register(name, Format(kind, parse, shape, frozenset(signs), drop_row))
        return parse

    return add


def format_of_row(row: Row, kind: Kind | None, context: Context) -> Format:
    """What `auto` takes a row for: preference, rated or candidates by the fields it has."""
    # A pair wins over ratings, ratings over candidates. One side is enough: a row that lacks the
    # other is a damaged pair.
    matches: list[Kind] = []
    if "chosen" in row or "rejected" in row:
        matches.append("preference")
    is_answer = "response" in row or "messages" in row
    if is_answer and ("scores" in row or context.columns is not None):
        matches.append("rated")
    if is_answer or "responses" in row:
        matches.append("candidates")
    if kind is None and matches:
        return FORMATS[matches[0]]
    if kind in matches:
        return FORMATS[kind]
    shapes = " or ".join(FORMATS[name].shape for name in get_args(Kind) if kind in (None, name))
    hint = ""
    if matches:
        hint = f"; it looks like a {matches[0]} record"
    # a named format is never guessed: its rules (ties, turns, N/A) would apply in silence
    for name, form in FORMATS.importable().items():
        if form.signs and form.signs <= row.keys() and kind in (None, form.kind):
            hint = f"; it looks like format {name!r}: name it as the source's format"
            break
    problem = f"expected {shapes}; the row has: {names_of(row)}{hint}"
    raise context.bad("row", Defect.UNKNOWN_SHAPE, problem)
