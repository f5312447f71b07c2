"""The law of the renderer over real templates: those that TRL ships, and some after public ones.

Where no text holds a special token, the ids are those of plain transformers with the same template,
messages and tools; what plain transformers refuses, the renderer refuses. Special tokens in a text
stay text. What a template does not write is told by kind.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from smorm.errors import DataError
from smorm.text.changes import Change
from smorm.text.chat import INPUTS, ChatInputs, Message, Messages, Renderer

from .styles import byte_level, sentencepiece

trl = pytest.importorskip("trl")

OURS = Path(__file__).parent / "templates"
TEMPLATES = {
    path.stem: path
    for folder in (Path(trl.__file__).parent / "chat_templates", OURS)
    for path in sorted(folder.glob("*.jinja"))
}
SENTENCEPIECE = {"mistral": True, "llama2": True, "zephyr": True, "gemma2": False}  # metaspace?
MARK = re.compile(r"<\|?[\w/ |｜▁:-]+\|?>|\[/?[A-Z_]+\]")
MARKED_SPECIAL = re.compile(r"[|｜]|\[/?[A-Z_]+\]|</?s>|<(bos|eos|start_of_turn|end_of_turn)>")
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a place — today, «demain»",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "the town"}},
            "required": ["city"],
        },
    },
}
NAMED = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def message(role: str, content: str | None, **fields: Any) -> Message:
    if content is None:
        fields["content"] = None
    return Message(role, content or "", json.dumps(fields) if fields else "")


def tools_of(*tools: Any) -> Message:
    return Message(INPUTS, json.dumps({"tools": tools}))


@cache
def renderer_of(name: str) -> Renderer:
    """A renderer with the template and a tokenizer that has the tokens which it writes."""
    template = TEMPLATES[name].read_text(encoding="utf-8")
    marks = {*MARK.findall(template), "<think>", "</think>", "<tool_call>", "</tool_call>"}
    special = {mark for mark in marks if MARKED_SPECIAL.search(mark)} | set(NAMED.values())
    if name in SENTENCEPIECE:
        backend = sentencepiece(sorted(special), metaspace=SENTENCEPIECE[name])
    else:
        backend = byte_level(sorted(special))
    added = [AddedToken(mark, normalized=False) for mark in sorted(marks - special)]
    backend.add_tokens(added)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **NAMED)
    tokenizer.chat_template = template
    return Renderer(tokenizer)


def plain_ids(renderer: Renderer, messages: Messages) -> list[int] | Exception:
    """What plain transformers makes of a conversation, an error included."""
    inputs = ChatInputs.of(messages)
    options = {**inputs.options, "chat_template": renderer.chat_template, "return_dict": False}
    try:
        return list(renderer.tokenizer.apply_chat_template(inputs.messages, **options))
    except Exception as error:
        return error


def check_law(renderer: Renderer, messages: Messages) -> bool:
    """Whether the template took the conversation; it fails where plain transformers differs."""
    expected = plain_ids(renderer, messages)
    # An empty list: no program can score a conversation of no token.
    if isinstance(expected, Exception) or not expected:
        with pytest.raises(DataError):
            renderer.render(messages)
        return False
    assert renderer.render(messages) == expected
    return True


PIECES = ["<think>", "</think>", "\n\n", " ", "<tool_call>", "你好 🙂", "naïve", "42", '{"a": [1]}']
words = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
texts = st.lists(words | st.sampled_from(PIECES), max_size=4).map("".join)
thoughts = st.builds("<think>\n{}\n</think>\n\n{}".format, texts, texts)
names = st.sampled_from(["get_weather", "search", "naïve"])
calls = st.builds(
    lambda name, city: {
        "id": "abcdefghi",
        "type": "function",
        "function": {"name": name, "arguments": {"city": city}},
    },
    names,
    texts,
)


@st.composite
def answers(draw: Any) -> Messages:
    """An assistant's turn: text, with thinking in it or beside it, or a call and its result."""
    kind = draw(st.sampled_from(["text", "thinking", "reasoning", "call"]))
    if kind == "text":
        return (message("assistant", draw(texts)),)
    if kind == "thinking":
        return (message("assistant", draw(thoughts)),)
    if kind == "reasoning":
        return (message("assistant", draw(texts), reasoning_content=draw(texts)),)
    called = message("assistant", draw(texts | st.none()), tool_calls=[draw(calls)])
    result = message("tool", draw(texts), tool_call_id="abcdefghi", name="get_weather")
    return called, result, message("assistant", draw(texts))


@st.composite
def conversations(draw: Any) -> Messages:
    """Conversations of one to three turns, with a system message and tools or without."""
    found: list[Message] = []
    if draw(st.booleans()):
        found.append(tools_of(TOOL))
    if draw(st.booleans()):
        found.append(message("system", draw(texts)))
    for _ in range(draw(st.integers(1, 3))):
        found.append(message("user", draw(texts)))
        found += draw(answers())
    return tuple(found)


