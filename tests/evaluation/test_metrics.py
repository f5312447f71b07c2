"""The statistics: values by hand, laws, and what the intervals promise."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from smorm.errors import DataError
from smorm.evaluation.correlation import pearson, spearman, spearman_draws, spearman_metric
from smorm.evaluation.metrics import (
    Metric,
    as_floats,
    bootstrap_means,
    cluster_codes,
    interval,
    mean_metric,
    mean_over_seeds,
    pair_outcomes,
    share_metric,
)

SCORES = st.integers(-3, 3).map(float)
PAIRS = st.lists(st.tuples(SCORES, SCORES, st.integers(0, 4)), min_size=1, max_size=30)


def arrays(rows):
    return [np.array(column) for column in zip(*rows, strict=True)]


def test_outcomes_by_hand_count_a_tie_as_half():
    outcomes, ties = pair_outcomes(np.array([2.0, 1.0, 0.0]), np.array([1.0, 1.0, 3.0]))
    assert outcomes.tolist() == [1.0, 0.5, 0.0]
    assert ties == 1


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_score_that_is_not_finite_is_named_with_its_item(bad):
    with pytest.raises(DataError, match=r"rejected.*1 of 3 items.*item 2"):
        pair_outcomes(np.zeros(3), np.array([0.0, 1.0, bad]))


@given(PAIRS)
def test_swapping_the_sides_gives_one_minus_the_accuracy(rows):
    a, b, prompts = arrays(rows)
    forward = mean_metric(pair_outcomes(a, b)[0], prompts).value
    backward = mean_metric(pair_outcomes(b, a)[0], prompts).value
    assert forward == pytest.approx(1 - backward)


@settings(deadline=None)
@given(PAIRS, st.randoms(use_true_random=False))
def test_the_order_of_items_changes_neither_value_nor_interval(rows, random):
    shuffled = list(rows)
    random.shuffle(shuffled)
    found = []
    for one in (rows, shuffled):
        a, b, prompts = arrays(one)
        x, y = a / 7, b / 3
        found.append(
            [
                mean_metric(x - y, prompts),
                mean_metric((x - y) ** 2, prompts),
                share_metric(pair_outcomes(a, b)[0], prompts),
                spearman_metric(a, b, prompts),
            ]
        )
    for first, second in zip(*found, strict=True):
        assert first.n == second.n
        first_numbers = [first.value, first.low, first.high]
        second_numbers = [second.value, second.low, second.high]
        np.testing.assert_allclose(first_numbers, second_numbers, atol=1e-12)


@given(PAIRS)
def test_doubling_every_item_within_its_cluster_changes_no_mean_and_no_interval(rows):
    a, _, prompts = arrays(rows)
    once, twice = mean_metric(a, prompts), mean_metric(np.tile(a, 2), np.tile(prompts, 2))
    assert twice.n == 2 * once.n
    np.testing.assert_allclose(
        [once.value, once.low, once.high], [twice.value, twice.low, twice.high], atol=1e-12
    )


@given(PAIRS)
def test_doubling_every_item_changes_no_rank_correlation(rows):
    a, b, _ = arrays(rows)
    np.testing.assert_allclose(spearman(a, b), spearman(np.tile(a, 2), np.tile(b, 2)), atol=1e-12)


def test_one_cluster_or_one_item_has_no_interval():
    assert all(
        math.isnan(end) for end in interval(bootstrap_means(np.array([1.0, 0.0]), ["a", "a"]))
    )
    assert all(math.isnan(end) for end in interval(bootstrap_means(np.array([1.0]), ["a"])))
    assert Metric(1.0, 1).as_dict() == {"value": 1.0, "n": 1, "low": None, "high": None}


def test_labels_may_be_numbers_or_texts_and_mean_the_same():
    values = np.array([1.0, 0.0, 1.0, 1.0, 0.0])
    numbers = np.array([3, 1, 1, 2, 3])
    texts = ["c", "a", "a", "b", "c"]
    assert mean_metric(values, numbers) == mean_metric(values, texts)
    assert cluster_codes(texts, 5)[0].tolist() == [2, 0, 0, 1, 2]


def test_a_missing_cluster_label_is_an_error():
    with pytest.raises(DataError, match="2 for 3 items"):
        mean_metric(np.zeros(3), ["a", "b"])


def test_a_wrong_shape_is_an_error_that_names_both():
    with pytest.raises(DataError, match=r"scores: expected any x 3 .* got shape \(2, 2\)"):
        as_floats("scores", [[1, 2], [3, 4]], None, 3)
    with pytest.raises(DataError, match="none empty"):
        as_floats("scores", [], None)


def test_the_bootstrap_of_two_clusters_has_the_three_means_it_can_have():
    draws = bootstrap_means(np.array([0.0, 0.0, 1.0, 1.0]), [0, 0, 1, 1], resamples=4000)
    values, counts = np.unique(draws, return_counts=True)
    assert values.tolist() == [0.0, 0.5, 1.0]
    np.testing.assert_allclose(counts / 4000, [0.25, 0.5, 0.25], atol=0.03)


def test_a_cluster_counts_with_all_of_its_items():
    """Clusters of 3 and 1 items: the draws are ratios of sums, not means of means."""
    draws = bootstrap_means(np.array([1.0, 1.0, 1.0, 0.0]), [0, 0, 0, 1], resamples=500)
    assert set(np.unique(draws).tolist()) == {0.0, 0.75, 1.0}


def test_a_missing_number_is_left_out_of_its_column_only():
    values = np.array([[1.0, math.nan], [3.0, 5.0], [5.0, 5.0]])
    draws = bootstrap_means(values, [0, 1, 2], resamples=300)
    assert set(np.unique(draws[np.isfinite(draws[:, 1]), 1]).tolist()) == {5.0}
    assert 0 < np.isnan(draws[:, 1]).sum() < 40  # resamples of the first cluster only: 1 in 27


def test_columns_are_resampled_together():
    values = np.column_stack([np.arange(10.0), np.arange(10.0) + 2])
    means = bootstrap_means(values, np.arange(10))
    assert means[:, 1] - means[:, 0] == pytest.approx(2)


def test_the_interval_matches_the_textbook_error_of_independent_items():
    values = np.random.default_rng(1).normal(size=2000)
    low, high = interval(bootstrap_means(values, np.arange(2000)))
    assert high - low == pytest.approx(2 * 1.96 * values.std() / math.sqrt(2000), rel=0.07)


def test_many_clusters_joined_into_groups_keep_the_textbook_error_and_are_fast():
    values = np.random.default_rng(2).normal(size=100_000)
    start = time.perf_counter()
    low, high = interval(bootstrap_means(values, np.arange(100_000)))
    seconds = time.perf_counter() - start
    assert high - low == pytest.approx(2 * 1.96 / math.sqrt(100_000), rel=0.08)
    assert seconds < 10  # about 0.6 s alone; generous for a busy machine


def test_items_that_share_a_prompt_widen_the_interval():
    generator = np.random.default_rng(3)
    prompts = np.repeat(np.arange(60), 10)
    values = np.repeat(generator.normal(size=60), 10) + 0.1 * generator.normal(size=600)
    clustered = mean_metric(values, prompts)
    apart = mean_metric(values, np.arange(600))
    assert clustered.value == apart.value
    assert clustered.high - clustered.low > 2.5 * (apart.high - apart.low)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    generator = np.random.default_rng(4)
    hits = 0
    for _ in range(300):
        skill = generator.beta(14, 6, size=80)  # each prompt has its own chance, mean 0.7
        outcomes = (generator.random((80, 4)) < skill[:, None]).astype(float).reshape(-1)
        low, high = interval(bootstrap_means(outcomes, np.repeat(np.arange(80), 4), resamples=400))
        hits += low <= 0.7 <= high
    assert 0.90 <= hits / 300 <= 0.98


def test_a_perfect_share_is_not_called_certain():
    metric = share_metric(np.ones(20), np.repeat(np.arange(10), 2))
    expected = scipy.stats.binomtest(10, 10).proportion_ci(method="wilson")
    assert (metric.low, metric.high) == pytest.approx((expected.low, expected.high))
    mirrored = share_metric(np.zeros(20), np.repeat(np.arange(10), 2))
    assert (mirrored.low, mirrored.high) == pytest.approx((0.0, 1 - expected.low))


@settings(deadline=None)
@given(st.lists(st.tuples(SCORES, SCORES), min_size=2, max_size=40))
def test_spearman_and_pearson_equal_scipy(rows):
    x, y = arrays(rows)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        assert math.isnan(spearman(x, y))
        assert math.isnan(pearson(x, y))
        return
    assert spearman(x, y) == pytest.approx(scipy.stats.spearmanr(x, y).statistic, abs=1e-9)
    assert pearson(x, y) == pytest.approx(scipy.stats.pearsonr(x, y).statistic, abs=1e-9)


def test_spearman_by_hand():
    assert spearman(np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0])) == pytest.approx(0.5)
    assert math.isnan(spearman(np.array([1.0]), np.array([1.0])))


def test_tiny_and_huge_scales_do_not_change_a_correlation():
    x, y = np.array([1.0, 2.0, 4.0]), np.array([1.0, 3.0, 3.5])
    assert pearson(x * 1e-12, y * 1e12) == pytest.approx(pearson(x, y))


def test_a_weighted_resample_has_the_rank_correlation_of_the_repeated_items():
    """One cluster an item: each draw must be scipy's number on some multiset of the items."""
    x, y = np.array([1.0, 2.0, 2.0, 5.0]), np.array([2.0, 1.0, 3.0, 3.0])
    generator = np.random.default_rng(0)
    for draw in spearman_draws(x, y, [0, 1, 2, 3], resamples=30):
        drawn = generator.integers(4, size=4)
        if np.ptp(x[drawn]) and np.ptp(y[drawn]):
            assert draw == pytest.approx(scipy.stats.spearmanr(x[drawn], y[drawn]).statistic)
        else:
            assert math.isnan(draw)


