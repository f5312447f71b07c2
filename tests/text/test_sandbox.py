"""Bounds on what a chat template takes while it renders: time, text and memory. Within them every
template writes what it writes without them."""

from __future__ import annotations

import resource
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from jinja2.exceptions import UndefinedError
from tokenizers import Regex, normalizers, pre_tokenizers
from transformers.utils import chat_template_utils

from chaos.templates import (
    BODIES,
    CONDITIONS,
    TALK,
    hostile_template,
    messages_for,
)
from smorm.errors import DataError, ModelError, UnboundedError
from smorm.text import sandbox
from smorm.text.chat import RAW, Message, Renderer

from .styles import build, shared
from .test_law import TEMPLATES, TOOL


@pytest.fixture(autouse=True)
def compiled_anew() -> None:
    """Limits are asked when a template is compiled."""
    chat_template_utils._compile_jinja_template.cache_clear()


HI = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
# Raised by Python or jinja2, on most machines before a bound is reached.
OTHERWISE = {
    "a macro that calls itself": (RecursionError, UnboundedError),
    "a loop that recurs": (RecursionError, UnboundedError),
    "random words": UndefinedError,
}


def apply(template: str, messages: list[Any], **options: Any) -> str:
    sandbox.install()
    return str(
        shared("chatml").apply_chat_template(
            messages, chat_template=template, tokenize=False, **options
        )
    )


@pytest.mark.parametrize("name", BODIES)
def test_a_hostile_template_ends_soon_and_small(monkeypatch, name: str) -> None:
    monkeypatch.setenv("SMORM_LIMIT_RENDER_SECONDS", "1")
    monkeypatch.setenv("SMORM_LIMIT_CONVERSATION_BYTES", "1MiB")
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(OTHERWISE.get(name, UnboundedError)) as raised:
        apply(hostile_template(BODIES[name]), HI)
    assert time.process_time() - started < 3
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400 * 1024
    if raised.type is UnboundedError:
        text = str(raised.value)
        assert "SMORM_LIMIT_RENDER_SECONDS" in text or "SMORM_LIMIT_CONVERSATION_BYTES" in text


@pytest.mark.parametrize("condition", [name for name in CONDITIONS if name != "always"])
def test_a_template_that_is_hostile_to_some_texts_alone_is_refused_there(condition: str) -> None:
    template = hostile_template(BODIES["a repeated text"], CONDITIONS[condition])
    renderer = Renderer(shared("chatml"), "{% if not messages[7:] %}" + TALK + "{% endif %}")
    renderer.chat_template = template
    assert renderer.text([Message("user", "hi")]) == "<|user|>hi<|im_end|>"
    turns = [Message(turn["role"], turn["content"]) for turn in messages_for(condition)]
    options = {"tools": [TOOL]} if condition == "tools" else {}
    with pytest.raises(UnboundedError, match="SMORM_LIMIT_CONVERSATION_BYTES raises it"):
        renderer.text(turns, **options)


