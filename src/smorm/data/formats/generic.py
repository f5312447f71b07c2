"""The project's own shapes (preference as TRL's, rated, candidates) and what they are built of."""

import re
from typing import Any

from smorm.data import fields
from smorm.data.census import Defect, DropReason
from smorm.data.fields import Context
from smorm.data.formats import Format, Row
from smorm.data.records import Candidates, Messages, Preference, Rated
from smorm.text.chat import RAW, Message

# The head's own row: an attribute of that name could not be told from it.
RESERVED = ("preference",)
_SPEAKERS = {"User": "user", "Human": "user", "Assistant": "assistant"}
# (end of the prompt, start of a response): two turns of one role are two halves of another split,
# and a template may drop one of them.
_REFUSED_ORDERS = {("user", "user"), ("user", "system"), ("assistant", "assistant")}


def preference(row: Row, context: Context) -> list[Preference]:
    """`{prompt?, chosen, rejected, margin?, id?, source?}`, in text or in message lists.

    With a prompt (`prompt_messages` wins over `prompt` where a row has both), each side is what
    follows it: text is one assistant message. Without one, each side is a whole conversation: of
    message lists the longest common beginning is the prompt; texts are raw text with no chat
    structure."""
    chosen = fields.required(row, "chosen", context)
    rejected = fields.required(row, "rejected", context)
    # "prompt" in the row but null is a damaged row, and no pair of whole conversations
    if has_prompt(row):
        prompt = prompt_of(row, context)
        sides = (side_of(chosen, "chosen", context), side_of(rejected, "rejected", context))
        good, bad = without_prompt(prompt, sides, ("chosen", "rejected"), context)
        pair = (prompt, good, bad)
    elif isinstance(chosen, str) and isinstance(rejected, str):
        pair = ((), (Message(RAW, chosen),), (Message(RAW, rejected),))
    else:
        good = fields.messages(chosen, "chosen", context)
        pair = split_common(good, fields.messages(rejected, "rejected", context))
    return [preference_of(row, pair, context)]


def preference_of(
    row: Row,
    pair: tuple[Messages, Messages, Messages],
    context: Context,
    margin: float | None = None,
) -> Preference:
    """A checked pair of (prompt, chosen, rejected) with the row's id, source and margin (or
    another margin)."""
    note_ignored(row, context)
    prompt, chosen, rejected = pair
    if prompt:  # whole conversations may share nothing
        fields.filled_prompt(prompt, "prompt", context)
    fields.filled_response(chosen, "chosen", context)
    fields.filled_response(rejected, "rejected", context)
    if margin is None:
        margin = fields.margin(row, context)
    return Preference(prompt, chosen, rejected, margin, **_identity(row, context))


def _identity(row: Row, context: Context) -> dict[str, Any]:
    identity = fields.optional_text(row, "id", context)
    source = fields.optional_text(row, "source", context)
    return {"id": identity, "source": source, "where": context.where}


def split_common(chosen: Messages, rejected: Messages) -> tuple[Messages, Messages, Messages]:
    """Two conversations as (common beginning, rest, rest); each rest keeps at least one message."""
    # a response needs at least one message, also where one conversation begins the other
    most = min(len(chosen), len(rejected)) - 1
    shared = 0
    while shared < most and chosen[shared] == rejected[shared]:
        shared += 1
    return chosen[:shared], chosen[shared:], rejected[shared:]


def rated(row: Row, context: Context) -> list[Rated]:
    """`{prompt, response, scores: {name: number | null}}`, or flat columns named in the config.

    With attributes configured only those are taken, from `scores` where the row has it, else from
    the row itself. Null or absent means not rated."""
    prompt, response = prompt_and_response(row, context)
    note_ignored(row, context)
    response = fields.filled_response(response, "response", context)
    return [rated_of(row, prompt, response, scores_of(row, context), context)]


def rated_of(
    row: Row,
    prompt: Messages,
    response: Messages,
    scores: dict[str, float | None],
    context: Context,
) -> Rated:
    """A rated response with the row's id and source."""
    return Rated(prompt, response, scores, **_identity(row, context))


def scores_of(row: Row, context: Context) -> dict[str, float | None]:
    """The ratings of a row, nested or flat; None where not rated."""
    nested = row.get("scores")
    if nested is None and context.columns is None:
        problem = (
            "missing, expected {name: number or null}; for flat columns name them as attributes"
        )
        raise context.bad("scores", Defect.MISSING_FIELD, problem)
    if nested is not None and not isinstance(nested, dict):
        raise context.wrong("scores", nested, "an object {name: number or null}")
    # nested scores win over flat columns of the same names
    values, prefix = row, ""
    if nested is not None:
        values, prefix = nested, "scores."
    columns = context.columns or dict(zip(values, values, strict=True))
    scores: dict[str, float | None] = {}
    for name, column in columns.items():
        if not isinstance(name, str) or not name.strip() or name in RESERVED:
            problem = f"{name!r} cannot be the name of an attribute"
            raise context.bad("scores", Defect.BAD_ATTRIBUTE_NAME, problem)
        scores[name] = None
        if values.get(column) is not None:
            scores[name] = fields.number(values[column], f"{prefix}{column}", context)
    return scores


