"""PPE (lmarena-ai): human preference between two answers, and correctness among many."""

from smorm.data import fields
from smorm.data.census import Defect
from smorm.data.fields import Context
from smorm.data.formats import Format, generic
from smorm.data.records import Candidates
from smorm.evaluation.benchmarks import Benchmark, Piece, rows
from smorm.evaluation.benchmarks.best_of_k import rule
from smorm.evaluation.benchmarks.mt_bench import conversations, tie, winner_of


def parse_preference(row: rows.Row, context: Context) -> list[Candidates]:
    """`lmarena-ai/PPE-Human-Preference-V1` and other arena sets: two answers and a winner.
    Columns read: question_id, prompt (text), response_1, response_2, winner ("model_a", "model_b",
    or a tie). The flags (is_code, hard_prompt, ...) overlap, so they are no subset. Also read:
    response_a and response_b, and full conversations in conversation_a and conversation_b
    (`lmsys/chatbot_arena_conversations`)."""
    if rows.is_converted(row):
        return rows.comparison(row, context)
    # Arena sets before PPE hold both conversations in full, not two answers.
    if row.get("conversation_a") is not None:
        return conversations(row, None, context)
    names = ("response_1", "response_2")
    if "response_2" not in row and "response_b" in row:
        names = ("response_a", "response_b")
    prompt = generic.prompt_of(row, context)
    first_is_good = winner_of(row, context) == "model_a"
    return rows.of_two(row, prompt, names, first_is_good, "question_id", context)


def parse_correctness(row: rows.Row, context: Context) -> list[Candidates]:
    """PPE's correctness sets (`lmarena-ai/PPE-MMLU-Pro-Best-of-K` and four more): best of k.
    Columns read: question_id, prompt, response_1 to response_32, scores (whether each is correct);
    sampled_conflict_pairs is not. The published rows do not name their benchmark; where a row has
    `benchmark` (or `subset`, `source`, `domain`) it is the source."""
    if rows.is_converted(row):
        return rows.comparison(row, context)
    prompt = generic.prompt_of(row, context)
    correct = rows.flags(fields.required(row, "scores", context), "scores", context)
    responses: rows.Responses = {}
    for number in range(1, len(correct) + 1):
        responses |= rows.response(row, f"response_{number}", context)
    # Fewer scores than responses: then it is unknown which response each score belongs to.
    next_name = f"response_{len(correct) + 1}"
    if row.get(next_name) is not None:
        problem = f"{len(correct)} scores, but the row has {next_name} as well"
        raise context.bad("scores", Defect.WRONG_COUNT, problem)
    identity = rows.first_text(row, ("question_id", "id"), context)
    subset = rows.first_text(row, ("benchmark", *rows.SUBSET_FIELDS), context)
    record = rows.unlabelled(prompt, responses, context, identity, subset)
    return rows.good_first(record, correct, "scores", context)


HUMAN_FORMAT = Format(
    "candidates",
    parse_preference,
    "{prompt, response_1, response_2, winner}",
    signs=frozenset({"response_1", "response_2", "winner"}),
    drop_row=tie,
)
CORRECTNESS_FORMAT = Format(
    "candidates",
    parse_correctness,
    "{prompt, response_1, ..., scores: [...]}",
    signs=frozenset({"response_1", "scores"}),
)
PPE = Benchmark(
    "ppe",
    "PPE human preference",
    HUMAN_FORMAT,
    rule,
    ("overall",),
    hub="lmarena-ai/PPE-Human-Preference-V1",
    pieces=(Piece("", "test"),),
    format_name="ppe_human",
)
PPE_CORRECTNESS = Benchmark(
    "ppe-correctness", "PPE correctness", CORRECTNESS_FORMAT, rule, ("overall",)
)
