"""Which pairs and ratings are in a step: laws over fresh objects, as a resumed run has them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smorm.data.mixing import DataOrder, Stream

law = settings(deadline=None, max_examples=60)
sizes = st.integers(1, 40)


def steps(order, count):
    found = [order.step(index) for index in range(count)]
    return [np.concatenate(side).tolist() for side in zip(*found, strict=True)]


@law
@given(sizes, st.integers(0, 2**40), st.integers(0, 5))
def test_every_epoch_is_a_permutation_of_its_own(size, seed, epoch):
    stream = Stream(size, seed, "preference")
    assert sorted(stream.permutation(epoch)) == list(range(size))
    assert np.array_equal(stream.take(epoch * size, size), stream.permutation(epoch))


@law
@given(sizes, st.integers(0, 99), st.integers(0, 200), st.integers(0, 90))
def test_any_stretch_of_a_stream_is_cut_from_its_epochs(size, seed, start, count):
    whole = np.concatenate(
        [Stream(size, seed, "rated").permutation(e) for e in range(300 // size + 2)]
    )
    taken = Stream(size, seed, "rated").take(start, count)
    assert taken.tolist() == whole[start : start + count].tolist()


@law
@given(sizes, st.integers(0, 2**40), st.integers(0, 5))
def test_an_order_is_that_of_older_runs_in_four_bytes_an_item(size, seed, epoch):
    older = np.random.Generator(np.random.PCG64([seed, 1, epoch])).permutation(size)
    order = Stream(size, seed, "preference").permutation(epoch)
    assert order.tolist() == older.tolist()
    assert order.dtype == np.int32


def orders(**changes):
    fields = {"num_pairs": 17, "num_rated": 5, "batch_size": 4, "seed": 3, **changes}
    return DataOrder(**fields)


@law
@given(
    pairs=st.integers(0, 30),
    rated=st.integers(0, 30),
    batch=st.integers(1, 9),
    ratio=st.floats(0.1, 3),
    mode=st.sampled_from(["ratio", "zip"]),
    seed=st.integers(0, 9),
    index=st.integers(0, 60),
)
def test_a_step_is_a_pure_function_of_its_number(pairs, rated, batch, ratio, mode, seed, index):
    used, fresh = (DataOrder(pairs, rated, batch, ratio, mode, seed) for _ in range(2))
    for earlier in (5, 0, index + 1, 3):
        used.step(earlier)
    for one, other, size in zip(used.step(index), fresh.step(index), (pairs, rated), strict=True):
        assert one.tolist() == other.tolist()
        assert ((one >= 0) & (one < size)).all()


def test_pairs_and_ratings_go_through_their_sets_once_an_epoch_each_at_its_own_pace():
    pairs, rated = steps(orders(num_pairs=12, num_rated=6, rated_per_pair=0.5), 6)
    assert sorted(pairs[:12]) == sorted(pairs[12:24]) == list(range(12))
    assert sorted(rated[:6]) == sorted(rated[6:12]) == list(range(6))
    assert pairs[:12] != pairs[12:24]


@law
@given(
    pairs=st.integers(1, 500),
    rated=st.integers(1, 500),
    batch=st.integers(1, 32),
    ratio=st.floats(0.05, 4),
)
def test_the_ratio_does_not_depend_on_the_sizes_of_the_sets(pairs, rated, batch, ratio):
    order = DataOrder(pairs, rated, batch, ratio)
    found_pairs, found_rated = order.step(7)
    assert len(found_pairs) == batch
    assert len(found_rated) == max(1, round(batch * ratio)) == order.rated_per_step


def test_one_set_alone_fills_the_step():
    pairs, rated = orders(num_rated=0).step(0)
    assert (len(pairs), len(rated)) == (4, 0)
    pairs, rated = orders(num_pairs=0, rated_per_pair=3.0).step(0)
    assert (len(pairs), len(rated)) == (0, 4)


@law
@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 7), st.integers(0, 9))
def test_zip_pairs_item_i_of_both_sets_each_item_once_an_epoch(pairs, rated, batch, seed):
    order = DataOrder(pairs, rated, batch, mode="zip", seed=seed)
    epoch = max(pairs, rated)
    found = list(zip(*steps(order, 3 * epoch), strict=True))
    expected = sorted((i % pairs, i % rated) for i in range(epoch))
    for n in range(3):
        assert sorted(found[n * epoch : (n + 1) * epoch]) == expected


def test_zip_with_one_set_is_that_set():
    pairs, rated = orders(num_rated=0, mode="zip").step(0)
    assert (len(pairs), len(rated)) == (4, 0)
    assert orders(num_rated=0, mode="zip").epoch_size == 17


@pytest.mark.parametrize(
    ("order", "epochs", "expected"),
    [
        (orders(), 1.0, 5),
        (orders(), 2.0, 9),
        (orders(num_pairs=16), 1.0, 4),
        (orders(num_pairs=16), 0.25, 1),
        (orders(num_pairs=16), 0.001, 1),
        (orders(num_pairs=0), 1.0, 2),
        (orders(num_pairs=3, num_rated=20, mode="zip"), 1.0, 5),
        (orders(num_pairs=10, batch_size=1), 1.1, 11),
        (orders(num_pairs=100, batch_size=1), 0.07, 7),
    ],
)
def test_the_steps_of_a_run_cover_its_epochs(order, epochs, expected):
    assert order.num_steps(epochs) == expected


def test_another_seed_is_another_order():
    assert steps(orders(seed=0), 4) != steps(orders(seed=1), 4)