def conversations() -> list[dict[str, Any]]:
    call = {"id": "abcdefghi", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
    talk = [
        {"role": "user", "content": " What's 7 % 2? "},
        {"role": "assistant", "content": "One.", "reasoning_content": "7 = 3 * 2 + 1"},
        {"role": "user", "content": "é\n\n<b>& you?"},
    ]
    used = [
        *talk,
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": '{"b": [1, 2]}', "name": "f", "tool_call_id": "abcdefghi"},
        {"role": "assistant", "content": "Done."},
    ]
    return [
        {"messages": talk},
        {"messages": [{"role": "system", "content": "Be brief."}, *talk], "tools": [TOOL]},
        {"messages": used, "tools": [TOOL, TOOL]},
        {"messages": talk * 30, "add_generation_prompt": True},
    ]


@pytest.mark.parametrize("name", [name for name in TEMPLATES if "training" not in name])
def test_an_honest_template_writes_the_same_with_and_without_the_bounds(name: str) -> None:
    sandbox.install()
    compile_template = chat_template_utils._cached_compile_jinja_template
    source = TEMPLATES[name].read_text(encoding="utf-8")
    named = {"bos_token": "<s>", "eos_token": "</s>", "add_generation_prompt": False, "tools": None}
    bounded, plain = compile_template(source), compile_template.plain(source)
    for inputs in conversations():
        assert outcome(bounded, named | inputs) == outcome(plain, named | inputs)


def outcome(template: Any, inputs: dict[str, Any]) -> str:
    try:
        return str(template.render(**inputs))
    except Exception as error:
        return f"{type(error)}: {error}"


@pytest.mark.parametrize(
    "source",
    [
        "{{ [1, 'a', none, 2.5, {'b': (1, 2)}] }}",
        "{{ (1, 2) + (3,) }}{{ [0] * 3 }}{{ 'ab' * 3 }}{{ 3 * 'ab' }}{{ 2 ** 10 }}{{ 7.5 % 2 }}",
        "{{ '%s and %5.2f' % ('a', 1.5) }}{{ '{:>5}|{x!r}'.format(1, x='y') }}{{ '%d%%' % 5 }}",
        "{{ 'a' ~ 1 ~ none ~ [2] ~ missing }}{{ missing }}{{ 'b' | center(7) | upper }}",
        "{% for a, b in {'x': 1}.items() %}{{ loop.length }}{{ loop.last }}{{ a ~ b }}{% endfor %}",
        "{% for a in 'abc' if a != 'b' %}{{ loop.index }}{{ a }}{{ loop.nextitem }}{% endfor %}",
        "{% for a in [[1, [2]], [3]] recursive %}{{ loop(a) if a is iterable else a }}{% endfor %}",
        "{% for a in missing %}x{% else %}none{% endfor %}",
        "{% for a in none %}x{% endfor %}",
        "{{ ['a', 'b'] | join('-') }}{{ ', '.join(['a']) }}{{ range(3) | map('string') | join }}",
        "{{ messages | map(attribute='role') | unique | list | tojson(indent=2) }}",
        "{{ messages | groupby('role') }}{{ messages[0] | items | list }}",
        "{{ messages | batch(1) | list }}{{ messages | sort(attribute='role') | first }}",
        "{% set n = namespace(a=0) %}{% for m in messages %}{% set n.a = n.a + 1 %}{% endfor %}"
        "{{ n.a }}{{ n is mapping }}",
        "{% macro m(x, y='d') %}{{ x }}{{ y }}{{ caller() }}{% endmacro %}"
        "{% call m(1) %}in{% endcall %}",
        "{% set x %}a{{ messages[0].content }}{% endset %}{{ x | replace('h', 'j') }}{{ x[::-1] }}",
        "{% filter upper %}{{ messages[0].content }}{% endfilter %}{{ 'a\nb' | indent(2) }}",
        "{{ 1 / 0 }}", "{{ 'a' + 1 }}", "{{ [] + 'a' }}", "{{ missing.x }}", "{{ none * 2 }}",
        "{{ 'a' | nothing }}", "{{ 'a'.join(5) }}", "{{ 5 | join }}", "{{ 1.5 | round(1) }}",
        "{% generation %}a{% endgeneration %}{{ true * 3 }}{{ -1 * 'a' }}",
        "{{ 'a' if 'h' in messages[0].content else 'b' }}{{ dict(a=1, b=[2]) }}{{ cycler('a') }}",
    ],
)  # fmt: skip
def test_every_construct_gives_what_it_gives_without_the_bounds(source: str) -> None:
    sandbox.install()
    compile_template = chat_template_utils._cached_compile_jinja_template
    inputs = {"messages": HI}

    def result(compiler: Any) -> str:
        try:
            text = str(compiler(source).render(**inputs))
        except Exception as error:
            text = f"{type(error)}: {error}"
        return text.split(" at 0x")[0]

    assert result(compile_template) == result(compile_template.plain)


def test_a_long_conversation_that_a_template_gathers_is_no_bomb() -> None:
    gather = (
        "{% set n = namespace(x='') %}{% for m in messages %}"
        "{% set n.x = n.x + m.role ~ ': ' ~ m.content | trim + '\n' %}{% endfor %}{{ n.x }}"
    )
    turns = [{"role": "user", "content": " some words of a turn " * 20}] * 1000
    assert len(apply(gather, turns)) > 400_000


def test_a_conversation_over_the_limit_is_a_fault_of_the_data(monkeypatch) -> None:
    monkeypatch.setenv("SMORM_LIMIT_CONVERSATION_BYTES", "10kB")
    renderer = Renderer(shared("chatml"))
    with pytest.raises(DataError, match=r"20,000 bytes, over the .*CONVERSATION_BYTES raises it"):
        renderer.render([Message("user", "a" * 20_000)])
    monkeypatch.setenv("SMORM_LIMIT_CONVERSATION_BYTES", "100kB")
    # Limits are asked when a template is compiled, and when a renderer is made.
    chat_template_utils._compile_jinja_template.cache_clear()
    assert Renderer(shared("chatml")).render([Message("user", "a" * 20_000)])


def test_threads_have_bounds_of_their_own() -> None:
    good, bad = TALK, hostile_template(BODIES["a repeated text"])

    def render(number: int) -> str:
        try:
            return apply(bad if number % 2 else good, HI)
        except UnboundedError:
            return "refused"

    with ThreadPoolExecutor(4) as pool:
        texts = list(pool.map(render, range(40)))
    assert texts == ["<|user|>hi<|assistant|>hello<|im_end|>", "refused"] * 20


def test_installing_twice_bounds_once() -> None:
    sandbox.install()
    once = chat_template_utils._cached_compile_jinja_template
    sandbox.install()
    assert chat_template_utils._cached_compile_jinja_template is once


def test_raw_text_over_the_limit_is_a_fault_of_the_data(monkeypatch) -> None:
    monkeypatch.setenv("SMORM_LIMIT_CONVERSATION_BYTES", "10kB")
    with pytest.raises(DataError, match=r"20,000 bytes, over the .*CONVERSATION_BYTES raises it"):
        Renderer(shared("chatml")).render([Message(RAW, "a" * 20_000)])


def test_a_tokenizer_that_grows_for_some_texts_alone_is_refused_there(monkeypatch) -> None:
    monkeypatch.setenv("SMORM_LIMIT_TOKEN_GROWTH", "20")
    tokenizer = build("chatml")
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("ß", "zebra " * 50)
    renderer = Renderer(tokenizer)
    assert renderer.render([Message("user", "a")])
    with pytest.raises(UnboundedError, match="SMORM_LIMIT_TOKEN_GROWTH raises it"):
        renderer.render([Message("user", "ß" * 500)])


def test_a_pattern_that_gives_up_on_a_text_is_an_error_in_one_line() -> None:
    tokenizer = build("chatml")
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("(q+)+$"), "isolated")
    renderer = Renderer(tokenizer)
    assert renderer.render([Message("user", "a")])
    with pytest.raises(ModelError, match="its tokenizer fails on a text: Onig"):
        renderer.render([Message("user", "q" * 500 + "!")])
