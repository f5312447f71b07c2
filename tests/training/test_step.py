"""One step: its gradient does not depend on how the step is cut and laid out."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from smorm.errors import NonFiniteLossError
from smorm.objectives.joint import JointWeights
from smorm.objectives.terms import Rows
from smorm.training.methods import Method, make_method
from smorm.training.methods.joint import Joint
from smorm.training.optim import named_trainable
from smorm.training.setup import Prepared
from smorm.training.step import (
    Abandoned,
    StepResult,
    diagnose_step,
    run_step,
)
from tests.training.runs import LAB, LORA, config_of, prepared

WHOLE = 10**6
KINDS: dict[str, dict[str, Any]] = {
    "official": {},
    "paper": {"objective": {"weighting": "paper", "label_smoothing": 0.1}},
    "learned": {"objective": {"weighting": "learned"}},
    "zip": {"data": {"mixing": {"mode": "zip"}}},
    "lab backbone": {"model": LAB},
    "preference": {"objective": {"kind": "preference"}},
    "regression": {"objective": {"kind": "regression"}},
}


def with_budget(ready: Prepared, tokens: int) -> Prepared:
    """The same run with another token budget."""
    training = ready.config.training.model_copy(update={"max_batch_tokens": tokens})
    return replace(ready, config=ready.config.model_copy(update={"training": training}))


def gradients(
    ready: Prepared, method: Method, step: int = 1, diagnose: bool = False
) -> tuple[StepResult, dict[str, torch.Tensor]]:
    """The step's values and the gradient of each parameter; the network is left clean."""
    named = named_trainable(ready.network, method.parameters)
    for parameter in named.values():
        parameter.grad = None
    if diagnose:
        result = diagnose_step(ready, method, step, named)
    else:
        result = run_step(ready, method, step)
    found = {n: p.grad.clone() for n, p in named.items() if p.grad is not None}
    for parameter in named.values():
        parameter.grad = None
    return result, found


def assert_same_step(one: Any, other: Any, tolerance: float = 2e-6) -> None:
    """Losses, metrics and gradients agree within the tolerance, relative to their size."""
    (values, first), (others, second) = one, other
    assert values.values == pytest.approx(others.values, abs=1e-5, rel=1e-5)
    assert first.keys() == second.keys()
    for name, gradient in first.items():
        scale = max(1.0, float(second[name].abs().max()))
        gap = float((gradient - second[name]).abs().max()) / scale
        assert gap < tolerance, f"{name}: {gap:.1e}"


@pytest.mark.parametrize("kind", KINDS)
def test_a_small_token_budget_gives_the_gradient_of_one_big_batch(kind: str) -> None:
    ready = prepared(**KINDS[kind])
    method = make_method(ready)
    whole = gradients(with_budget(ready, WHOLE), method)
    assert whole[0].micro_batches == 1
    for budget in (1, 100, 400):
        parts = gradients(with_budget(ready, budget), method)
        assert parts[0].micro_batches > (1 if budget < 400 else 0)
        assert_same_step(parts, whole)


@pytest.mark.parametrize("kind", ["official", "learned", "lab backbone"])
@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_every_layout_gives_the_gradient_of_the_forest(kind: str, layout: Any) -> None:
    ready = prepared(**KINDS[kind])
    method = make_method(ready)
    assert ready.network.layout == "forest"
    forest = gradients(ready, method)
    try:
        ready.network.use_layout(layout)
        other = gradients(ready, method)
    finally:
        ready.network.use_layout("forest")
    assert other[0].tokens > forest[0].tokens
    assert_same_step(other, forest, tolerance=5e-6)  # other kernels, in fp32


def test_a_step_is_written_down_as_the_mean_over_its_records() -> None:
    """Against losses computed record by record from the scores."""
    ready = prepared()
    method = make_method(ready)
    result, _ = gradients(ready, method)
    pairs, rated = ready.order.step(1)
    network = ready.network
    with torch.no_grad():
        score = lambda tokens: network(network.arrange([tokens]))[0].double()  # noqa: E731
        gaps = [
            float(score(ready.train.pairs[i].chosen)[0] - score(ready.train.pairs[i].rejected)[0])
            for i in pairs
        ]
        errors = [
            score(ready.train.rated[i].tokens)[1:].numpy() - ready.train.targets[i] for i in rated
        ]
    preference = np.mean([math.log1p(math.exp(-gap)) for gap in gaps])
    regression = np.mean(np.square(errors))
    assert result.values["loss/preference"] == pytest.approx(preference, rel=1e-4)
    assert result.values["loss/regression"] == pytest.approx(regression, rel=1e-4)
    assert result.values["loss"] == pytest.approx(preference + regression, rel=1e-4)
    assert result.values["accuracy"] == pytest.approx(np.mean(np.array(gaps) > 0))
    assert result.values["reward_gap"] == pytest.approx(np.mean(gaps), rel=1e-3, abs=1e-5)


def test_the_micro_batches_hold_every_record_of_the_step_once() -> None:
    ready = prepared()
    pairs, rated = ready.order.step(2)
    found = list(ready.batcher.split(pairs, rated))
    expected = [ready.train.pairs[i].where for i in pairs]
    expected += [ready.train.rated[i].where for i in rated]
    assert sorted(where for micro in found for where in micro.where) == sorted(expected)
    for micro in found:
        rows = [*micro.labels.pairs.flatten().tolist(), *micro.labels.rated.tolist()]
        assert sorted(rows) == list(range(len(micro.sequences)))


