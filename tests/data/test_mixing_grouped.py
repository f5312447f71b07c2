"""Pairs and ratings over one prompt in one step: an order like any other, and whole groups."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smorm.data.mixing import DataOrder, deal

law = settings(deadline=None, max_examples=60)
ids = st.lists(st.integers(0, 12), min_size=1, max_size=60).map(np.array)


def order_of(pairs, rated=None, batch=8, ratio=1.0, seed=3):
    rated = np.zeros(0, dtype=np.int64) if rated is None else rated
    return DataOrder(
        len(pairs), len(rated), batch, ratio, seed=seed, pair_groups=pairs, rated_groups=rated
    )


def steps_of_groups(order, count, side=0):
    """Group to the steps of the first so many in which it is."""
    found = defaultdict(set)
    groups = (order.pair_groups, order.rated_groups)[side]
    for step in range(count):
        for group in groups[order.step(step)[side]].tolist():
            found[group].add(step)
    return found


@law
@given(ids, ids, st.integers(1, 9), st.floats(0.2, 3), st.integers(0, 9))
def test_each_item_comes_once_an_epoch_in_steps_of_exactly_the_size(pairs, rated, batch, ratio, s):
    order = order_of(pairs, rated, batch, ratio, s)
    size = order.rated_per_step
    count = 1 + 3 * max(len(pairs), len(rated)) // min(batch, size)
    found = [order.step(step) for step in range(count)]
    assert {len(p) for p, _ in found} == {batch}
    assert {len(r) for _, r in found} == {size}
    for side, items in enumerate((len(pairs), len(rated))):
        stream = np.concatenate([step[side] for step in found])
        for epoch in range(len(stream) // items):
            assert sorted(stream[epoch * items : (epoch + 1) * items]) == list(range(items))


@law
@given(ids, ids, st.integers(1, 9), st.integers(0, 30), st.randoms(use_true_random=False))
def test_a_step_is_a_pure_function_of_its_number(pairs, rated, batch, index, random):
    """A fresh object, as a resumed run has it, and one that was asked for other steps before."""
    used, fresh = order_of(pairs, rated, batch), order_of(pairs, rated, batch)
    for _ in range(3):
        used.step(random.randint(0, 60))
    for one, other in zip(used.step(index), fresh.step(index), strict=True):
        assert one.tolist() == other.tolist()


@pytest.mark.parametrize(("size", "batch"), [(6, 24), (2, 8), (1, 8), (8, 8), (4, 4)])
def test_groups_that_fill_a_step_are_never_cut(size, batch):
    groups = np.random.default_rng(0).permutation(np.repeat(np.arange(48), size))
    order = order_of(groups, batch=batch)
    assert len(groups) % batch == 0
    found = steps_of_groups(order, len(groups) // batch)
    assert all(len(steps) == 1 for steps in found.values())


def test_single_items_make_room_for_whole_groups():
    """Groups of 7 do not fill steps of 16, but among as many items by themselves none is cut."""
    groups = np.concatenate([np.repeat(np.arange(32), 7), np.arange(100, 100 + 32 * 9)])
    order = order_of(np.random.default_rng(1).permutation(groups), batch=16)
    for seed in range(5):
        found = steps_of_groups(replace(order, seed=seed), len(groups) // 16)
        assert sum(len(steps) for steps in found.values()) == len(found)


@law
@given(ids, st.integers(2, 9), st.integers(0, 9))
def test_a_group_that_fits_a_step_lies_in_one_or_in_two_that_follow_each_other(groups, batch, seed):
    groups = groups[: len(groups) // batch * batch]  # whole steps: an epoch ends with its step
    order = order_of(groups, batch=batch, seed=seed)
    sizes = np.bincount(groups, minlength=13)
    for group, steps in steps_of_groups(order, len(groups) // batch).items():
        if sizes[group] <= batch:
            assert max(steps) - min(steps) == len(steps) - 1 <= 1


def test_a_group_larger_than_a_step_is_cut_into_whole_steps_apart_from_each_other():
    groups = np.repeat(np.arange(40), 16)
    order = order_of(groups, batch=8)
    found = steps_of_groups(order, 80)
    assert all(len(steps) == 2 for steps in found.values())
    assert np.mean([max(steps) - min(steps) for steps in found.values()]) > 10


@law
@given(st.lists(st.integers(1, 6), min_size=1, max_size=30), st.integers(1, 12))
def test_dealing_fills_every_step_exactly(sizes, capacity):
    total = sum(sizes)
    capacities = np.diff(np.append(np.arange(0, total, capacity), total))
    step = deal(np.array(sizes), capacities)
    assert np.bincount(step, minlength=len(capacities)).tolist() == capacities.tolist()


def test_with_four_answers_and_six_pairs_all_ratings_come_with_their_pairs():
    pairs, rated = np.repeat(np.arange(60), 6), np.repeat(np.arange(60), 4)
    order = order_of(pairs, rated, batch=24, ratio=4 / 6)
    for step in range(45):
        of_pairs, of_ratings = order.step(step)
        assert set(rated[of_ratings]) == set(pairs[of_pairs])


def test_ratings_of_other_prompts_are_mixed_alike_from_first_to_last():
    """Half of the prompts have no pair: their ratings do not gather at the end of the epoch."""
    pairs, rated = np.repeat(np.arange(300), 2), np.repeat(np.arange(600), 2)
    order = order_of(pairs, rated, batch=12, ratio=1.0)  # ratings last for two epochs of pairs
    known = np.array([(rated[order.step(step)[1]] < 300).mean() for step in range(100)])
    assert known[:50].mean() == pytest.approx(0.5, abs=0.06)
    beside = [
        np.isin(rated[order.step(step)[1]], pairs[order.step(step)[0]]).mean()
        for step in range(100)
    ]
    assert np.mean(beside) > 0.45


def test_ratings_alone_are_grouped_too():
    rated = np.random.default_rng(2).permutation(np.repeat(np.arange(50), 2))
    order = DataOrder(0, 100, 10, rated_groups=rated)
    found = steps_of_groups(order, 10, side=1)
    assert all(len(steps) == 1 for steps in found.values())


def test_epochs_and_seeds_differ_and_a_changed_copy_begins_anew():
    groups = np.repeat(np.arange(30), 4)
    order = order_of(groups, batch=8)
    first = np.concatenate([order.step(step)[0] for step in range(15)])
    second = np.concatenate([order.step(step)[0] for step in range(15, 30)])
    other = replace(order, seed=4)
    assert first.tolist() != second.tolist()
    assert first.tolist() != np.concatenate([other.step(s)[0] for s in range(15)]).tolist()
    assert len({tuple(sorted(set(groups[first[i : i + 8]]))) for i in range(0, 120, 8)}) == 15


def test_the_partners_of_a_group_change_from_epoch_to_epoch():
    groups = np.repeat(np.arange(200), 4)
    order = order_of(groups, batch=8)
    pairs_of = lambda start: {  # noqa: E731
        frozenset(groups[order.step(s)[0]].tolist()) for s in range(start, start + 100)
    }
    assert len(pairs_of(0) & pairs_of(100)) < 10


@pytest.mark.parametrize("kind", ["single", "six", "mixed"])
def test_a_million_pairs_are_ordered_without_a_loop_over_them(kind):
    """It takes as long as five to seven sorts of as many numbers; a loop takes several seconds."""
    size, rng = 1_000_000, np.random.default_rng(0)
    sizes = {
        "single": np.ones(size, int),
        "six": np.full(size, 6),
        "mixed": rng.integers(1, 20, size),
    }
    groups = rng.permutation(np.repeat(np.arange(size), sizes[kind])[:size])
    order = order_of(groups, batch=32)
    values = rng.random(size)
    started = time.process_time()
    np.argsort(values)
    sort = time.process_time() - started
    started = time.process_time()
    order.step(0)
    assert time.process_time() - started < 20 * sort
