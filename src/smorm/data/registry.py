"""The registry of formats: one line each, from a row's shape to the kind of record."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

from smorm.data import benchmark_formats, judge_formats, public_formats, shapes
from smorm.data.census import Defect
from smorm.data.fields import Context
from smorm.data.quarantine import BadRecord
from smorm.data.records import Candidates, Preference, Rated

Kind = Literal["preference", "rated", "candidates"]
Record = Preference | Rated | Candidates
Parsed = Sequence[Preference | Rated | Candidates | BadRecord]


@dataclass(frozen=True, slots=True)
class Format:
    """How rows of one format become records of one kind.

    `drop_row` names why a row is left out before the stride is counted, or gives None.
    """

    kind: Kind
    parse: Callable[[Mapping[str, Any], Context], Parsed]
    shape: str
    drop_row: Callable[[Mapping[str, Any]], StrEnum | None] | None = None


FORMATS: dict[str, Format] = {
    "preference": Format("preference", shapes.preference, "{prompt?, chosen, rejected, margin?}"),
    "rated": Format("rated", shapes.rated, "{prompt, response, scores: {name: number or null}}"),
    "candidates": Format("candidates", shapes.candidates, "{prompt, responses: [...]}"),
    "helpsteer2": Format(
        "rated", public_formats.helpsteer2, "{prompt, response, helpfulness, correctness, ...}"
    ),
    "ultrafeedback": Format(
        "rated", public_formats.ultrafeedback, "{instruction, completions: [{response, ...}]}"
    ),
    "unified_feedback": Format(
        "preference",
        public_formats.unified_feedback,
        "{conv_A, conv_B, conv_A_rating, conv_B_rating}",
        public_formats.equal_ratings,
    ),
    "skywork": Format("preference", public_formats.skywork, "{chosen, rejected} message lists"),
    "hh_rlhf": Format("preference", public_formats.hh_rlhf, "{chosen, rejected} transcripts"),
    "rm_bench": Format(
        "candidates", public_formats.rm_bench, "{prompt, chosen: 3, rejected: 3, domain}"
    ),
    "best_of_k": Format(
        "candidates", benchmark_formats.best_of_k, "{prompt?, chosen, rejected, subset?}"
    ),
    "rewardbench": Format(
        "candidates", benchmark_formats.best_of_k, "{prompt, chosen, rejected, subset, id}"
    ),
    "pref_sets": Format(
        "candidates", benchmark_formats.pref_sets, "{prompt: [...], chosen, rejected}"
    ),
    "rewardbench2": Format(
        "candidates",
        benchmark_formats.rewardbench2,
        "{prompt, chosen: [...], rejected: [...], num_correct, subset, id}",
    ),
    "rmb": Format(
        "candidates",
        benchmark_formats.rmb,
        "{conversation_input, chosen and reject or bon_best and loser_list, category_path}",
    ),
    "judgebench": Format(
        "candidates", judge_formats.judgebench, "{question, response_A, response_B, label}"
    ),
    "ppe_human": Format(
        "candidates",
        judge_formats.ppe_human,
        "{prompt, response_1, response_2, winner}",
        judge_formats.judged_a_tie,
    ),
    "ppe_correctness": Format(
        "candidates", judge_formats.ppe_correctness, "{prompt, response_1, ..., scores: [...]}"
    ),
    "hhh": Format("candidates", judge_formats.hhh, "{input, targets: {choices, labels}}"),
    "llmbar": Format("candidates", judge_formats.llmbar, "{input, output_1, output_2, label}"),
    "mt_bench": Format(
        "candidates",
        judge_formats.mt_bench,
        "{conversation_a, conversation_b, winner, turn}",
        judge_formats.judged_a_tie,
    ),
}

# Fields by which a row of a named format gives itself away, for the hint of `format_of_row`
SIGNS: dict[str, frozenset[str]] = {
    "unified_feedback": frozenset({"conv_A", "conv_B"}),
    "ultrafeedback": frozenset({"instruction", "completions"}),
    "rm_bench": frozenset({"prompt", "chosen", "rejected", "domain"}),
    "helpsteer2": frozenset({"prompt", "response", *public_formats.HELPSTEER2}),
    "rewardbench": frozenset({"chosen_model", "rejected_model"}),
    "rewardbench2": frozenset({"chosen", "rejected", "num_correct"}),
    "rmb": frozenset({"conversation_input"}),
    "judgebench": frozenset({"question", "response_A", "response_B"}),
    "ppe_human": frozenset({"response_1", "response_2", "winner"}),
    "ppe_correctness": frozenset({"response_1", "scores"}),
    "hhh": frozenset({"input", "targets"}),
    "llmbar": frozenset({"output_1", "output_2", "label"}),
    "mt_bench": frozenset({"conversation_a", "conversation_b", "winner"}),
    "best_of_k": frozenset({"responses", "correct"}),
}


def format_of_row(row: Mapping[str, Any], kind: Kind | None, context: Context) -> Format:
    """What `auto` takes a row for: preference, rated or candidates by the fields it has.

    Raises:
        BadRecord: the row has the fields of none of them, or of another kind than asked for.
    """
    fits = [name for name, test in _GENERIC.items() if test(row, context)]
    if kind is None and fits:
        return FORMATS[fits[0]]
    if kind in fits:
        return FORMATS[kind]
    have = ", ".join(str(key) for key in list(row)[:12])
    shown = [FORMATS[kind]] if kind else [FORMATS[name] for name in _GENERIC]
    problem = f"expected {' or '.join(form.shape for form in shown)}; the row has: {have}"
    looks = [
        name
        for name, signs in SIGNS.items()
        if signs <= row.keys() and kind in (None, FORMATS[name].kind)
    ]
    if looks:
        problem += f"; it looks like format {looks[0]!r}: name it as the source's format"
    elif fits:
        problem += f"; it looks like a {fits[0]} record"
    raise context.bad("row", Defect.UNKNOWN_SHAPE, problem)


def _is_preference(row: Mapping[str, Any], context: Context) -> bool:
    # one of the two is enough: a row that lacks the other is a damaged pair, and is told as one
    return "chosen" in row or "rejected" in row


def _is_rated(row: Mapping[str, Any], context: Context) -> bool:
    has_scores = "scores" in row or context.columns is not None
    return has_scores and ("response" in row or "messages" in row)


def _is_candidates(row: Mapping[str, Any], context: Context) -> bool:
    return any(name in row for name in ("responses", "response", "messages"))


_GENERIC: dict[Kind, Callable[[Mapping[str, Any], Context], bool]] = {
    "preference": _is_preference,
    "rated": _is_rated,
    "candidates": _is_candidates,
}
