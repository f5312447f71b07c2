"""The sums of PPO against independent few-line computations, and gradients by differences."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smorm.stress.rl.ppo import (
    advantages,
    clipped_objective,
    clipped_value_loss,
    mix_advantages,
    token_rewards,
)


def drawn(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def lengths_to_mask(lengths, width):
    return torch.arange(width) < torch.tensor(lengths).unsqueeze(1)


def by_hand(rewards, values, decay):
    """A_t as the sum over all later errors, of one answer and one stream."""
    following = [*values[1:], 0.0]
    errors = [r + v_next - v for r, v_next, v in zip(rewards, following, values, strict=True)]
    return [sum(decay**k * error for k, error in enumerate(errors[at:]))
            for at in range(len(errors))]  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.floats(0, 1), st.integers(0, 99))
def test_advantages_are_the_decayed_sums_of_errors_whatever_the_padding(lengths, decay, seed):
    mask = lengths_to_mask(lengths, 8)
    rewards, values = drawn(seed, len(lengths), 8, 2), drawn(seed + 1, len(lengths), 8, 2)
    found = advantages(rewards, values, mask, decay)
    for row, size in enumerate(lengths):
        for stream in range(2):
            expected = by_hand(
                rewards[row, :size, stream].tolist(), values[row, :size, stream].tolist(), decay
            )
            assert found[row, :size, stream].tolist() == pytest.approx(expected)
        assert not found[row, size:].any()


def test_with_decay_1_advantages_are_what_is_yet_to_come_less_the_value():
    rewards, values = drawn(0, 1, 5, 1), drawn(1, 1, 5, 1)
    found = advantages(rewards, values, lengths_to_mask([5], 5), 1.0)
    to_come = rewards.flip(1).cumsum(1).flip(1)
    torch.testing.assert_close(found, to_come - values)


def test_the_objective_is_the_pessimistic_one():
    log_ratio = torch.tensor([0.0, 0.5, 0.5, -0.5, -0.5]).double()
    gain = torch.tensor([2.0, 1.0, -1.0, 1.0, -1.0]).double()
    found = clipped_objective(log_ratio, gain, 0.2)
    expected = [2.0, 1.2, -(0.5**0) * torch.e**0.5, torch.e**-0.5, -0.8]
    assert found.tolist() == pytest.approx(expected)


@pytest.mark.parametrize("function", ["objective", "value"])
def test_gradients_are_those_of_finite_differences(function):
    inputs = drawn(0, 3, 4).requires_grad_()
    other, third = drawn(1, 3, 4), drawn(2, 3, 4)
    if function == "objective":
        assert torch.autograd.gradcheck(lambda x: clipped_objective(x, other, 0.2), (inputs,))
    else:
        assert torch.autograd.gradcheck(
            lambda x: clipped_value_loss(x, other, third, 0.2), (inputs,)
        )


def test_at_ratio_1_the_gradient_is_the_advantage_and_beyond_the_clip_it_is_none():
    log_ratio = torch.tensor([0.0, 0.5, -0.5], requires_grad=True)
    gain = torch.tensor([1.5, 1.0, -1.0])
    clipped_objective(log_ratio, gain, 0.2).sum().backward()
    assert log_ratio.grad.tolist() == pytest.approx([1.5, 0.0, 0.0])


def test_rewards_stand_on_the_last_token_and_the_penalty_on_all():
    mask = lengths_to_mask([2, 3, 0], 4)
    log_ratio = torch.ones(3, 4)
    found = token_rewards(torch.tensor([5.0, 7.0, 9.0]), log_ratio, mask, 0.1)
    assert found[..., 0].tolist() == [[0, 5, 0, 0], [0, 0, 7, 0], [0, 0, 0, 0]]
    torch.testing.assert_close(found[..., 1], -0.1 * mask)


def test_without_a_constraint_the_advantage_is_the_whitened_sum_of_both():
    mask = lengths_to_mask([3, 5], 6)
    found = drawn(0, 2, 6, 2)
    total = found.sum(-1)[mask]
    expected = (total - total.mean()) / total.std(correction=0)
    torch.testing.assert_close(mix_advantages(found, 1.0, mask)[mask], expected)
    assert not mix_advantages(found, 1.0, mask)[~mask].any()


def test_the_multiplier_is_not_cancelled_by_the_whitening():
    mask = lengths_to_mask([4, 4], 4)
    found = drawn(0, 2, 4, 2) * torch.tensor([1.0, 0.0])  # no penalty at all
    whole, half, turned = (mix_advantages(found, value, mask) for value in (1.0, 0.5, -1.0))
    torch.testing.assert_close(half, whole / 2)
    torch.testing.assert_close(turned, -whole)
