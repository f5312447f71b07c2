"""Special tokens inside a message's text stay text.

Each special token that a message holds is wrapped in two private-use characters, the template is
rendered as a string, the string is cut at these marks, and the wrapped pieces are encoded with the
added tokens switched off. Added tokens that are not special (`<think>`, `<tool_call>`) are
structure that models and templates write: in a message they become their own token, as with plain
transformers.

Three more cases are covered. Text that only becomes a special token under the tokenizer's
normalizer (full-width `＜s＞` under NFKC, `[inst]` under lower-casing). A special token that the
vocabulary itself makes from plain text: it is split. A template that writes two texts side by side:
the edges of each text are marked too, so that two messages cannot make a token together.

U+F0000 and U+F0001 are the marks. They are removed from messages that need marking, which changes
no real text: Unicode assigns them no meaning.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from smorm.errors import DataError, third_party

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

START, END = "\U000f0000", "\U000f0001"
MARKS = re.compile(f"[{START}{END}]")
# As a template's JSON may write them.
_ESCAPED_MARKS = ((r"\udb80\udc00", START), (r"\udb80\udc01", END))
ANY_TEXT = "\ue000"
"""Stands for a message's text in a probe; templates neither trim nor match it."""
BEHAVIOUR, GUARDED_BEHAVIOUR = 2, 3
"""Raised whenever the ids of some conversation change; part of a renderer's fingerprint. The second
is that of templates which write two texts side by side."""


