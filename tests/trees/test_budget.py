"""The laws of token-budget micro-batches."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smorm.trees.budget import forest_cost, micro_batches, packed_cost, padded_batches
from smorm.trees.forest import grow
from tests.trees.sequences import arrays, grown, tokens

law = settings(deadline=None, max_examples=80)


@st.composite
def units_of(draw):
    """Pairs, singles and larger groups over a few prompts, some of them equal."""
    pool = draw(grown()) + draw(grown()) + [draw(arrays)]
    size = st.integers(1, 3)
    member = st.sampled_from(pool)
    return draw(
        st.lists(
            size.flatmap(lambda n: st.lists(member, min_size=n, max_size=n)),
            min_size=1,
            max_size=12,
        )
    )


budgets = st.integers(1, 60)
KINDS = {
    "forest": lambda units, budget: micro_batches(units, budget, forest_cost),
    "packed": lambda units, budget: micro_batches(units, budget, packed_cost),
    "padded": padded_batches,
}


def rows_of(kind, units):
    """Rows that the layout really computes."""
    sequences = [s for unit in units for s in unit]
    if kind == "padded":
        return len(sequences) * max(map(len, sequences))
    return grow(sequences, share=kind == "forest").num_tokens


def contents(units, batches):
    return sorted(sorted([t.tolist() for t in units[i]] for i in batch) for batch in batches)


@pytest.mark.parametrize("kind", KINDS)
@law
@given(units=units_of(), budget=budgets)
def test_every_unit_is_in_exactly_one_batch_within_the_budget(kind, units, budget):
    batches = KINDS[kind](units, budget)
    assert sorted(i for batch in batches for i in batch) == list(range(len(units)))
    for batch in batches:
        assert len(batch) == 1 or rows_of(kind, [units[i] for i in batch]) <= budget
    assert KINDS[kind](units, budget) == batches


@law
@given(units=units_of(), budget=budgets, seed=st.integers(0, 99))
def test_the_order_of_the_units_does_not_change_the_batches(units, budget, seed):
    shuffled = list(units)
    random.Random(seed).shuffle(shuffled)
    for kind in ("forest", "packed"):
        one, other = KINDS[kind](units, budget), KINDS[kind](shuffled, budget)
        assert contents(units, one) == contents(shuffled, other)


@law
@given(units=units_of())
def test_the_cost_is_never_below_the_rows_that_are_computed(units):
    total, previous = 0, None
    for unit in units:
        assert forest_cost(unit) >= grow(unit).num_tokens
        total += forest_cost(unit, previous)
        previous = unit
    assert total >= rows_of("forest", units)


def test_a_short_sequence_is_not_taken_for_free_behind_one_that_begins_with_it():
    """Fewer than the least number of common tokens is not shared, not even a whole sequence."""
    units = [[tokens(*range(12))], [tokens(0, 1, 2)]]
    assert forest_cost(units[1], units[0]) == 3
    assert forest_cost(units[0], units[0]) == 0
    assert grow([units[0][0], units[1][0]]).num_tokens == 15


def test_units_over_one_prompt_meet_and_share():
    prompts = [list(range(n, n + 20)) for n in (100, 300)]
    units = [[tokens(*prompts[i % 2], 1, i), tokens(*prompts[i % 2], 2, i)] for i in range(6)]
    batches = micro_batches(units, 40)
    assert sorted(sorted(i % 2 for i in batch) for batch in batches) == [[0, 0, 0], [1, 1, 1]]


def test_a_unit_larger_than_the_budget_gets_a_batch_of_its_own():
    units = [[tokens(*range(50))], [tokens(1, 2)], [tokens(3)]]
    for kind, split in KINDS.items():
        batches = split(units, 10)
        assert [0] in batches, kind
        assert len(batches) == 2
