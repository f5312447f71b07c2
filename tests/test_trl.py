"""The callable for TRL, and TRL calling it: a policy learns a few steps against a reward model."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from datasets import Dataset

from smorm import RewardModel
from smorm.client import ItemError, RewardClient, RewardServerError
from smorm.errors import ConfigError, DataError
from smorm.text.chat import Renderer
from smorm.trl import reward_function
from smorm.world import backbone_path
from tests.cli.conftest import smorm
from tests.conftest import ROOT
from tests.rewards.reward_servers import Reply, RewardServer, counting
from tests.tiny import trained

__all__ = ["smorm"]

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
    assert told == {"smorm/too_long": 1.0, "smorm/unusable": 0.0}


def test_what_trls_parser_returns_is_read(model):
    call = {"type": "function", "function": {"name": "tin", "arguments": {"iron": "grey"}}}
    turns = [
        [{"role": "assistant", "content": None, "tool_calls": [call]},
         {"role": "tool", "name": "tin", "content": "zinc"},
         {"role": "assistant", "content": "tin soft ."}],
        [{"role": "assistant", "reasoning_content": "because age"}],
        [{"role": "assistant", "content": [{"type": "text", "text": "tin soft ."}]}],
        [{"role": "assistant", "content": "tin soft ."}],
        [{"role": "assistant"}],
    ]  # fmt: skip
    told = {}
    rewards = reward_function(model)(
        [PROMPTS[0]] * len(turns), turns, log_metric=told.__setitem__, answer=[1] * len(turns)
    )
    assert told == {"smorm/too_long": 0.0, "smorm/unusable": 0.0}
    assert np.isfinite(rewards).all()
    assert rewards[2] == pytest.approx(rewards[3], abs=1e-6)


def test_a_column_of_tools_goes_to_the_chat_template():
    loaded = RewardModel.load(trained())
    loaded.renderer = Renderer(
        loaded.tokenizer,
        "{% for tool in tools or [] %}{{ tool.name }}\n{% endfor %}"
        + loaded.renderer.chat_template,
    )
    reward = reward_function(loaded)
    plain = reward(PROMPTS[:1], ANSWERS[:1])
    assert reward(PROMPTS[:1], ANSWERS[:1], tools=[[{"name": "iron grey zinc"}]]) != plain
    assert reward(PROMPTS[:1], ANSWERS[:1], tools=['[{"name": "iron"}]']) != plain
    assert reward(PROMPTS[:1], ANSWERS[:1], tools=[None]) == plain


def test_an_unusable_completion_or_prompt_has_no_reward_and_ends_nothing(model, caplog):
    image = [{"role": "user", "content": [{"type": "image", "image": "x.png"}]}]
    prompts = ["metals", "metals", image, None, "metals", "metals"]
    completions = ["tin .", 7, "tin .", "tin .", [{"role": "critic", "content": "no"}], "tin ."]
    told = {}
    with caplog.at_level("WARNING"):
        rewards = reward_function(model)(prompts, completions, log_metric=told.__setitem__)
    assert [value is None for value in rewards] == [False, True, True, True, True, False]
    assert rewards[0] == pytest.approx(rewards[5], abs=1e-6)
    assert told == {"smorm/too_long": 0.0, "smorm/unusable": 4.0}
    assert "no reward: completion 2: completion: 7, expected text or messages" in caplog.text
    assert caplog.text.count("no reward") == 1
    # Text that is not valid Unicode is refused by the renderer, alone.
    assert reward_function(model)(PROMPTS[:2], ["\ud800", ANSWERS[1]])[0] is None


def test_what_is_wrong_with_the_call_is_named(model):
    with pytest.raises(DataError, match="2 prompts for 1"):
        reward_function(model)(["a", "b"], ["c"])
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


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_grpo_goes_on_where_completions_are_messages_and_prompts_are_unusable(model, tmp_path):
    from trl import GRPOConfig, GRPOTrainer

    settings = GRPOConfig(
        str(tmp_path), per_device_train_batch_size=4, num_generations=2, max_completion_length=8,
        max_steps=2, logging_steps=1, report_to=[], use_cpu=True, bf16=False, save_strategy="no",
        disable_tqdm=True, gradient_checkpointing=False,
    )  # fmt: skip
    asked = [[{"role": "user", "content": text}] for text in PROMPTS]
    # Valid JSON but no list of tools: this prompt has no reward, the others have one.
    tools = ["[]", '{"name": "tin"}', "[]"]
    trainer = GRPOTrainer(
        str(backbone_path()),
        reward_funcs=reward_function(model, "M"),
        args=settings,
        train_dataset=Dataset.from_dict({"prompt": asked * 4, "tools": tools * 4}),
    )
    trainer.train()
    logged = [row for row in trainer.state.log_history if "smorm/unusable" in row]
    assert len(logged) == 2


@contextmanager
def served() -> Iterator[str]:
    """The address of a running `smorm serve` of the model."""
    process = subprocess.Popen(
        [sys.executable, "-m", "smorm.cli.main", "serve", str(trained()), "--port", "0"],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )  # fmt: skip
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        address = re.search(r" at (http://\S+)", line)
        assert address is not None, line
        yield address[1]
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_grpo_trains_against_a_running_server_by_the_scores_of_smorm_score(model, smorm, tmp_path):
    from trl import GRPOConfig, GRPOTrainer

    settings = GRPOConfig(
        str(tmp_path), per_device_train_batch_size=4, num_generations=4, max_completion_length=12,
        max_steps=3, logging_steps=1, report_to=[], use_cpu=True, bf16=False, learning_rate=1e-4,
        save_strategy="no", disable_tqdm=True, gradient_checkpointing=False,
    )  # fmt: skip
    rows: list[dict[str, str]] = []
    rewards: list[float] = []
    with served() as url:
        by_server, local = reward_function(url, "L"), reward_function(model, "L")
        assert by_server.__name__ == local.__name__ == "smorm_L"
        # What has no reward of the model has none of the server.
        completions = [ANSWERS[0], "tin " * (2 * model.card.max_tokens), [{"role": "critic"}]]
        counts, local_counts = {}, {}
        found = by_server(PROMPTS, completions, log_metric=counts.__setitem__)
        expected = local(PROMPTS, completions, log_metric=local_counts.__setitem__)
        assert found[1:] == expected[1:] == [None, None]
        assert found[0] == pytest.approx(expected[0], abs=1e-5)
        assert counts == local_counts == {"smorm/too_long": 1.0, "smorm/unusable": 1.0}

        def recorded(prompts, completions, **columns):
            values = by_server(prompts, completions, **columns)
            for prompt, completion in zip(prompts, completions, strict=True):
                rows.append({"prompt": prompt, "response": completion})
            rewards.extend(values)
            return values

        trainer = GRPOTrainer(
            str(backbone_path()),
            reward_funcs=recorded,
            args=settings,
            train_dataset=Dataset.from_dict({"prompt": PROMPTS * 4}),
        )
        trainer.train()
    logged = [
        row["rewards/recorded/mean"]
        for row in trainer.state.log_history
        if "rewards/recorded/mean" in row
    ]
    assert len(logged) == 3
    assert len(rewards) == 12
    np.testing.assert_allclose(logged, np.reshape(rewards, (3, 4)).mean(1), atol=1e-4)
    # What the policy was trained on is what `smorm score` gives.
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, _, err = smorm("score", trained(), "--input", tmp_path / "rows.jsonl", "--view", "L",
                         "--output", tmp_path / "scores.jsonl")  # fmt: skip
    assert code == 0, err
    lines = (tmp_path / "scores.jsonl").read_text().splitlines()
    np.testing.assert_allclose(rewards, [json.loads(line)["view"] for line in lines], atol=1e-5)


def test_a_server_that_fails_ends_the_run_and_gives_no_reward():
    with (
        RewardServer(lambda _: Reply(500, b"out of memory")) as server,
        RewardClient(server.url, "smorm", views=["F"], tries=2, pause=0.01) as client,
        pytest.raises(RewardServerError, match="out of memory"),
    ):
        reward_function(client)(PROMPTS, ANSWERS)
    failed = {"error": {"type": "model_failed", "message": "the worker ended"}}
    with (
        RewardServer(lambda _: Reply(content={"items": [failed]})) as server,
        RewardClient(server.url, "smorm", views=["F"], tries=1, pause=0.01) as client,
        pytest.raises(ItemError, match="the worker ended"),
    ):
        reward_function(client)(PROMPTS[:1], ANSWERS[:1])


def test_a_client_of_ones_own_has_its_views():
    with RewardServer(counting) as server, RewardClient(server.url, "smorm", views=["F"]) as client:
        reward = reward_function(client)
        assert reward.__name__ == "smorm_F"
        assert reward(PROMPTS, ANSWERS) == [float(len(answer)) for answer in ANSWERS]
        with pytest.raises(ConfigError, match="give the client its views"):
            reward_function(client, "F")
        with pytest.raises(ConfigError, match="name of a view"):
            reward_function(server.url, {"preference": 1.0})
