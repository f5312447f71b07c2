"""The forest seen from its leaf rows: each leaf's keys are its row of the mask."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smorm.model.attention import AttentionPlan
from smorm.model.gathered import gather_plan
from smorm.trees.forest import MIN_SHARE, find_leaves, grow
from tests.trees.sequences import allowed_cells, dense_mask, families, grown, random_family, tokens

law = settings(deadline=None, max_examples=60)
any_family = families | grown()
shares = st.tuples(st.booleans(), st.sampled_from([1, 2, 5, MIN_SHARE]))


def built(sequences, setting):
    share, least = setting
    return grow(sequences, share=share, min_share=least)


@law
@given(any_family, shares)
def test_the_rows_are_the_distinct_leaves_and_each_sequence_finds_its_own(sequences, setting):
    forest = built(sequences, setting)
    leaves = find_leaves(forest)
    assert leaves.rows.tolist() == sorted(set(forest.leaves.tolist()))
    assert torch.equal(leaves.rows[leaves.inverse], forest.leaves)
    assert leaves.num_tokens == len(leaves.rows)
    assert leaves.max_position == forest.max_position


@law
@given(any_family, shares)
def test_own_chains_and_rectangles_are_the_leaves_rows_of_the_mask_each_cell_once(
    sequences, setting
):
    forest = built(sequences, setting)
    leaves = find_leaves(forest)
    count = np.zeros((leaves.num_tokens, forest.num_tokens), dtype=int)
    for query, (first, last) in enumerate(leaves.chains):
        count[query, first:last] += 1
    for q_first, q_last, k_first, k_last in leaves.rectangles:
        assert q_first < q_last
        count[q_first:q_last, k_first:k_last] += 1
    assert np.array_equal(count, allowed_cells(forest)[leaves.rows.numpy()].astype(int))


@law
@given(any_family, shares)
def test_every_leaf_has_one_own_run_and_it_ends_with_itself(sequences, setting):
    leaves = find_leaves(built(sequences, setting))
    assert leaves.queries == [(query, query + 1) for query in range(leaves.num_tokens)]
    assert [last - 1 for _, last in leaves.chains] == leaves.rows.tolist()


@law
@given(any_family, shares)
def test_a_leafs_gathered_keys_spell_its_sequence(sequences, setting):
    forest = built(sequences, setting)
    leaves = find_leaves(forest)
    plan = gather_plan(leaves)
    assert plan.query_lengths == [1] * leaves.num_tokens
    keys = plan.index.split(plan.key_lengths)
    mask = dense_mask(forest)
    for row, seen in zip(leaves.rows.tolist(), keys, strict=True):
        assert forest.positions[seen].tolist() == list(range(len(seen)))
        assert sorted(seen.tolist()) == mask[row].nonzero()[:, 0].tolist()
    for sequence, query in zip(sequences, leaves.inverse.tolist(), strict=True):
        assert forest.input_ids[keys[query]].tolist() == sequence.tolist()


@pytest.mark.parametrize("seed", range(6))
def test_real_sized_families_hold_the_same_law(seed):
    sequences = random_family(seed)
    forest = grow(sequences)
    leaves = find_leaves(forest)
    plan = gather_plan(leaves)
    keys = plan.index.split(plan.key_lengths)
    for sequence, query in zip(sequences, leaves.inverse.tolist(), strict=True):
        assert forest.input_ids[keys[query]].tolist() == sequence.tolist()


def test_a_sequence_that_is_a_prefix_of_another_is_a_query_inside_the_chain():
    forest = grow([tokens(*range(12)), tokens(*range(9)), tokens(*range(12))])
    leaves = find_leaves(forest)
    assert leaves.rows.tolist() == [8, 11]
    assert leaves.inverse.tolist() == [1, 0, 1]
    assert leaves.chains == [(0, 9), (0, 12)]
    assert leaves.rectangles == []


def test_a_pair_by_hand():
    stem = range(10)
    leaves = find_leaves(grow([tokens(*stem, 20, 21, 22), tokens(*stem, 30)]))
    assert leaves.rows.tolist() == [12, 13]
    assert leaves.chains == [(0, 13), (13, 14)]
    assert leaves.rectangles == [(1, 2, 0, 10)]
    assert leaves.keys == [[(0, 13)], [(0, 10), (13, 14)]]


def test_one_sequence_is_one_query():
    leaves = find_leaves(grow([tokens(5, 6, 7)]))
    assert leaves.rows.tolist() == [2]
    assert leaves.chains == [(0, 3)]
    assert gather_plan(leaves).index.tolist() == [0, 1, 2]


def test_a_plan_makes_each_of_its_parts_once():
    plan = AttentionPlan(grow(random_family(0)))
    assert plan.leaves is plan.leaves
    assert plan.leaves.gather is plan.leaves.gather
    assert plan.blocks is plan.blocks
