"""The project's own shapes (preference as TRL's, rated, candidates) and what they are built of."""

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from smorm.data import fields
from smorm.data.census import BadRecord, Defect, DropReason
from smorm.data.fields import Context
from smorm.data.formats import Format, Row
from smorm.data.messages import Spelling, from_json, read_messages, template_inputs
from smorm.data.records import Candidates, Messages, Preference, Rated
from smorm.data.rows import has_value, plain
from smorm.names import name_problem
from smorm.text.chat import INPUTS, RAW, Message

Split = tuple[Messages, Messages, Messages]  # prompt, chosen, rejected
_DIALOGUES = ("messages", "conversations")
_SPEAKERS = {"User": "user", "Human": "user", "Assistant": "assistant"}
# (end of the prompt, start of a response): two turns of one role are two halves of another split,
# and a template may drop one of them.
_REFUSED_ORDERS = {("user", "user"), ("user", "system"), ("assistant", "assistant")}


def preference(row: Row, context: Context) -> list[Preference | Candidates]:
    """`{prompt?, chosen, rejected, margin?, id?, source?}`, in text or in message lists.

    With a prompt each side is what follows it; `rejected` may be a list of answers, each of which
    makes a pair. Without one, each side is a whole conversation: of message lists the longest
    common beginning is the prompt; texts have no chat structure. `{messages, rejected_response}`
    has the chosen answer as its last message, `{messages, rejected_messages}` two conversations."""
    if "chosen" not in row and has_value(row, "rejected_messages"):
        pair = _conversations(row, ("messages", "rejected_messages"), context)
        return [preference_of(row, pair, context)]
    if "chosen" not in row and not has_prompt(row):
        for name in ("rejected_response", "rejected"):
            if name in row and dialogue_name(row) is not None:
                return [_against_last_message(row, name, context)]
    # "prompt" in the row but null is a damaged row, and no pair of whole conversations
    holds_conversations = not has_prompt(row) and dialogue_name(row) is None
    if context.every_response and not holds_conversations:
        return [_every_side(row, context)]
    chosen = fields.required(row, "chosen", context)
    rejected = fields.required(row, "rejected", context)
    if holds_conversations:
        return [preference_of(row, _whole_conversations(row, chosen, rejected, context), context)]
    prompt = prompt_of(row, context)
    name = "chosen"
    if isinstance(chosen, list):
        name, chosen = _one_answer(chosen, context)
    names, sides = [name], [side_of(chosen, name, context)]
    for name, value in _answers(rejected, "rejected"):
        names.append(name)
        sides.append(side_of(value, name, context))
    good, *bad = without_prompt(prompt, tuple(sides), tuple(names), context)
    return [preference_of(row, (prompt, good, side), context) for side in bad]


def _one_answer(chosen: list[Any], context: Context) -> tuple[str, Any]:
    """The chosen answer with its name, where it stands alone in a list too."""
    answers = _answers(chosen, "chosen")
    if len(answers) > 1:
        expected = "one answer (several good ones are format best_of_k, for smorm eval)"
        raise context.wrong("chosen", chosen, expected)
    return answers[0]


def _every_side(row: Row, context: Context) -> Candidates:
    """The answers of a pair, or of lists of chosen and rejected ones, in that order."""
    answers: list[tuple[str, Any]] = []
    for name in ("chosen", "rejected"):
        if name not in row:
            fields.required(row, name, context)
        answers += _answers(row[name], name)
    row.get("margin")  # how much better a side is says nothing of either
    return answers_of(row, prompt_of(row, context), answers, context)


def _whole_conversations(row: Row, chosen: Any, rejected: Any, context: Context) -> Split:
    if isinstance(chosen, str) and isinstance(rejected, str):
        return (), (Message(RAW, chosen),), (Message(RAW, rejected),)
    return _conversations(row, ("chosen", "rejected"), context)


def _conversations(row: Row, names: tuple[str, str], context: Context) -> Split:
    sides = [read_messages(fields.required(row, name, context), name, context) for name in names]
    prompt, good, bad = split_common(sides[0], sides[1])
    return template_inputs(row, context) + prompt, good, bad


