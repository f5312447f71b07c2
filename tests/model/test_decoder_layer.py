"""A decoder layer as one function against the modules that it stands for."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smorm.model.attention import AttentionPlan
from smorm.model.cpu.fuse import decoder_layers, fusible, run_fused
from smorm.model.network import RewardNetwork
from smorm.trees.forest import Forest, find_leaves, grow
from tests.model.architectures import ARCHITECTURES, tiny
from tests.model.test_forest_equals_padded import adapted, scores_and_gradients, sequences_of
from tests.trees.sequences import dense_mask, random_family

LAYERS = 3
# name -> (architecture, changes to its config)
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama, a key head for each query head": ("llama", {"num_key_value_heads": 4}),
    "llama, one key head": ("llama", {"num_key_value_heads": 1}),
    "llama, SmolLM's odd heads": (
        "llama",
        {"hidden_size": 36, "num_attention_heads": 9, "num_key_value_heads": 3},
    ),
    "llama, rotary scaled with length": (
        "llama",
        {
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 1e4,
                "factor": 4.0,
                "original_max_position_embeddings": 16,
            }
        },
    ),
    "mistral, wide heads": ("mistral", {"sliding_window": None, "head_dim": 12}),
    "mistral, a window beyond the text": ("mistral", {"sliding_window": 200}),
    "qwen2, biases": ("qwen2", {}),
}
FUSED = [pytest.param(*shape, id=name) for name, shape in SHAPES.items()]


def backbone_of(name: str, changes: dict[str, Any], seed: int = 0) -> Any:
    """A tiny backbone whose biases and norms are not zeros and ones."""
    backbone = tiny(name, seed, **changes)
    with torch.no_grad():
        for key, parameter in backbone.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn(parameter.shape) * (0.5 if "bias" in key else 0.2))
    return backbone


def network(name: str, changes: dict[str, Any] | None = None, seed: int = 0) -> RewardNetwork:
    return RewardNetwork(backbone_of(name, changes or {}, seed), rows=4, pad_id=0).train()


def fused_layers(net: RewardNetwork, sequences: list[np.ndarray]) -> int:
    """Layers whose norm is not called on its own when the sequences go through."""
    plain: set[torch.nn.Module] = set()
    norms: list[Any] = [m.input_layernorm for m in decoder_layers(net.backbone, LAYERS)]

    def counted(norm: Any, hidden: torch.Tensor) -> torch.Tensor:
        plain.add(norm)
        return type(norm).forward(norm, hidden)

    for norm in norms:  # not by hooks: a layer that is watched runs as it is
        norm.forward = partial(counted, norm)
    net(net.arrange(sequences))
    for norm in norms:
        del norm.forward
    return LAYERS - len(plain)


def plain_layer(module: Any, hidden: torch.Tensor, forest: Forest, rotary: Any) -> torch.Tensor:
    """transformers' own layer under the mask written out."""
    module.self_attn.config._attn_implementation = "eager"
    mask = torch.zeros(forest.num_tokens, forest.num_tokens)
    mask.masked_fill_(~dense_mask(forest), torch.finfo(torch.float32).min)
    out: torch.Tensor = type(module).forward(
        module, hidden, attention_mask=mask[None, None], position_embeddings=rotary
    )
    return out


def layer_inputs(backbone: Any, forest: Forest) -> tuple[torch.Tensor, Any]:
    width = backbone.config.hidden_size
    generator = torch.Generator().manual_seed(5)
    hidden = torch.randn(1, forest.num_tokens, width, generator=generator)
    return hidden, backbone.rotary_emb(hidden, forest.positions[None])


def gradients_of(out: torch.Tensor, module: Any, hidden: torch.Tensor) -> dict[str, torch.Tensor]:
    direction = torch.randn(out.shape, generator=torch.Generator().manual_seed(9))
    named = {"hidden": hidden, **dict(module.named_parameters())}
    found = torch.autograd.grad((out * direction).sum(), list(named.values()))
    return dict(zip(named, found, strict=True))


def assert_all_near(found: dict[str, Any], expected: dict[str, Any], share: float = 1e-5) -> None:
    assert found.keys() == expected.keys()
    for name, one in found.items():
        other = expected[name].detach()
        gap = float((one.detach().float() - other.float()).abs().max())
        assert gap <= share * max(1.0, float(other.abs().max())), f"{name}: {gap}"


# Which layers are taken


