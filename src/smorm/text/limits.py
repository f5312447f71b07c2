"""Conversations longer than the limit: refused, dropped, or shortened in the prompt only.

A response is never cut: the end of an answer is what a reward model reads. All responses of one
record are judged under the same prompt, so where one of them needs a shorter prompt, all get it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from smorm.errors import DataError
from smorm.text.chat import RAW, Message, Messages, Renderer

Overlong = Literal["error", "drop", "truncate_prompt"]


class UnscoredReason(StrEnum):
    """Why responses have no score; the value is the words that census lines hold."""

    TOO_LONG = "longer than the limit"
    RESPONSE_TOO_LONG = "response longer than the limit"
    REFUSED = "cannot be rendered within the limit"
    NO_ASSISTANT_TURN = "no turn of an assistant"
    BAD_RECORD = "bad record"
    NO_VALUE = "no value in the field"
    OTHER_WORLD = "not of the generated world"


@dataclass(frozen=True, slots=True)
class Unscored:
    """What stands in the place of a score where there is none.

    Attributes:
        reason: decides whatever depends on it.
        detail: a sentence for people; nothing may depend on its wording.
    """

    reason: UnscoredReason
    detail: str = ""

    def __str__(self) -> str:
        return self.detail or f"not scored: {self.reason}"


@dataclass(frozen=True, slots=True)
class Fitted:
    """A record's conversations as token ids: one list per response, each within the limit.

    `tokens` is None when the record was dropped, and `dropped` then says why. `truncated` tells
    that text was taken from the prompt; `prompt` is the prompt as rendered (as given, if dropped).
    """

    tokens: list[list[int]] | None
    prompt: Messages
    truncated: bool = False
    dropped: UnscoredReason | None = None


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

    Raises:
        DataError: a conversation is over-long under "error", or cannot be rendered.
    """
    tokens = [renderer.render(prompt + response) for response in responses]
    longest = max(range(len(tokens)), key=lambda index: len(tokens[index]), default=None)
    if longest is None or len(tokens[longest]) <= limit:
        return Fitted(tokens, prompt)
    if policy == "error":
        raise DataError(
            f"the conversation has {len(tokens[longest])} tokens and the limit is {limit}: raise "
            'the limit, or set overlong to "drop" or "truncate_prompt"'
        )
    if policy == "drop":
        return Fitted(None, prompt, dropped=UnscoredReason.TOO_LONG)
    return _truncate(renderer, prompt, responses, limit, longest, len(tokens[longest]))


def _truncate(
    renderer: Renderer,
    prompt: Messages,
    responses: Sequence[Messages],
    limit: int,
    longest: int,
    length: int,
) -> Fitted:
    """Shorten the prompt until the longest conversation fits, then render them all.

    Joining the cut text to the template can make a token more or less than counted, so each cut is
    checked by rendering; every round takes at least one token, so the rounds end.
    """
    shorter = prompt
    while True:
        while length > limit:
            before, shorter = shorter, _shorten(renderer, shorter, length - limit)
            if shorter == before:
                return Fitted(None, prompt, dropped=UnscoredReason.RESPONSE_TOO_LONG)
            fitting = renderer.render(shorter + responses[longest])
            length = len(fitting)
        tokens = [
            fitting if index == longest else renderer.render(shorter + response)
            for index, response in enumerate(responses)
        ]
        longest = max(range(len(tokens)), key=lambda index: len(tokens[index]))
        length = len(tokens[longest])
        if length <= limit:
            return Fitted(tokens, shorter, truncated=True)


def _shorten(renderer: Renderer, prompt: Messages, excess: int) -> Messages:
    """The prompt with `excess` tokens less text, or as it is when no text is left to take."""
    messages = list(prompt)
    oldest_first = [i for i, message in enumerate(messages) if message.role not in ("system", RAW)]
    systems = [i for i, message in enumerate(messages) if message.role == "system"]
    for index in oldest_first + systems:
        if excess <= 0:
            break
        message = messages[index]
        starts = renderer.token_starts(message.content)
        # a cut that falls inside one character's bytes takes the whole character
        cut = next((s for s in starts[excess:] if s > 0), len(message.content))
        messages[index] = Message(message.role, message.content[cut:])
        excess -= len(starts) if cut == len(message.content) else excess
    return tuple(messages)
