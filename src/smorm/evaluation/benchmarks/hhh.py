"""HHH alignment (HuggingFaceH4/hhh_alignment): helpful, honest, harmless and other choices."""

from dataclasses import asdict

from smorm.data import fields
from smorm.data.fields import Context
from smorm.data.formats import Format
from smorm.data.formats.hh_rlhf import transcript_turns
from smorm.data.records import Candidates, Messages
from smorm.data.rows import changed
from smorm.evaluation.benchmarks import Benchmark, Piece, rows
from smorm.evaluation.benchmarks.best_of_k import rule
from smorm.text.chat import Message


def parse(row: rows.Row, context: Context) -> list[Candidates]:
    """`{input, targets: {choices, labels}}`, label 1 is the best. The input opens with the user's
    bare text; later turns carry "Assistant:" and "Human:" and become messages."""
    if rows.is_converted(row):
        # A prompt in messages needs nothing; one in text may be a transcript of several turns.
        if isinstance(row.get("prompt"), str):
            turns = _dialogue(row["prompt"], "prompt", context)
            row = changed(row, {"prompt": list(map(asdict, turns))})
        return rows.comparison(row, context)
    text = fields.text(fields.required(row, "input", context), "input", context)
    targets = fields.required(row, "targets", context)
    if not isinstance(targets, dict):
        raise context.wrong("targets", targets, "an object {choices, labels}")
    choices = fields.required(targets, "choices", context, "targets")
    labels = fields.required(targets, "labels", context, "targets")
    # The labels are of the choices in their published order, so both are read before any sorting.
    responses = rows.text_responses(choices, "targets.choices", context)
    prompt = _dialogue(text, "input", context)
    record = rows.unlabelled(prompt, responses, context, *rows.names_of(row, "id", context))
    good = rows.flags(labels, "targets.labels", context)
    return rows.good_first(record, good, "targets.labels", context)


def _dialogue(text: str, name: str, context: Context) -> Messages:
    turns = transcript_turns(text)
    if len(turns) > 1 and turns[-1] == Message("assistant", ""):
        turns = turns[:-1]  # the marker that invites the answer
    return fields.filled_prompt(turns, name, context)


FORMAT = Format(
    "candidates",
    parse,
    "{input, targets: {choices, labels}}",
    signs=frozenset({"input", "targets"}),
)
HHH = Benchmark(
    "hhh",
    "HHH alignment",
    FORMAT,
    rule,
    ("overall",),
    hub="HuggingFaceH4/hhh_alignment",
    pieces=tuple(Piece(s, "test", s) for s in ("helpful", "honest", "harmless", "other")),
)
