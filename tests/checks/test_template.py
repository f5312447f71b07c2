"""Every fault that a template can have is planted in one, and found; the usual ones have none."""

from __future__ import annotations

import time
from datetime import datetime

import pytest
from tokenizers.processors import TemplateProcessing

from smorm.checks.findings import meaning
from smorm.checks.template import audit_template, clock_macro
from smorm.errors import ModelError
from tests.text.styles import CHATML, LLAMA3, STYLES, TEMPLATES, build, shared, stories

LLAMA31 = (
    "{%- if not date_string is defined %}{%- if strftime_now is defined %}"
    '{%- set date_string = strftime_now("%d %b %Y") %}{%- else %}'
    '{%- set date_string = "26 Jul 2024" %}{%- endif %}{%- endif %}'
    "{{- bos_token }}{{- '<|start_header_id|>system<|end_header_id|>\n\nToday Date: ' "
    "+ date_string + '\n\n<|eot_id|>' }}"
)


def faults(style: str, template: str, **settings) -> dict[str, str]:
    """Severity of each fault of a template under a style's tokenizer."""
    return {f.kind: f.severity for f in audit_template(shared(style), template, **settings)}


@pytest.mark.parametrize("style", STYLES)
def test_the_usual_templates_have_nothing_that_must_be_fixed_but_a_shared_pad(style):
    found = faults(style, TEMPLATES[style])
    assert "must fix" not in found.values()
    assert set(found) <= {"double_bos_elsewhere", "template_drops_system", "end_is_plain"}
    assert ("template_drops_system" in found) == (style == "gemma")
    assert ("end_is_plain" in found) == (style in ("chatml", "gemma"))


def test_a_template_that_writes_the_date_is_found_by_its_two_days():
    rest = LLAMA3.removeprefix("{{- bos_token }}")
    assert faults("llama3", LLAMA31 + rest)["template_date"] == "must fix"
    fixed = LLAMA31.replace("strftime_now is defined", "false")
    assert "template_date" not in faults("llama3", fixed + rest)


@pytest.mark.parametrize("part", ["%Y", "%d", "%B", "%H:%M", "%A", "%y%m%d", "%-d"])
def test_every_part_of_a_date_differs_between_the_two_days(part):
    text = "{{ strftime_now('" + part + "') }}"
    assert faults("chatml", text + CHATML).get("template_date") == "must fix"


def test_the_date_is_found_in_a_macro_and_with_a_system_message_alone():
    macro = "{% macro day() %}{{ strftime_now('%d') }}{% endmacro %}{{ day() }}"
    assert "template_date" in faults("chatml", macro + CHATML)
    system = "{% if messages[0]['role'] == 'system' %}{{ strftime_now('%Y') }}{% endif %}"
    assert "template_date" in faults("chatml", system + CHATML)


def test_the_made_up_clock_writes_what_the_real_one_would():
    day = datetime(2024, 2, 3, 4, 5, 6)
    asked = "%d %b %Y, %A %H:%M:%S, day %j, %-d"
    template = clock_macro(day) + "{{ strftime_now('" + asked + "') }}"
    chat = [{"role": "user", "content": "a"}]
    text = shared("chatml").apply_chat_template(chat, chat_template=template, tokenize=False)
    assert text == day.strftime(asked)


def test_the_real_clock_is_what_the_macro_stands_for():
    """What transformers gives templates is asked by the same name and form."""
    text = shared("chatml").apply_chat_template(
        [{"role": "user", "content": "a"}], chat_template="{{ strftime_now('%Y') }}", tokenize=False
    )
    assert text in {time.strftime("%Y"), str(int(time.strftime("%Y")) - 1)}


def test_a_template_that_writes_something_else_each_time_is_found():
    noise = "{{ range(90000) | random }}"
    assert faults("chatml", noise + CHATML)["template_random"] == "must fix"


def test_a_template_that_leaves_the_answer_out_must_be_fixed():
    text = CHATML.replace("{{ message['content'] }}", "{{ message['content'] if loop.first }}")
    assert faults("chatml", text)["template_drops_response"] == "must fix"


