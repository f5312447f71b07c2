"""What is wrong with a chat template, or with a tokenizer under it, found by rendering probes.
A probe is a conversation of marker words. The string that the template makes shows what it does
with them, so nothing here knows any family of models."""

from __future__ import annotations

import json
import os.path
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import TYPE_CHECKING, Any

from smorm.checks.findings import FINE, LOOK, MUST_FIX, Finding, FindingKind
from smorm.errors import ModelError
from smorm.text import control
from smorm.text.chat import own_template
from smorm.text.tokenizers import NEW_PAD_TOKEN, find_pad_token

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Roles = tuple[str, ...]
DAYS = (datetime(2024, 1, 31, 9, 8, 7), datetime(2031, 12, 5, 22, 41, 53))
_DIRECTIVES = "aAbBcdDeFGHIjmMpRSTuUVwWxXyY"
_FLAGS = ("", "-", "_", "0", "^", "#")
_SYSTEM: Roles = ("system", "user", "assistant")
_TURNS: Roles = ("user", "assistant", "user", "assistant")
_SHORT: Roles = ("user", "assistant")
_MARKERS = ("zebra", "yonder", "xylem", "wicket", "vellum")
_ANSWERS = (_MARKERS[1], _MARKERS[4], "1. no?")


@dataclass(frozen=True, slots=True)
class _Probed:
    """A tokenizer with the template that is audited."""

    tokenizer: PreTrainedTokenizerBase
    template: str
    pad_is_settled: bool

    def text(self, roles: Roles, words: Sequence[str] = _MARKERS, clock: str = "") -> str | None:
        """The string of a probe in lower case, or None where the template refuses its roles."""
        text = self._apply(roles, words, clock, tokenize=False)
        return None if text is None else str(text).lower()

    def ids(self, roles: Roles, words: Sequence[str] = _MARKERS) -> list[int] | None:
        """Token ids of a probe, or None where the template refuses its roles."""
        ids = self._apply(roles, words, "", tokenize=True, return_dict=False)
        return None if ids is None else list(ids)

    def _apply(self, roles: Roles, words: Sequence[str], clock: str, **options: Any) -> Any:
        from jinja2.exceptions import TemplateError, TemplateSyntaxError

        turns = zip(roles, words, strict=False)
        chat = [{"role": role, "content": word} for role, word in turns]
        template = clock + self.template
        try:
            return self.tokenizer.apply_chat_template(chat, chat_template=template, **options)
        except TemplateSyntaxError as error:
            raise ModelError(f"the chat template cannot be parsed: {error}") from error
        except (TemplateError, OverflowError):
            # The template raised by itself: it refuses these roles.
            return None


def audit_template(
    tokenizer: PreTrainedTokenizerBase, template: str | None = None, *, pad_is_settled: bool = False
) -> list[Finding]:
    """All faults of a template (by default the tokenizer's own, or the plain one).

    `pad_is_settled`: a fit pad token is chosen before this tokenizer is used (as training does), so
    that its own does no harm.

    Raises:
        ModelError: the template cannot be parsed, or the tokenizer has several and no default."""
    template = template or own_template(tokenizer)
    probed = _Probed(tokenizer, template, pad_is_settled)
    if probed.text(_SHORT) is None:
        return [Finding(FindingKind.TEMPLATE_REFUSES, MUST_FIX)]
    examinations = (_clock, _dropped, _roles, _begin, _end, _padding)
    return list(chain.from_iterable(examine(probed) for examine in examinations))


def clock_macro(day: datetime) -> str:
    """A Jinja macro `strftime_now(format)` that answers for one day.

    Of that name is the only clock that transformers gives templates. A template that renders
    differently under two made-up days, which differ in every field of a date, would give another
    score tomorrow."""
    answers = []
    # Every directive with every flag: the macro can only replace what it lists.
    for flag in _FLAGS:
        directives = [f"%{flag}{letter}" for letter in _DIRECTIVES]
        answers += [(directive, day.strftime(directive)) for directive in directives]
    return (
        "{% macro strftime_now(format) %}{% set date = namespace(text=format) %}"
        f"{{% for directive, answer in {json.dumps(answers)} %}}"
        "{% set date.text = date.text.replace(directive, answer) %}"
        "{% endfor %}{{ date.text }}{% endmacro %}"
    )


def _clock(probed: _Probed) -> Iterator[Finding]:
    first_day, second_day = (clock_macro(day) for day in DAYS)
    # With and without a system message: many templates write the date only into that.
    for roles in (_SHORT, _SYSTEM):
        today = probed.text(roles, clock=first_day)
        if probed.text(roles, clock=first_day) != today:
            yield Finding(FindingKind.TEMPLATE_RANDOM, MUST_FIX)
            return
        if probed.text(roles, clock=second_day) != today:
            yield Finding(FindingKind.TEMPLATE_DATE, MUST_FIX)
            return


