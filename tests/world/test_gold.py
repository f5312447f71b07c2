import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smorm.world import (
    ATTRIBUTES,
    REGIMES,
    Prompt,
    gold,
    make_world,
    measure_quality,
    perfect_answer,
    sample_prompt,
    write_answer,
)
from smorm.world.gold import find_clauses
from smorm.world.words import CLOSERS, FILLERS, NOISE, OPENERS, REASONS, VALUES, WORDS

world = make_world()
prompts = st.builds(
    lambda seed, regime: sample_prompt(np.random.default_rng(seed), regime),
    st.integers(0, 2**32 - 1),
    st.sampled_from(REGIMES),
)
word_strings = st.lists(st.sampled_from(WORDS), max_size=60).map(" ".join)


def clauses_of(prompt):
    words = perfect_answer(world, prompt).split()
    found = find_clauses(world, words)
    return [words[clause.start : clause.start + clause.size] for clause in found]


def join(clauses):
    return " ".join(word for clause in clauses for word in clause)


def assert_bounded(quality):
    values = [*quality.attributes.values(), quality.helpful, quality.gold]
    assert tuple(quality.attributes) == ATTRIBUTES
    assert all(0.0 <= value <= 1.0 for value in values)


@given(prompts, word_strings)
def test_every_string_of_words_has_a_gold_between_0_and_1(prompt, answer):
    assert_bounded(measure_quality(world, prompt, answer))


@given(prompts, st.text(max_size=200))
def test_text_of_no_world_has_a_gold_between_0_and_1(prompt, answer):
    assert_bounded(measure_quality(world, prompt, answer))


@given(prompts, st.lists(st.sampled_from(["piece", *FILLERS[:2], "because", "."]), max_size=30))
def test_parts_of_good_answers_put_together_at_random_are_bounded(prompt, parts):
    perfect = perfect_answer(world, prompt)
    assert_bounded(
        measure_quality(world, prompt, " ".join(perfect if p == "piece" else p for p in parts))
    )


@pytest.mark.parametrize("text", ["", "   ", "\n", ".", ". . .", "<eos>", "because", "metals"])
def test_an_answer_without_content_is_worth_at_most_nothing(text):
    prompt = Prompt("metals", "brief", ("tin", "zinc"))
    assert gold(world, prompt, text) == 0.0


def test_spam_of_fillers_is_worth_nothing_however_long():
    prompt = Prompt("metals", "full", ("tin", "zinc"))
    assert gold(world, prompt, "really " * 50_000) == 0.0
    assert gold(world, prompt, "sure " + "truly " * 40 + "thanks") == 0.0


def test_repeating_a_perfect_answer_makes_it_worse_each_time():
    prompt = Prompt("birds", "full", ("owl", "swan"))
    perfect = perfect_answer(world, prompt)
    golds = [gold(world, prompt, " ".join([perfect] * n)) for n in (1, 2, 3, 10, 100)]
    assert golds == sorted(golds, reverse=True)
    assert len(set(golds)) == len(golds)


@given(prompts)
def test_a_perfect_answer_has_every_attribute_at_1(prompt):
    quality = measure_quality(world, prompt, perfect_answer(world, prompt))
    assert [*quality.attributes.values(), quality.helpful] == [1.0] * 6
    assert quality.gold == pytest.approx(1.0)


@given(prompts, st.data())
def test_every_corruption_of_a_perfect_answer_is_worse_in_the_attribute_it_touches(prompt, data):
    clauses = clauses_of(prompt)
    at = data.draw(st.integers(0, len(clauses) - 1))
    fact = world.facts[prompt.entities[at]]
    full = prompt.style == "full"

    def replaced(clause):
        return join([*clauses[:at], clause, *clauses[at + 1 :]])

    wrong = data.draw(st.sampled_from([v for v in VALUES if v != fact.value]))
    other_style = clauses[at][:2] + (["."] if full else ["because", fact.reason, "."])
    corrupted = {
        "coverage": join(clauses[:at] + clauses[at + 1 :]),
        "correctness": replaced([clauses[at][0], wrong, *clauses[at][2:]]),
        "conciseness": replaced([data.draw(st.sampled_from(FILLERS)), *clauses[at]]),
        "coherence": replaced([*clauses[at], data.draw(st.sampled_from(NOISE))]),
        "style": replaced(other_style),
    }
    for attribute, answer in corrupted.items():
        quality = measure_quality(world, prompt, answer)
        assert quality.attributes[attribute] < 1.0, attribute
        assert quality.gold < 0.999, attribute


