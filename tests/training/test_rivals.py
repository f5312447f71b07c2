"""The rivals' steps: exact whatever the micro-batches, and equal to plain computations."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from smorm.config import parse_config
from smorm.errors import ConfigError, NonFiniteLossError
from smorm.model.heads import ScoreHead
from smorm.text.chat import Renderer
from smorm.training.methods import make_method
from smorm.training.responses import assistant_header, response_start
from smorm.training.setup import Prepared
from smorm.training.step import run_step
from tests.training.runs import LAB, LORA, SCRATCH, config_of, prepared
from tests.training.test_step import WHOLE, assert_same_step, gradients, with_budget

ALL = {"positive_regularisation": 0.4, "centering": 0.05, "bsr": 0.3}
KINDS: dict[str, dict[str, Any]] = {
    "preference, regularised": {"objective": {"kind": "preference", **ALL}},
    "joint, bsr": {"objective": {"bsr": 0.5}},
    "odin": {"objective": {"kind": "odin", "odin": {"length": 0.7, "orthogonality": 0.3}}},
    "grm sft": {"model": LAB, "objective": {"kind": "grm", "grm": {"share": 0.3}}},
    "grm dpo": {
        "model": LAB,
        "objective": {"kind": "grm", "grm": {"share": 0.3, "regulariser": "dpo"}},
    },
    "grm dpo_noref": {
        "model": LAB,
        "objective": {"kind": "grm", "grm": {"share": 0.3, "regulariser": "dpo_noref"}},
    },
}
FROZEN = {"model": {**SCRATCH, "freeze": True}, "objective": {"kind": "preference", "bsr": 0.2}}


@pytest.mark.parametrize("kind", KINDS)
def test_the_micro_batches_change_nothing(kind: str) -> None:
    """Also not what is a function of all pairs of the step."""
    ready = prepared(**KINDS[kind])
    method = make_method(ready)
    whole = gradients(with_budget(ready, WHOLE), method)
    assert (whole[0].micro_batches, whole[0].first_pass_tokens) == (1, 0)
    for budget in (1, 100):
        parts = gradients(with_budget(ready, budget), method)
        assert parts[0].micro_batches > 1
        assert (parts[0].first_pass_tokens > 0) == method.needs_step_scores
        assert_same_step(parts, whole)


@pytest.mark.parametrize("kind", ["odin", "grm dpo"])
@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_every_layout_gives_the_gradient_of_the_forest(kind: str, layout: Any) -> None:
    ready = prepared(**KINDS[kind])
    method = make_method(ready)
    assert ready.network.layout == "forest"
    fast_layers = ready.network.fast_layers
    forest = gradients(ready, method)
    try:
        ready.network.use_layout(layout)
        other = gradients(ready, method)
    finally:
        ready.network.use_layout("forest", fast_layers=fast_layers)
    assert_same_step(other, forest, tolerance=1e-5)


@pytest.mark.parametrize("kind", ["odin", "grm dpo"])
def test_checkpointed_activations_change_nothing_and_bf16_little(kind: str) -> None:
    found = []
    for extra in ({}, {"gradient_checkpointing": True}, {"precision": "bf16"}):
        ready = prepared(**KINDS[kind], training={"max_batch_tokens": 100, **extra})
        found.append(gradients(ready, make_method(ready)))
    assert_same_step(found[1], found[0])
    assert found[2][0].values["loss"] == pytest.approx(found[0][0].values["loss"], rel=0.05)
    assert all(torch.isfinite(gradient).all() for gradient in found[2][1].values())


def scores_of(ready: Prepared, step: int = 1) -> tuple[np.ndarray, list[Any]]:
    """Scores [P, 2, rows] of the step's pairs, one by one, and the pairs."""
    network = ready.network
    pairs = [ready.train.pairs[i] for i in ready.order.step(step)[0]]
    with torch.no_grad():
        found = [
            [
                network(network.arrange([side]))[0].double().numpy()
                for side in (p.chosen, p.rejected)
            ]
            for p in pairs
        ]
    return np.array(found), pairs


def test_a_regularised_step_is_what_the_formulas_say() -> None:
    ready = prepared(**KINDS["preference, regularised"])
    values = gradients(ready, make_method(ready))[0].values
    scores, _ = scores_of(ready)
    chosen, rejected = scores[:, 0, 0], scores[:, 1, 0]
    expected = {
        "loss/preference": np.log1p(np.exp(rejected - chosen)).mean(),
        "loss/centering": 0.05 * ((chosen + rejected) ** 2).mean(),
        "loss/bsr": 0.3 * scores.mean() ** 2,
        "loss/positive": 0.4 * math.log1p(math.exp(-chosen.mean())),
    }
    for name, value in expected.items():
        assert values[name] == pytest.approx(value, rel=1e-4, abs=1e-8), name
    assert values["loss"] == pytest.approx(sum(expected.values()), rel=1e-4)


