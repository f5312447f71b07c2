"""The suites on scores whose outcome is worked out by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smorm.errors import DataError
from smorm.evaluation.accuracy import measure_pairs
from smorm.evaluation.attributes import measure_rated
from smorm.evaluation.benchmarks.rm_bench import RM_BENCH, STYLES
from tests.evaluation.scoring import measure_rm_bench, scored

NAN = math.nan


def floats(*numbers):
    return np.array(numbers, dtype=float)


def pairs_by_hand():
    return measure_pairs(
        floats(3, 1, 2, 0),
        floats(1, 1, 5, -1),
        ["p", "p", "q", "r"],
        chosen_lengths=floats(10, 20, 30, 40),
        rejected_lengths=floats(5, 20, 60, 50),
        length_unit="characters",
    )


def test_pairs_by_hand():
    values = {name: metric.value for name, metric in pairs_by_hand().metrics.items()}
    assert values["accuracy"] == 2.5 / 4
    assert values["length_only_accuracy"] == 1.5 / 4
    assert values["shortest_only_accuracy"] == 2.5 / 4
    assert values["accuracy_minus_length_only"] == pytest.approx(0.25)
    assert values["accuracy_chosen_longer"] == 1.0
    assert values["accuracy_chosen_shorter"] == 0.5
    assert values["margin"] == pytest.approx((2 + 0 - 3 + 1) / 4)


def test_pairs_tell_ties_prompts_and_the_unit_of_length():
    told = " ".join(pairs_by_hand().notes)
    assert "4 pairs over 3 prompts" in told
    assert "1 pairs with equal scores count as half" in told
    assert "Length is in characters; 1 pairs have two responses of equal length" in told


def test_a_score_that_is_length_correlates_fully_and_beats_nothing():
    lengths, others = floats(1, 5, 9, 2), floats(3, 4, 6, 8)
    found = measure_pairs(
        lengths * 2,
        others * 2,
        range(4),
        chosen_lengths=lengths,
        rejected_lengths=others,
        length_unit="tokens",
    ).metrics
    assert found["length_correlation"].value == pytest.approx(1)
    assert found["length_correlation_within_prompt"].value == pytest.approx(1)
    assert found["accuracy_minus_length_only"].value == 0


def test_an_offset_of_each_prompt_does_not_touch_the_correlation_within_prompts():
    generator = np.random.default_rng(0)
    scores, lengths = generator.normal(size=(2, 50)), generator.integers(1, 99, (2, 50)) * 1.0
    prompts = np.repeat(np.arange(25), 2)

    def within(offset):
        return measure_pairs(
            scores[0] + offset,
            scores[1] + offset,
            prompts,
            chosen_lengths=lengths[0],
            rejected_lengths=lengths[1],
            length_unit="tokens",
        ).metrics

    plain, moved = within(0.0), within(100.0 * prompts)
    for name in ("accuracy", "margin", "length_correlation_within_prompt"):
        assert moved[name].value == pytest.approx(plain[name].value)
    assert moved["length_correlation"].value != pytest.approx(plain["length_correlation"].value)


SCORES = st.integers(-3, 3).map(float)
ROWS = st.lists(
    st.tuples(SCORES, SCORES, st.integers(0, 3), st.integers(1, 5), st.integers(1, 5)),
    min_size=1,
    max_size=12,
)


def measure_rows(rows, swap=False):
    a, b, prompts, la, lb = (np.array(column) for column in zip(*rows, strict=True))
    if swap:
        a, b, la, lb = b, a, lb, la
    return measure_pairs(
        a, b, prompts, chosen_lengths=la, rejected_lengths=lb, length_unit="tokens"
    ).metrics


@settings(deadline=None, max_examples=30)
@given(ROWS)
def test_swapped_pairs_mirror_every_metric(rows):
    plain, swapped = measure_rows(rows), measure_rows(rows, swap=True)
    for name in ("accuracy", "length_only_accuracy"):
        assert swapped[name].value == pytest.approx(1 - plain[name].value)
    assert swapped["margin"].value == pytest.approx(-plain["margin"].value)
    for name in ("length_correlation", "length_correlation_within_prompt"):
        np.testing.assert_allclose(swapped[name].value, plain[name].value, atol=1e-9)


@settings(deadline=None, max_examples=30)
@given(ROWS, st.randoms(use_true_random=False))
def test_order_and_doubling_leave_every_value_of_pairs(rows, random):
    shuffled = [*rows, *rows]
    random.shuffle(shuffled)
    plain, other = measure_rows(rows), measure_rows(shuffled)
    assert plain.keys() == other.keys()
    for name, metric in plain.items():
        np.testing.assert_allclose(other[name].value, metric.value, atol=1e-9)
        assert other[name].n == 2 * metric.n


@pytest.mark.parametrize("bad", [(floats(1, NAN), "NaN or infinite"), (floats(1), "expected 2")])
def test_bad_scores_of_pairs_are_named(bad):
    scores, message = bad
    with pytest.raises(DataError, match=message):
        measure_pairs(
            floats(1, 2),
            scores,
            ["a", "b"],
            chosen_lengths=floats(1, 2),
            rejected_lengths=floats(1, 2),
            length_unit="tokens",
        )


RATINGS = np.array([[0, 4], [1, NAN], [2, 4], [3, NAN]])
PREDICTED = np.array([[0, 3], [2, 9], [1, 4], [3, 9]], dtype=float)


def test_ratings_by_hand_with_missing_ones_left_out():
    found = measure_rated(PREDICTED, RATINGS, ["clarity", "depth"], ["p", "p", "q", "r"])
    values = {name: metric.value for name, metric in found.metrics.items()}
    assert values["spearman/clarity"] == pytest.approx(0.8)
    assert values["mse/clarity"] == pytest.approx(0.5)
    assert values["mse_of_mean/clarity"] == pytest.approx(1.25)
    assert values["mse/depth"] == pytest.approx(0.5)
    assert values["mse_of_mean/depth"] == 0
    assert math.isnan(values["spearman/depth"])
    assert values["spearman"] == pytest.approx(0.8)
    assert values["mse"] == pytest.approx(0.5)
    assert values["mse_of_mean"] == pytest.approx(0.625)
    assert found.metrics["mse/depth"].n == 2
    assert found.metrics["mse"].n == 4
    told = " ".join(found.notes)
    assert "depth: 2 of 4 responses have no rating" in told
    assert "No Spearman for depth" in told


def test_the_baseline_predicts_trainings_mean_where_it_is_given():
    found = measure_rated(
        PREDICTED, RATINGS, ["clarity", "depth"], range(4), training_means={"clarity": 0.5}
    )
    expected = (0.25 + 0.25 + 2.25 + 6.25) / 4
    assert found.metrics["mse_of_mean/clarity"].value == pytest.approx(expected)
    told = " ".join(found.notes)
    assert "training's mean for clarity" in told
    assert "these ratings' mean for depth" in told


def test_an_attribute_without_any_rating_has_no_metric_and_is_told():
    ratings = np.array([[0, NAN], [1, NAN], [2, NAN]])
    found = measure_rated(np.ones((3, 2)), ratings, ["a", "b"], ["p", "q", "r"])
    assert "mse/b" not in found.metrics
    assert "b: 3 of 3 responses have no rating and are left out." in found.notes


def test_the_mean_over_attributes_has_an_interval_around_it():
    generator = np.random.default_rng(0)
    ratings = generator.integers(0, 5, (200, 3)).astype(float)
    predicted = ratings + generator.normal(size=(200, 3))
    found = measure_rated(predicted, ratings, ["a", "b", "c"], np.repeat(np.arange(100), 2)).metrics
    for name in ("spearman", "mse", "mse_of_mean"):
        parts = [found[f"{name}/{x}"] for x in "abc"]
        assert found[name].low < found[name].value < found[name].high
        assert found[name].value == pytest.approx(np.mean([part.value for part in parts]))
        widest = max(part.high - part.low for part in parts)
        assert found[name].high - found[name].low < widest


def test_bad_ratings_and_predictions_are_named():
    with pytest.raises(DataError, match="predictions: 1 of 2 items are NaN"):
        measure_rated(np.array([[1.0], [NAN]]), np.ones((2, 1)), ["a"], range(2))
    with pytest.raises(DataError, match="none of 2 responses has a rating"):
        measure_rated(np.ones((2, 1)), np.full((2, 1), NAN), ["a"], range(2))
    with pytest.raises(DataError, match="infinite"):
        measure_rated(np.ones((2, 1)), np.full((2, 1), math.inf), ["a"], range(2))


def test_rm_bench_by_hand():
    """A model that loves style: it wins only where the chosen one has more of it.

    chosen 1 2 3 against rejected 1.5 2.5 3.5: the diagonal and above are lost, below is won.
    """
    found = measure_rm_bench(floats(1, 2, 3)[None], floats(1.5, 2.5, 3.5)[None], ["chat"])
    values = {name: metric.value for name, metric in found.metrics.items()}
    assert (values["easy"], values["normal"], values["hard"]) == pytest.approx((1, 0, 0))
    assert values["chat"] == values["overall"] == pytest.approx(1 / 3)
    assert values["matrix/markdown/concise"] == 1
    assert values["matrix/concise/markdown"] == 0
    assert "Absent: math, code, safety; overall numbers are over chat." in found.notes


def test_the_hard_level_is_a_plain_chosen_one_against_a_styled_rejected_one():
    """Only concise-against-markdown is lost: one of the three hard cells."""
    chosen, rejected = floats(1, 3, 3)[None], floats(0, 0, 2)[None]
    values = {n: m.value for n, m in measure_rm_bench(chosen, rejected, ["math"]).metrics.items()}
    assert values["hard"] == pytest.approx(2 / 3)
    assert values["easy"] == values["normal"] == pytest.approx(1)
    assert values["matrix/concise/markdown"] == 0


def test_ties_lose_by_the_published_rule_and_are_half_beside_it():
    found = measure_rm_bench(np.zeros((1, 3)), np.zeros((1, 3)), ["code"])
    assert found.metrics["overall"].value == 0
    assert found.metrics["ties_half/overall"].value == pytest.approx(0.5)
    assert "9 comparisons are ties" in found.notes[1]


def test_safety_is_pooled_item_by_item_and_overall_is_the_mean_of_domains():
    """Safety: 3 items of refuse won, 1 of response lost: 3/4, not the mean of the two halves."""
    won, lost = np.ones(3), np.zeros(3)
    chosen = np.array([won, won, won, lost, lost])
    rejected = np.array([lost, lost, lost, won, won])
    domains = ["safety-refuse"] * 3 + ["safety-response", "chat"]
    values = {n: m.value for n, m in measure_rm_bench(chosen, rejected, domains).metrics.items()}
    assert values["safety"] == pytest.approx(0.75)
    assert values["chat"] == 0
    assert values["overall"] == pytest.approx(0.375)
    assert values["safety/hard"] == pytest.approx(0.75)
    assert values["hard"] == pytest.approx(0.375)


def published_rule(chosen, rejected, domains):
    """The README's definition, item by item: shares of strict wins by place in the matrix."""
    found = {}
    for domain in ("chat", "math", "code", "safety"):
        wins = {"easy": [], "normal": [], "hard": []}
        for item, name in enumerate(domains):
            if name.startswith(domain):
                for row, column in itertools.product(range(3), repeat=2):
                    level = "easy" if row > column else "normal" if row == column else "hard"
                    wins[level].append(chosen[item, row] > rejected[item, column])
        found[domain] = {level: float(np.mean(won)) for level, won in wins.items()}
    return found


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**32 - 1))
def test_rm_bench_is_the_published_rule_in_any_order(seed):
    generator = np.random.default_rng(seed)
    domains = ["chat", "math", "code", "safety-refuse", "safety-response"] * 3
    chosen, rejected = generator.integers(0, 4, (2, 15, 3)).astype(float)
    expected = published_rule(chosen, rejected, domains)
    order = generator.permutation(15)
    found = measure_rm_bench(chosen[order], rejected[order], [domains[place] for place in order])
    for domain, levels in expected.items():
        for level, value in levels.items():
            assert found.metrics[f"{domain}/{level}"].value == pytest.approx(value)
        assert found.metrics[domain].value == pytest.approx(np.mean(list(levels.values())))
    for level in ("easy", "normal", "hard"):
        mean = np.mean([levels[level] for levels in expected.values()])
        assert found.metrics[level].value == pytest.approx(mean)
    means = [found.metrics[domain].value for domain in expected]
    assert found.metrics["overall"].value == pytest.approx(np.mean(means))
    cells = [found.metrics[f"matrix/{a}/{b}"].value for a in STYLES for b in STYLES]
    assert found.metrics["overall"].value == pytest.approx(np.mean(cells))


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**32 - 1))
def test_swapping_chosen_and_rejected_mirrors_ties_as_half_and_exchanges_easy_and_hard(seed):
    chosen, rejected = np.random.default_rng(seed).integers(0, 4, (2, 6, 3)).astype(float)
    domains = ["chat", "code"] * 3
    plain = measure_rm_bench(chosen, rejected, domains).metrics
    swapped = measure_rm_bench(rejected, chosen, domains).metrics
    for name, mirror in (("overall", "overall"), ("easy", "hard"), ("hard", "easy")):
        other = swapped[f"ties_half/{mirror}"].value
        assert plain[f"ties_half/{name}"].value == pytest.approx(1 - other)


