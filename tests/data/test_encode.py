"""Records become tokens once, within the limit, and what is left out is counted."""

from __future__ import annotations

import numpy as np
import pytest
from transformers import AutoTokenizer

from smorm.data.census import Census
from smorm.data.encode import (
    Encoder,
    encode_candidates,
    encode_preferences,
    encode_rated,
    prompt_key,
)
from smorm.data.records import Candidates, Preference, Rated
from smorm.errors import DataError
from smorm.lab import backbone_path
from smorm.text.chat import Renderer
from tests.data.sources import A, U, turns


@pytest.fixture(scope="module")
def renderer():
    return Renderer(AutoTokenizer.from_pretrained(backbone_path()), max_tokens=256)


def encoder(renderer, *, limit=64, overlong="error", on_bad="stop"):
    return Encoder(renderer, limit, overlong, Census(), on_bad)


PROMPT = turns((U, "metals brief tin"))
LONG = turns((U, "metals brief tin " * 20))


def pair(chosen, rejected, prompt=PROMPT, **fields):
    return Preference(prompt, turns((A, chosen)), turns((A, rejected)), where="f:1", **fields)


def kinds(encoder):
    return " ".join(encoder.census.lines())


def test_both_sides_of_a_pair_are_the_renderers_ids(renderer):
    used = encoder(renderer)
    (found,) = encode_preferences([pair("tin soft .", "tin hard .", margin=0.5)], used)
    for side, text in ((found.chosen, "tin soft ."), (found.rejected, "tin hard .")):
        assert side.tolist() == renderer.render((*PROMPT, *turns((A, text))))
        assert side.dtype == np.int32
    assert (found.margin, found.where, found.prompt) == (0.5, "f:1", prompt_key(PROMPT))
    assert used.census.lines() == []


def test_a_pair_without_a_margin_has_a_margin_of_zero(renderer):
    (found,) = encode_preferences([pair("tin soft .", "tin hard .")], encoder(renderer))
    assert found.margin == 0.0


def test_a_pair_with_two_equal_sides_is_dropped_and_counted(renderer):
    used = encoder(renderer)
    records = [pair("tin soft .", "tin soft ."), pair("tin soft .", "tin hard .")]
    assert len(list(encode_preferences(records, used))) == 1
    assert "dropped: both sides are the same tokens" in kinds(used)
    assert "f:1" in kinds(used)


def test_an_overlong_record_stops_by_default_and_names_its_place(renderer):
    with pytest.raises(DataError, match=r"^f:1: "):
        list(encode_preferences([pair("tin .", "soft .", LONG)], encoder(renderer)))


def test_an_overlong_record_can_be_dropped_and_is_counted(renderer):
    used = encoder(renderer, overlong="drop")
    assert list(encode_preferences([pair("tin .", "soft .", LONG)], used)) == []
    assert "dropped: " in kinds(used)


def test_an_overlong_prompt_can_be_shortened_the_response_stays_whole(renderer):
    used = encoder(renderer, limit=20, overlong="truncate_prompt")
    (found,) = encode_preferences([pair("tin soft .", "tin hard .", LONG)], used)
    whole = renderer.render((*LONG, *turns((A, "tin soft ."))))
    assert len(found.chosen) <= 20
    assert found.chosen.tolist()[-4:] == whole[-4:]
    assert "prompt shortened to the limit" in kinds(used)


def test_ratings_and_candidates_keep_their_records(renderer):
    rated = Rated(PROMPT, turns((A, "tin soft .")), {"clarity": 2.0}, where="f:2")
    (one,) = encode_rated([rated], encoder(renderer))
    assert one.record is rated
    several = Candidates(PROMPT, tuple(turns((A, f"tin {w} .")) for w in ("soft", "hard", "soft")))
    (many,) = encode_candidates([several], encoder(renderer))
    assert many.record is several
    assert many.tokens[0].tolist() == one.tokens.tolist()
    assert len(many.tokens) == 3, "equal candidates are all scored"


def test_the_key_of_a_prompt_tells_roles_and_turns_apart():
    prompts = [
        turns((U, "a"), (A, "b")),
        turns((U, "a"), (U, "b")),
        turns((U, "ab")),
        turns((U, "a")),
        turns((A, "a")),
    ]
    assert len({prompt_key(prompt) for prompt in prompts}) == len(prompts)