def candidates(row: Row, context: Context) -> list[Candidates]:
    """`{prompt, responses: [...]}`, `{prompt, response}` or `{messages}`; other fields are ignored.

    A response is text, a message list, or an object that holds it as `response`. An empty one is
    scored like any other, and counted: policies do write them."""
    values = row.get("responses")
    if values is None:
        prompt, response = prompt_and_response(row, context)
        return [candidates_of(row, prompt, (response,), context)]
    if not isinstance(values, list) or not values:
        raise context.wrong("responses", values, "a list of at least one response")
    prompt = prompt_of(row, context)
    # the names go into errors: which of the responses is wrong
    names, sides = [], []
    for index, value in enumerate(values):
        names.append(f"responses[{index}]")
        if isinstance(value, dict):
            value = value.get("response")
        sides.append(side_of(value, names[-1], context))
    responses = without_prompt(prompt, tuple(sides), tuple(names), context)
    return [candidates_of(row, prompt, responses, context)]


def candidates_of(
    row: Row, prompt: Messages, responses: tuple[Messages, ...], context: Context
) -> Candidates:
    """Checked candidates with the row's id and source."""
    for index, response in enumerate(responses):
        fields.ends_in_answer(response, f"responses[{index}]", context)
        if not response[-1].content.strip():
            context.count(DropReason.EMPTY_RESPONSE)
    return Candidates(prompt, responses, **_identity(row, context))


def has_prompt(row: Row) -> bool:
    """Whether the row gives its prompt in a field of its own."""
    return "prompt" in row or row.get("prompt_messages") is not None


def prompt_of(row: Row, context: Context) -> Messages:
    """The prompt: `prompt_messages` where the row has it, else `prompt` as text or messages."""
    name = "prompt_messages" if row.get("prompt_messages") is not None else "prompt"
    prompt = _conversation(fields.required(row, name, context), "user", name, context)
    return fields.filled_prompt(prompt, name, context)


def side_of(value: object, field: str, context: Context) -> Messages:
    """What follows the prompt: text becomes one assistant message."""
    return _conversation(value, "assistant", field, context)


def _conversation(value: object, role: str, field: str, context: Context) -> Messages:
    if isinstance(value, str):
        return (Message(role, value),)
    if isinstance(value, list):
        return fields.messages(value, field, context)
    raise context.wrong(field, value, "text or a list of messages")


def prompt_and_response(row: Row, context: Context) -> tuple[Messages, Messages]:
    """One prompt and one response; `messages` holds both, the last message is the response."""
    if not has_prompt(row) and row.get("messages") is not None:
        conversation = fields.messages(row["messages"], "messages", context)
        if len(conversation) < 2:
            problem = "one message, expected prompt and answer"
            raise context.bad("messages", Defect.MISSING_FIELD, problem)
        prompt = fields.filled_prompt(conversation[:-1], "messages", context)
        return prompt, conversation[-1:]
    prompt = prompt_of(row, context)
    response = side_of(fields.required(row, "response", context), "response", context)
    return prompt, without_prompt(prompt, (response,), ("response",), context)[0]


def without_prompt(
    prompt: Messages, sides: tuple[Messages, ...], names: tuple[str, ...], context: Context
) -> tuple[Messages, ...]:
    """The sides as continuations of the prompt.

    Where every side begins with the whole prompt (whole conversations beside a prompt, as in
    `ultrafeedback_binarized`), the prompt is taken once, and counted."""
    size = len(prompt)
    # of every side, or it is what the answer says
    if all(len(side) > size and side[:size] == prompt for side in sides):
        context.count(DropReason.REPEATED_PROMPT)
        sides = tuple(side[size:] for side in sides)
    for side, name in zip(sides, names, strict=True):
        before, after = prompt[-1].role, side[0].role
        if (before, after) in _REFUSED_ORDERS:
            problem = f"its first message is of {after!r} while the prompt ends with {before!r}"
            raise context.bad(name, Defect.ROLE_ORDER, problem)
    return sides


def note_ignored(row: Row, context: Context) -> None:
    """Count what TRL would have rendered and this project does not."""
    for name in ("tools", "chat_template_kwargs"):
        if row.get(name):
            context.count(DropReason.FIELD_IGNORED, name)


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