def test_a_template_that_writes_all_in_capitals_leaves_nothing_out():
    loud = CHATML.replace("message['content']", "(message['content'] | upper)")
    assert "must fix" not in faults("chatml", loud).values()


def test_a_template_that_leaves_out_earlier_turns_or_the_system_message_is_to_be_looked_at():
    last = CHATML.replace("in messages", "in messages[-2:]")
    found = faults("chatml", last)
    assert found["template_drops_turn"] == "look"
    assert found["template_drops_system"] == "look"


def test_a_template_that_does_not_say_who_speaks_is_found():
    text = "{{ bos_token }}{% for m in messages %}{{ m['content'] }}<|eot_id|>{% endfor %}"
    assert faults("llama3", text)["template_drops_role"] == "look"


def test_a_generation_prompt_that_nobody_asked_for_is_found():
    text = CHATML + "{{ '<|im_start|>assistant\n' }}"
    assert faults("chatml", text)["template_generation_prompt"] == "look"
    asked = CHATML + "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    assert "template_generation_prompt" not in faults("chatml", asked)


@pytest.mark.parametrize("style", ["llama3", "gemma", "mistral"])
def test_two_bos_must_be_fixed_and_a_forgotten_one_is_told(style):
    double = "{{ bos_token }}" + TEMPLATES[style]
    assert faults(style, double)["double_bos"] == "must fix"
    found = faults(style, TEMPLATES[style])
    assert found["double_bos_elsewhere"] == "look"
    none = TEMPLATES[style].replace("{{- bos_token }}", "").replace("{{ bos_token }}", "")
    assert faults(style, none)["bos_left_out"] == "look"


def test_a_conversation_that_ends_with_a_word_of_its_answer_is_told():
    text = LLAMA3.replace("+ '<|eot_id|>'", "+ ('' if loop.last else '<|eot_id|>')")
    assert faults("llama3", text)["no_end_token"] == "look"
    assert "no_end_token" not in faults("llama3", LLAMA3)


def test_pad_equal_to_eos_does_harm_only_where_a_conversation_ends_with_it():
    tokenizer = build("mistral")
    tokenizer.pad_token = tokenizer.eos_token
    (pad,) = [f for f in audit_template(tokenizer) if f.kind == "pad_is_eos"]
    assert pad.severity == "must fix"
    assert "'<unk>'" in meaning(pad)
    (pad,) = [f for f in audit_template(tokenizer, pad_is_settled=True) if f.kind == "pad_is_eos"]
    assert pad.severity == "look"
    tokenizer = build("chatml")  # ends with a newline after <|im_end|>
    tokenizer.pad_token = tokenizer.eos_token
    (pad,) = [f for f in audit_template(tokenizer) if f.kind == "pad_is_eos"]
    assert pad.severity == "fine"


def test_a_template_that_refuses_every_conversation_must_be_fixed():
    text = "{{ raise_exception('never') }}"
    assert faults("chatml", text) == {"template_refuses": "must fix"}


def test_a_template_that_cannot_be_parsed_is_an_error_in_one_line():
    with pytest.raises(ModelError, match="cannot be parsed"):
        audit_template(shared("chatml"), "{% for %}")


def test_a_tokenizer_without_a_template_is_asked_about_the_plain_one():
    tokenizer = build("llama3")
    tokenizer.chat_template = None
    found = {f.kind: f.severity for f in audit_template(tokenizer)}
    assert "must fix" not in found.values()


def test_a_tokenizer_that_adds_bos_only_by_its_processor_is_seen_as_such():
    tokenizer = build("chatml")
    tokenizer.add_special_tokens({"bos_token": "<|endoftext|>"})
    begin = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", begin)]
    )
    assert "bos_left_out" in {f.kind for f in audit_template(tokenizer)}


@pytest.mark.data
def test_the_stories_tokenizer_pads_with_the_eos_that_the_plain_template_ends_with(data_folder):
    tokenizer = stories(data_folder / "stories260k" / "hf")
    found = {f.kind: f.severity for f in audit_template(tokenizer)}
    assert found["pad_is_eos"] == "must fix"
