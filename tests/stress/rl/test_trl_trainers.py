"""GRPO and RLOO: TRL's trainers with our rewards, on the lab's real policy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from smorm.stress.rl.actor import kl_from_start
from smorm.stress.rl.reward_signal import Multiplier
from smorm.stress.rl.trl_trainers import train_with_trl, trl_arguments, updates_per_step
from tests.stress.rl.made_up import actor_and_prompts, section, signal

pytestmark = pytest.mark.filterwarnings("ignore")


def worth(actor, source, prompts):
    torch.manual_seed(7)
    answers = actor.answer([one.ids for one in prompts], 4)
    raw = source.proxy.score_answers([one for one in prompts for _ in range(4)], answers.texts)
    return float(np.mean(raw))


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
def test_it_makes_a_known_reward_large(tmp_path, algorithm):
    actor, prompts = actor_and_prompts(
        tmp_path, algorithm=algorithm, steps=10, passes=2, minibatch=16, kl_coefficient=0.01,
        learning_rate=2e-3,
    )  # fmt: skip
    source, told = signal("fillers"), []
    before = worth(actor, source, prompts)
    train_with_trl(actor, source, prompts, 0, told.append)
    assert told == list(range(1, 11))
    assert worth(actor, source, prompts) > before + 0.2


def test_nothing_moves_without_a_learning_signal(tmp_path):
    actor, prompts = actor_and_prompts(tmp_path, algorithm="grpo", steps=2)
    train_with_trl(actor, signal("same", kind="none"), prompts, 0, lambda step: None)
    torch.manual_seed(0)
    answers = actor.answer([one.ids for one in prompts], 2)
    with torch.no_grad():
        now, _ = actor.distribution(actor.model, answers)
        start, _ = actor.distribution(actor.start, answers)
    assert float(kl_from_start(now, start, answers.mask).max()) == pytest.approx(0, abs=1e-6)


def test_it_is_rewarded_for_its_own_answers_to_its_own_prompts(tmp_path):
    actor, prompts = actor_and_prompts(tmp_path, algorithm="grpo", steps=2, passes=3, minibatch=16)
    source, seen = signal("length"), []

    class Watching:
        constraint, multiplier = None, 1.0

        def __call__(self, asked, texts):
            seen.extend(zip(asked, texts, strict=True))
            return source(asked, texts)

    train_with_trl(actor, Watching(), prompts, 0, lambda step: None)
    assert len(seen) == 2 * 32  # once for each step, however many passes
    for at in range(0, len(seen), 4):
        assert len({id(asked) for asked, _ in seen[at : at + 4]}) == 1
    # the start answers its prompts well enough that most answers name what was asked for
    naming = [bool(set(asked.prompt[0].content.split()[2:]) & set(text.split()))
              for asked, text in seen]  # fmt: skip
    assert np.mean(naming) > 0.7


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
def test_a_constraint_turns_the_reward_around_above_its_threshold(tmp_path, algorithm):
    """Far above its threshold a reward is made small: scaled advantages would cancel nothing but
    the sign, and an ignored multiplier would make it large."""
    actor, prompts = actor_and_prompts(
        tmp_path, algorithm=algorithm, steps=12, passes=2, kl_coefficient=0.001
    )
    source = signal("length", Multiplier(threshold=2.0, rate=5.0))
    before = worth(actor, source, prompts)
    train_with_trl(actor, source, prompts, 0, lambda step: None)
    assert source.multiplier == -1.0
    assert worth(actor, source, prompts) < before - 1


@pytest.mark.parametrize(
    ("changes", "micro", "accumulated", "generation", "updates"),
    [
        ({}, 32, 1, 1, 1),
        ({"minibatch": 16, "passes": 3}, 16, 1, 2, 6),
        ({"minibatch": 16, "batch": 8}, 8, 2, 4, 2),
        ({"minibatch": 16, "batch": 5}, 4, 4, 8, 2),
    ],
)
def test_sizes_in_trls_words_are_ours(tmp_path, changes, micro, accumulated, generation, updates):
    asked = section(tmp_path, algorithm="grpo", steps=7, **changes)
    found = trl_arguments(asked, str(tmp_path), 0, True)
    assert found["per_device_train_batch_size"] == micro
    assert found["gradient_accumulation_steps"] == accumulated
    assert found["steps_per_generation"] == generation
    assert updates_per_step(asked) == updates
    assert found["max_steps"] == 7 * updates
