"""Extra pairs with negatives that are bad by their making."""

from __future__ import annotations

from collections import Counter

import pytest

from smorm.config import parse_config
from smorm.data.augment import Augment, Negative, augmented
from smorm.data.census import Census, DropReason, Reason
from smorm.data.records import Preference, Rated, text_of
from smorm.errors import ConfigError
from smorm.text.chat import Message

ALL = tuple(Negative)


def pair(index: int, chosen: str = "") -> Preference:
    chosen = chosen or " ".join(f"w{index}-{word}" for word in range(8))
    texts = (f"prompt {index}", chosen, "bad")
    roles = ("user", "assistant", "assistant")
    sides = [(Message(role, text),) for role, text in zip(roles, texts, strict=True)]
    return Preference(*sides, margin=2.0, where=f"f:{index}")


def extras(pairs, kinds=ALL, share=1.0, seed=0):
    """The extra pairs of each pair's number, and what was counted."""
    census = Census()
    records = augmented(pairs, Augment(share, kinds, seed), census)
    made = [record for record in records if record not in pairs]
    return made, census


PAIRS = [pair(index) for index in range(200)]


def test_a_share_of_pairs_is_added_after_theirs_and_counted_by_kind():
    made, census = extras(PAIRS, share=0.5)
    assert 70 < len(made) < 130
    assert census[DropReason.AUGMENTED] == len(made)
    kinds = [census.count(Reason(DropReason.AUGMENTED, kind)) for kind in ALL]
    assert min(kinds) > 5
    assert len(extras(PAIRS, share=2.0)[0]) + 4 >= 400  # the first pair has no earlier one
    chosen = {record.where: record.chosen for record in PAIRS}
    for record in made:
        assert record.chosen == chosen[record.where]
        assert record.margin is None


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (Negative.FIRST_WORDS, "a b c"),
        (Negative.REPEATED_START, "a b c a b c a"),
    ],
)
def test_an_answer_is_damaged(kind, expected):
    (made,), _ = extras([pair(0, "a b c d e f g")], (kind,))
    assert text_of(made.rejected) == expected


def test_words_are_shuffled_and_other_prompts_have_the_answers():
    made, _ = extras(PAIRS, (Negative.SHUFFLED_WORDS,))
    for record in made:
        assert Counter(text_of(record.rejected).split()) == Counter(text_of(record.chosen).split())
        assert record.rejected != record.chosen
    made, census = extras(PAIRS, (Negative.CROSS_PROMPT,))
    answers = {record.chosen: record.prompt for record in PAIRS}
    assert all(answers[record.rejected] != record.prompt for record in made)
    assert census[DropReason.NOT_AUGMENTED] == 1  # no pair stands before the first


def test_what_is_too_short_or_no_pair_is_passed_on():
    short = pair(0, "a b c")
    whole = Preference((), (Message("raw", "a b c d e"),), (Message("raw", "a"),), where="f:2")
    rated = Rated(short.prompt, short.chosen, {"x": 1.0})
    made, census = extras([short, whole, rated], (Negative.FIRST_WORDS,))
    assert not made
    assert census[DropReason.NOT_AUGMENTED] == 2


def test_extra_pairs_depend_on_the_seed_and_the_pairs_number_alone():
    assert extras(PAIRS)[0] == extras(PAIRS)[0]
    assert extras(PAIRS)[0] != extras(PAIRS, seed=1)[0]
    # A longer source has the same extra pairs at its beginning.
    made = extras(PAIRS[:100])[0]
    assert extras(PAIRS)[0][: len(made)] == made


def test_the_section_is_checked_and_absent_from_the_hash_of_a_run_without_it():
    values = {
        "model": {"backbone": "x"}, "data": {"preference": "p", "rated": "r"},
        "output": {"folder": "o"},
    }  # fmt: skip
    plain = parse_config(values)
    assert "augment" not in plain.model_dump()["data"]
    values["data"]["augment"] = {"share": 0.25, "kinds": ["cross_prompt"]}
    assert parse_config(values).hash != plain.hash
    values["data"]["augment"] = {"kinds": ["cross_prompt", "cross_prompt"]}
    with pytest.raises(ConfigError, match="twice"):
        parse_config(values)
