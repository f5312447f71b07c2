"""Where the responses of a pair begin, from its tokens.

A chat template writes the same tokens between the last message of a prompt and the response: the
header of an assistant's turn. A response begins after the last header in what two sides of a pair
share. Without one (raw text, an unfinished turn) it begins where they differ, as in TRL."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smorm.arrays import Tokens
from smorm.data.token_store import TokenPair
from smorm.errors import DataError
from smorm.printing import get_logger
from smorm.text.chat import Message, Renderer
from smorm.trees.forest import common_prefix, end_of_last

log = get_logger(__name__)

# They begin and end in different ways, so that none of their tokens is taken for the template's.
_TEXTS = ("one", "six!", "end.", "x\n", "1", "yes", "No", "- x")
_ENOUGH = 5


def assistant_header(renderer: Renderer) -> Tokens:
    """The tokens that a template writes between any user's message and any response; maybe none."""
    texts = _probe_texts(renderer.tokenizer)
    ends: list[Tokens] = []
    try:
        for prompt in texts:
            rendered = []
            for response in texts:
                chat = (Message("user", prompt), Message("assistant", response))
                rendered.append(np.asarray(renderer.render(chat), dtype=np.int32))
            shared = min(common_prefix(rendered[0], tokens) for tokens in rendered)
            ends.append(rendered[0][:shared])
    except DataError:  # the template takes no such conversation
        ends = []
    if len(ends) < 2:
        return np.empty(0, dtype=np.int32)
    # What comes between the user's text and the response is the same after every user's text: the
    # header is what all of these beginnings end with.
    length = min(common_prefix(ends[0][::-1], end[::-1]) for end in ends[1:])
    return ends[0][len(ends[0]) - length :]


def _probe_texts(tokenizer: Any) -> list[str]:
    """Texts that the tokenizer knows, no two of which begin or end with the same token."""
    texts: list[str] = []
    first, last, special = set(), set(), set(tokenizer.all_special_ids)
    vocabulary = (tokenizer.decode([i]).strip() for i in range(len(tokenizer)) if i not in special)
    # A tokenizer may know few of our texts (one of characters, or of another script): then texts
    # from its vocabulary follow.
    for text in itertools.chain(_TEXTS, vocabulary):
        if len(texts) >= _ENOUGH and text not in _TEXTS:
            break
        ids = tokenizer.encode(text, add_special_tokens=False)
        if ids and not special & set(ids) and ids[0] not in first and ids[-1] not in last:
            texts.append(text)
            first.add(ids[0])
            last.add(ids[-1])
    return texts


def response_start(chosen: Tokens, rejected: Tokens, header: Tokens) -> tuple[int, bool]:
    """The first token of both responses, and whether a header is before it."""
    shared = common_prefix(chosen, rejected)
    # Within the shared tokens: a response may itself hold what looks like a header.
    end = end_of_last(chosen[:shared], header)
    return (shared, False) if end is None else (end, True)


def response_starts(pairs: Sequence[TokenPair], renderer: Renderer) -> NDArray[np.int64]:
    """`response_start` of every pair, [P]; the log says how many have a header."""
    header = assistant_header(renderer)
    starts = np.zeros(len(pairs), dtype=np.int64)
    with_header = 0
    for index, pair in enumerate(pairs):
        starts[index], by_header = response_start(pair.chosen, pair.rejected, header)
        with_header += by_header
    count = len(pairs)
    log.info("responses: %d of %d pairs have the template's header", with_header, count)
    if with_header < count:
        log.warning("responses: %d of %d pairs have no header of an assistant's turn: the response "
                    "is taken to begin where the two sides differ",
                    count - with_header, count)  # fmt: skip
    return starts


def response_lengths(pairs: Sequence[TokenPair], starts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Tokens of both responses of pairs, which begin at `starts` [P], [P, 2]."""
    lengths = np.zeros((len(pairs), 2), dtype=np.int64)
    for index, pair in enumerate(pairs):
        lengths[index] = len(pair.chosen), len(pair.rejected)
    return lengths - starts[:, None]
