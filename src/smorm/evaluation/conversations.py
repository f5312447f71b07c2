"""The conversations that every path of a parity check scores: 64 of them, as unlike as users' are.

Several share a prompt, so that a forest has something to share. The last two are near the token
limit, so that one batch is mostly padding.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from smorm.data.census import Census, DropReason
from smorm.data.quarantine import BadRecord
from smorm.data.reading import Source, read_each
from smorm.errors import DataError
from smorm.evaluation.conversation_texts import GROUPS, LONG
from smorm.text.chat import Message, Messages, Renderer
from smorm.text.limits import fit

COUNT = 64
LONGEST = 1024
READ: Messages = (Message("assistant", "I have read it."),)


@dataclass(frozen=True, slots=True)
class Conversation:
    """A prompt and a response that fit the model, and their token ids by our renderer.

    `control` tells that a message holds a control token as text, which most programs take for a
    real one.
    """

    prompt: Messages
    response: Messages
    tokens: NDArray[np.int32]
    control: bool

    @property
    def messages(self) -> Messages:
        """All messages."""
        return self.prompt + self.response


def built_in(renderer: Renderer, census: Census, *, longest: int = LONGEST) -> list[Conversation]:
    """The committed set.

    Args:
        census: gets what the template refused and what was shortened to the model's limit.
        longest: tokens of the two long ones; less where the model's limit is lower.

    Raises:
        DataError: the template takes none of them.
    """
    limit = min(renderer.max_tokens, longest)
    pairs = [(prompt, response) for prompt, answers in _groups(renderer) for response in answers]
    pairs += [(_long(renderer, limit, sentence), READ) for sentence in LONG]
    return _fitted(renderer, pairs, census)


def from_file(path: Path | str, renderer: Renderer, census: Census) -> list[Conversation]:
    """The first 64 conversations of a file of pairs, candidates or rated responses.

    Raises:
        DataError: a bad record, or none that fits.
    """
    pairs = list(itertools.islice(_read(Source(path), census), COUNT + 1))
    if len(pairs) > COUNT:
        census.add(DropReason.CONVERSATIONS_BEYOND, str(path), detail=str(COUNT))
    return _fitted(renderer, pairs[:COUNT], census)


def _read(source: Source, census: Census) -> Iterator[tuple[Messages, Messages]]:
    for _, found in read_each(source, census):
        if isinstance(found, BadRecord):
            raise found
        for record in found:
            item = record.item
            for response in item.responses:
                yield item.prompt, response


def _groups(renderer: Renderer) -> Iterator[tuple[Messages, list[Messages]]]:
    for turns, responses in GROUPS:
        prompt = tuple(Message(role, text) for role, text in turns)
        yield prompt, [(Message("assistant", text),) for text in responses]
    # This tokenizer's own control tokens, written by a user.
    own = list(renderer.control.ids)[:8]
    said = " ".join(own) or "nothing"
    answers = [(Message("assistant", f"{said} is what you wrote."),), READ]
    yield (Message("user", f"What does {said} mean?"),), answers


def _long(renderer: Renderer, limit: int, sentence: str) -> Messages:
    """A question that fills the limit but for the last few tokens."""
    each = max(1, len(renderer.token_starts(sentence + " ")))
    repeats = max(1, limit // each)
    while True:
        prompt = (Message("user", (sentence + " ") * repeats),)
        whole = renderer.render(prompt + READ)
        if len(whole) <= limit or repeats == 1:
            return prompt
        repeats = min(repeats - 1, repeats * limit // len(whole))


def _fitted(
    renderer: Renderer, pairs: list[tuple[Messages, Messages]], census: Census
) -> list[Conversation]:
    """Those that the template takes, prompts shortened to the model's limit, counted."""
    kept: list[Conversation] = []
    for prompt, response in pairs:
        try:
            fitted = fit(renderer, prompt, [response], renderer.max_tokens, "truncate_prompt")
        except DataError as error:
            census.add(DropReason.CONVERSATION_LEFT_OUT, detail=str(error))
            continue
        if fitted.tokens is None:
            census.add(DropReason.CONVERSATION_LEFT_OUT, detail=str(fitted.dropped))
            continue
        if fitted.truncated:
            census.add(DropReason.CONVERSATION_SHORTENED)
        control = any(renderer.control.found_in(m.content) for m in fitted.prompt + response)
        ids = np.asarray(fitted.tokens[0], dtype=np.int32)
        kept.append(Conversation(fitted.prompt, response, ids, control))
    if not kept:
        raise DataError("no conversation can be rendered: " + "; ".join(census.lines()))
    return kept