@pytest.mark.parametrize(("name", "changes"), FUSED)
def test_layers_of_the_family_run_as_one_function(name: str, changes: dict[str, Any]) -> None:
    net = network(name, changes)
    assert all(fusible(module) for module in decoder_layers(net.backbone, LAYERS))
    net.use_layout("forest")
    assert fused_layers(net, sequences_of("pairs")) == LAYERS
    net.use_layout("forest", fast_layers=False)
    assert fused_layers(net, sequences_of("pairs")) == 0
    net.use_layout("packed")
    assert fused_layers(net, sequences_of("pairs")) == LAYERS


@pytest.mark.parametrize("name", sorted({*ARCHITECTURES} - {"llama", "mistral", "qwen2"}))
def test_other_architectures_keep_their_modules(name: str) -> None:
    layers = decoder_layers(tiny(name), LAYERS)
    assert len(layers) == LAYERS
    assert not any(fusible(module) for module in layers)


OTHERWISE: dict[str, dict[str, Any]] = {
    "biases in all projections": {"attention_bias": True},
    "biases in the feed-forward": {"mlp_bias": True},
    "another activation": {"hidden_act": "gelu"},
}


@pytest.mark.parametrize("changes", OTHERWISE.values(), ids=list(OTHERWISE))
def test_a_llama_with_other_parts_keeps_its_modules(changes: dict[str, Any]) -> None:
    net = network("llama", changes)
    assert not any(fusible(module) for module in decoder_layers(net.backbone, LAYERS))
    net.use_layout("forest")
    assert fused_layers(net, sequences_of("pairs")) == 0


def test_adapters_keep_the_modules_and_merging_frees_the_way_again() -> None:
    wrapped = adapted(tiny("llama"))
    assert not any(fusible(module) for module in decoder_layers(wrapped, LAYERS))
    assert all(fusible(m) for m in decoder_layers(wrapped.merge_and_unload(), LAYERS))


def test_a_class_of_the_users_own_is_not_taken_for_what_it_looks_like() -> None:
    backbone = tiny("llama")
    layers = decoder_layers(backbone, LAYERS)
    layers[0].__class__ = type("Mine", (type(layers[0]),), {})
    layers[1].mlp.__class__ = type("Mine", (type(layers[1].mlp),), {})
    layers[2].self_attn.__class__ = type("Mine", (type(layers[2].self_attn),), {})
    assert not any(fusible(module) for module in layers)


@pytest.mark.parametrize("name", ["mistral", "qwen2"])
def test_a_window_shorter_than_the_text_goes_the_plain_way(name: str) -> None:
    changes: dict[str, Any] = {"sliding_window": 12}
    if name == "qwen2":
        changes |= {
            "use_sliding_window": True,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        }
    net = network(name, changes)
    net.use_layout("forest")
    full = 1 if name == "qwen2" else 0
    assert fused_layers(net, [np.arange(3, 14)]) == LAYERS, "11 tokens fit in the window"
    assert fused_layers(net, [np.arange(3, 15)]) == LAYERS, "12 tokens fit as well"
    assert fused_layers(net, [np.arange(3, 16)]) == full
    expected = scores_and_gradients(net, "padded", sequences_of("pairs"))
    found = scores_and_gradients(net, "forest", sequences_of("pairs"))
    torch.testing.assert_close(found[0], expected[0], atol=1e-5, rtol=0)
    assert_all_near(found[1], expected[1])


# One layer


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("only_leaves", [False, True], ids=["all rows", "leaves"])
@pytest.mark.parametrize(("name", "changes"), FUSED)
def test_output_and_every_gradient_are_the_plain_layers(
    name: str, changes: dict[str, Any], only_leaves: bool, seed: int
) -> None:
    backbone = backbone_of(name, changes, seed)
    module: Any = backbone.layers[1]
    forest = grow(random_family(seed))
    hidden, rotary = layer_inputs(backbone, forest)
    hidden.requires_grad_()
    expected = plain_layer(module, hidden, forest, rotary)
    if only_leaves:
        expected = expected[:, find_leaves(forest).rows]
    wanted = gradients_of(expected, module, hidden)
    found = run_fused(module, hidden, AttentionPlan(forest), rotary, only_leaves=only_leaves)
    assert found.shape == expected.shape
    assert_all_near({"out": found}, {"out": expected})
    assert_all_near(gradients_of(found, module, hidden), wanted)


@pytest.mark.parametrize("only_leaves", [False, True], ids=["all rows", "leaves"])
def test_without_gradients_the_output_is_the_same(only_leaves: bool) -> None:
    backbone = backbone_of("qwen2", {})
    module: Any = backbone.layers[1]
    forest = grow(random_family(0))
    hidden, rotary = layer_inputs(backbone, forest)
    expected = run_fused(module, hidden, AttentionPlan(forest), rotary, only_leaves=only_leaves)
    before = hidden.clone()
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            found = run_fused(
                module, hidden, AttentionPlan(forest), rotary, only_leaves=only_leaves
            )
        assert not found.requires_grad
        torch.testing.assert_close(found, expected.detach(), atol=1e-6, rtol=0)
    assert torch.equal(hidden, before)


