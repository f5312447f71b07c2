"""Grouped steps: each distinct response once, at the gradient of the padded reference."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from smorm.errors import ConfigError
from smorm.training.methods import make_method
from smorm.training.optim import named_trainable
from smorm.training.setup import Prepared, prepare
from smorm.training.step import run_step
from tests.training.runs import config_of, jsonl

ANSWERS = ["Red and round.", "Red, round and sweet.", "I do not know.", "It is a fruit: red."]


def several_answers(folder: Any, prompts: int = 4) -> Prepared:
    """All 6 pairs and all 4 ratings of each prompt's 4 answers; a step holds two prompts."""
    pairs, rated = [], []
    for number in range(prompts):
        prompt = f"Tell me in a few words what the apple number {number} is like."
        answers = [f"{answer} ({number})" for answer in ANSWERS]
        for better, worse in itertools.combinations(answers, 2):
            pairs.append({"prompt": prompt, "chosen": better, "rejected": worse})
        for place, answer in enumerate(answers):
            scores = {"sweet": place / 3, "true": (place * number) % 4 / 3}
            rated.append({"prompt": prompt, "response": answer, "scores": scores})
    data = {
        "preference": jsonl(folder / "pairs.jsonl", pairs),
        "rated": jsonl(folder / "rated.jsonl", rated[::-1]),
        "mixing": {"group_by_prompt": True, "rated_per_pair": 4 / 6},
    }
    training = {"batch_size": 12, "max_batch_tokens": 10**6}
    return prepare(config_of(folder / "run", data=data, training=training))


def gradients(ready: Prepared) -> dict[str, torch.Tensor]:
    method = make_method(ready)
    named = named_trainable(ready.network, method.parameters)
    for parameter in named.values():
        parameter.grad = None
    result = run_step(ready, method, 0)
    found = {name: p.grad.clone() for name, p in named.items() if p.grad is not None}
    return {**found, "loss": torch.tensor(result.values["loss"])}


def test_a_response_compared_three_times_and_rated_is_one_leaf(tmp_path: Any) -> None:
    ready = several_answers(tmp_path)
    for step in range(4):
        pairs, rated = ready.order.step(step)
        prompts = set(ready.train.pair_prompts[pairs].tolist())
        assert len(prompts) == 2
        assert set(ready.train.rated_prompts[rated].tolist()) == prompts
        (micro,) = ready.batches(step)
        assert len(micro.sequences) == 2 * 12 + 8
        distinct = {tokens.tobytes() for tokens in micro.sequences}
        assert len(set(micro.batch.leaves.tolist())) == len(distinct) == 8
        longest = max(map(len, micro.sequences))
        assert micro.batch.num_tokens < 2 * longest + 8 * 30


def test_the_gradient_is_that_of_the_unshared_padded_step(tmp_path: Any) -> None:
    ready = several_answers(tmp_path)
    shared = gradients(ready)
    ready.network.use_layout("padded")
    (micro,) = ready.batches(0)
    assert micro.batch.num_tokens >= sum(map(len, micro.sequences))
    padded = gradients(ready)
    assert shared.keys() == padded.keys()
    for name, gradient in shared.items():
        scale = max(1.0, float(padded[name].abs().max()))
        assert float((gradient - padded[name]).abs().max()) / scale < 5e-6, name


def test_a_prompt_that_the_budget_cuts_keeps_its_answers_together(tmp_path: Any) -> None:
    """Two prompts, room for one and a half: each prompt's pairs stay in one forward pass."""
    ready = several_answers(tmp_path)
    (whole,) = ready.batches(0)
    budget = round(0.75 * whole.batch.num_tokens)
    training = ready.config.training.model_copy(update={"max_batch_tokens": budget})
    ready = replace(ready, config=ready.config.model_copy(update={"training": training}))
    micros = list(ready.batches(0))
    assert len(micros) == 2
    assert [len(micro.sequences) for micro in micros] == [16, 16]
    assert [len(set(micro.batch.leaves.tolist())) for micro in micros] == [4, 4]


def test_ungrouped_is_the_default_and_takes_the_prompts_apart(tmp_path: Any) -> None:
    ready = several_answers(tmp_path)
    plain = prepare(
        config_of(
            tmp_path / "plain",
            data={
                "preference": str(tmp_path / "pairs.jsonl"),
                "rated": str(tmp_path / "rated.jsonl"),
            },
        )
    )
    assert plain.order.pair_groups is None
    assert not np.array_equal(plain.order.step(0)[0], ready.order.step(0)[0])


def test_grouping_with_zip_is_refused_when_the_configuration_is_read(tmp_path: Any) -> None:
    data = {"mixing": {"mode": "zip", "group_by_prompt": True}}
    with pytest.raises(ConfigError, match=r"data\.mixing.*zip itself says which rating"):
        config_of(tmp_path, data=data)
