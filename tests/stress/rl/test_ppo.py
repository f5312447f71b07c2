"""PPO with the lab's real policy and rewards whose best answers are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from smorm.errors import NonFiniteLossError
from smorm.stress.rl.actor import kl_from_start
from smorm.stress.rl.ppo import PPO
from smorm.stress.rl.reward_signal import Multiplier
from tests.stress.rl.made_up import actor_and_prompts, signal


def trainer(folder, reward="fillers", constraint=None, **changes):
    actor, prompts = actor_and_prompts(folder, **changes)
    return PPO(actor, signal(reward, constraint), 0), prompts


def worth(ppo, prompts):
    """The mean raw reward of fresh answers, and the mean KL; training's chance is left alone."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        answers = ppo.actor.answer([one.ids for one in prompts], 4)
    raw = ppo.signal.proxy.score_answers([one for one in prompts for _ in range(4)], answers.texts)
    with torch.no_grad():
        now, _ = ppo.actor.distribution(ppo.actor.model, answers)
        start, _ = ppo.actor.distribution(ppo.actor.start, answers)
    return float(np.mean(raw)), float(kl_from_start(now, start, answers.mask).mean())


@pytest.mark.slow
def test_it_makes_a_known_reward_large_and_leaves_its_start_alone(tmp_path):
    ppo, prompts = trainer(tmp_path, steps=12, passes=2)
    before = [weight.clone() for weight in ppo.actor.start.parameters()]
    first, none = worth(ppo, prompts)
    told = []
    ppo.train(prompts, told.append)
    last, nats = worth(ppo, prompts)
    assert told == list(range(1, 13))
    assert none == 0
    assert last > first + 0.3
    assert nats > 1
    for weight, old in zip(ppo.actor.start.parameters(), before, strict=True):
        assert torch.equal(weight, old)
    ppo.actor.restart()
    assert worth(ppo, prompts) == (first, 0)


@pytest.mark.slow
def test_the_kl_penalty_holds_the_policy_near_its_start(tmp_path):
    found = {}
    for coefficient in (0.0, 1.0):
        ppo, prompts = trainer(tmp_path, steps=8, passes=2, kl_coefficient=coefficient)
        ppo.train(prompts, lambda step: None)
        found[coefficient] = worth(ppo, prompts)
    assert found[1.0][1] < found[0.0][1] / 2
    assert found[1.0][0] < found[0.0][0]


def test_in_the_first_pass_every_ratio_is_1_and_the_penalty_is_0(tmp_path):
    ppo, prompts = trainer(tmp_path, kl_coefficient=0.5)
    torch.manual_seed(0)
    experience = ppo.experience(prompts[:8])
    for rows, part in experience.answers.batches(torch.arange(32), 8):
        width = part.mask.shape[1]
        log_probs, values = ppo._evaluate(part)
        ratio = (log_probs - experience.log_probs[rows, :width]).exp()
        torch.testing.assert_close(ratio, torch.ones_like(ratio), atol=1e-4, rtol=0)
        assert not values.any()  # heads that begin at 0
    # at the start there is no KL yet, so only the proxy's stream has returns
    torch.testing.assert_close(
        experience.returns[..., 1], torch.zeros_like(experience.returns[..., 1]), atol=1e-4, rtol=0
    )


def test_a_minibatch_has_the_same_gradient_in_parts(tmp_path):
    gradients = []
    for batch in (256, 5):
        ppo, prompts = trainer(tmp_path, batch=256)
        torch.manual_seed(0)
        experience = ppo.experience(prompts[:8])
        object.__setattr__(ppo.settings, "batch", batch)
        for loss in ppo.losses(experience, torch.arange(32)):
            loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in ppo.parameters]))
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-3)


def test_in_the_first_pass_the_loss_is_the_mean_over_tokens(tmp_path):
    ppo, prompts = trainer(tmp_path, kl_coefficient=0.5, value_coefficient=0.3, batch=7)
    torch.manual_seed(0)
    experience = ppo.experience(prompts[:8])
    rows = torch.tensor([1, 5, 8, 20, 31])
    mask = experience.answers.mask[rows]
    gain = experience.advantage[rows][mask].mean()
    error = 0.5 * (experience.returns[rows][mask] ** 2).sum(dim=-1).mean()
    found = sum(loss.item() for loss in ppo.losses(experience, rows))
    assert found == pytest.approx(float(0.3 * error - gain), abs=1e-4)


def test_an_answer_without_a_score_teaches_nothing(tmp_path):
    ppo, prompts = trainer(tmp_path)
    ppo.signal = _Lacking(ppo.signal, row=3)
    torch.manual_seed(0)
    experience = ppo.experience(prompts[:8])
    assert not experience.answers.mask[3].any()
    assert experience.answers.mask[4].any()
    assert not experience.advantage[3].any()
    assert torch.isfinite(experience.advantage).all()


def test_a_gradient_that_is_not_finite_stops_it_before_it_moves_the_policy(tmp_path):
    ppo, prompts = trainer(tmp_path)
    with torch.no_grad():
        ppo.value.bias.fill_(torch.nan)
    with pytest.raises(NonFiniteLossError):
        ppo.step(prompts[:8])
    pairs = zip(ppo.actor.model.parameters(), ppo.actor.start.parameters(), strict=True)
    assert all(torch.equal(now, start) for now, start in pairs)


class _Lacking:
    """A signal that has nothing to say of one row."""

    def __init__(self, inner, row):
        self.inner, self.row, self.multiplier = inner, row, 1.0

    def __call__(self, asked, texts):
        found = self.inner(asked, texts)
        found[self.row] = np.nan
        return found


@pytest.mark.slow
def test_the_same_seed_gives_the_same_policy(tmp_path):
    found = []
    for seed in (0, 0, 1):
        actor, prompts = actor_and_prompts(tmp_path, steps=2)
        PPO(actor, signal("fillers"), seed).train(prompts, lambda step: None)
        found.append(torch.cat([p.detach().flatten() for p in actor.model.parameters()]))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


@pytest.mark.slow
def test_a_constraint_holds_the_proxy_that_goes_past_it_otherwise(tmp_path):
    changes = {"steps": 20, "passes": 2, "kl_coefficient": 0.05, "max_new_tokens": 24}
    free, prompts = trainer(tmp_path, "length", **changes)
    free.train(prompts, lambda step: None)
    held, prompts = trainer(tmp_path, "length", Multiplier(14.0, rate=0.1), **changes)
    found = []
    held.train(prompts, lambda step: found.append(worth(held, prompts)[0]) if step > 9 else None)
    assert worth(free, prompts)[0] > 20
    assert np.mean(found) == pytest.approx(14, abs=2)
    assert max(found) < 18
