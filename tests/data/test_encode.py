"""Records become tokens once, within the limit, and what is left out is counted."""

from __future__ import annotations

import numpy as np
import pytest
from transformers import AutoTokenizer

from smorm.data.census import Census
from smorm.data.encode import Encoder
from smorm.data.records import prompt_hash, prompt_key
from smorm.errors import DataError, ModelError
from smorm.text.chat import Message, Renderer
from smorm.world import backbone_path
from tests.data.sources import A, U, turns


@pytest.fixture(scope="module")
def renderer():
    return Renderer(AutoTokenizer.from_pretrained(backbone_path()), max_tokens=256)


PROMPT = turns((U, "metals brief tin"))
LONG = turns((U, "metals brief tin " * 20))
ANSWERS = [turns((A, "tin soft .")), turns((A, "tin hard ."))]


def encoded(renderer, prompt=PROMPT, *, limit=64, overlong="error", on_bad="stop"):
    """What is left of a record at f:1, and the census."""
    census = Census()
    outcome = Encoder(renderer, limit, overlong).encode(prompt, ANSWERS)
    return outcome.resolve("f:1", census, on_bad), " ".join(census.lines())


def test_all_responses_are_the_renderers_ids(renderer):
    tokens, told = encoded(renderer)
    assert [one.tolist() for one in tokens] == [renderer.render((*PROMPT, *a)) for a in ANSWERS]
    assert {one.dtype for one in tokens} == {np.dtype(np.int32)}
    assert told == ""


def test_an_overlong_record_stops_by_default_and_names_its_place(renderer):
    with pytest.raises(DataError, match=r"^f:1: the conversation has \d+ tokens"):
        encoded(renderer, LONG)
    tokens, told = encoded(renderer, LONG, on_bad="skip")
    assert tokens == []
    assert told.startswith("bad record skipped: over the token limit: 1 (such as f:1)")


def test_an_overlong_record_can_be_dropped_and_is_counted(renderer):
    tokens, told = encoded(renderer, LONG, overlong="drop")
    assert tokens == []
    assert told.startswith("dropped: longer than the limit: 1 (such as f:1)")


def test_an_overlong_prompt_can_be_shortened_the_response_stays_whole(renderer):
    (chosen, _), told = encoded(renderer, LONG, limit=20, overlong="truncate_prompt")
    assert len(chosen) <= 20
    assert chosen.tolist()[-4:] == renderer.render((*LONG, *ANSWERS[0]))[-4:]
    assert "prompt shortened to the limit" in told


def test_what_cannot_be_rendered_is_skipped_and_counted_when_asked_for(renderer):
    strange = (Message("narrator", "once"),)
    with pytest.raises(DataError, match=r"^f:1: role 'narrator'"):
        encoded(renderer, strange)
    tokens, told = encoded(renderer, strange, on_bad="skip")
    assert tokens == []
    assert told.startswith("bad record skipped: cannot be rendered: 1 (such as f:1)")


def test_a_template_that_is_wrong_stops_even_where_bad_records_are_skipped(renderer):
    twice = Renderer(renderer.tokenizer, "{{ bos_token }}{{ messages[0].content }}", 64)
    outcome = Encoder(twice, 64, "error").encode(turns((U, "x")), [()])
    assert outcome.error is None
    broken = type(outcome)([], error=ModelError("two BOS"))
    with pytest.raises(ModelError):
        broken.resolve("f:1", Census(), "skip")


def test_the_key_of_a_prompt_tells_roles_and_turns_apart():
    prompts = [
        turns((U, "a"), (A, "b")),
        turns((U, "a"), (U, "b")),
        turns((U, "ab")),
        turns((U, "a")),
        turns((A, "a")),
        turns((U, "a\ud800")),
    ]
    assert len({prompt_key(prompt) for prompt in prompts}) == len(prompts)
    assert len({prompt_hash(prompt) for prompt in prompts}) == len(prompts)
