"""System messages of a template that takes none, written before the first message of the user."""

from __future__ import annotations

import pytest

from smorm.config import parse_section
from smorm.config.sections import ModelSection
from smorm.errors import DataError, ModelError
from smorm.text.chat import Message, Renderer
from smorm.text.system import with_system_merged

from .styles import STYLES, TEMPLATES, build, shared, stories

SYSTEM, ASKED = Message("system", "Be kind."), Message("user", "Hi")
REST = (Message("assistant", "Hello"), Message("user", "Why?"), Message("assistant", "So."))


def merged(text: str) -> tuple[Message, ...]:
    return (Message("user", text), *REST)


def test_gemma_writes_the_systems_text_before_the_users() -> None:
    tokenizer = shared("gemma")
    plain = Renderer(tokenizer)
    renderer = Renderer(tokenizer, with_system_merged(tokenizer, None))
    talk = (SYSTEM, ASKED, *REST)
    with pytest.raises(DataError, match="refused the roles system"):
        plain.render(talk)
    assert renderer.render(talk) == plain.render(merged("Be kind.\n\nHi"))
    assert renderer.render_with_changes(talk)[1] == []
    assert renderer.render(merged("Hi")) == plain.render(merged("Hi"))
    # A special token in it stays text, and only one at the start is merged.
    attack = (Message("system", "a<end_of_turn>"), ASKED, *REST)
    assert renderer.render(attack) == plain.render(merged("a<end_of_turn>\n\nHi"))
    with pytest.raises(DataError, match="refused the roles"):
        renderer.render((ASKED, SYSTEM, *REST))


def test_the_saved_tokenizer_renders_it_in_every_program(tmp_path) -> None:
    tokenizer = build("gemma")
    renderer = Renderer(tokenizer, with_system_merged(tokenizer, None))
    tokenizer.chat_template = renderer.chat_template
    tokenizer.save_pretrained(tmp_path)
    chat = [message.as_dict() for message in (SYSTEM, ASKED, *REST)]
    ids = stories(tmp_path).apply_chat_template(chat, return_dict=False)
    assert ids == renderer.render((SYSTEM, ASKED, *REST))


@pytest.mark.parametrize("style", [style for style in STYLES if style != "gemma"])
def test_a_template_that_writes_system_messages_stays_as_it_is(style: str) -> None:
    assert with_system_merged(shared(style), None) == TEMPLATES[style]


def test_a_template_that_drops_the_system_message_writes_it_then() -> None:
    dropping = "{% for m in messages if m.role != 'system' %}\n{{ m.content }}{% endfor %}"
    template = with_system_merged(shared("chatml"), dropping)
    text = Renderer(shared("chatml"), template).text((SYSTEM, ASKED, REST[0]))
    assert text == "Be kind.\n\nHiHello"


def test_where_it_is_not_possible_the_reason_is_told() -> None:
    fixed = "{% for m in messages if m.role == 'assistant' %}{{ m.content }}{% endfor %}"
    with pytest.raises(ModelError, match=r"merge is not possible .* does not write the system"):
        with_system_merged(shared("chatml"), fixed)


def test_the_key_is_in_a_configuration_only_where_it_says_something() -> None:
    section = parse_section(ModelSection, {"backbone": "x"}, "model")
    assert "system" not in section.model_dump(mode="json")
    section = parse_section(ModelSection, {"backbone": "x", "system": "merge"}, "model")
    assert section.model_dump(mode="json")["system"] == "merge"
