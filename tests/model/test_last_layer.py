"""Layers run shorter give the numbers of layers run whole, and compute what they say."""

from __future__ import annotations

import copy
import gc
import logging
import weakref
from types import MethodType
from typing import Any

import numpy as np
import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from smorm.model import last_layer
from smorm.model.attention import AttentionPlan
from smorm.model.cpu.fuse import decoder_layers
from smorm.model.network import RewardNetwork
from smorm.model.verify import choose_layout, verify
from smorm.training.memory import LiveBytes
from smorm.trees.forest import Forest, grow
from tests.model.architectures import ARCHITECTURES, tiny
from tests.model.test_forest_equals_padded import adapted, sequences_of

TOLERANCE = 1e-5
LAYERS = 3
NOT_FUSED = ["qwen3", "gemma2", "gemma3_text", "phi3", "gpt_neox", "mixtral"]


def family() -> list[np.ndarray]:
    """Forks inside forks, equal sequences, a leaf inside of a chain and a stranger."""
    found = sequences_of("tree of 6")
    return [*found, found[0].copy(), found[1][:20], *sequences_of("singles")[:2]]


def network(name: str, lora: bool = False, **overrides: Any) -> RewardNetwork:
    backbone = tiny(name, **overrides)
    return RewardNetwork(adapted(backbone) if lora else backbone, rows=4, pad_id=0).train()


def set_ways(net: RewardNetwork, *, fuse: bool, pruned: bool) -> None:
    net.use_layout("forest", fast_layers=False)
    last_layer.set_layer_forwards(net.backbone, LAYERS, fuse=fuse, prune=pruned)


