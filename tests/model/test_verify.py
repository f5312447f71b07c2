"""What cannot share tokens is found out by trying, reported, and never used in silence."""

from __future__ import annotations

import logging

import pytest
import torch

from smorm.errors import ModelError
from smorm.model.cpu.matmul import forward_of
from smorm.model.network import RewardNetwork
from smorm.model.verify import Verdict, choose_layout, probe_sequences, verify
from smorm.trees.forest import grow
from tests.model.architectures import ARCHITECTURES, OUTSIDERS, tiny

FALLBACKS = {"bloom": "eager", "mamba": "eager", "lfm2": "sdpa"}
"""Bloom has no other attention and Mamba has none; LFM2 mixes convolutions with attention."""


def network(name: str) -> RewardNetwork:
    return RewardNetwork(tiny(name), rows=3, pad_id=0)


@pytest.mark.parametrize("name", list(OUTSIDERS))
def test_an_outsider_falls_back_and_the_log_says_why(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    outsider = network(name)
    with caplog.at_level(logging.WARNING, logger="smorm"):
        verdict = choose_layout(outsider)
    assert verdict.layout == outsider.layout == "padded"
    (record,) = (r for r in caplog.records if r.name.startswith("smorm"))
    message = record.getMessage()
    assert f"{name} cannot share tokens" in message
    assert f"using the padded layout with {FALLBACKS[name]} attention" in message
    assert "forest: " in message
    assert "packed: " in message
    assert verdict.padded_attention == FALLBACKS[name]
    assert outsider.backbone.config._attn_implementation == FALLBACKS[name]


@pytest.mark.parametrize("layout", ["forest", "packed"])
@pytest.mark.parametrize("name", list(OUTSIDERS))
def test_an_outsider_asked_by_name_for_what_it_cannot_do_is_an_error(
    name: str, layout: str
) -> None:
    outsider = network(name)
    with pytest.raises(ModelError, match=rf"layout {layout} is not right for {name}: .*padded"):
        choose_layout(outsider, layout)  # type: ignore[arg-type]
    assert outsider.layout == "padded"


@pytest.mark.parametrize("layout", ["forest", "packed", "padded"])
def test_a_layout_that_is_right_is_given_when_asked_for(
    layout: str, caplog: pytest.LogCaptureFixture
) -> None:
    llama = network("llama")
    choose_layout(llama, layout)  # type: ignore[arg-type]
    assert llama.layout == layout
    assert caplog.records == []


def test_an_outsider_asked_for_padding_gets_it_without_a_word(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bloom = network("bloom")
    assert choose_layout(bloom, "padded").layout == "padded"
    assert caplog.records == []


@pytest.mark.parametrize("layout", ["forest", "packed", "padded"])
@pytest.mark.parametrize("shorten", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_verification_leaves_the_network_as_it_was(
    layout: str, shorten: bool, training: bool
) -> None:
    llama = network("llama").train(training)
    llama.use_layout(layout, fast_layers=shorten)  # type: ignore[arg-type]
    before = {name: value.clone() for name, value in llama.state_dict().items()}
    ways = [forward_of(module) for module in llama.modules()]
    random = torch.get_rng_state()
    assert verify(llama) == Verdict("forest", fast_layers=True)
    assert (llama.layout, llama.fast_layers, llama.training) == (layout, shorten, training)
    assert [forward_of(module) for module in llama.modules()] == ways
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[name]) for name, value in llama.state_dict().items())


@pytest.mark.parametrize("layout", [None, "forest", "packed"])
@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_the_choice_takes_the_shorter_ways_where_they_are_right(
    name: str, layout: str | None
) -> None:
    chosen = network(name)
    verdict = choose_layout(chosen, layout)  # type: ignore[arg-type]
    assert verdict == Verdict("forest", fast_layers=True)
    assert (chosen.layout, chosen.fast_layers) == (layout or "forest", True)


@pytest.mark.parametrize("name", list(OUTSIDERS))
def test_an_outsider_is_left_without_shorter_ways(name: str) -> None:
    outsider = network(name)
    choose_layout(outsider)
    assert not outsider.fast_layers
    assert not any("forward" in vars(module) for module in outsider.modules())


def test_half_precision_has_a_tolerance_of_its_own() -> None:
    half = RewardNetwork(tiny("llama").bfloat16(), rows=3, pad_id=0)
    assert verify(half).layout == "forest"


def test_the_probe_forks_inside_forks_and_holds_equal_sequences() -> None:
    forest = grow(probe_sequences(97))
    assert max(map(len, forest.ancestors)) == 2
    assert int(forest.leaves[0]) == int(forest.leaves[-1])