def test_missing_numbers_are_left_out_of_a_rank_correlation():
    x = np.array([1.0, 2.0, math.nan, 4.0, 5.0])
    y = np.array([1.0, 3.0, 2.0, math.nan, 9.0])
    metric = spearman_metric(x, y, range(5))
    assert (metric.value, metric.n) == (pytest.approx(1.0), 3)


def test_the_rank_correlation_interval_covers_the_truth_about_as_often_as_it_says():
    generator = np.random.default_rng(6)
    truth = 6 / math.pi * math.asin(math.sqrt(0.5) / 2)  # of two normals that correlate by √½
    hits = 0
    for _ in range(150):
        x = generator.normal(size=80)
        metric = spearman_metric(x, x + generator.normal(size=80), range(80))
        hits += metric.low <= truth <= metric.high
    assert 0.88 <= hits / 150 <= 0.99


def test_the_rank_correlation_interval_tightens_with_the_root_of_n():
    generator = np.random.default_rng(7)
    widths = []
    for count in (100, 1600):
        x = generator.normal(size=count)
        metric = spearman_metric(x, x + generator.normal(size=count), range(count))
        widths.append(metric.high - metric.low)
    assert widths[0] / widths[1] == pytest.approx(4, rel=0.35)


@pytest.mark.parametrize("seeds", [2, 3, 5, 11, 12, 20, 60])
def test_the_interval_over_seeds_is_students(seeds):
    values = np.random.default_rng(seeds).normal(size=seeds)
    metric = mean_over_seeds(values.tolist(), 400)
    error = values.std(ddof=1) / math.sqrt(seeds)
    low, high = scipy.stats.t.interval(0.95, seeds - 1, values.mean(), error)
    assert (metric.value, metric.low, metric.high) == pytest.approx(
        (values.mean(), low, high), rel=1e-4
    )


def test_one_seed_has_no_interval():
    metric = mean_over_seeds([0.5], 10)
    assert metric.value == 0.5
    assert math.isnan(metric.low)