@given(prompts)
def test_wrong_order_a_repeat_a_digression_an_opener_and_a_wrong_reason_are_worse(prompt):
    clauses = clauses_of(prompt)
    best = gold(world, prompt, join(clauses))
    wrong = next(r for r in REASONS if r != world.facts[prompt.entities[0]].reason)
    stranger = "owl" if prompt.topic != "birds" else "tin"
    worse = [
        [clauses[1], clauses[0], *clauses[2:]],
        [*clauses, clauses[0]],
        [*clauses, [stranger, world.facts[stranger].value, "."]],
        [[OPENERS[0]], *clauses],
        [[*clauses[0][:2], "because", wrong, "."], *clauses[1:]],
    ]
    assert all(gold(world, prompt, join(answer)) < best for answer in worse)


@given(prompts, st.integers(0, 2**32 - 1), st.data())
def test_adding_a_filler_an_opener_or_a_closer_never_makes_an_answer_better(prompt, seed, data):
    words = write_answer(world, prompt, np.random.default_rng(seed), ability=0.2).split()
    before = gold(world, prompt, " ".join(words))
    starts = [clause.start for clause in find_clauses(world, words)]
    at = data.draw(st.sampled_from([0, len(words), *starts]))
    filler = data.draw(st.sampled_from(FILLERS))
    for padded in (
        [*words[:at], filler, *words[at:]],
        [data.draw(st.sampled_from(OPENERS)), *words],
        [*words, data.draw(st.sampled_from(CLOSERS))],
    ):
        assert gold(world, prompt, " ".join(padded)) <= before + 1e-12


def test_the_first_clause_about_an_entity_is_the_one_that_helps():
    prompt = Prompt("metals", "brief", ("tin", "zinc"))
    right, wrong = world.facts["tin"].value, world.facts["zinc"].value
    first_right = measure_quality(world, prompt, f"tin {right} . tin {wrong} .")
    first_wrong = measure_quality(world, prompt, f"tin {wrong} . tin {right} .")
    assert (first_right.helpful, first_wrong.helpful) == (0.5, 0.0)
    assert first_right.correctness == first_wrong.correctness == 0.5


def test_gold_has_the_documented_weights():
    prompt = Prompt("metals", "brief", ("tin", "zinc"))
    quality = measure_quality(world, prompt, f"really tin {world.facts['tin'].value} . uh")
    assert quality.helpful == 0.5
    assert quality.coherence == 3 / 4
    assert quality.conciseness == 3 / 5
    assert quality.gold == pytest.approx(0.5 * 0.5 + 0.2 * 0.75 + 0.15 * 0.6 + 0.15)


@settings(max_examples=50)
@given(prompts, st.integers(0, 2**32 - 1))
def test_gold_depends_on_the_text_alone_not_on_who_wrote_it(prompt, seed):
    rng = np.random.default_rng(seed)
    answer = write_answer(world, prompt, rng, ability=0.0)
    before = gold(world, prompt, answer)
    write_answer(world, prompt, rng, ability=1.0)
    assert gold(world, prompt, "\t" + answer.replace(" ", "\n  ")) == before


def test_a_hundred_thousand_answers_are_judged_within_seconds():
    rng = np.random.default_rng(0)
    prompt = sample_prompt(rng, "OODlong")
    answers = [write_answer(world, prompt, rng) for _ in range(2000)]
    began = time.process_time()
    for answer in answers:
        measure_quality(world, prompt, answer)
    assert (time.process_time() - began) * 50 < 15