def test_margins_are_used_when_asked_for_only(tmp_path: Any) -> None:
    ready = prepared()
    using = prepared(objective={"use_margin": True})
    train = replace(ready.train, pairs=[replace(p, margin=2.0) for p in ready.train.pairs])
    method, margin = make_method(ready), make_method(using)
    without = gradients(replace(ready, train=train), method)[0].values["loss/preference"]
    assert without == gradients(ready, method)[0].values["loss/preference"]
    moved = gradients(replace(using, train=train), margin)[0].values["loss/preference"]
    assert moved > without + 0.5


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"weighting": "paper"}, JointWeights(0.0, 1.0, "sum")),
        ({"weighting": "official"}, JointWeights(0.0, 1.0, "mean")),
        ({"weighting": "fixed", "weight": 0.3, "reduction": "sum"}, JointWeights(0.0, 0.3, "sum")),
        (
            {"weighting": "fixed", "weight": 4, "label_smoothing": 0.2},
            JointWeights(0.2, 4.0, "mean"),
        ),
    ],
)
def test_each_weighting_is_what_the_configuration_says(
    section: Any, expected: JointWeights
) -> None:
    method = make_method(prepared(objective=section))
    assert isinstance(method, Joint)
    assert method.weights == expected
    assert method.log_variance is None


def test_learned_noise_begins_at_one_and_counts_ratings_per_pair() -> None:
    method = make_method(prepared(objective={"weighting": "learned"}))
    assert isinstance(method, Joint)
    assert method.log_variance is not None
    assert method.log_variance.tolist() == [0.0] * len(method.log_variance)
    scale = method.weights.likelihood_scale
    assert scale is not None
    assert scale.tolist() == pytest.approx([14 / 24] * len(scale))


# Diagnosis


@pytest.mark.parametrize("kind", ["official", "paper", "learned"])
def test_a_diagnosed_step_has_the_gradient_of_an_ordinary_one(kind: str) -> None:
    ready = prepared(**KINDS[kind])
    method = make_method(ready)
    (ordinary, expected), (told, found) = (
        gradients(ready, method),
        gradients(ready, method, diagnose=True),
    )
    extra = {k: v for k, v in told.values.items() if k.startswith("gradient/")}
    assert set(extra) == {"gradient/preference", "gradient/regression", "gradient/cosine"}
    told.values = {k: v for k, v in told.values.items() if k not in extra}
    assert_same_step((told, found), (ordinary, expected))


@pytest.mark.parametrize("model", [None, LORA])
def test_the_cosine_is_that_of_the_two_terms_alone_on_the_backbone(model: Any) -> None:
    """Against one big batch and autograd's gradient of each term by itself."""
    changes = {} if model is None else {"model": {**LORA, "lora": {"rank": 4, "dropout": 0.0}}}
    ready = prepared(**changes)
    with torch.no_grad():
        for name, parameter in ready.network.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    method = make_method(ready)
    result, _ = gradients(ready, method, diagnose=True)
    flat = {}
    for term in ("preference", "regression"):
        for parameter in ready.network.parameters():
            parameter.grad = None
        run_step(with_budget(ready, WHOLE), method, 1, only=Rows(term))
        flat[term] = torch.cat(
            [
                p.grad.double().flatten()
                for n, p in ready.network.named_parameters()
                if n.startswith("backbone.") and p.grad is not None
            ]
        )
    cosine = torch.nn.functional.cosine_similarity(flat["preference"], flat["regression"], dim=0)
    assert result.values["gradient/cosine"] == pytest.approx(float(cosine), abs=1e-5)
    for term, gradient in flat.items():
        assert result.values[f"gradient/{term}"] == pytest.approx(float(gradient.norm()), rel=1e-5)


# Stops and numbers that are none


def test_a_stop_is_looked_for_before_every_micro_batch() -> None:
    ready = prepared()
    method = make_method(ready)
    total = gradients(ready, method)[0].micro_batches
    for allowed in range(total):
        asked = iter([False] * allowed + [True] * total)
        with pytest.raises(Abandoned):
            run_step(ready, method, 1, stop=lambda asked=asked: next(asked))
        ready.network.zero_grad()


@pytest.mark.parametrize(("rows", "term"), [((0,), "preference"), ((1, 2, 3), "regression")])
def test_a_term_that_is_not_finite_is_named_with_step_and_records(
    rows: tuple[int, ...], term: str
) -> None:
    ready = prepared()
    head = ready.network.head.weight
    before = head.detach().clone()
    try:
        head.data[list(rows)] = torch.inf
        with pytest.raises(NonFiniteLossError) as caught:
            run_step(ready, make_method(ready), 3)
    finally:
        head.data.copy_(before)
        ready.network.zero_grad()
    told = str(caught.value)
    assert told.startswith(f"step 4: the {term} term is ")
    assert "train-pairs.jsonl:" in told or "train-rated.jsonl:" in told
    assert "Lower training.learning_rate" in told


def test_dropout_is_a_function_of_the_step(tmp_path: Any) -> None:
    ready = prepared(model=LORA)
    with torch.no_grad():
        for name, parameter in ready.network.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
    method = make_method(ready)
    torch.manual_seed(1)
    one = gradients(ready, method)
    torch.manual_seed(2)
    two = gradients(ready, method)
    assert one[0].values == two[0].values
    assert all(torch.equal(g, two[1][name]) for name, g in one[1].items())
    config = config_of(tmp_path, model=LORA, training={"seed": 5})
    other = gradients(replace(ready, config=config), method)
    assert other[0].values != one[0].values, "another seed drops other units"