class ControlTokens:
    """The special tokens of one tokenizer, and those that its `chat_control_tokens` names: `ids` by
    their text, `pattern` to find them. `normalizer` is None where none is matched after it."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.ids: dict[str, int] = {}
        self.normalizer: Any = None
        self._newline = tokenizer.encode("\n", add_special_tokens=False)
        named = getattr(tokenizer, "chat_control_tokens", None) or ()
        variants: set[str] = set()
        # Of the Rust pipeline; a tokenizer written in Python has none.
        normalizer = getattr(getattr(tokenizer, "backend_tokenizer", None), "normalizer", None)
        for index, token in tokenizer.added_tokens_decoder.items():
            text = token.content
            if not text or not (token.special or text in named):
                continue
            self.ids[text] = index
            variants.add(text)
            # Such a token is looked for in normalized text, so its normalized form is one too.
            if token.normalized and normalizer is not None:
                self.normalizer = normalizer
                variants.add(normalizer.normalize_str(text).strip("▁ "))
        longest_first = sorted(variants - {""}, key=lambda variant: (-len(variant), variant))
        # Without control tokens a pattern that matches nothing.
        pattern = "|".join(map(re.escape, longest_first)) or "(?!)"
        self.pattern = re.compile(pattern)
        self._marked = re.compile(f"{START}({pattern}){END}|[{START}{END}]")

    def found_in(self, text: str) -> bool:
        """Whether `text` holds a control token, as written or once normalized."""
        return self.pattern.search(text) is not None or self.hidden_in(text)

    def hidden_in(self, text: str) -> bool:
        """Whether a control token appears only after the tokenizer's normalizer."""
        if self.normalizer is None:
            return False
        plain = MARKS.sub("", text)
        normalized = self.normalizer.normalize_str(plain)
        return len(self.pattern.findall(normalized)) > len(self.pattern.findall(plain))

    def mark(self, text: str) -> str:
        """Wrap every control token of `text` in marks; marks already there are removed first."""
        text = MARKS.sub("", text)
        if self.hidden_in(text):
            text = self.normalizer.normalize_str(text)
        return self.pattern.sub(f"{START}\\g<0>{END}", text)

    def encode_marked(self, marked: str) -> list[int]:
        """Token ids of a rendered conversation whose control tokens from users are marked. A lone
        mark (a template's `split` or slice can separate a pair) is dropped but splits the text.
        `DataError`: a control token that the vocabulary cannot write in any other way."""
        for escaped, character in _ESCAPED_MARKS:
            marked = marked.replace(escaped, character)
        # text, marked token, text, marked token, …; None stands for a lone mark's token
        pieces = self._marked.split(marked)
        ids = self._encode(pieces[0], plain_text=False)
        for index, piece in enumerate(pieces[1:], start=1):
            if not piece:
                continue
            if index % 2:
                ids += self._as_text(piece)
            else:
                ids += self._after_newline(piece, plain_text=False)
        return ids

    def _as_text(self, piece: str) -> list[int]:
        ids = self._after_newline(piece, plain_text=True)
        # The unknown token is special, and harmless unless it is what the piece spells.
        forbidden = set(self.ids.values()) - {self.tokenizer.unk_token_id}
        if piece in self.ids:
            forbidden.add(self.ids[piece])
        if not forbidden.intersection(ids):
            return ids
        if len(piece) == 1:
            raise DataError(
                f"the text {piece!r} is a control token of this tokenizer and its vocabulary has "
                "no other way to write it: remove it from the record"
            )
        middle = len(piece) // 2
        return self._as_text(piece[:middle]) + self._as_text(piece[middle:])

    def _after_newline(self, piece: str, *, plain_text: bool) -> list[int]:
        """Encode a piece from the middle of a text."""
        # SentencePiece puts a space before the start of a string. The piece is encoded behind a
        # newline, which is then removed, so that it gets none (transformers does the same).
        ids = self._encode("\n" + piece, plain_text)
        # Where the newline merges with the piece, it is encoded alone.
        if ids[: len(self._newline)] == self._newline:
            return ids[len(self._newline) :]
        return self._encode(piece, plain_text)

    def _encode(self, text: str, plain_text: bool) -> list[int]:
        """Encode with the added tokens, or with none of them (`plain_text`)."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if not plain_text or backend is None:
            options = {"split_special_tokens": True} if plain_text else {}
            with third_party(self.tokenizer.name_or_path, "its tokenizer fails on a text"):
                return list(self.tokenizer.encode(text, add_special_tokens=False, **options))
        # `split_special_tokens` keeps added tokens that are not special: run the pipeline by hand.
        if backend.normalizer is not None:
            text = backend.normalizer.normalize_str(text)
        words = [(text, None)]
        if backend.pre_tokenizer is not None:
            words = backend.pre_tokenizer.pre_tokenize_str(text)
        ids = []
        for word, _ in words:
            ids += [token.id for token in backend.model.tokenize(word)]
        return ids

    def token_starts(self, text: str) -> list[int]:
        """Character offset at which each token of `text` begins, control tokens counted as text.
        Exact for text without control tokens; inside one, its tokens are distributed evenly."""
        starts: list[int] = []
        position = 0
        for match in self.pattern.finditer(text):
            starts += self._plain_starts(text[position : match.start()], position)
            count = len(self._as_text(match.group()))
            starts += _evenly(match.start(), match.end() - match.start(), count)
            position = match.end()
        return starts + self._plain_starts(text[position:], position)

    def _plain_starts(self, text: str, base: int) -> list[int]:
        if not text:
            return []
        if not self.tokenizer.is_fast:
            count = len(self.tokenizer.encode(text, add_special_tokens=False))
            return _evenly(base, len(text), count)
        options = {"return_offsets_mapping": True, "verbose": False}
        encoded = self.tokenizer(text, add_special_tokens=False, **options)
        return [base + begin for begin, _ in encoded["offset_mapping"]]


def _evenly(base: int, length: int, count: int) -> list[int]:
    return [base + step * length // count for step in range(count)]


def written_tokens(tokenizer: PreTrainedTokenizerBase, template: str) -> dict[str, int]:
    """Ids of the special tokens, and of the added ones that the template (Jinja source) writes."""
    from jinja2 import Environment

    named = getattr(tokenizer, "chat_control_tokens", None)
    literals = []
    for _, kind, value in Environment().lex(template) if named is None else ():
        if kind == "data":
            literals.append(value)
        elif kind == "string":
            # As Jinja reads a string constant: without quotes, escapes resolved.
            escaped = value[1:-1].encode("ascii", "backslashreplace")
            literals.append(escaped.decode("unicode-escape"))
    written = "\0".join(literals)
    ids: dict[str, int] = {}
    for index, token in tokenizer.added_tokens_decoder.items():
        text = token.content
        structural = text in written and not text.isspace()
        if named is not None:
            structural = text in named
        if text and (token.special or structural):
            ids[text] = index
    return ids


def texts_touch(probes: Sequence[str], control: Collection[str]) -> bool:
    """Whether a control token could be put together across the edge of a message.

    That is so where nothing, or only a piece of a control token, is written between two texts, or
    where what the template writes beside a text could begin or end one. `probes` are rendered
    conversations in which every text is `ANY_TEXT`."""
    # Several, because a template may write other separators for a system message.
    for rendered in probes:
        literals = rendered.split(ANY_TEXT)
        for token in control:
            if any(literal in token != literal for literal in literals[1:-1]):
                return True
            if any(_could_join(token, *borders) for borders in pairwise(literals)):
                return True
    return False


def _could_join(token: str, before: str, after: str) -> bool:
    """Whether `before` + a text + `after` could hold the token across either border."""
    for cut in range(1, len(token)):
        if before.endswith(token[:cut]) or after.startswith(token[cut:]):
            return True
    return False
