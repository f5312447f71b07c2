"""Data shapes: how rows of a named format become records, one object each, registered once."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, get_args

from smorm.data import rows
from smorm.data.census import BadRecord, Census, Defect
from smorm.data.fields import Context, Labels, names_of
from smorm.data.mapping import Columns
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
    recognises a row; `drop_row` says why a row is left out before the stride is counted. The other
    keys are what a source may say too, and says more strongly (`Source`)."""

    kind: Kind
    parse: Parse
    shape: str
    signs: frozenset[str] = frozenset()
    drop_row: DropRow | None = None
    columns: Mapping[str, str | Sequence[str]] = field(default_factory=dict)
    attributes: Mapping[str, str] | None = None
    labels: Labels | None = None
    booleans: bool = False


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
        "ab": f"{_ROOM}.ab:FORMAT",
        "ranked": f"{_ROOM}.ranked:FORMAT",
        "alpaca_preference": f"{_ROOM}.renamed:ALPACA_PREFERENCE",
        "distilabel": f"{_ROOM}.renamed:DISTILABEL",
        "distilabel_ratings": f"{_ROOM}.renamed:DISTILABEL_RATINGS",
        "helpsteer3": f"{_ROOM}.renamed:HELPSTEER3",
        "kto": f"{_ROOM}.renamed:KTO",
        "lmarena": f"{_ROOM}.lmarena:FORMAT",
        "lmarena_55k": f"{_ROOM}.lmarena:FORMAT_55K",
        "nectar": f"{_ROOM}.nectar:FORMAT",
        "openai_preference": f"{_ROOM}.renamed:OPENAI_PREFERENCE",
        "orca_dpo": f"{_ROOM}.renamed:ORCA_DPO",
        "pku_saferlhf": f"{_ROOM}.renamed:PKU_SAFERLHF",
        "pku_saferlhf_safety": f"{_ROOM}.pku_saferlhf:FORMAT",
        "sharegpt_preference": f"{_ROOM}.renamed:SHAREGPT_PREFERENCE",
        "shp": f"{_ROOM}.renamed:SHP",
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


_PAIRS = frozenset({"chosen", "rejected", "rejected_response", "rejected_messages"})


def format_of_row(row: Row, kind: Kind | None, context: Context) -> Format:
    """What `auto` takes a row for: preference, rated or candidates by the fields it has."""
    # A pair wins over ratings, ratings over candidates. One side is enough: a row that lacks the
    # other is a damaged pair.
    matches: list[Kind] = []
    if not row.keys().isdisjoint(_PAIRS):
        if kind in (None, "preference"):
            return FORMATS["preference"]
        matches.append("preference")
    # A text is a record by itself only where the source says that this column is one.
    is_answer = "response" in row or "messages" in row or "conversations" in row
    is_answer = is_answer or "text" in context.mapped
    if is_answer and ("scores" in row or context.attributes is not None):
        matches.append("rated")
    if is_answer or "responses" in row:
        matches.append("candidates")
    if kind is None and matches:
        return FORMATS[matches[0]]
    if kind in matches:
        return FORMATS[kind]
    shapes = " or ".join(FORMATS[name].shape for name in get_args(Kind) if kind in (None, name))
    # It reads rows by the formats that are registered here.
    from smorm.data.guessing import likely_source

    hint = format_hint(row, kind)
    if not hint and context.configurable:
        hint = likely_source(row, kind)
    if not hint and matches:
        hint = f"; it looks like a {matches[0]} record"
    elif not hint and context.configurable:
        hint = "; say which column is which part of a record (columns: {prompt: COLUMN, ...})"
    problem = f"expected {shapes}; the row has: {names_of(row)}{hint}"
    raise context.bad("row", Defect.UNKNOWN_SHAPE, problem)


def format_hint(row: Row, kind: Kind | None) -> str:
    """The end of an error about a row that has the fields of a named format; else nothing."""
    # a named format is never guessed: its rules (ties, turns, N/A) would apply in silence
    recognised: dict[str, int] = {}
    for name, form in FORMATS.importable().items():
        fits = form.signs and form.signs <= row.keys() and kind in (None, form.kind)
        # Followed before it is given: a hint that is refused in turn helps nobody.
        if fits and _reads(form, row):
            recognised[name] = len(form.signs)
    # Those that know most of the row's fields.
    most = max(recognised.values(), default=0)
    names = [repr(name) for name, known in recognised.items() if known == most]
    if not names:
        return ""
    as_option = names[0].strip("'")
    return (
        f"; it looks like format {' or '.join(names)}: name it as the source's format "
        f"(format: {as_option}, or --format {as_option})"
    )


def _reads(form: Format, row: Row) -> bool:
    """Whether a format reads a row without an error."""
    columns = Columns.parse(form.columns)
    context = Context(
        "", Census(), form.attributes, columns.targets, form.labels, booleans=form.booleans
    )
    try:
        parsed = form.parse(columns.apply(rows.Row(row), context), context)
    except BadRecord:
        return False
    return not any(isinstance(record, BadRecord) for record in parsed)
