"""Objectives against numbers worked out by hand, and the laws that the trainer rests on."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smorm.objectives.joint import (
    JointWeights,
    homoscedastic,
    joint,
    regression,
    squared_errors,
)
from smorm.objectives.preference import bradley_terry
from smorm.objectives.terms import Labels, Rows, Totals

law = settings(deadline=None, max_examples=40)
NAN = math.nan


def vector(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def random_scores(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_targets(seed, rows, attributes):
    """Ratings of which about a third are missing; every attribute and every row has one."""
    targets = random_scores(seed + 1, rows, attributes)
    missing = random_scores(seed + 2, rows, attributes) > 0.4
    for i in range(max(rows, attributes)):
        missing[i % rows, i % attributes] = False
    return targets.masked_fill(missing, NAN)


# Bradley–Terry


def test_the_preference_loss_by_hand():
    loss, metrics = bradley_terry(vector(1, 0, 2), vector(0, 0, 5), total=3)
    expected = (math.log1p(math.exp(-1)) + math.log(2) + math.log1p(math.exp(3))) / 3
    assert float(loss) == pytest.approx(expected)
    assert float(metrics["accuracy"]) == pytest.approx(1.5 / 3)
    assert float(metrics["reward_gap"]) == pytest.approx((1 + 0 - 3) / 3)


def test_its_gradient_is_the_probability_of_the_other_order():
    chosen = vector(0.3, -1.0).requires_grad_()
    bradley_terry(chosen, vector(0.1, 2.0), total=2)[0].backward()
    expected = -torch.sigmoid(vector(-0.2, 3.0)) / 2
    torch.testing.assert_close(chosen.grad, expected)


def test_a_margin_moves_the_gap_and_leaves_the_accuracy():
    plain, _ = bradley_terry(vector(1.0), vector(0.5), total=1)
    moved, metrics = bradley_terry(vector(3.0), vector(0.5), total=1, margin=vector(2.0))
    assert float(plain) == pytest.approx(float(moved))
    assert float(metrics["accuracy"]) == 1
    assert float(metrics["reward_gap"]) == 2.5


@law
@given(st.integers(0, 999), st.floats(0, 0.5), st.booleans())
def test_swapped_sides_mirror_the_gradient_and_the_accuracy(seed, smoothing, zero):
    one = random_scores(seed, 5).requires_grad_()
    other = torch.zeros_like(one) if zero else random_scores(seed + 1, 5)
    loss, metrics = bradley_terry(one, other, total=5, label_smoothing=smoothing)
    swapped, mirrored = bradley_terry(other, one, total=5, label_smoothing=1 - smoothing)
    torch.testing.assert_close(loss, swapped)
    assert float(metrics["accuracy"] + mirrored["accuracy"]) == pytest.approx(1)
    assert float(metrics["reward_gap"] + mirrored["reward_gap"]) == pytest.approx(0)
    # Against the opposite label the loss differs by the gap itself: log σ(d) - log σ(-d) = d.
    against, _ = bradley_terry(other, one, total=5)
    gap = (one - other).mean()
    torch.testing.assert_close(against - bradley_terry(one, other, total=5)[0], gap)


def test_label_smoothing_goes_from_the_plain_loss_to_one_without_a_side():
    chosen, rejected = random_scores(0, 6), random_scores(1, 6)
    plain, _ = bradley_terry(chosen, rejected, total=6)
    none, _ = bradley_terry(chosen, rejected, total=6, label_smoothing=0.0)
    tiny, _ = bradley_terry(chosen, rejected, total=6, label_smoothing=1e-9)
    assert float(none) == float(plain)
    assert float(tiny) == pytest.approx(float(plain), abs=1e-7)
    half, _ = bradley_terry(chosen, rejected, total=6, label_smoothing=0.5)
    swapped, _ = bradley_terry(rejected, chosen, total=6, label_smoothing=0.5)
    assert float(half) == pytest.approx(float(swapped))


def test_under_smoothing_the_best_gap_is_the_odds_of_a_right_label():
    gap = torch.tensor([math.log(0.9 / 0.1)], dtype=torch.float64, requires_grad=True)
    bradley_terry(gap, vector(0.0), total=1, label_smoothing=0.1)[0].backward()
    assert float(gap.grad) == pytest.approx(0, abs=1e-12)


def test_scores_far_apart_keep_a_finite_loss_and_gradient():
    chosen = torch.tensor([1e4, -1e4], requires_grad=True)
    loss, _ = bradley_terry(chosen, torch.zeros(2), total=2, label_smoothing=0.1)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(chosen.grad).all()


@pytest.mark.parametrize(
    ("chosen", "rejected", "margin"),
    [
        (torch.zeros(2), torch.zeros(3), None),
        (torch.zeros(2, 1), torch.zeros(2, 1), None),
        (torch.zeros(2), torch.zeros(2, 1), None),
        (torch.zeros(2), torch.zeros(2), torch.zeros(1)),
    ],
)
def test_shapes_that_would_broadcast_are_refused(chosen, rejected, margin):
    with pytest.raises(ValueError, match="of shape"):
        bradley_terry(chosen, rejected, total=2, margin=margin)


# Regression

PREDICTED = torch.tensor([[1.0, 2.0], [3.0, 0.0]], dtype=torch.float64)
TARGETS = torch.tensor([[0.0, NAN], [5.0, 3.0]], dtype=torch.float64)
OBSERVED = ~TARGETS.isnan()


def totals_of(targets):
    """Totals of a step that has these ratings and no more."""
    return Totals(0, len(targets), (~targets.isnan()).sum(0).to(targets.dtype))


def noise_weights(log_variance, scale):
    return JointWeights(log_variance=log_variance, likelihood_scale=scale)


def test_the_regression_loss_by_hand():
    totals = totals_of(TARGETS)
    summed, metrics = regression(PREDICTED, TARGETS, totals, JointWeights(reduction="sum"))
    mean, _ = regression(PREDICTED, TARGETS, totals, JointWeights(reduction="mean"))
    assert float(summed) == pytest.approx((1 + 4 + 9) / 2)
    assert float(mean) == pytest.approx((1 + 4 + 9) / 3)
    assert float(metrics["mse"]) == pytest.approx((1 + 4 + 9) / 3)


@law
@given(st.integers(0, 999), st.integers(1, 6), st.integers(1, 5))
def test_the_sum_is_the_mean_times_the_attributes_where_all_are_rated(seed, rows, attributes):
    predicted, target = (
        random_scores(seed, rows, attributes),
        random_scores(seed + 1, rows, attributes),
    )
    totals = totals_of(target)
    summed, _ = regression(predicted, target, totals, JointWeights(reduction="sum"))
    mean, _ = regression(predicted, target, totals, JointWeights(reduction="mean"))
    torch.testing.assert_close(summed, attributes * mean)
    torch.testing.assert_close(mean, torch.nn.functional.mse_loss(predicted, target))


def test_a_missing_target_leaves_no_trace():
    predicted = PREDICTED.clone().requires_grad_()
    log_variance = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    weights = noise_weights(log_variance, torch.ones(2, dtype=torch.float64))
    first, _ = regression(predicted, TARGETS, totals_of(TARGETS), weights)
    second, _ = homoscedastic(predicted, TARGETS, totals_of(TARGETS), weights)
    (first + second).backward()
    assert torch.isfinite(first + second)
    assert predicted.grad[0, 1] == 0
    assert torch.isfinite(predicted.grad).all()
    assert (predicted.grad[OBSERVED] != 0).all()
    assert torch.isfinite(log_variance.grad).all()


def test_a_missing_target_is_not_a_zero():
    zeros = torch.where(OBSERVED, TARGETS, torch.zeros((), dtype=torch.float64))
    assert squared_errors(PREDICTED, TARGETS).sum() == 14
    assert squared_errors(PREDICTED, zeros).sum() == 18


@pytest.mark.parametrize("shapes", [((2, 3), (2, 1)), ((2, 3), (3,)), ((3,), (3,))])
def test_ratings_of_another_shape_are_refused(shapes):
    predicted, target = (torch.zeros(shape) for shape in shapes)
    with pytest.raises(ValueError, match=r"expected one \[R, K\]"):
        squared_errors(predicted, target)


# Learned noise


def noise_loss(log_variance, scale=None, rows=50):
    predicted, target = random_scores(0, rows, 2), random_scores(1, rows, 2)
    target[:, 1] *= 3
    target[::3, 0] = NAN
    observed = ~target.isnan()
    if scale is None:
        scale = torch.ones(2, dtype=torch.float64)
    weights = noise_weights(log_variance, scale)
    loss, metrics = homoscedastic(predicted, target, totals_of(target), weights)
    errors = squared_errors(predicted, target)
    return loss, metrics, errors.sum(0) / observed.sum(0)


def test_the_best_variance_is_the_mean_squared_error_of_each_attribute():
    _, metrics, mse = noise_loss(torch.zeros(2, dtype=torch.float64))
    best = mse.log().requires_grad_()
    loss, _, _ = noise_loss(best)
    loss.backward()
    torch.testing.assert_close(best.grad, torch.zeros_like(best), atol=1e-12, rtol=0)
    for moved in (best.detach() + 0.1, best.detach() - 0.1):
        assert noise_loss(moved)[0] > loss
    assert float(metrics["mse"]) == pytest.approx(float((mse * vector(33, 50)).sum() / 83))


def test_the_noise_loss_is_the_gaussian_likelihood_without_its_constant():
    log_variance = vector(0.4, -0.7)
    loss, _, mse = noise_loss(log_variance)
    expected = sum(
        float(m) / (2 * math.exp(v)) + v / 2
        for m, v in zip(mse, log_variance.tolist(), strict=True)
    )
    assert float(loss) == pytest.approx(expected)


def test_the_likelihood_scale_weighs_each_attribute():
    log_variance = vector(0.4, -0.7)
    one, _, _ = noise_loss(log_variance, vector(1, 0))
    two, _, _ = noise_loss(log_variance, vector(0, 1))
    both, _, _ = noise_loss(log_variance, vector(0.25, 3))
    torch.testing.assert_close(both, 0.25 * one + 3 * two)


def test_an_attribute_without_a_rating_in_the_step_adds_nothing():
    log_variance = torch.tensor([5.0, 5.0], requires_grad=True)
    target = torch.tensor([[1.0, NAN], [2.0, NAN]])
    weights = noise_weights(log_variance, torch.ones(2))
    loss, _ = homoscedastic(torch.zeros(2, 2), target, totals_of(target), weights)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(2.5 / (2 * math.exp(5)) + 2.5)
    assert log_variance.grad[1] == 0


# The joint objective, and its parts


PAIRS, RATED, ATTRIBUTES = 5, 6, 3


def step(seed):
    """Scores of a whole step and its labels: the pairs' sides first, then the rated responses."""
    scores = random_scores(seed, 2 * PAIRS + RATED, 1 + ATTRIBUTES)
    targets = random_targets(seed, RATED, ATTRIBUTES)
    margins = random_scores(seed + 3, PAIRS).abs()
    totals = Totals(PAIRS, RATED, (~targets.isnan()).sum(0).double())
    return scores, targets, margins, totals


