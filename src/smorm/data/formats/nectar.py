"""`berkeley-nest/Nectar`: seven answers to a transcript, each with its rank."""

from smorm.data import fields
from smorm.data.fields import Context
from smorm.data.formats import Format, Row, generic
from smorm.data.formats.hh_rlhf import transcript_turns
from smorm.data.formats.ranked import ranked_pairs
from smorm.data.records import Candidates, Messages, Preference


def parse(row: Row, context: Context) -> list[Preference | Candidates]:
    """A pair for every two answers of different rank."""
    text = fields.text(fields.required(row, "prompt", context), "prompt", context)
    turns = transcript_turns(text)
    # The marker that invites the answer.
    if turns[-1].role == "assistant" and not turns[-1].content:
        turns = turns[:-1]
    prompt = fields.filled_prompt(turns, "prompt", context)
    answers = fields.required(row, "answers", context)
    if not isinstance(answers, list) or len(answers) < 2:
        raise context.wrong("answers", answers, "a list of at least two answers")
    sides: list[Messages] = []
    merits: list[float | None] = []
    for index, answer in enumerate(answers):
        name = f"answers[{index}]"
        if not isinstance(answer, dict):
            raise context.wrong(name, answer, "an object with answer and rank")
        response = fields.required(answer, "answer", context, name)
        sides.append(generic.side_of(response, f"{name}.answer", context))
        rank = fields.required(answer, "rank", context, name)
        merits.append(-fields.number(rank, f"{name}.rank", context))
    return ranked_pairs(row, prompt, tuple(sides), merits, context)


FORMAT = Format(
    "preference",
    parse,
    "{prompt transcript, answers: [{answer, rank}]}",
    signs=frozenset({"prompt", "answers"}),
)