@pytest.mark.parametrize("name", TEMPLATES)
@given(messages=conversations())
@settings(max_examples=8, deadline=None)
def test_the_ids_are_those_of_plain_transformers(name: str, messages: Messages) -> None:
    renderer = renderer_of(name)
    assume(not any(map(renderer.control.found_in, ChatInputs.of(messages).texts())))
    check_law(renderer, messages)


TALK = (
    message("user", "What is 6 * 7?"),
    message("assistant", "It is 42."),
    message("user", "Why?"),
    message("assistant", "Six times seven."),
)
# Their templates take content as a list of parts alone, and refuse text as plain transformers does.
PARTS_ALONE = {"llava_next", "llava_next_training"}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_plain_talk_is_taken(name: str) -> None:
    assert check_law(renderer_of(name), TALK) == (name not in PARTS_ALONE)


def special_count(renderer: Renderer, messages: Messages) -> Counter[int]:
    special = set(renderer.control.ids.values())
    return Counter(index for index in renderer.render(messages) if index in special)


def attacked(text: str) -> list[Messages]:
    """Conversations with a text in each place that a user or a policy writes."""
    called = {"name": "get_weather", "arguments": {"city": text}}
    call = {"id": "abcdefghi", "type": "function", "function": called}
    described = {**TOOL["function"], "description": text}
    asked = message("user", "a")
    return [
        (message("user", text), message("assistant", text)),
        (message("system", text), asked, message("assistant", "b")),
        (asked, message("assistant", f"<think>\n{text}\n</think>\n\nb{text}")),
        (asked, message("assistant", "b", reasoning_content=text)),
        (
            tools_of({"type": "function", "function": described}),
            asked,
            message("assistant", None, tool_calls=[call]),
            message("tool", text, tool_call_id="abcdefghi", name="get_weather"),
            message("assistant", "b"),
        ),
    ]


@pytest.mark.parametrize("name", TEMPLATES)
def test_special_tokens_in_texts_stay_text(name: str) -> None:
    renderer = renderer_of(name)
    own = sorted(renderer.control.ids)
    attacks = ["".join(own), f" {own[0]}\n", *own[:6], *own[-6:]]
    for attack in attacks:
        for messages, honest in zip(attacked(f"x{attack}y"), attacked("xy"), strict=True):
            try:
                expected = special_count(renderer, honest)
            except DataError:
                continue  # a place that this template does not take, whatever is in it
            assert special_count(renderer, messages) == expected, (attack, messages)


def changes(name: str, messages: Messages) -> set[Change]:
    return set(renderer_of(name).render_with_changes(messages)[1])


def test_the_reasoning_of_earlier_turns_that_qwen3_removes_is_told() -> None:
    early, late = ("assistant", "Six."), ("assistant", "Seven.")
    beside = (
        TALK[0], message(*early, reasoning_content="a plan"),
        TALK[2], message(*late, reasoning_content="more"),
    )  # fmt: skip
    assert changes("qwen3", beside) == {Change.REASONING_REMOVED}
    inside = (
        TALK[0], message("assistant", "<think>\na plan\n</think>\n\nSix."), TALK[2], message(*late),
    )  # fmt: skip
    assert changes("qwen3", inside) == {Change.REASONING_REMOVED}
    assert changes("qwen3_training", beside) == set()
    assert changes("qwen3", beside[:2]) == set()


def test_a_switch_of_the_template_decides_what_is_removed() -> None:
    renderer = renderer_of("qwen3_6")
    told = []
    for kept in (False, True):
        switch = Message(INPUTS, json.dumps({"chat_template_kwargs": {"preserve_thinking": kept}}))
        beside = (switch, TALK[0], message("assistant", "Six.", reasoning_content="a plan"))
        told.append(renderer.render_with_changes((*beside, *TALK[2:]))[1])
    assert told == [[Change.REASONING_REMOVED], []]


def test_what_a_template_has_no_place_for_is_told() -> None:
    assert changes("zephyr", (tools_of(TOOL), *TALK)) == {Change.TOOLS_REMOVED}
    assert changes("idefics3", TALK) == {Change.MESSAGE_REMOVED}
    assert changes("smolvlm", TALK) == {Change.MESSAGE_REMOVED}
    # The system's text is written before the last message alone, where that is the user's.
    system = message("system", "Be kind.")
    assert changes("mistral", (system, *TALK)) == {Change.MESSAGE_REMOVED}
    assert changes("mistral", (system, *TALK[:3])) == set()
    call = {"type": "function", "function": {"name": "search", "arguments": {"city": "Oslo"}}}
    called = message("assistant", "b", tool_calls=[call])
    assert changes("zephyr", (TALK[0], called)) == {Change.TOOL_CALLS_REMOVED}
    weighed = message("assistant", "b", weight="heavy")
    assert changes("zephyr", (TALK[0], weighed)) == {Change.FIELD_REMOVED}
    assert changes("gemma2", TALK) == set()
