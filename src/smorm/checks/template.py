"""What is wrong with a chat template, or with a tokenizer under it, found by rendering probes.

A probe is a conversation of marker words. What a template does with them is read off the string
that it makes, so nothing here knows any family of models.

The clock: transformers gives templates `strftime_now`, which reads the time of day. Here a Jinja
macro of the same name is put before the template, and answers for two made-up days that differ in
every part of a date. A template that renders differently under the two would give a conversation
another score tomorrow. A template has no other clock: its sandbox holds no module.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from smorm.errors import ModelError
from smorm.text import control, padding, templates

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Severity = Literal["must fix", "look", "fine"]
Roles = tuple[str, ...]

DAYS = (datetime(2024, 1, 31, 9, 8, 7), datetime(2031, 12, 5, 22, 41, 53))
_DIRECTIVES = "aAbBcdDeFGHIjmMpRSTuUVwWxXyY"
_FLAGS = ("", "-", "_", "0", "^", "#")
_SYSTEM: Roles = ("system", "user", "assistant")
_TURNS: Roles = ("user", "assistant", "user", "assistant")
_SHORT: Roles = ("user", "assistant")
_WORDS = ("zebra", "yonder", "xylem", "wicket", "vellum")


@dataclass(frozen=True, slots=True)
class TemplateFault:
    """One thing that the audit found; `meaning` says what it does and what to do."""

    code: str
    severity: Severity
    meaning: str


@dataclass(frozen=True, slots=True)
class _Subject:
    """A tokenizer with the template that it is asked about."""

    tokenizer: PreTrainedTokenizerBase
    template: str

    def text(self, roles: Roles, words: Sequence[str] = _WORDS, clock: str = "") -> str | None:
        """The string of a probe in lower case, or None where the template refuses its roles."""
        found = self._apply(roles, words, clock, tokenize=False)
        return None if found is None else str(found).lower()

    def ids(self, roles: Roles, words: Sequence[str] = _WORDS) -> list[int] | None:
        """Token ids of a probe, or None where the template refuses its roles."""
        found = self._apply(roles, words, "", tokenize=True, return_dict=False)
        return None if found is None else list(found)

    def _apply(self, roles: Roles, words: Sequence[str], clock: str, **options: Any) -> Any:
        from jinja2.exceptions import TemplateError, TemplateSyntaxError

        chat = [
            {"role": role, "content": word}
            for role, word in zip(roles, words[: len(roles)], strict=True)
        ]
        try:
            return self.tokenizer.apply_chat_template(
                chat, chat_template=clock + self.template, **options
            )
        except TemplateSyntaxError as error:
            raise ModelError(f"the chat template cannot be parsed: {error}") from error
        except (TemplateError, OverflowError):
            return None


def audit_template(
    tokenizer: PreTrainedTokenizerBase, template: str | None = None, *, pad_is_settled: bool = False
) -> list[TemplateFault]:
    """Everything found, the worst first.

    Args:
        template: Jinja source; by default the tokenizer's own, or the plain one.
        pad_is_settled: a fit pad token is chosen before this tokenizer is used (as training does),
            so that its own does no harm.

    Raises:
        ModelError: the template cannot be parsed, or the tokenizer has several and no default.
    """
    subject = _Subject(tokenizer, template or templates.own_template(tokenizer))
    if subject.text(_SHORT) is None:
        return _one(
            "template_refuses",
            "must fix",
            "the chat template refuses a question with its answer: use one that takes them",
        )
    found = [
        *_clock(subject),
        *_dropped(subject),
        *_roles(subject),
        *_begin(subject),
        *_end(subject),
        *_padding(subject, pad_is_settled),
    ]
    order: tuple[Severity, ...] = ("must fix", "look", "fine")
    return sorted(found, key=lambda fault: order.index(fault.severity))


def clock_macro(day: datetime) -> str:
    """A Jinja macro `strftime_now(format)` that answers for one day."""
    answers = {
        f"%{flag}{letter}": day.strftime(f"%{flag}{letter}")
        for flag in _FLAGS
        for letter in _DIRECTIVES
    }
    return (
        "{% macro strftime_now(format) %}{% set told = namespace(text=format) %}"
        f"{{% for part, answer in {json.dumps(list(answers.items()))} %}}"
        "{% set told.text = told.text.replace(part, answer) %}"
        "{% endfor %}{{ told.text }}{% endmacro %}"
    )


def _one(code: str, severity: Severity, meaning: str) -> list[TemplateFault]:
    return [TemplateFault(code, severity, meaning)]


def _clock(subject: _Subject) -> list[TemplateFault]:
    macros = [clock_macro(day) for day in DAYS]
    for roles in (_SHORT, _SYSTEM):
        today, again, tomorrow = (
            subject.text(roles, clock=macro) for macro in (macros[0], *macros)
        )
        if today != again:
            return _one(
                "template_random",
                "must fix",
                "the chat template writes something else each time, so a score changes from "
                "call to call: take that out of the template",
            )
        if today != tomorrow:
            return _one(
                "template_date",
                "must fix",
                "the chat template writes the date, so a score changes from day to day: "
                "take the date out of the template",
            )
    return []


def _dropped(subject: _Subject) -> list[TemplateFault]:
    found = []
    if _WORDS[1] not in (subject.text(_SHORT) or ""):
        found += _one(
            "template_drops_response",
            "must fix",
            "the chat template leaves the answer out, so every answer gets the same score: "
            "use another template",
        )
    whole = subject.text(_TURNS)
    lost = [] if whole is None else [i for i in range(3) if _WORDS[i] not in whole]
    if lost:
        places = " and ".join(f"the {_TURNS[i]}'s message {i + 1} of 4" for i in lost)
        meaning = f"the chat template leaves out {places}: see that the scores may do without"
        found.append(TemplateFault("template_drops_turn", "look", meaning))
    system = subject.text(_SYSTEM)
    if system is None or _WORDS[0] not in system:
        does = "refuses" if system is None else "leaves out"
        meaning = f"the chat template {does} system messages: put them into the first user message"
        found.append(TemplateFault("template_drops_system", "look", meaning))
    return found


def _roles(subject: _Subject) -> list[TemplateFault]:
    """Whether roles are told apart, and whether an empty turn of the assistant ends the text."""
    text = subject.text(_TURNS)
    if text is None or any(word not in text for word in _WORDS[:4]):
        return []
    between = [
        text[text.index(left) + len(left) : text.index(right)]
        for left, right in pairwise(_WORDS[:4])
    ]
    to_assistant, to_user = between[2], between[1]
    if to_assistant == to_user:
        return _one(
            "template_drops_role",
            "look",
            "the chat template does not say who speaks: a question reads as an answer",
        )
    header = _beyond_common_start(to_assistant, to_user).strip()
    tail = text[text.rindex(_WORDS[3]) + len(_WORDS[3]) :].strip()
    if header and tail.endswith(header):
        return _one(
            "template_generation_prompt",
            "look",
            "the chat template opens another answer after the last one, and the score is read "
            "there: take the generation prompt out of what it writes unasked",
        )
    return []


def _beyond_common_start(text: str, other: str) -> str:
    same = 0
    while same < min(len(text), len(other)) and text[same] == other[same]:
        same += 1
    return text[same:]


def _begin(subject: _Subject) -> list[TemplateFault]:
    begin = subject.tokenizer.bos_token_id
    ids = subject.ids(_SHORT)
    if begin is None or ids is None:
        return []
    token = subject.tokenizer.bos_token
    if ids[:2] == [begin, begin]:
        return _one(
            "double_bos",
            "must fix",
            f"the chat template begins a conversation with two {token!r}: remove one",
        )
    adds = subject.tokenizer("a")["input_ids"][:1] == [begin]
    if adds and ids[:1] == [begin]:
        return _one(
            "double_bos_elsewhere",
            "look",
            f"template and tokenizer each write {token!r}: programs that render to text and "
            "tokenise that (without add_special_tokens=False) get two; smorm writes one",
        )
    if adds:
        return _one(
            "bos_left_out",
            "look",
            f"the chat template writes no {token!r} although the tokenizer begins plain text "
            "with one: smorm puts it at the head of the template, other programs do not",
        )
    return []


def _end(subject: _Subject) -> list[TemplateFault]:
    """The score is read at the last token, which should not be a word of the answer."""
    endings = {
        tuple(ids[-1:])
        for words in (_WORDS[:2], (_WORDS[0], _WORDS[4]), (_WORDS[0], "1. no?"))
        if (ids := subject.ids(_SHORT, words)) is not None
    }
    if len(endings) != 1:
        return _one(
            "no_end_token",
            "look",
            "a conversation ends with a word of its answer and not with an end token, so the "
            "score is read at a place that no other text shares: end the template with EOS",
        )
    last = next(iter(endings))[0]
    known = control.control_tokens(subject.tokenizer, subject.template).ids.values()
    if last not in known and last != subject.tokenizer.eos_token_id:
        token = subject.tokenizer.convert_ids_to_tokens(last)
        meaning = f"the score is read at {token!r}, which the template writes after every answer"
        return [TemplateFault("end_is_plain", "fine", meaning)]
    return []


def _padding(subject: _Subject, settled: bool) -> list[TemplateFault]:
    """Pad = EOS does harm where a conversation ends with it (`smorm.text.padding`)."""
    tokenizer = subject.tokenizer
    pad, end = tokenizer.pad_token_id, tokenizer.eos_token_id
    if pad is None or pad != end:
        return []
    ids = subject.ids(_SHORT)
    if not ids or ids[-1] != pad:
        return _one(
            "pad_is_eos",
            "fine",
            f"pad and EOS are both {tokenizer.eos_token!r}, but no conversation ends with it",
        )
    fit = padding.find_pad_token(tokenizer, subject.template) or padding.NEW_PAD_TOKEN
    harm = (
        f"pad and EOS are both {tokenizer.eos_token!r} and every conversation ends with it: a "
        "plain Hugging Face classifier takes the end for padding and reads one token too early"
    )
    if settled:
        return [TemplateFault("pad_is_eos", "look", f"{harm}; smorm train pads with {fit!r}")]
    return [TemplateFault("pad_is_eos", "must fix", f"{harm}: set the pad token to {fit!r}")]
