"""The laws of the packed batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smorm.model.gathered import gather_plan
from smorm.trees.forest import MIN_SHARE, common_prefix, grow, pad, sort_key
from tests.trees.sequences import (
    allowed_cells,
    dense_mask,
    distinct_prefixes,
    families,
    grown,
    random_family,
    tokens,
)

law = settings(deadline=None, max_examples=60)
any_family = families | grown()
shares = st.tuples(st.booleans(), st.sampled_from([1, 2, 5, MIN_SHARE]))


def built(sequences, setting):
    share, least = setting
    return grow(sequences, share=share, min_share=least)


def read_back(forest, leaf):
    """What the leaf's row sees, in order of position."""
    seen = np.flatnonzero(allowed_cells(forest)[leaf])
    seen = seen[np.argsort(forest.positions.numpy()[seen])]
    assert forest.positions[seen].tolist() == list(range(len(seen)))
    return forest.input_ids[seen].tolist()


@law
@given(any_family, shares)
def test_every_sequence_is_what_its_leaf_sees(sequences, setting):
    forest = built(sequences, setting)
    for sequence, leaf in zip(sequences, forest.leaves.tolist(), strict=True):
        assert read_back(forest, leaf) == sequence.tolist()


@law
@given(any_family)
def test_every_row_sees_its_own_beginning_once(sequences):
    """Not only leaves: each row of the forest is the end of a prefix of some sequence."""
    forest = grow(sequences, min_share=1)
    found = {tuple(read_back(forest, row)) for row in range(forest.num_tokens)}
    assert found == {tuple(s[: n + 1].tolist()) for s in sequences for n in range(len(s))}
    assert len(found) == forest.num_tokens


@law
@given(any_family, shares)
def test_sharing_never_adds_rows(sequences, setting):
    total = sum(map(len, sequences))
    rows = built(sequences, setting).num_tokens
    assert distinct_prefixes(sequences) <= rows <= total
    assert grow(sequences, min_share=1).num_tokens == distinct_prefixes(sequences)
    assert grow(sequences, share=False).num_tokens == total


@law
@given(any_family, shares)
def test_chains_cover_all_rows_side_by_side(sequences, setting):
    forest = built(sequences, setting)
    edges = [edge for chain in forest.chains for edge in chain]
    assert edges[0] == 0
    assert edges[-1] == forest.num_tokens
    assert edges[1:-1:2] == edges[2::2]
    assert all(first < last for first, last in forest.chains)
    assert forest.max_position == int(forest.positions.max())


@law
@given(any_family, shares)
def test_chains_and_rectangles_are_the_mask_each_cell_once(sequences, setting):
    forest = built(sequences, setting)
    count = np.zeros((forest.num_tokens, forest.num_tokens), dtype=int)
    for first, last in forest.chains:
        count[first:last, first:last] += np.tri(last - first, dtype=int)
    for q_first, q_last, k_first, k_last in forest.rectangles:
        count[q_first:q_last, k_first:k_last] += 1
    assert np.array_equal(count, allowed_cells(forest).astype(int))


@law
@given(any_family, shares)
def test_chains_and_their_ancestors_are_the_mask_each_cell_once(sequences, setting):
    forest = built(sequences, setting)
    count = np.zeros((forest.num_tokens, forest.num_tokens), dtype=int)
    for (first, last), ancestors in zip(forest.chains, forest.ancestors, strict=True):
        count[first:last, first:last] += np.tri(last - first, dtype=int)
        for k_first, k_last in ancestors:
            count[first:last, k_first:k_last] += 1
    assert np.array_equal(count, allowed_cells(forest).astype(int))


@pytest.mark.slow
@law
@given(any_family, shares, st.none() | st.integers(1, 6))
def test_the_dense_mask_is_the_rule_and_the_window(sequences, setting, window):
    forest = built(sequences, setting)
    expected = allowed_cells(forest)
    if window is not None:
        depth = forest.positions.numpy()
        expected = expected & (depth[:, None] - depth[None, :] < window)
    assert np.array_equal(dense_mask(forest, window).numpy(), expected)


@law
@given(any_family, shares)
def test_key_i_of_a_gathered_chain_has_position_i(sequences, setting):
    forest = built(sequences, setting)
    plan = gather_plan(forest)
    index, query_lengths, key_lengths = plan.index, plan.query_lengths, plan.key_lengths
    assert query_lengths == [last - first for first, last in forest.chains]
    for rows, length, queries in zip(
        index.split(key_lengths), key_lengths, query_lengths, strict=True
    ):
        assert forest.positions[rows].tolist() == list(range(length))
        own = rows[length - queries :]
        assert own.tolist() == list(range(int(own[0]), int(own[0]) + queries))