def test_rm_bench_has_intervals_around_its_values_and_wider_ones_for_few_items():
    generator = np.random.default_rng(0)
    chosen, rejected = generator.normal([[[0.5]], [[0.0]]], size=(2, 120, 3))
    found = measure_rm_bench(chosen, rejected, ["chat"] * 100 + ["code"] * 20).metrics
    for name in ("overall", "hard", "chat", "code", "ties_half/overall"):
        assert found[name].low < found[name].value < found[name].high
    chat, code = found["chat"], found["code"]
    assert code.high - code.low > chat.high - chat.low
    assert (chat.n, code.n, found["overall"].n) == (100, 20, 120)


def test_bad_items_of_rm_bench_are_named():
    with pytest.raises(DataError, match="'poetry' is none of chat"):
        measure_rm_bench(np.ones((1, 3)), np.ones((1, 3)), ["poetry"])
    with pytest.raises(DataError, match="item 0: 2 of 4 responses chosen, expected 3 of 6"):
        measure_rm_bench(np.ones((1, 2)), np.ones((1, 2)), ["chat"])
    with pytest.raises(DataError, match="item 1: 1 of 2 responses chosen, expected 3 of 6"):
        RM_BENCH.measure(scored(("chat", [1, 2, 3], [1, 2, 3]), ("chat", [1], [2])))