TRAINED = {
    "norms": ("layernorm",),
    "query and value": ("q_proj", "v_proj"),
    "keys' biases": ("k_proj.bias",),
    "feed-forward": ("mlp",),
    "one matrix": ("up_proj",),
}


@pytest.mark.parametrize("parts", TRAINED.values(), ids=list(TRAINED))
def test_frozen_weights_get_no_gradient_and_the_others_the_same(parts: tuple[str, ...]) -> None:
    net = network("qwen2")
    sequences = sequences_of("tree of 6")
    expected = scores_and_gradients(net, "forest", sequences)[1]
    for key, parameter in net.backbone.named_parameters():
        parameter.requires_grad_("layers" in key and any(part in key for part in parts))
        parameter.grad = None
    found = scores_and_gradients(net, "forest", sequences)[1]
    assert any(part in key for part in parts for key in found)
    trained = {key for key, parameter in net.named_parameters() if parameter.requires_grad}
    assert found.keys() == trained
    assert_all_near(found, {key: expected[key] for key in trained}, 1e-6)


def test_a_frozen_backbone_leaves_only_the_heads_gradient() -> None:
    net = network("llama")
    expected = scores_and_gradients(net, "forest", sequences_of("pairs"))[1]["head.weight"]
    net.backbone.requires_grad_(False)
    net.zero_grad(set_to_none=True)
    found = scores_and_gradients(net, "forest", sequences_of("pairs"))[1]
    assert list(found) == ["head.weight"]
    torch.testing.assert_close(found["head.weight"], expected, atol=1e-6, rtol=0)


def saved_bytes(net: RewardNetwork, batch: Any) -> int:
    """Bytes that autograd keeps for the backward pass, parameters not counted."""
    known = {p.untyped_storage().data_ptr() for p in net.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        scores = net(batch)
    scores.sum().backward()
    return sum(kept.values())


def test_less_is_kept_for_the_backward_pass_than_by_modules() -> None:
    net = network("llama")
    net.use_layout("forest", fast_layers=False)
    whole = saved_bytes(net, net.arrange(sequences_of("tree of 16")))
    net.use_layout("forest")
    assert saved_bytes(net, net.arrange(sequences_of("tree of 16"))) < 0.8 * whole


@pytest.mark.parametrize(("name", "changes"), FUSED)
def test_checkpointed_layers_give_equal_bits(name: str, changes: dict[str, Any]) -> None:
    net = network(name, changes)
    sequences = sequences_of("tree of 6")
    scores, gradients = scores_and_gradients(net, "forest", sequences)
    net.checkpoint_activations()
    again, recomputed = scores_and_gradients(net, "forest", sequences)
    assert torch.equal(again, scores)
    assert recomputed.keys() == gradients.keys()
    assert all(torch.equal(one, gradients[key]) for key, one in recomputed.items())


def test_two_micro_batches_add_up() -> None:
    net = network("qwen2")
    net.use_layout("forest")
    sequences = sequences_of("pairs")

    def gradients(parts: list[list[np.ndarray]]) -> dict[str, torch.Tensor]:
        net.zero_grad(set_to_none=True)
        for part in parts:
            net(net.arrange(part)).square().sum().backward()
        return {key: p.grad.clone() for key, p in net.named_parameters() if p.grad is not None}

    assert_all_near(gradients([sequences[:2], sequences[2:]]), gradients([sequences]))


def test_one_forest_through_two_passes_adds_its_gradient_twice() -> None:
    net = network("llama")
    net.use_layout("forest")
    batch = net.arrange(sequences_of("pairs"))
    net(batch).sum().backward()
    once = {key: p.grad.clone() for key, p in net.named_parameters() if p.grad is not None}
    net(batch).sum().backward()
    for key, parameter in net.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, 2 * once[key], atol=1e-4, rtol=1e-5)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 1000), st.randoms(use_true_random=False))
def test_scores_do_not_depend_on_order_or_company(seed: int, random: Any) -> None:
    net = network("llama").eval()
    net.use_layout("forest")
    sequences = random_family(seed)
    order = list(range(len(sequences)))
    random.shuffle(order)
    with torch.no_grad():
        scores = net(net.arrange(sequences))
        shuffled = net(net.arrange([sequences[i] for i in order]))
        alone = torch.cat([net(net.arrange([sequence])) for sequence in sequences])
    torch.testing.assert_close(shuffled, scores[order], atol=1e-5, rtol=0)
    torch.testing.assert_close(alone, scores, atol=1e-5, rtol=0)


