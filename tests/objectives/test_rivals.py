"""Regularisers, ODIN and GRM: against few-line computations, finite differences, and their laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smorm.model.heads import ScoreHead
from smorm.objectives import odin
from smorm.objectives.grm import Likelihoods, Mixture, grm, text_losses
from smorm.objectives.joint import JointWeights, joint
from smorm.objectives.preference import batch_sum, bradley_terry, centering, positive
from smorm.objectives.terms import Labels, Totals

law = settings(deadline=None, max_examples=40)
PAIRS = 5


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def log_sigmoid(x):
    return -math.log1p(math.exp(-x))


def labels_of(pairs, margins=None):
    """Labels of pairs whose sides stand side by side."""
    rows = torch.arange(2 * pairs).reshape(-1, 2)
    return Labels(rows, torch.zeros(0, dtype=torch.long), torch.zeros(0, 0), margins)


def totals_of(pairs):
    return Totals(pairs, 0, torch.zeros(0))


# Regularisers


def test_the_regularisers_by_hand():
    chosen, rejected = torch.tensor([1.0, 3.0]).double(), torch.tensor([-2.0, 1.0]).double()
    assert float(centering(chosen, rejected, total=2)) == pytest.approx((1 + 16) / 2)
    assert float(batch_sum(chosen, rejected)) == pytest.approx((3 / 4) ** 2)
    assert float(positive(chosen)) == pytest.approx(-log_sigmoid(2.0))


@pytest.mark.parametrize(
    "loss",
    [
        lambda c, r: centering(c, r, total=7),
        batch_sum,
        lambda c, r: positive(c) + 0 * r.sum(),
    ],
)
def test_the_regularisers_gradients_are_finite_differences(loss):
    sides = (draw(1, PAIRS).requires_grad_(), draw(2, PAIRS).requires_grad_())
    assert torch.autograd.gradcheck(loss, sides)


@law
@given(st.integers(0, 999), st.floats(-3, 3))
def test_a_shift_of_all_rewards_moves_the_regularisers_as_it_should(seed, shift):
    chosen, rejected = draw(seed, PAIRS), draw(seed + 1, PAIRS)
    mean = float(torch.cat([chosen, rejected]).mean())
    moved = batch_sum(chosen + shift, rejected + shift)
    assert float(moved) == pytest.approx((mean + shift) ** 2, abs=1e-9)
    sums = (chosen + rejected + 2 * shift).square().mean()
    assert float(centering(chosen + shift, rejected + shift, total=PAIRS)) == pytest.approx(
        float(sums), abs=1e-9
    )
    expected = -log_sigmoid(float(chosen.mean()) + shift)
    assert float(positive(chosen + shift)) == pytest.approx(expected)
    # Opposite rewards are what both call centred, and Bradley–Terry sees no shift at all.
    assert float(centering(chosen, -chosen, total=PAIRS)) == 0
    assert float(batch_sum(chosen, -chosen)) == pytest.approx(0, abs=1e-12)


@law
@given(st.integers(0, 999), st.permutations(range(PAIRS)))
def test_the_order_of_pairs_and_sides_changes_no_symmetric_regulariser(seed, order):
    chosen, rejected = draw(seed, PAIRS), draw(seed + 1, PAIRS)
    for loss in (batch_sum, lambda c, r: centering(c, r, total=PAIRS)):
        plain = loss(chosen, rejected)
        torch.testing.assert_close(loss(chosen[order], rejected[order]), plain)
        torch.testing.assert_close(loss(rejected, chosen), plain)
    torch.testing.assert_close(positive(chosen[order]), positive(chosen))


def test_centering_is_a_term_of_the_joint_loss_where_it_is_weighed():
    scores = draw(0, 2 * PAIRS, 1)
    terms, _ = joint(scores, labels_of(PAIRS), totals_of(PAIRS), JointWeights(centering=0.3))
    by_hand = 0.3 * np.mean([(scores[2 * i, 0] + scores[2 * i + 1, 0]) ** 2 for i in range(PAIRS)])
    assert float(terms["centering"].value) == pytest.approx(float(by_hand))
    assert set(joint(scores, labels_of(PAIRS), totals_of(PAIRS), JointWeights())[0]) == {
        "preference"
    }


# ODIN


def test_odin_ranks_by_the_sum_and_tells_about_the_quality():
    scores = torch.tensor([[1.0, 2.0], [2.0, -3.0], [0.0, 1.0], [-1.0, 0.5]]).double()
    terms, metrics = odin.ranking(scores, labels_of(2), totals_of(2))
    expected = -(log_sigmoid(3.0 - -1.0) + log_sigmoid(1.0 - -0.5)) / 2
    assert float(terms["preference"].value) == pytest.approx(expected)
    assert float(metrics["accuracy"]) == 0.5
    assert float(metrics["ranking_accuracy"]) == 1
    assert float(metrics["reward_gap"]) == 0
    assert odin.ranking(scores, labels_of(0), totals_of(2)) == ({}, {})


def test_odins_ranking_takes_margins_and_smoothing_as_bradley_terry_does():
    scores, margins = draw(0, 2 * PAIRS, 2), draw(1, PAIRS).abs()
    terms, _ = odin.ranking(scores, labels_of(PAIRS, margins), totals_of(PAIRS), 0.1)
    sums = scores.sum(1)
    plain, _ = bradley_terry(
        sums[::2], sums[1::2], total=PAIRS, margin=margins, label_smoothing=0.1
    )
    torch.testing.assert_close(terms["preference"].value, plain)


@law
@given(st.integers(0, 999))
def test_the_length_term_is_made_of_numpys_correlations(seed):
    compared, lengths = draw(seed, PAIRS, 2, 2), (10 * draw(seed + 1, PAIRS, 2).abs()).long() + 1
    lengths[0, 0] = 40
    term, metrics = odin.length_term(compared, lengths)
    rows, tokens = compared.reshape(-1, 2).numpy(), lengths.reshape(-1).numpy()
    quality, length = (np.corrcoef(rows[:, i], tokens)[0, 1] for i in (0, 1))
    assert float(term) == pytest.approx(1 - length + abs(quality))
    assert float(metrics["length_correlation/quality"]) == pytest.approx(quality)
    assert float(metrics["length_correlation/length"]) == pytest.approx(length)


@law
@given(st.integers(0, 999), st.floats(-3, 3), st.floats(0.1, 5), st.permutations(range(PAIRS)))
def test_shift_scale_and_order_leave_the_length_term_and_a_sign_mirrors_it(
    seed, shift, scale, order
):
    compared, lengths = draw(seed, PAIRS, 2, 2), torch.arange(1, 2 * PAIRS + 1).reshape(PAIRS, 2)
    plain, _ = odin.length_term(compared, lengths)
    moved, _ = odin.length_term(compared[order] * scale + shift, 3 * lengths[order] + 7)
    torch.testing.assert_close(moved, plain)
    sides, _ = odin.length_term(compared.flip(1), lengths.flip(1))
    torch.testing.assert_close(sides, plain)
    one = odin.correlation(compared.flatten(), torch.arange(20).double())
    torch.testing.assert_close(
        odin.correlation(-compared.flatten(), torch.arange(20).double()), -one
    )


def test_the_best_and_the_worst_length_term():
    lengths = torch.arange(1, 7).reshape(3, 2)
    length = 2.0 * lengths.double() - 5
    mirrored = torch.tensor([1.0, -2, 1, 1, -2, 1]).double().reshape(3, 2)  # even about the middle
    best, _ = odin.length_term(torch.stack([mirrored, length], -1), lengths)
    worst, _ = odin.length_term(torch.stack([length, -length], -1), lengths)
    assert float(best) == pytest.approx(0, abs=1e-12)
    assert float(worst) == pytest.approx(3)


def test_a_constant_has_no_correlation_and_no_gradient():
    varying = torch.arange(4).double().requires_grad_()
    constant = torch.full((4,), 3.0, dtype=torch.float64, requires_grad=True)
    found = odin.correlation(varying, constant)
    found.backward()
    assert float(found.detach()) == 0
    assert (varying.grad == 0).all()
    assert (constant.grad == 0).all()


def test_odins_gradients_are_finite_differences():
    lengths = torch.tensor([[3, 9], [4, 4], [12, 7]])
    compared = draw(3, 3, 2, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: odin.length_term(x, lengths)[0], compared)
    assert torch.autograd.gradcheck(odin.orthogonality, draw(4, 2, 6).requires_grad_())
    scores = draw(5, 2 * PAIRS, 2).requires_grad_()
    ranked = lambda x: odin.ranking(x, labels_of(PAIRS), totals_of(PAIRS))  # noqa: E731
    assert torch.autograd.gradcheck(lambda x: ranked(x)[0]["preference"].value, scores)


def test_orthogonality_is_the_absolute_cosine():
    rows = torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, 2.0]]).double()
    assert float(odin.orthogonality(rows)) == 0
    rows[1] = -2 * rows[0]
    assert float(odin.orthogonality(rows)) == pytest.approx(1)
    rows[1] = torch.tensor([1.0, 0.0, 0.0])
    assert float(odin.orthogonality(rows)) == pytest.approx(3 / 5)


def test_unit_rows_have_no_mean_and_length_one_and_finalize_to_a_plain_head():
    head, hidden = ScoreHead(16, 2), torch.randn(5, 16)
    head.weight.data += 0.7
    head.unit_rows = True
    rows = head.rows()
    torch.testing.assert_close(rows.mean(1), torch.zeros(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(2))
    before = head(hidden)
    head.finalize()
    assert not head.unit_rows
    torch.testing.assert_close(head(hidden), before)
    torch.testing.assert_close(head.weight.data, rows.detach())


# GRM


@pytest.mark.parametrize("regulariser", ["sft", "dpo", "dpo_noref"])
def test_grms_regularisers_by_hand(regulariser):
    policy, reference, beta = draw(0, PAIRS, 2) * 5 - 20, draw(1, PAIRS, 2) * 5 - 20, 0.1
    expected = []
    for (c, r), (c0, r0) in zip(policy.tolist(), reference.tolist(), strict=True):
        inside = {"sft": c, "dpo": (c - r) - (c0 - r0), "dpo_noref": c - r}[regulariser]
        expected.append(-log_sigmoid(beta * inside))
    found = text_losses(Likelihoods(policy, reference), regulariser, beta)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("regulariser", ["sft", "dpo", "dpo_noref"])
def test_grm_mixes_both_terms_and_its_gradients_are_finite_differences(regulariser):
    scores, policy, reference = draw(0, 2 * PAIRS, 1), draw(1, PAIRS, 2), draw(2, PAIRS, 2)
    mixture = Mixture(regulariser, 0.2, 0.5)

    def terms(scores, policy):
        likelihoods = Likelihoods(policy, reference)
        return grm(
            scores, labels_of(PAIRS), totals_of(PAIRS), likelihoods, mixture
        )  # fmt: skip

    found, metrics = terms(scores, policy)
    ranked, _ = bradley_terry(scores[::2, 0], scores[1::2, 0], total=PAIRS)
    spoken = text_losses(Likelihoods(policy, reference), regulariser, 0.5).mean()
    torch.testing.assert_close(found["preference"].value, 0.8 * ranked)
    torch.testing.assert_close(found["language"].value, 0.2 * spoken)
    assert float(metrics["log_likelihood"]) == pytest.approx(float(policy[:, 0].mean()))
    inputs = (scores.requires_grad_(), policy.requires_grad_())
    assert torch.autograd.gradcheck(
        lambda s, p: sum(t.value for t in terms(s, p)[0].values()), inputs
    )


@law
@given(st.integers(0, 999), st.floats(-9, 9))
def test_the_laws_of_grms_regularisers(seed, shift):
    policy, reference = draw(seed, PAIRS, 2), draw(seed + 1, PAIRS, 2)
    likelihoods = Likelihoods(policy, reference)
    same = text_losses(Likelihoods(policy, policy), "dpo", 0.1)
    torch.testing.assert_close(same, torch.full((PAIRS,), math.log(2), dtype=torch.float64))
    for regulariser in ("dpo", "dpo_noref"):
        plain = text_losses(likelihoods, regulariser, 0.1)
        moved = text_losses(Likelihoods(policy + shift, reference), regulariser, 0.1)
        torch.testing.assert_close(moved, plain)
        gap = policy[:, 0] - policy[:, 1]
        if regulariser == "dpo":
            gap = gap - (reference[:, 0] - reference[:, 1])
        swapped = text_losses(Likelihoods(policy.flip(1), reference.flip(1)), regulariser, 0.1)
        torch.testing.assert_close(plain - swapped, -0.1 * gap)
    other = policy.clone()
    other[:, 1] += shift
    torch.testing.assert_close(
        text_losses(Likelihoods(other), "sft", 0.1), text_losses(Likelihoods(policy), "sft", 0.1)
    )


def test_dpo_without_a_reference_is_refused():
    with pytest.raises(ValueError, match="reference"):
        text_losses(Likelihoods(torch.zeros(1, 2)), "dpo", 0.1)