def run(net: RewardNetwork) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Scores and the gradients of every parameter that has one."""
    net.zero_grad()
    scores = net(net.arrange(family()))
    pairwise = torch.nn.functional.softplus(scores[1::2, 0] - scores[::2, 0])
    (pairwise.mean() + scores[:, 1:].square().mean()).backward()
    found = {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
    return scores.detach(), found


def assert_same(found: Any, expected: Any) -> None:
    assert expected[0].std() > 0.05, "the scores must differ for the comparison to mean anything"
    torch.testing.assert_close(found[0], expected[0], atol=TOLERANCE, rtol=0)
    assert found[1].keys() == expected[1].keys()
    for name, gradient in found[1].items():
        gap = float((gradient - expected[1][name]).abs().max())
        assert gap < TOLERANCE * max(1.0, float(gradient.abs().max())), f"{name}: {gap}"


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_pruning_changes_no_score_and_no_gradient(name: str, lora: bool) -> None:
    net = network(name, lora)
    set_ways(net, fuse=False, pruned=False)
    expected = run(net)
    for fuse in (False, True):
        set_ways(net, fuse=fuse, pruned=True)
        assert_same(run(net), expected)
    for fuse in (True, False):
        other = network(name, lora)
        other.load_state_dict(net.state_dict())
        set_ways(other, fuse=fuse, pruned=True)
        # Behind the choice of the layout, as training does it.
        other.checkpoint_activations()
        assert_same(run(other), expected)


@pytest.mark.parametrize("sinks", ["gpt_oss"])
def test_attention_sinks_and_windows_are_pruned_exactly(sinks: str) -> None:
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(0)
    config = AutoConfig.for_model(
        sinks, vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=LAYERS,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, num_local_experts=4,
        num_experts_per_tok=2, sliding_window=12, pad_token_id=0,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4},
    )  # fmt: skip
    backbone = AutoModel.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.normal_(std=0.3)
    net = RewardNetwork(backbone, rows=4, pad_id=0).train()
    set_ways(net, fuse=False, pruned=False)
    expected = run(net)
    assert float(expected[1]["backbone.layers.2.self_attn.sinks"].abs().max()) > 1e-6
    set_ways(net, fuse=False, pruned=True)
    assert_same(run(net), expected)
    assert verify(net).fast_layers


@pytest.mark.parametrize("name", NOT_FUSED)
def test_only_distinct_leaves_enter_the_last_feed_forward(name: str) -> None:
    net = network(name)
    net.use_layout("forest")
    rows: list[int] = []
    for module in decoder_layers(net.backbone, LAYERS):
        module.mlp.register_forward_pre_hook(
            lambda _, inputs: rows.append(inputs[0].numel() // inputs[0].shape[-1])
        )
    batch = net.arrange(family())
    net(batch)
    assert isinstance(batch, Forest)
    distinct = len({tuple(sequence.tolist()) for sequence in family()})
    assert distinct < len(family())
    assert rows == [batch.num_tokens] * (LAYERS - 1) + [distinct]


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_every_layer_is_counted_once_as_one_that_attends(name: str) -> None:
    net = network(name).eval()
    net.use_layout("forest")
    batch = net.arrange(family())
    assert isinstance(batch, Forest)
    plan = AttentionPlan(batch)
    with torch.no_grad():
        net.pooled_forest(plan)
    assert plan.calls == LAYERS


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_a_batch_may_go_through_again_the_other_way(name: str) -> None:
    net = network(name).eval()
    with torch.no_grad():
        net.use_layout("forest")
        batch = net.arrange(family())
        first, second = net(batch), net(batch)
        net.use_layout("forest", fast_layers=False)
        whole = net(batch)
    assert torch.equal(first, second)
    torch.testing.assert_close(first, whole, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_the_padded_layout_runs_as_transformers_has_it(name: str) -> None:
    net, untouched = network(name), network(name)
    untouched.load_state_dict(net.state_dict())
    net.use_layout("forest")
    net.use_layout("padded")
    scores, gradients = run(net)
    expected, others = run(untouched)
    assert torch.equal(scores, expected)
    assert all(torch.equal(gradient, others[key]) for key, gradient in gradients.items())


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma2"])
def test_whole_layers_leave_nothing_behind(name: str) -> None:
    net = network(name)
    net.use_layout("forest")
    assert any("forward" in vars(m) for m in decoder_layers(net.backbone, LAYERS))
    net.use_layout("forest", fast_layers=False)
    assert not any("forward" in vars(m) for m in net.modules())


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen3", "gemma2"])
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_a_copy_runs_its_own_weights(name: str, lora: bool) -> None:
    net = network(name, lora)
    net.use_layout("forest")
    expected = run(net)
    other = copy.deepcopy(net)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.3)
    shortened = run(other)
    assert_same(run(net), expected)
    other.use_layout("padded")
    assert_same(shortened, run(other))
    assert (shortened[0] - expected[0]).abs().max() > 0.01


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma2", "mixtral", "gpt_neox"])
def test_checkpointing_keeps_its_promise_with_shorter_layers(name: str) -> None:
    """Few bytes are alive between the passes, and the flags stay as the user set them."""

    def alive(checkpointing: bool) -> int:
        net = network(name)
        net.use_layout("forest")
        if checkpointing:
            net.checkpoint_activations()
        batch = net.arrange(sequences_of("tree of 16"))
        with LiveBytes() as live:
            scores = net(batch)
            found = live.live
        scores.sum().backward()
        flags = [m.gradient_checkpointing for m in decoder_layers(net.backbone, LAYERS)]
        assert flags == [checkpointing] * LAYERS
        return found

    assert alive(True) < 0.5 * alive(False)


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma2"])
def test_no_cycle_keeps_a_tensor_alive(name: str, checkpointing: bool) -> None:
    """A tensor in a reference cycle is freed by the garbage collector only, steps later."""
    net = network(name)
    net.use_layout("forest")
    if checkpointing:
        net.checkpoint_activations()
    run(net)  # makes what is made once
    net.zero_grad()
    batch = net.arrange(family())
    gc.collect()
    gc.disable()
    try:
        with LiveBytes() as live:
            net(batch).square().sum().backward()
            net.zero_grad()
            assert live.peak > 0
            assert live.live == 0
    finally:
        gc.enable()


@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_a_dropped_network_gives_its_weights_back_at_once(name: str) -> None:
    net = network(name)
    net.use_layout("forest")
    weight = weakref.ref(decoder_layers(net.backbone, LAYERS)[-1].mlp.gate_proj.weight)
    gc.disable()
    try:
        del net
        assert weight() is None
    finally:
        gc.enable()


def test_adapters_that_come_after_the_choice_take_part() -> None:
    net = network("llama")
    net.use_layout("forest")
    plain, _ = run(net)
    net.backbone = adapted(net.backbone)
    shortened = run(net)
    assert (shortened[0] - plain).abs().max() > 0.01
    net.use_layout("padded")
    assert_same(shortened, run(net))


def test_somebody_elses_hook_goes_on_seeing_every_call() -> None:
    net = network("llama")
    last = decoder_layers(net.backbone, LAYERS)[-1]
    seen = []

    def hooked(self: Any, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        seen.append(hidden_states.shape[1])
        return type(self).forward(self, hidden_states, *args, **kwargs)

    last.forward = MethodType(hooked, last)
    net.use_layout("forest")
    shortened = run(net)
    assert len(seen) == 1
    net.use_layout("padded")
    assert_same(shortened, run(net))
    assert len(seen) == 2


def test_a_layer_that_attends_by_itself_is_refused_by_name() -> None:
    class Ignoring(torch.nn.Module):
        """Takes the forest and looks at nothing but its input."""

        def forward(self, hidden_states: torch.Tensor, **_: Any) -> torch.Tensor:
            return hidden_states

    holder = torch.nn.Module()
    holder.layers = torch.nn.ModuleList([Ignoring()])
    last_layer.set_layer_forwards(holder, 1, fuse=True, prune=True)
    batch = grow(family())
    with pytest.raises(RuntimeError, match="does not attend through transformers' interface"):
        holder.layers[0](torch.zeros(1, batch.num_tokens, 32), plan=AttentionPlan(batch))


def test_a_decoder_that_needs_all_rows_runs_whole_and_it_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """GPT-2 gives its output the shape of its input, so its last layer cannot return fewer rows."""
    net = RewardNetwork(gpt2(), rows=4, pad_id=0).train()
    with caplog.at_level(logging.INFO, logger="smorm"):
        verdict = choose_layout(net)
    assert (verdict.layout, verdict.fast_layers, verdict.refused) == ("forest", False, ())
    told = [r.getMessage() for r in caplog.records if r.name.startswith("smorm")]
    assert any("layers run whole in the forest layout: run faster, it fails" in t for t in told)
    forest = run(net)
    net.use_layout("padded")
    assert_same(forest, run(net))


def gpt2() -> Any:
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(0)
    config = AutoConfig.for_model("gpt2", vocab_size=97, n_embd=32, n_layer=3, n_head=4)
    backbone = AutoModel.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for parameter in backbone.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.2)
    return backbone


class Smeared(LlamaDecoderLayer):
    """A layer that mixes each token's output with that of the token before it in its text."""

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        out = super().forward(hidden_states, *args, **kwargs)
        return out + 0.5 * torch.tanh(out[:, parents(kwargs.get("plan"), out.shape[1])])