def test_an_odin_step_is_what_the_formulas_say() -> None:
    ready = prepared(**KINDS["odin"])
    values = gradients(ready, make_method(ready))[0].values
    scores, pairs = scores_of(ready)
    sums = scores.sum(-1)
    lengths = np.array([[len(p.chosen), len(p.rejected)] for p in pairs], dtype=float)
    # A prompt's tokens are the same on both sides, and are no part of a response.
    prompts = [response_start(p.chosen, p.rejected, header_of(ready))[0] for p in pairs]
    lengths -= np.array(prompts)[:, None]
    quality, length = (
        np.corrcoef(scores[:, :, row].ravel(), lengths.ravel())[0, 1] for row in (0, 1)
    )
    rows = ready.network.head.rows().detach().double().numpy()
    expected = {
        "loss/preference": np.log1p(np.exp(sums[:, 1] - sums[:, 0])).mean(),
        "loss/length": 0.7 * (1 - length + abs(quality)),
        "loss/orthogonality": 0.3 * abs(rows[0] @ rows[1]),
        "length_correlation/quality": quality,
        "length_correlation/length": length,
        "accuracy": (scores[:, 0, 0] > scores[:, 1, 0]).mean(),
        "ranking_accuracy": (sums[:, 0] > sums[:, 1]).mean(),
    }
    for name, value in expected.items():
        assert values[name] == pytest.approx(value, rel=1e-3, abs=1e-5), name
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-6)


def header_of(ready: Prepared) -> Any:
    return assistant_header(Renderer(ready.tokenizer, ready.card.chat_template))


# What a step must not do


def test_both_passes_drop_the_same_units() -> None:
    tokens = {"max_batch_tokens": 100}
    ready = prepared(model=LORA, objective={"kind": "preference", "bsr": 1.0}, training=tokens)
    with torch.no_grad():
        for name, parameter in ready.network.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
    seen: list[torch.Tensor] = []

    def note(module: Any, _: Any, output: torch.Tensor) -> None:
        if isinstance(module, ScoreHead):
            seen.append(output.detach().clone())

    handle = torch.nn.modules.module.register_module_forward_hook(note)
    try:
        result, _ = gradients(ready, make_method(ready))
    finally:
        handle.remove()
    count = result.micro_batches
    assert len(seen) == 2 * count > 2
    for first, second in zip(seen[:count], seen[count:], strict=True):
        torch.testing.assert_close(first, second)


def test_a_frozen_backbone_gets_no_gradient_and_its_head_the_usual_one() -> None:
    frozen = prepared(**FROZEN)
    free = prepared(model=SCRATCH, objective=FROZEN["objective"])
    (values, found), (others, expected) = (
        gradients(ready, make_method(ready)) for ready in (frozen, free)
    )
    assert set(found) == {"head.weight"}
    torch.testing.assert_close(found["head.weight"], expected["head.weight"])
    assert values.values == pytest.approx(others.values, rel=1e-5, abs=1e-6)


def test_a_diagnosed_step_counts_the_regularisers_with_the_preference_row() -> None:
    ready = prepared(**KINDS["joint, bsr"])
    method = make_method(ready)
    ordinary, told = gradients(ready, method), gradients(ready, method, diagnose=True)
    told[0].values = {k: v for k, v in told[0].values.items() if not k.startswith("gradient/")}
    assert_same_step(told, ordinary)


@pytest.mark.parametrize("kind", ["odin", "joint, bsr", "grm sft"])
def test_a_term_that_is_not_finite_is_named(kind: str) -> None:
    ready = prepared(**KINDS[kind])
    head = ready.network.head.weight
    before = head.detach().clone()
    method = make_method(ready)
    try:
        head.data[0] = torch.nan
        with pytest.raises(NonFiniteLossError, match=r"step 4: the \w+ term is nan"):
            run_step(ready, method, 3)
    finally:
        head.data.copy_(before)
        ready.network.zero_grad()


# What is refused


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"objective": {"kind": "regression", "use_margin": True}}, "use_margin: of preference"),
        ({"objective": {"kind": "odin", "bsr": 0.1}}, "bsr: with kind joint or preference only"),
        ({"objective": {"kind": "regression", "centering": 1}}, "centering: with kind joint or"),
        ({"objective": {"odin": {"length": 2}}}, "odin: with kind odin only, not joint"),
        ({"objective": {"grm": {"beta": 2}}}, "grm: with kind grm only, not joint"),
        ({"objective": {"bsr": -1}}, "objective.bsr"),
        ({"objective": {"grm": {"bta": 2}}}, "did you mean objective.grm.beta"),
        ({"objective": {"kind": "grm"}}, "grm needs a pretrained language model"),
        (
            {"model": {**LAB, "freeze": True}, "objective": {"kind": "grm"}},
            "model.freeze: objective.kind grm",
        ),
        ({"model": {**LORA, "freeze": True}}, "freeze: adapters train the backbone"),
    ],
)
def test_settings_that_mean_nothing_are_refused(tmp_path: Any, changes: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        config_of(tmp_path, **changes)


def test_ratings_may_be_absent_where_a_rival_needs_none() -> None:
    values = config_of(Path("x"), objective={"kind": "odin"}).as_dict()
    values["data"]["rated"] = []
    assert parse_config(values).objective.method.uses_pairs
    assert not parse_config(values).objective.method.uses_ratings


def test_forward_gives_what_the_network_gives() -> None:
    ready = prepared(**KINDS["odin"])
    method = make_method(ready)
    micro = next(ready.batches(0))
    with torch.no_grad():
        outputs = method.forward(ready.network, micro)
        torch.testing.assert_close(outputs.scores, ready.network(micro.batch))
    assert outputs.log_probs is None
