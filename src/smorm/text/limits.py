"""Conversations longer than the limit: refused, dropped, or shortened in the prompt only.

A response is never cut: the end of an answer is what a reward model reads. All responses of one
record are judged under the same prompt, so where one of them needs a shorter prompt, all get it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal

from smorm.errors import OverLimitError
from smorm.text.changes import Change
from smorm.text.chat import INPUTS, RAW, Messages, Renderer

Overlong = Literal["error", "drop", "truncate_prompt"]


class UnscoredReason(StrEnum):
    """Why responses have no score; the value is the words that census lines hold."""

    TOO_LONG = "longer than the limit"
    RESPONSE_TOO_LONG = "response longer than the limit"
    REFUSED = "cannot be rendered within the limit"
    OVER_LIMIT = "over the limit, which is an error"
    NO_ASSISTANT_TURN = "no turn of an assistant"
    BAD_RECORD = "bad record"
    NO_VALUE = "no value in the field"
    OTHER_WORLD = "not of the generated world"


# What the policies `drop` and `truncate_prompt` leave out, in training as wherever it is scored.
LEFT_OUT = (UnscoredReason.TOO_LONG, UnscoredReason.RESPONSE_TOO_LONG)


@dataclass(frozen=True, slots=True)
class Unscored:
    """What stands in the place of a score where there is none. Whatever depends on it reads
    `reason`; `detail` is a sentence for people."""

    reason: UnscoredReason
    detail: str = ""

    def __str__(self) -> str:
        return self.detail or f"not scored: {self.reason}"


@dataclass(frozen=True, slots=True)
class Fitted:
    """A record's conversations as token ids, one list per response, each within the limit; None
    where the record was `dropped`. `truncated`: text was taken from the prompt. `changes`: what the
    template does not write of any of them, each kind once."""

    tokens: list[list[int]] | None
    prompt: Messages
    truncated: bool = False
    dropped: UnscoredReason | None = None
    changes: tuple[Change, ...] = ()


def fit(
    renderer: Renderer,
    prompt: Messages,
    responses: Sequence[Messages],
    limit: int,
    policy: Overlong,
) -> Fitted:
    """Render `prompt + response` for each response so that none has more than `limit` tokens.

    `truncate_prompt` takes text from the left end of the oldest message that is not the system's,
    then of the next, and of system messages last; every message stays, if only as an empty one.
    `DataError`: a conversation is over-long under "error", or cannot be rendered. One of more text
    than is tokenised is over-long too, and is dropped under the other policies."""
    tokens: list[list[int]] = []
    changes: dict[Change, None] = {}
    try:
        for response in responses:
            ids, changed = renderer.render_with_changes(prompt + response)
            tokens.append(ids)
            changes |= dict.fromkeys(changed)
    except OverLimitError:
        if policy == "error":
            raise
        return Fitted(None, prompt, dropped=UnscoredReason.TOO_LONG)
    lengths = list(map(len, tokens))
    if not lengths or max(lengths) <= limit:
        return Fitted(tokens, prompt, changes=tuple(changes))
    if policy == "error":
        raise OverLimitError(
            f"the conversation has {max(lengths)} tokens and the limit is {limit}: raise the "
            'limit, or set overlong to "drop" or "truncate_prompt"'
        )
    if policy == "drop":
        return Fitted(None, prompt, dropped=UnscoredReason.TOO_LONG)
    fitted = _truncate(renderer, prompt, responses, limit, lengths)
    return replace(fitted, changes=tuple(changes))


def _truncate(
    renderer: Renderer,
    prompt: Messages,
    responses: Sequence[Messages],
    limit: int,
    lengths: list[int],
) -> Fitted:
    # Joining the cut text to the template can make a token more or less than counted, so each cut
    # is checked by rendering; every round takes at least one token, so the rounds end.
    shorter = prompt
    while True:
        # First for the longest alone: rendering all N responses in every round would be slow.
        length = max(lengths)
        longest = responses[lengths.index(length)]
        while length > limit:
            before, shorter = shorter, _shorten(renderer, shorter, length - limit)
            # No text is left to take: the response alone is too long.
            if shorter == before:
                return Fitted(None, prompt, dropped=UnscoredReason.RESPONSE_TOO_LONG)
            fitting = renderer.render(shorter + longest)
            length = len(fitting)
        tokens = []
        for response in responses:
            rendered = response is longest
            tokens.append(fitting if rendered else renderer.render(shorter + response))
        lengths = list(map(len, tokens))
        if max(lengths) <= limit:
            return Fitted(tokens, shorter, truncated=True)


def _shorten(renderer: Renderer, prompt: Messages, excess: int) -> Messages:
    """The prompt with `excess` tokens less text, or as it is when no text is left to take."""
    messages = list(prompt)
    cut_never = (RAW, INPUTS)
    candidates = [index for index, message in enumerate(prompt) if message.role not in cut_never]
    # Oldest first, and system messages last: sorting is stable.
    candidates.sort(key=lambda index: prompt[index].role == "system")
    for index in candidates:
        text = prompt[index].content
        starts = renderer.token_starts(text)
        # A cut inside of one character's bytes takes the character as well.
        cut = next((start for start in starts[excess:] if start > 0), len(text))
        messages[index] = replace(prompt[index], content=text[cut:])
        if cut < len(text):
            break
        excess -= len(starts)
        if excess <= 0:
            break
    return tuple(messages)
