"""System messages for a template that takes none: written before the first message of the user.

It is a rewrite of the template, so that whatever loads the model's folder renders the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from smorm.errors import DataError, ModelError
from smorm.text.chat import Message, Renderer, own_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# The last part writes nothing: without it a new line at the template's start would be lost.
_MERGE = (
    "{% if messages | length > 1 and messages[0]['role'] == 'system' "
    "and messages[1]['role'] == 'user' %}"
    "{% set messages = [dict(messages[1], "
    "content=messages[0]['content'] + '\n\n' + messages[1]['content'])] + messages[2:] %}"
    "{% endif %}{{ '' }}"
)
_ROLES = ("system", "user", "assistant")
_WORDS = ("zqsystemw", "zquserw", "zqanswerw")
_PROBE = tuple(map(Message, _ROLES, _WORDS))


def with_system_merged(tokenizer: PreTrainedTokenizerBase, template: str | None) -> str:
    """The template (by default the tokenizer's own) as it is where it writes system messages, else
    with a system message's text and a blank line before the first user message; `ModelError` where
    that is written neither."""
    template = template or own_template(tokenizer)
    if _refusal(Renderer(tokenizer, template)) is None:
        return template
    merged = _MERGE + template
    refusal = _refusal(Renderer(tokenizer, merged))
    if refusal is not None:
        raise ModelError(
            f"model.system: merge is not possible with this chat template: {refusal}. Give a "
            "template that writes a system message: model.chat_template"
        )
    return merged


def _refusal(renderer: Renderer) -> str | None:
    """Why a conversation with a system message is not written whole; None where it is."""
    try:
        text = renderer.text(_PROBE)
    except DataError as error:
        return str(error)
    missing = [role for role, word in zip(_ROLES, _WORDS, strict=True) if word not in text]
    return f"it does not write the {missing[0]} message" if missing else None
