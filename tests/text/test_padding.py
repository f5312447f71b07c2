"""The pad token is never one that a conversation ends with."""

from __future__ import annotations

import pytest

from smorm.text.chat import Message, Renderer
from smorm.text.tokenizers import NEW_PAD_TOKEN, ensure_pad_token, find_pad_token

from .styles import STYLES, build

TALK = (Message("user", "hi"), Message("assistant", "hello"))


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("own", [True, False])
def test_no_conversation_ends_with_the_pad_token(style: str, own: bool) -> None:
    tokenizer = build(style)
    if not own:
        tokenizer.pad_token = tokenizer.eos_token
    pad = ensure_pad_token(tokenizer)
    renderer = Renderer(tokenizer)
    assert pad == tokenizer.pad_token_id == renderer.pad_id
    assert pad not in renderer.render(TALK)
    assert pad not in renderer.render((Message("text", "hi"),))
    assert pad not in (tokenizer.eos_token_id, tokenizer.bos_token_id)


@pytest.mark.parametrize(
    ("style", "expected"),
    [
        ("chatml", "<|endoftext|>"),
        ("llama3", "<|finetune_right_pad_id|>"),
        ("gemma", "<pad>"),
        ("mistral", "<unk>"),
    ],
)
def test_each_style_pads_with_the_token_its_family_has_for_it(style: str, expected: str) -> None:
    tokenizer = build(style)
    size = len(tokenizer)
    assert find_pad_token(tokenizer) == expected
    assert ensure_pad_token(tokenizer) == tokenizer.convert_tokens_to_ids(expected)
    assert len(tokenizer) == size


def test_a_reserved_token_is_taken_where_none_is_set_aside_for_padding() -> None:
    tokenizer = build("llama3")
    template = tokenizer.chat_template + "{# <|finetune_right_pad_id|> #}"
    assert find_pad_token(tokenizer, template) == "<|reserved_special_token_0|>"
    gemma = build("gemma")
    gemma.pad_token = gemma.eos_token
    assert find_pad_token(gemma) == "<pad>"
    assert find_pad_token(gemma, gemma.chat_template + "<pad>") == "<unused0>"


def test_a_pad_token_that_the_template_writes_is_not_used() -> None:
    tokenizer = build("chatml")
    tokenizer.eos_token, tokenizer.pad_token = "<|endoftext|>", "<|im_end|>"
    assert find_pad_token(tokenizer) is None


def test_a_new_token_is_added_where_the_vocabulary_has_none_and_the_id_tells() -> None:
    tokenizer = build("chatml")
    tokenizer.pad_token = tokenizer.eos_token
    rows = len(tokenizer)
    assert Renderer(tokenizer).pad_id == tokenizer.eos_token_id  # a filler under a mask
    assert ensure_pad_token(tokenizer) == rows  # outside an embedding of that many rows
    assert tokenizer.pad_token == NEW_PAD_TOKEN
    assert ensure_pad_token(tokenizer) == rows
    assert len(tokenizer) == rows + 1
    ids = Renderer(tokenizer).render((Message("user", NEW_PAD_TOKEN),))
    assert rows not in ids


def test_the_unknown_token_does_not_pad_where_a_raw_text_could_end_in_it() -> None:
    tokenizer = build("mistral")
    tokenizer.eos_token = None
    assert find_pad_token(tokenizer) is None