def _against_last_message(row: Row, name: str, context: Context) -> Preference:
    prompt, chosen = _prompt_and_response(row, context)
    rejected = side_of(fields.required(row, name, context), name, context)
    return preference_of(row, (prompt, chosen, rejected), context)


def _answers(value: Any, name: str) -> list[tuple[str, Any]]:
    """One answer (text, messages, one message), or each of a list of answers, with its name."""
    if not isinstance(value, list) or not value or _is_message(value[0]):
        return [(name, value)]
    return [(f"{name}[{index}]", answer) for index, answer in enumerate(value)]


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and ("role" in value or "from" in value)


def preference_of(
    row: Row, pair: Split, context: Context, margin: float | None = None
) -> Preference:
    """A checked pair of (prompt, chosen, rejected); without a margin, with the row's."""
    prompt, chosen, rejected = pair
    if prompt:  # whole conversations may share nothing
        fields.filled_prompt(prompt, "prompt", context)
    fields.filled_response(chosen, "chosen", context)
    fields.filled_response(rejected, "rejected", context)
    if margin is None and has_value(row, "margin"):
        margin = fields.number(row["margin"], "margin", context)
        if margin < 0:
            problem = f"{margin}, expected at least 0: by it the rejected side is the better one"
            raise context.bad("margin", Defect.BAD_RATING, problem)
    return Preference(prompt, chosen, rejected, margin, **identity_of(row, context))


def identity_of(row: Row, context: Context) -> dict[str, Any]:
    """The fields of a record that say where it is from."""
    if "id" not in row and "source" not in row:
        return {"where": context.where}
    # A name for people: of another type it is a field like others, which is not read.
    source = None
    if isinstance(dict.get(row, "source") if isinstance(row, dict) else None, str | int):
        source = fields.optional_text(row, "source", context)
    return {"id": fields.identity(row, context), "source": source, "where": context.where}


def split_common(chosen: Messages, rejected: Messages) -> Split:
    """Two conversations as (common beginning, rest, rest)."""
    # a response needs at least one message, also where one conversation begins the other
    most = min(len(chosen), len(rejected)) - 1
    shared = 0
    while shared < most and chosen[shared] == rejected[shared]:
        shared += 1
    return chosen[:shared], chosen[shared:], rejected[shared:]


def rated(row: Row, context: Context) -> list[Rated]:
    """`{prompt, response, scores: {name: number | null}}`, or flat columns named in the config."""
    prompt, response = _prompt_and_response(row, context)
    response = fields.filled_response(response, "response", context)
    return [Rated(prompt, response, **ratings_of(row, context), **identity_of(row, context))]


def ratings_of(row: Row, context: Context) -> dict[str, Any]:
    """`scores` and `raters` of a rated record: of the configured attributes, else all of `scores`;
    None where the value is null or absent. `scores` wins over flat columns of the same names.

    Where its answer is only to be scored no rating is needed: one that cannot be read is counted.
    """
    try:
        return _ratings(row, context)
    except BadRecord:
        if not context.every_response:
            raise
        context.count(DropReason.RATING_UNREADABLE)
        plain(row.get("scores"))
        return {}


def _ratings(row: Row, context: Context) -> dict[str, Any]:
    nested = row.get("scores")
    if isinstance(nested, str) and nested.lstrip().startswith("{"):
        # As a CSV file has it.
        nested = from_json(nested, "scores", context)
        context.count(Spelling.JSON_TEXT, "scores")
    if nested is None and context.attributes is None:
        expected = "{name: number or null}; for flat columns name them as attributes"
        raise context.bad("scores", Defect.MISSING_FIELD, f"missing, expected {expected}")
    if nested is not None and not isinstance(nested, dict):
        raise context.wrong("scores", nested, "an object {name: number or null}")
    values, prefix = row, ""
    if nested is not None:
        values, prefix = nested, "scores."
    columns = context.attributes or dict(zip(values, values, strict=True))
    scores: dict[str, float | None] = {}
    raters: dict[str, int] = {}
    for name, column in columns.items():
        if (problem := name_problem(name)) is not None:
            raise context.bad("scores", Defect.BAD_ATTRIBUTE_NAME, problem)
        value = values.get(column)
        scores[name] = fields.rating(value, f"{prefix}{column}", context)
        if isinstance(value, list):
            raters[name] = fields.num_raters(value, context)
    return {"scores": scores, "raters": raters}