@law
@given(any_family, st.randoms(use_true_random=False))
def test_the_order_of_the_sequences_only_names_the_leaves(sequences, random):
    order = list(range(len(sequences)))
    random.shuffle(order)
    one, other = grow(sequences), grow([sequences[i] for i in order])
    assert torch.equal(one.input_ids, other.input_ids)
    assert torch.equal(one.end, other.end)
    assert torch.equal(one.leaves[order], other.leaves)


@law
@given(any_family)
def test_equal_sequences_share_a_leaf_and_others_do_not(sequences):
    for least in (1, MIN_SHARE):
        forest = grow([*sequences, *sequences], min_share=least)
        first, second = forest.leaves.chunk(2)
        assert torch.equal(first, second)
        distinct = {tuple(s.tolist()) for s in sequences}
        assert len(set(first.tolist())) == len(distinct)
        assert forest.num_tokens == grow(sequences, min_share=least).num_tokens


def test_a_pair_is_a_fork_by_hand():
    stem = range(10)
    forest = grow([tokens(*stem, 20, 21, 22), tokens(*stem, 30)])
    assert forest.input_ids.tolist() == [*stem, 20, 21, 22, 30]
    assert forest.positions.tolist() == [*range(10), 10, 11, 12, 10]
    assert forest.end.tolist() == [14] * 10 + [13] * 3 + [14]
    assert forest.leaves.tolist() == [12, 13]
    assert forest.chains == [(0, 13), (13, 14)]
    assert forest.rectangles == [(13, 14, 0, 10)]
    assert forest.ancestors == [[], [(0, 10)]]


def test_branches_from_one_stretch_form_one_rectangle():
    stem = range(10)
    forest = grow([tokens(*stem, 20 + i) for i in range(16)])
    assert forest.num_tokens == 26
    assert forest.rectangles == [(11, 26, 0, 10)]


def test_fewer_common_tokens_than_the_least_start_a_new_tree():
    two = [tokens(*range(7), 90), tokens(*range(7), 91)]
    assert grow(two).num_tokens == 16
    assert grow(two, min_share=7).num_tokens == 9
    eight = [tokens(*range(8), 90), tokens(*range(8), 91)]
    assert grow(eight).num_tokens == 10


def test_a_prefix_of_another_sequence_is_a_leaf_inside():
    forest = grow([tokens(*range(12)), tokens(*range(9))])
    assert forest.num_tokens == 12
    assert forest.leaves.tolist() == [11, 8]
    assert forest.chains == [(0, 12)]


def test_without_sharing_equal_sequences_stand_twice_in_their_order():
    one, two = tokens(9, 8, 7), tokens(1, 2)
    forest = grow([one, two, one], share=False)
    assert forest.input_ids.tolist() == [9, 8, 7, 1, 2, 9, 8, 7]
    assert forest.positions.tolist() == [0, 1, 2, 0, 1, 0, 1, 2]
    assert forest.leaves.tolist() == [2, 4, 7]
    assert forest.rectangles == []


@pytest.mark.parametrize("bad", [[], [tokens()], [tokens(1), tokens()]])
def test_no_or_an_empty_sequence_is_refused(bad):
    with pytest.raises(ValueError, match="at least one sequence"):
        grow(bad)
    with pytest.raises(ValueError, match="at least one sequence"):
        pad(bad, 0)


@law
@given(families.map(lambda f: f[:2] if len(f) > 1 else f * 2))
def test_the_sort_key_sorts_like_the_ids_a_prefix_first(two):
    one, other = two
    assert (sort_key(one) < sort_key(other)) == (one.tolist() < other.tolist())
    shared = common_prefix(one, other)
    assert np.array_equal(one[:shared], other[:shared])
    assert shared in (len(one), len(other)) or one[shared] != other[shared]


def test_moving_moves_every_tensor_and_nothing_to_the_same_device():
    forest = grow(random_family(0))
    assert forest.to("cpu") is forest
    moved = forest.to("meta")
    tensors = (moved.input_ids, moved.positions, moved.end, moved.leaves)
    assert {tensor.device.type for tensor in tensors} == {"meta"}


@law
@given(families)
def test_padding_keeps_every_token_and_finds_the_last_by_length(sequences):
    batch = pad(sequences, pad_id=1)  # an id that the texts hold too
    longest = max(map(len, sequences))
    assert batch.num_tokens == longest * len(sequences)
    for row, sequence in enumerate(sequences):
        real = batch.attention_mask[row].bool()
        assert batch.input_ids[row][real].tolist() == sequence.tolist()
        assert real.tolist() == [n < len(sequence) for n in range(longest)]
        assert int(batch.last[row]) == len(sequence) - 1
    assert batch.to("meta").last.device.type == "meta"
