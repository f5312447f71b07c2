import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smorm.errors import DataError
from smorm.world import REGIMES, Prompt, make_world, parse_prompt, sample_prompt
from smorm.world.words import HELD_OUT_TOPICS, REASONS, SPECIAL_TOKENS, TOPICS, VALUES, WORDS
from smorm.world.world import TRAINED_TOPICS

seeds = st.integers(0, 2**32 - 1)
regimes = st.sampled_from(REGIMES)


def test_no_word_plays_two_parts():
    assert len(set(WORDS)) == len(WORDS)
    assert not set(WORDS) & set(SPECIAL_TOKENS)
    assert 215 <= len(WORDS) + len(SPECIAL_TOKENS) <= 240
    assert all(word.split() == [word] for word in WORDS)


def test_twelve_topics_of_six_entities_four_of_them_held_out():
    assert [len(entities) for entities in TOPICS.values()] == [6] * 12
    assert len(TRAINED_TOPICS) == 8
    assert set(TRAINED_TOPICS) | set(HELD_OUT_TOPICS) == set(TOPICS)


def test_the_world_is_a_function_of_its_seed():
    again = make_world.__wrapped__(3)
    assert dict(again.facts) == dict(make_world(3).facts)
    assert dict(again.facts) != dict(make_world(4).facts)


@given(seeds)
def test_every_entity_has_a_fact_and_facts_of_one_topic_differ(seed):
    world = make_world.__wrapped__(seed)
    for entities in TOPICS.values():
        facts = [world.facts[entity] for entity in entities]
        assert len({fact.value for fact in facts}) == len({fact.reason for fact in facts}) == 6
        assert {fact.value for fact in facts} <= set(VALUES)
        assert {fact.reason for fact in facts} <= set(REASONS)


@given(seeds, regimes)
def test_a_prompt_is_of_the_regime_that_was_asked_and_reads_back_from_its_text(seed, regime):
    prompt = sample_prompt(np.random.default_rng(seed), regime)
    assert prompt.regime == regime
    assert parse_prompt(prompt.text) == prompt
    assert prompt.text == " ".join(prompt.text.split())
    assert (prompt.topic in HELD_OUT_TOPICS) == (regime in ("OODtopic", "far"))
    sizes = (2, 3, 4) if regime in ("ID", "OODtopic") else (5, 6)
    assert len(prompt.entities) in sizes


@given(seeds, regimes, st.sampled_from(["train", "dev", "eval"]))
def test_a_prompt_is_of_the_split_that_was_asked(seed, regime, split):
    assert sample_prompt(np.random.default_rng(seed), regime, split).split == split


def test_every_topic_style_and_size_of_a_regime_is_asked():
    rng = np.random.default_rng(0)
    prompts = [sample_prompt(rng, "ID") for _ in range(2000)]
    assert {prompt.topic for prompt in prompts} == set(TRAINED_TOPICS)
    assert {(prompt.style, len(prompt.entities)) for prompt in prompts} == {
        (style, size) for style in ("brief", "full") for size in (2, 3, 4)
    }


@pytest.mark.parametrize(
    "text",
    [
        "",
        "metals",
        "metals brief",
        "metals brief tin",
        "metals brief tin tin",
        "metals loud tin zinc",
        "metals brief tin owl",
        "stars brief tin zinc",
        "brief metals tin zinc",
    ],
)
def test_what_is_no_prompt_is_refused_in_one_line(text):
    with pytest.raises(
        DataError, match="is not a prompt of the generated world; expected"
    ) as caught:
        parse_prompt(text)
    assert "\n" not in str(caught.value)


def test_a_prompt_is_a_value():
    one = Prompt("metals", "brief", ("tin", "zinc"))
    assert one == Prompt("metals", "brief", ("tin", "zinc"))
    assert len({one, Prompt("metals", "brief", ("zinc", "tin"))}) == 2