def part(pairs, rated, targets, margins):
    """Labels of some of the step's pairs and ratings, over all of its scores."""
    return Labels(
        pairs=torch.tensor([(2 * i, 2 * i + 1) for i in pairs]).reshape(-1, 2).long(),
        rated=torch.tensor([2 * PAIRS + i for i in rated], dtype=torch.long),
        targets=targets[rated],
        margins=margins[pairs],
    )


WEIGHTINGS = {
    "paper": (JointWeights(reduction="sum"), False),
    "official": (JointWeights(reduction="mean"), False),
    "fixed": (JointWeights(0.1, 0.37, "sum"), False),
    "learned": (JointWeights(reduction="sum", likelihood_scale=vector(0.5, 1.0, 2.0)), True),
}
split = st.lists(st.integers(0, 3), min_size=PAIRS + RATED, max_size=PAIRS + RATED)


def loss_of(scores, noise, parts, targets, margins, totals, weights):
    """Sum over the parts of all terms; gradients are added to `scores` and `noise`."""
    loss, metrics = torch.zeros((), dtype=torch.float64), {}
    for pairs, rated in parts:
        weights = replace(weights, log_variance=noise)
        terms, found = joint(scores, part(pairs, rated, targets, margins), totals, weights)
        loss = loss + sum(term.value for term in terms.values())
        for name, value in found.items():
            metrics[name] = metrics.get(name, 0.0) + float(value)
    loss.backward()
    return loss.detach(), metrics


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@law
@given(seed=st.integers(0, 999), where=split)
def test_the_parts_of_a_step_add_up_to_the_whole(weighting, seed, where):
    weights, learned = WEIGHTINGS[weighting]
    scores, targets, margins, totals = step(seed)
    whole = [(list(range(PAIRS)), list(range(RATED)))]
    parts = [
        (
            [i for i in range(PAIRS) if where[i] == n],
            [i for i in range(RATED) if where[PAIRS + i] == n],
        )
        for n in range(4)
    ]
    found = []
    for division in (whole, parts):
        leaf = scores.clone().requires_grad_()
        noise = vector(0.3, -0.2, 0.1).requires_grad_() if learned else None
        loss, metrics = loss_of(leaf, noise, division, targets, margins, totals, weights)
        gradients = [leaf.grad] + ([noise.grad] if noise is not None else [])
        found.append((loss, metrics, gradients))
    (loss, metrics, gradients), (loss_of_parts, metrics_of_parts, gradients_of_parts) = found
    torch.testing.assert_close(loss, loss_of_parts, atol=1e-6, rtol=1e-6)
    assert metrics_of_parts == pytest.approx(metrics, abs=1e-6)
    for one, other in zip(gradients, gradients_of_parts, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)


