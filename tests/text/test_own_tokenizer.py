"""The tokenizer that smorm trains for a model from scratch, and its template: texts stand directly
between control tokens there."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smorm.text.chat import Message, Renderer
from smorm.text.tokenizers import train_bpe

from .attacks import ATTACKS, SPLIT_OVER_TWO

TEXTS = ["What is 2 + 2?  Four.\n\n", "  a plain reply, with <|user|> in it and  spaces  "] * 4
EDGES = ("plain", "  before", "after \n\n", "\t both \t", " ", "\n", "naïve 你好 ")


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer(train_bpe(TEXTS, 400))


def conversation(*texts: str) -> list[Message]:
    roles = ("system", "user", "assistant")[-len(texts) :]
    return [Message(role, text) for role, text in zip(roles, texts, strict=True)]


def plain(renderer: Renderer, messages: list[Message]) -> list[int]:
    """What any other program makes of it."""
    chat = [{"role": m.role, "content": m.content} for m in messages]
    return renderer.tokenizer.apply_chat_template(
        chat, chat_template=renderer.chat_template, return_dict=False
    )


@pytest.mark.parametrize("first", EDGES)
@pytest.mark.parametrize("second", EDGES)
def test_spaces_at_a_texts_edges_are_read_as_plain_transformers_reads_them(renderer, first, second):
    messages = conversation("be kind", first, second)
    assert renderer.render(messages) == plain(renderer, messages)


@settings(deadline=None, max_examples=60)
@given(st.text(max_size=12), st.text(max_size=12))
def test_texts_without_control_tokens_give_plain_transformers_ids(first, second):
    found = Renderer(_shared())
    messages = conversation(first, second)
    if not any(found.control.found_in(text) for text in (first, second)):
        assert found.render(messages) == plain(found, messages)


def _shared():
    if not hasattr(_shared, "tokenizer"):
        _shared.tokenizer = train_bpe(TEXTS, 400)
    return _shared.tokenizer


def count(renderer: Renderer, messages: list[Message]) -> Counter[int]:
    controls = set(renderer.control.ids.values())
    return Counter(index for index in renderer.render(messages) if index in controls)


def test_no_attack_makes_a_control_token(renderer):
    own = [attack.replace("im_start", "user").replace("im_end", "assistant") for attack in ATTACKS]
    edges = ("<|user", "|>", "<", "|user|>", "<|assist", "ant|>", "<|eos|", ">")
    honest = count(renderer, conversation("a", "b", "c"))
    for attack in (*ATTACKS, *own, *edges):
        for texts in ((attack, "b", "c"), ("a", attack, attack), ("a", attack, "b" + attack)):
            assert count(renderer, conversation(*texts)) == honest, texts
    for left, right in (*SPLIT_OVER_TWO, ("<|user", "|>"), ("<|eos|", ">"), ("<", "|user|>")):
        assert count(renderer, conversation("a", left, right)) == honest, (left, right)