def candidates(row: Row, context: Context) -> list[Candidates]:
    """`{prompt, responses: [...]}`, `{prompt, response}` or `{messages}`. A response is text, a
    message list, or an object that holds it as `response`; policies do write empty ones."""
    values = row.get("responses")
    if values is None:
        prompt, response = _prompt_and_response(row, context)
        return [candidates_of(row, prompt, (response,), context)]
    if not isinstance(values, list) or not values:
        raise context.wrong("responses", values, "a list of at least one response")
    answers: list[tuple[str, Any]] = []
    for index, value in enumerate(values):
        if isinstance(value, dict) and not _is_message(value):
            try:
                value = answer_in(value, f"responses[{index}]", context)
            except BadRecord:
                # Where the others are wanted it is left to them: as no message it is refused.
                if not context.every_response:
                    raise
        answers.append((f"responses[{index}]", value))
    return [answers_of(row, prompt_of(row, context), answers, context)]


ANSWER_KEYS = ("response", "answer", "completion", "generation", "output", "text", "content")


def answer_in(answer: Mapping[str, Any], field: str, context: Context) -> Any:
    """The answer that an object holds beside what is said of it."""
    # There, and null: what the answer is, and no reason to look for another.
    if "response" in answer:
        return answer["response"]
    for key in ANSWER_KEYS:
        if has_value(answer, key):
            return answer[key]
    problem = f"no answer in it; the object has: {fields.names_of(answer)}"
    raise context.bad(field, Defect.MISSING_FIELD, problem)


def answers_of(
    row: Row, prompt: Messages, answers: Sequence[tuple[str, Any]], context: Context
) -> Candidates:
    """Checked candidates of answers with their fields' names, in the row's order. Where every
    response is wanted, one that is not usable among several leaves the others."""
    errors: dict[int, str] | None = None
    if context.every_response and len(answers) > 1:
        errors = {}
    sides: dict[int, Messages] = {}
    for position, (name, value) in enumerate(answers):
        with _noted(errors, position):
            sides[position] = side_of(value, name, context)
    usable: dict[int, Messages] = {}
    responses = _without_repeated(prompt, tuple(sides.values()), context)
    for position, response in zip(sides, responses, strict=True):
        name = answers[position][0]
        with _noted(errors, position):
            _refuse_order(prompt, response, name, context)
            fields.ends_in_answer(response, name, context)
            usable[position] = response
    record = candidates_of(row, prompt, tuple(usable.values()), context)
    if not errors:
        return record
    return replace(record, order=tuple(usable), unusable=errors)


@contextlib.contextmanager
def _noted(errors: dict[int, str] | None, position: int) -> Iterator[None]:
    """Note what is wrong with the answer in a place; without `errors` it is raised."""
    try:
        yield
    except BadRecord as bad:
        if errors is None:
            raise
        errors[position] = str(bad)


def candidates_of(
    row: Row, prompt: Messages, responses: tuple[Messages, ...], context: Context
) -> Candidates:
    """Checked candidates; an empty response is counted."""
    for index, response in enumerate(responses):
        fields.ends_in_answer(response, f"responses[{index}]", context)
        if fields.is_blank(response[-1].content):
            context.count(DropReason.EMPTY_RESPONSE)
    return Candidates(prompt, responses, **identity_of(row, context))


def has_prompt(row: Row) -> bool:
    """Whether the row gives its prompt in a field of its own."""
    return "prompt" in row or has_value(row, "prompt_messages")