# Half precision

WIDER = {"hidden_size": 64, "intermediate_size": 96, "num_key_value_heads": 2}


@pytest.mark.parametrize("weights", ["autocast", "bf16 weights"])
@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_in_half_precision_the_error_is_that_of_padded_transformers(
    name: str, weights: str
) -> None:
    """Root mean square over seeds of the distance to the fp32 truth, scores and gradients."""
    errors: dict[tuple[str, str], list[float]] = {}
    for seed in range(6):
        net = network(name, WIDER, seed)
        sequences = sequences_of("tree of 6") + random_family(seed)
        if weights == "bf16 weights":  # the truth has the rounded weights too
            net.backbone.bfloat16().float()
        truth = scores_and_gradients(net, "padded", sequences)
        if weights == "bf16 weights":
            net.backbone.bfloat16()
        for layout in ("padded", "forest"):
            with torch.autocast("cpu", torch.bfloat16, enabled=weights == "autocast"):
                scores, gradients = scores_and_gradients(net, layout, sequences)  # type: ignore[arg-type]
            assert gradients.keys() == truth[1].keys()
            kinds = {"scores": (scores, truth[0])}
            kinds |= {
                kind: (flat(gradients, part), flat(truth[1], part))
                for kind, part in (("matrices", "proj"), ("norms", "norm"), ("ids", "embed"))
            }
            for kind, (one, other) in kinds.items():
                gap = float((one - other).norm() / other.norm())
                errors.setdefault((kind, layout), []).append(gap)
    for kind in ("scores", "matrices", "norms", "ids"):
        ours, theirs = (
            math.sqrt(np.square(errors[kind, one]).mean()) for one in ("forest", "padded")
        )
        assert 0 < ours <= 1.3 * theirs, f"{kind}: {ours:.2e} against {theirs:.2e}"


def flat(gradients: dict[str, torch.Tensor], part: str) -> torch.Tensor:
    return torch.cat([g.float().flatten() for key, g in gradients.items() if part in key])


def test_gradients_come_in_the_weights_precision() -> None:
    net = network("llama")
    net.backbone.bfloat16()
    gradients = scores_and_gradients(net, "forest", sequences_of("pairs"))[1]
    assert fused_layers(net, sequences_of("pairs")) == LAYERS
    for key, gradient in gradients.items():
        assert gradient.dtype == (torch.float32 if key == "head.weight" else torch.bfloat16)


def test_double_precision_is_not_rounded_to_single() -> None:
    net = network("llama")
    net.backbone.double()
    net.use_layout("forest")
    assert fused_layers(net, sequences_of("pairs")) == 0


# Training


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
def test_five_steps_of_training_have_the_padded_losses(checkpointing: bool) -> None:
    def losses(layout: Any) -> list[float]:
        net = network("llama")
        net.head.weight.data.normal_(std=0.1, generator=torch.Generator().manual_seed(3))
        net.use_layout(layout)
        if checkpointing:
            net.checkpoint_activations()
        optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
        found = []
        for step in range(5):
            rng = np.random.default_rng(step)
            prompt = rng.integers(3, 97, 25).astype(np.int32)
            tails = [rng.integers(3, 97, n).astype(np.int32) for n in (5, 9, 12, 3)]
            scores = net(net.arrange([np.concatenate([prompt, tail]) for tail in tails]))
            loss = torch.nn.functional.softplus(scores[1::2, 0] - scores[::2, 0]).mean()
            loss = loss + (scores[:, 1:] - 0.5).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found.append(float(loss.detach()))
        return found

    padded, forest = losses("padded"), losses("forest")
    assert len(set(padded)) == 5
    assert max(abs(one - other) for one, other in zip(padded, forest, strict=True)) < 1e-5


def test_a_hook_on_a_part_of_a_layer_goes_on_seeing_every_call() -> None:
    network = RewardNetwork(tiny("llama"), rows=2, pad_id=0)
    network.use_layout("forest")
    forest = network.arrange([np.arange(1, 30, dtype=np.int32)])
    before = network(forest)
    seen: list[int] = []
    module = network.backbone.layers[0].mlp
    handle = module.register_forward_hook(lambda *call: seen.append(call[2].shape[1]))
    watched = network(forest)
    handle.remove()
    assert seen == [29]
    assert torch.allclose(watched, before, atol=1e-5)
    network(forest)
    assert seen == [29]
