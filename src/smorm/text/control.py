"""Control tokens inside user text stay text.

A control token is any special token, and any added token that the chat template writes (Qwen's
`<tool_call>` is one though it is not special); `tokenizer.chat_control_tokens` replaces the second
rule where it is set. These are transformers' rules for `sanitize_control_tokens`, and what follows
is the same idea for versions that lack it: each control token in a message is wrapped in two
private-use characters, the template is rendered as a string, the string is cut at the marks, and
the wrapped pieces are encoded with the added tokens switched off.

It goes further. Text that only *becomes* a control token under the tokenizer's normalizer
(full-width `＜s＞` under NFKC, `[inst]` under lower-casing) is caught. A token that the vocabulary
itself makes from plain text is split rather than refused. Where a template writes two texts side by
side, their edges are marked too, so that two messages cannot make a token together.

U+F0000 and U+F0001 are the marks. They are removed from every message, which changes no real text:
Unicode assigns them no meaning."""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from smorm.errors import DataError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Sanitizer = Literal["auto", "transformers", "builtin"]
START, END = "\U000f0000", "\U000f0001"
MARKS = re.compile(f"[{START}{END}]")
ANY_TEXT = "\ue000"
"""Stands for a message's text in a probe; templates neither trim nor match it."""
BEHAVIOUR = 2
"""Raised whenever the ids of some conversation change; part of a renderer's fingerprint."""


class ControlTokens:
    """The control tokens of one tokenizer when it renders with `template` (Jinja source): `ids` by
    their text, `pattern` to find them. `normalizer` is None where none is matched after it."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str) -> None:
        self.tokenizer = tokenizer
        self.ids: dict[str, int] = {}
        self.normalizer: Any = None
        self._newline = tokenizer.encode("\n", add_special_tokens=False)
        named = getattr(tokenizer, "chat_control_tokens", None)
        literals = "" if named is not None else template_literals(template)
        variants: set[str] = set()
        # Of the Rust pipeline; a tokenizer written in Python has none.
        normalizer = getattr(getattr(tokenizer, "backend_tokenizer", None), "normalizer", None)
        for index, token in tokenizer.added_tokens_decoder.items():
            text = token.content
            # Of the added tokens that are not special only some are control (Gemma's "\n" is not).
            structural = text in literals and not text.isspace()
            if named is not None:
                structural = text in named
            if not text or not (token.special or structural):
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
        """Whether `text` holds a control token or a mark, as written or once normalized."""
        if self.pattern.search(text) or (not text.isascii() and MARKS.search(text)):
            return True
        return self.hidden_in(text)

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


def use_transformers(tokenizer: PreTrainedTokenizerBase, sanitizer: Sanitizer) -> bool:
    """Whether transformers sanitizes; `ModelError` where it must and cannot."""
    options = inspect.signature(tokenizer.apply_chat_template).parameters
    able = "sanitize_control_tokens" in options
    if sanitizer == "transformers" and not able:
        raise ModelError(
            "the installed transformers cannot keep control tokens as text: install a newer one, "
            'or leave the sanitizer at "auto"'
        )
    return able and sanitizer != "builtin"


def template_literals(template: str) -> str:
    """The text and string constants of a Jinja template, joined by NUL so none run together."""
    from jinja2 import Environment

    literals = []
    for _, kind, value in Environment().lex(template):
        if kind == "data":
            literals.append(value)
        elif kind == "string":
            # As Jinja reads a string constant: without quotes, escapes resolved.
            escaped = value[1:-1].encode("ascii", "backslashreplace")
            literals.append(escaped.decode("unicode-escape"))
    return "\0".join(literals)


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
