import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smorm.world import (
    REGIMES,
    Habits,
    gold,
    make_world,
    measure_quality,
    sample_prompt,
    write_answer,
)
from smorm.world.words import FILLERS, HELD_OUT_TOPICS, TOPICS, WORDS

world = make_world()


def answers(ability, count=400, regime="ID", **given_):
    rng = np.random.default_rng(0)
    for _ in range(count):
        prompt = sample_prompt(rng, regime)
        yield prompt, write_answer(world, prompt, rng, ability=ability, **given_)


@given(st.integers(0, 2**32 - 1), st.sampled_from(REGIMES), st.floats(0, 1))
def test_an_answer_is_made_of_the_worlds_words_and_never_empty(seed, regime, ability):
    rng = np.random.default_rng(seed)
    answer = write_answer(world, sample_prompt(rng, regime), rng, ability=ability)
    assert answer
    assert set(answer.split(" ")) <= set(WORDS)


def test_the_same_chance_writes_the_same_answer():
    prompt = sample_prompt(np.random.default_rng(1))
    texts = [write_answer(world, prompt, np.random.default_rng(seed)) for seed in (7, 7, 8)]
    assert texts[0] == texts[1] != texts[2]


def test_every_true_attribute_rises_with_ability():
    means = [
        np.mean(
            [[*measure_quality(world, *pair).attributes.values()] for pair in answers(a)], axis=0
        )
        for a in (0.0, 0.5, 1.0)
    ]
    assert (np.diff(means, axis=0) > 0).all()


def test_a_writer_with_faultless_habits_writes_perfect_answers():
    always, never = (1.0, 1.0), (0.0, 0.0)
    good = dict.fromkeys(("right", "mentions", "in_style"), always)
    bad = ("swaps", "repeats", "digresses", "glitches", "filler", "opener", "closer")
    habits = Habits(**good, **dict.fromkeys(bad, never))
    golds = [gold(world, *pair) for pair in answers(0.0, habits=habits)]
    assert golds == pytest.approx([1.0] * 400)


def test_held_out_topics_are_never_mentioned_under_a_trained_topic():
    held_out = {word for topic in HELD_OUT_TOPICS for word in (topic, *TOPICS[topic])}
    for prompt, answer in answers(0.0, 2000):
        assert not held_out & {*prompt.text.split(), *answer.split()}


def test_length_and_fillers_go_along_with_quality_moderately():
    rng = np.random.default_rng(0)
    golds, lengths, fillers = [], [], []
    for _ in range(3000):
        prompt = sample_prompt(rng, "ID")
        words = write_answer(world, prompt, rng).split()
        golds.append(gold(world, prompt, " ".join(words)))
        lengths.append(len(words))
        fillers.append(sum(word in FILLERS for word in words))
    assert 0.1 < np.corrcoef(golds, lengths)[0, 1] < 0.5
    assert 0.1 < np.corrcoef(golds, fillers)[0, 1] < 0.5


def test_the_latent_is_what_ties_fillers_to_ability():
    def fillers_per_clause(ability, **kwargs):
        texts = [answer.split() for _, answer in answers(ability, 1500, **kwargs)]
        return np.mean([sum(w in FILLERS for w in t) / max(1, t.count(".")) for t in texts])

    untied = Habits(wordiness_follows_ability=0.0)
    assert fillers_per_clause(1.0) > 1.5 * fillers_per_clause(0.0)
    able, unable = (fillers_per_clause(a, habits=untied) for a in (1.0, 0.0))
    assert able == pytest.approx(unable, rel=0.15)