def parents(plan: Any, rows: int) -> torch.Tensor:
    before = torch.arange(rows).sub(1).clamp_min(0)
    if isinstance(plan, AttentionPlan):
        forest = plan.batch
        assert isinstance(forest, Forest)
        for (first, _), ancestors in zip(forest.chains, forest.ancestors, strict=True):
            before[first] = ancestors[-1][1] - 1 if ancestors else first
    return before


def test_where_the_leaves_alone_do_not_suffice_layers_run_whole(
    caplog: pytest.LogCaptureFixture,
) -> None:
    net = network("llama")
    net.backbone.layers[-1].__class__ = Smeared
    with caplog.at_level(logging.INFO, logger="smorm"):
        verdict = choose_layout(net)
    assert (verdict.layout, verdict.fast_layers, verdict.refused) == ("forest", False, ())
    assert (net.layout, net.fast_layers) == ("forest", False)
    told = [r.getMessage() for r in caplog.records if r.name.startswith("smorm")]
    assert any("run faster, its hidden states differ" in t for t in told)
    forest = run(net)
    net.use_layout("padded")
    assert_same(forest, run(net))
    net.use_layout("forest", fast_layers=True)
    assert (run(net)[0] - forest[0]).abs().max() > 0.01, "the shorter way is wrong here indeed"