def test_each_term_reads_its_own_rows_only():
    scores, targets, margins, totals = step(0)
    whole = part(list(range(PAIRS)), list(range(RATED)), targets, margins)
    for name, rows in (("preference", slice(0, 1)), ("regression", slice(1, None))):
        leaf = scores.clone().requires_grad_()
        term = joint(leaf, whole, totals, JointWeights())[0][name]
        assert term.rows == Rows(name)
        term.value.backward()
        touched = torch.zeros_like(leaf, dtype=torch.bool)
        touched[:, rows] = True
        assert (leaf.grad[~touched] == 0).all()
        assert leaf.grad[touched].abs().sum() > 0


def test_a_batch_without_pairs_or_ratings_lacks_that_term():
    scores, targets, margins, totals = step(0)
    only_pairs, _ = joint(scores, part([0], [], targets, margins), totals, JointWeights())
    only_rated, _ = joint(scores, part([], [0], targets, margins), totals, JointWeights())
    assert set(only_pairs) == {"preference"}
    assert set(only_rated) == {"regression"}


def test_a_fixed_weight_multiplies_the_regression_term_alone():
    scores, targets, margins, totals = step(0)
    whole = part(list(range(PAIRS)), list(range(RATED)), targets, margins)
    one, _ = joint(scores, whole, totals, JointWeights())
    many, _ = joint(scores, whole, totals, JointWeights(regression=7.0))
    torch.testing.assert_close(many["regression"].value, 7 * one["regression"].value)
    torch.testing.assert_close(many["preference"].value, one["preference"].value)