def dialogue_name(row: Row) -> str | None:
    """The field that holds a conversation, as most data sets call it."""
    return next((name for name in _DIALOGUES if has_value(row, name)), None)


def prompt_of(row: Row, context: Context) -> Messages:
    """The prompt, after the tools of the row: `prompt_messages`, `prompt` as text or messages, or
    the conversation that an answer follows."""
    name = "prompt"
    if has_value(row, "prompt_messages"):
        name = "prompt_messages"
    elif "prompt" not in row:
        name = dialogue_name(row) or name
    prompt = side_of(fields.required(row, name, context), name, context, role="user")
    return template_inputs(row, context) + fields.filled_prompt(prompt, name, context)


def side_of(value: object, field: str, context: Context, role: str = "assistant") -> Messages:
    """Messages, or text, which becomes one message of the role."""
    if isinstance(value, str):
        return (Message(role, value),)
    if isinstance(value, list | dict):
        return read_messages(value, field, context)
    raise context.wrong(field, value, "text or a list of messages")


def _prompt_and_response(row: Row, context: Context) -> tuple[Messages, Messages]:
    """One prompt and one response; a conversation without a response beside it holds both, the last
    message is the response. A whole text has no prompt."""
    if "text" in context.mapped:
        return (), (Message(RAW, fields.text(row["text"], "text", context)),)
    name = dialogue_name(row)
    if not has_prompt(row) and name is not None and row.get("response") is None:
        conversation = read_messages(row[name], name, context)
        if len(conversation) < 2:
            problem = "one message, expected prompt and answer"
            raise context.bad(name, Defect.MISSING_FIELD, problem)
        prompt = fields.filled_prompt(conversation[:-1], name, context)
        return template_inputs(row, context) + prompt, conversation[-1:]
    prompt = prompt_of(row, context)
    response = side_of(fields.required(row, "response", context), "response", context)
    return prompt, without_prompt(prompt, (response,), ("response",), context)[0]


def without_prompt(
    prompt: Messages, sides: tuple[Messages, ...], names: tuple[str, ...], context: Context
) -> tuple[Messages, ...]:
    """The sides as continuations of the prompt. Where every side begins with the whole prompt (as
    in `ultrafeedback_binarized`), the prompt is taken once, and counted."""
    sides = _without_repeated(prompt, sides, context)
    for side, name in zip(sides, names, strict=True):
        _refuse_order(prompt, side, name, context)
    return sides


def _without_repeated(
    prompt: Messages, sides: tuple[Messages, ...], context: Context
) -> tuple[Messages, ...]:
    turns = prompt[1:] if prompt and prompt[0].role == INPUTS else prompt
    size = len(turns)
    if not sides or min(map(len, sides)) <= size:
        return sides
    # of one side alone it is what the answer says
    if all(side[:size] == turns for side in sides):
        context.count(DropReason.REPEATED_PROMPT)
        sides = tuple(side[size:] for side in sides)
    return sides


def _refuse_order(prompt: Messages, side: Messages, name: str, context: Context) -> None:
    before, after = prompt[-1].role, side[0].role
    if (before, after) in _REFUSED_ORDERS:
        problem = f"its first message is of {after!r} while the prompt ends with {before!r}"
        raise context.bad(name, Defect.ROLE_ORDER, problem)


def split_turns(text: str, marker: re.Pattern[str]) -> Messages:
    """Text cut at markers that name a speaker; text before the first one is the user's."""
    before, *rest = marker.split(text)
    turns = []
    if before.strip() or not rest:
        turns.append(Message("user", before))
    for speaker, content in zip(rest[::2], rest[1::2], strict=True):
        turns.append(Message(_SPEAKERS[speaker], content.removeprefix("\n")))
    return tuple(turns)


PREFERENCE = Format("preference", preference, "{prompt?, chosen, rejected, margin?}")
RATED = Format("rated", rated, "{prompt, response, scores: {name: number or null}}")
CANDIDATES = Format("candidates", candidates, "{prompt, responses: [...]}")
