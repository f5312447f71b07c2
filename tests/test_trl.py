"""The callable for TRL, and TRL calling it: a policy learns a few steps against a reward model."""

from __future__ import annotations

import numpy as np
import pytest
from datasets import Dataset

from smorm import RewardModel
from smorm.errors import ConfigError, DataError
from smorm.trl import reward_function
from smorm.world import backbone_path
from tests.tiny import trained

PROMPTS = ["metals full tin iron", "metals full tin iron", "metals brief zinc"]
ANSWERS = ["tin soft because age .", "iron grey .", "zinc cold ."]


@pytest.fixture(scope="module")
def model() -> RewardModel:
    return RewardModel.load(trained())


def test_rewards_are_the_models_scores_in_the_order_of_the_completions(model):
    for view in ("F", "L", "M"):
        expected = model.score(list(zip(PROMPTS, ANSWERS, strict=True)), view).view()
        found = reward_function(model, view)(PROMPTS, ANSWERS)
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert reward_function(model, "L").__name__ == "smorm_L"
    assert reward_function(model, name="quality").__name__ == "quality"


def test_text_and_messages_give_the_same_rewards(model):
    asked = [[{"role": "user", "content": text}] for text in PROMPTS]
    answered = [[{"role": "assistant", "content": text}] for text in ANSWERS]
    reward = reward_function(model)
    assert reward(asked, answered, extra=[1, 2, 3]) == reward(PROMPTS, ANSWERS)


def test_the_order_of_completions_changes_no_reward(model):
    reward = reward_function(model)
    plain = reward(PROMPTS, ANSWERS)
    order = [2, 0, 1]
    mixed = reward([PROMPTS[i] for i in order], [ANSWERS[i] for i in order])
    np.testing.assert_allclose(mixed, [plain[i] for i in order], atol=1e-5)


def test_a_completion_that_cannot_fit_has_no_reward_and_is_counted(model):
    told = {}
    long = "tin " * (2 * model.card.max_tokens)
    found = reward_function(model)(
        PROMPTS, [ANSWERS[0], long, ANSWERS[2]], log_metric=told.__setitem__
    )
    assert found[1] is None
    np.testing.assert_allclose(
        [found[0], found[2]], reward_function(model)(PROMPTS[::2], ANSWERS[::2]), atol=1e-5
    )
    assert told == {"smorm/too_long": 1.0}


def test_nonsense_is_named(model):
    reward = reward_function(model)
    with pytest.raises(DataError, match="completion 1: expected text or messages"):
        reward(["a"], [7])
    with pytest.raises(DataError, match="2 prompts for 1"):
        reward(["a", "b"], ["c"])
    with pytest.raises(ConfigError, match="unknown view"):
        reward_function(model, "Z")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_grpo_takes_it_and_logs_its_rewards(model, tmp_path):
    from trl import GRPOConfig, GRPOTrainer

    settings = GRPOConfig(
        str(tmp_path), per_device_train_batch_size=4, num_generations=4, max_completion_length=12,
        max_steps=2, logging_steps=1, report_to=[], use_cpu=True, bf16=False, learning_rate=1e-4,
        save_strategy="no", disable_tqdm=True, gradient_checkpointing=False,
    )  # fmt: skip
    trainer = GRPOTrainer(
        str(backbone_path()),
        reward_funcs=reward_function(model, "M"),
        args=settings,
        train_dataset=Dataset.from_dict({"prompt": PROMPTS * 4}),
    )
    trainer.train()
    logged = [row for row in trainer.state.log_history if "rewards/smorm_M/mean" in row]
    assert len(logged) == 2
    assert all(np.isfinite(row["rewards/smorm_M/mean"]) for row in logged)