def _dropped(probed: _Probed) -> Iterator[Finding]:
    if _MARKERS[1] not in (probed.text(_SHORT) or ""):
        yield Finding(FindingKind.TEMPLATE_DROPS_RESPONSE, MUST_FIX)
    turns = probed.text(_TURNS)
    # The last answer is not among them: without it no score could be read.
    markers = dict(zip(_MARKERS, ("1 (user)", "2 (assistant)", "3 (user)"), strict=False))
    missing = [f"number {markers[word]}" for word in markers if turns and word not in turns]
    if missing:
        numbers = {"messages": ", ".join(missing)}
        yield Finding(FindingKind.TEMPLATE_DROPS_TURN, LOOK, numbers=numbers)
    system = probed.text(_SYSTEM)
    if system is None:
        yield Finding(FindingKind.TEMPLATE_DROPS_SYSTEM, LOOK, case="refuses")
    elif _MARKERS[0] not in system:
        yield Finding(FindingKind.TEMPLATE_DROPS_SYSTEM, LOOK, case="omits")


def _roles(probed: _Probed) -> Iterator[Finding]:
    """Whether roles are marked, and whether an empty turn of the assistant ends the text."""
    text = probed.text(_TURNS)
    if text is None or any(marker not in text for marker in _MARKERS[:4]):
        return
    _, answer, question, last = (text.index(marker) for marker in _MARKERS[:4])
    to_user = text[answer + len(_MARKERS[1]) : question]
    to_assistant = text[question + len(_MARKERS[2]) : last]
    # What opens an answer but not a question is the generation prompt.
    common = os.path.commonprefix([to_assistant, to_user])  # noqa: RUF071  (texts, not paths)
    header = to_assistant[len(common) :].strip()
    if to_assistant == to_user:
        yield Finding(FindingKind.TEMPLATE_DROPS_ROLE, LOOK)
    elif header and text.rpartition(_MARKERS[3])[2].strip().endswith(header):
        yield Finding(FindingKind.TEMPLATE_GENERATION_PROMPT, LOOK)


def _begin(probed: _Probed) -> Iterator[Finding]:
    tokenizer, ids = probed.tokenizer, probed.ids(_SHORT)
    bos, numbers = tokenizer.bos_token_id, {"token": tokenizer.bos_token}
    if bos is None or ids is None:
        return
    if ids[:2] == [bos, bos]:
        yield Finding(FindingKind.DOUBLE_BOS, MUST_FIX, numbers=numbers)
    # The tokenizer by itself: other programs render to text and tokenise that.
    elif tokenizer("a")["input_ids"][:1] == [bos]:
        kind = FindingKind.BOS_LEFT_OUT
        if ids[:1] == [bos]:
            kind = FindingKind.DOUBLE_BOS_ELSEWHERE
        yield Finding(kind, LOOK, numbers=numbers)


def _end(probed: _Probed) -> Iterator[Finding]:
    """The score is read at the last token, which should not be a word of the answer."""
    # Answers that end in a letter and in a sign: an end token is the same after all of them.
    last_tokens = set()
    for answer in _ANSWERS:
        ids = probed.ids(_SHORT, (_MARKERS[0], answer))
        if ids is not None:
            last_tokens.add(tuple(ids[-1:]))
    if len(last_tokens) != 1:
        yield Finding(FindingKind.NO_END_TOKEN, LOOK)
        return
    last, tokenizer = last_tokens.pop()[0], probed.tokenizer
    known = control.ControlTokens(tokenizer).ids.values()
    if last not in known and last != tokenizer.eos_token_id:
        numbers = {"token": tokenizer.convert_ids_to_tokens(last)}
        yield Finding(FindingKind.END_IS_PLAIN, FINE, numbers=numbers)


def _padding(probed: _Probed) -> Iterator[Finding]:
    """Pad = EOS does harm where a conversation ends with it (`smorm.text.tokenizers`)."""
    tokenizer = probed.tokenizer
    pad, numbers = tokenizer.pad_token_id, {"token": tokenizer.eos_token}
    if pad is None or pad != tokenizer.eos_token_id:
        return
    ids, severity, case = probed.ids(_SHORT), FINE, "harmless"
    if ids and ids[-1] == pad:
        severity, case = (LOOK, "replaced") if probed.pad_is_settled else (MUST_FIX, "harmful")
        replacement = find_pad_token(tokenizer, probed.template)
        numbers["replacement"] = replacement or NEW_PAD_TOKEN
    yield Finding(FindingKind.PAD_IS_EOS, severity, numbers=numbers, case=case)
