"""MT-Bench's judgements (lmsys/mt_bench_human_judgments), and rows with a winner of an arena.
A tie prefers nothing: `tie` leaves it out before anything else is read of it, and it is counted."""

from smorm.data import fields
from smorm.data.census import Defect, DropReason
from smorm.data.fields import Context
from smorm.data.formats import Format
from smorm.data.messages import read_messages
from smorm.data.records import Candidates, Messages
from smorm.evaluation.benchmarks import Benchmark, Piece, rows
from smorm.evaluation.benchmarks.best_of_k import rule


def parse(row: rows.Row, context: Context) -> list[Candidates]:
    """Two conversations (conversation_a, conversation_b) up to the turn that was judged, of which
    the common beginning is the prompt, and the winner ("model_a", "model_b", or a tie)."""
    if rows.is_converted(row):
        return rows.comparison(row, context)
    turn = fields.required(row, "turn", context)
    if not isinstance(turn, int) or isinstance(turn, bool) or turn < 1:
        raise context.wrong("turn", turn, "a whole number from 1")
    return conversations(row, turn, context)


def tie(row: rows.Row) -> DropReason | None:
    """Why a row with a winner prefers nothing, or None; an arena's "both bad" is a tie too."""
    # Arenas write "tie", "tie (bothbad)", "tie (inconsistent)" and more.
    winner = str(row.get("winner"))
    if winner.startswith("tie") or winner == "both_bad":
        return DropReason.JUDGED_TIE
    return None


def winner_of(row: rows.Row, context: Context) -> str:
    """`model_a` or `model_b`."""
    winner = fields.required(row, "winner", context)
    if winner not in ("model_a", "model_b"):
        raise context.wrong("winner", winner, "'model_a', 'model_b' or a tie")
    return str(winner)


def conversations(row: rows.Row, turn: int | None, context: Context) -> list[Candidates]:
    """`conversation_a` and `conversation_b` up to the answer of a turn (from 1), or entire."""
    good_name, bad_name = "conversation_a", "conversation_b"
    good, bad = _until(row, good_name, turn, context), _until(row, bad_name, turn, context)
    # A judgement compares answers to one question; later turns may differ, the first may not.
    if good[0] != bad[0]:
        problem = "its first message is not conversation_a's, expected one question for both"
        raise context.bad(bad_name, Defect.OTHER_PROMPT, problem)
    if winner_of(row, context) == "model_b":
        good, bad, good_name, bad_name = bad, good, bad_name, good_name
    prompt, chosen, rejected = rows.split(good, bad, (good_name, bad_name), context)
    names = rows.names_of(row, "question_id", context)
    return rows.labelled(prompt, chosen, rejected, context, *names)


def _until(row: rows.Row, name: str, turn: int | None, context: Context) -> Messages:
    # A turn is a question and its answer; what was said after it was not judged.
    messages = read_messages(fields.required(row, name, context), name, context)
    if turn is None:
        size, of_turn = len(messages), ""
    else:
        size, of_turn = 2 * turn, f" for turn {turn}"
    if len(messages) < max(size, 2):
        problem = f"{len(messages)} messages, expected at least {max(size, 2)}{of_turn}"
        raise context.bad(name, Defect.TOO_SHORT, problem)
    if len(messages) > size:
        context.count(DropReason.NOT_READ, f"{name}[{size}:], turns after the judged one")
    return messages[:size]


FORMAT = Format(
    "candidates",
    parse,
    "{conversation_a, conversation_b, winner, turn}",
    signs=frozenset({"conversation_a", "conversation_b", "winner"}),
    drop_row=tie,
)
MT_BENCH = Benchmark(
    "mt-bench",
    "MT-Bench human judgements",
    FORMAT,
    rule,
    ("overall",),
    hub="lmsys/mt_bench_human_judgments",
    pieces=(Piece("human", "human"), Piece("gpt4", "gpt4_pair")),
)
