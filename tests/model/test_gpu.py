"""The CUDA kernels (variable-length attention, FlexAttention) against the padded reference."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from smorm.arrays import Tokens
from smorm.model import attention
from smorm.model.attention import AttentionPlan
from smorm.model.flex import bucket
from smorm.model.gathered import gather_plan, plain_products
from smorm.model.network import Layout, RewardNetwork
from smorm.model.verify import choose_layout, verify
from smorm.training.memory import measure
from tests.model.architectures import tiny
from tests.model.test_cuda_plans import big_forest
from tests.model.test_forest_equals_padded import scores_and_gradients, sequences_of

pytestmark = pytest.mark.gpu
# Kernels take head sizes that are multiples of 8 (variable-length) and of at least 16 (flex).
SIZES = {"hidden_size": 64, "head_dim": 16, "num_attention_heads": 4, "num_key_value_heads": 2}
NAMES = ("llama", "mistral", "gemma2")
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2}


def network_of(name: str, dtype: torch.dtype) -> RewardNetwork:
    extra = {"query_pre_attn_scalar": 16} if name == "gemma2" else {}
    network = RewardNetwork(tiny(name, **SIZES, **extra).to(dtype), rows=4, pad_id=0)
    return network.to("cuda").train()


def relative_gap(one: torch.Tensor, other: torch.Tensor) -> float:
    """Largest difference in units of the reference's largest entry."""
    one, other = one.detach(), other.detach()
    gap = (one.float() - other.float()).abs().max()
    return float(gap / other.float().abs().max().clamp_min(1e-3))


def exact(network: RewardNetwork, sequences: list[Tokens]) -> Any:
    """Scores and gradients of the padded layout with the same weights in float32 on the CPU."""
    copy = RewardNetwork(network.backbone.__class__(network.backbone.config), 4, pad_id=0).train()
    state = {name: value.float().cpu() for name, value in network.state_dict().items()}
    copy.load_state_dict(state)
    return scores_and_gradients(copy.float(), "padded", sequences)


@pytest.fixture(autouse=True)
def full_precision() -> Any:
    """TensorFloat-32 would hide what is compared."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


@pytest.mark.parametrize("shape", ["pairs", "singles", "tree of 16"])
@pytest.mark.parametrize("layout", ["forest", "packed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_scores_and_gradients_are_those_of_the_reference(
    name: str, dtype: torch.dtype, layout: Layout, shape: str
) -> None:
    """In half precision the error must be about that of padding itself in half precision."""
    network, sequences = network_of(name, dtype), sequences_of(shape)
    expected, expected_gradients = exact(network, sequences)
    padded, padded_gradients = scores_and_gradients(network, "padded", sequences)
    scores, gradients = scores_and_gradients(network, layout, sequences)
    limit = TOLERANCE[dtype]
    assert relative_gap(scores.cpu(), expected) <= limit + 2 * relative_gap(padded.cpu(), expected)
    assert gradients.keys() == expected_gradients.keys()
    for key, gradient in gradients.items():
        reference = expected_gradients[key]
        allowed = limit + 2 * relative_gap(padded_gradients[key].cpu(), reference)
        assert relative_gap(gradient.cpu(), reference) <= allowed, key


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_verification_accepts_the_forest_on_the_device(name: str, dtype: torch.dtype) -> None:
    verdict = verify(network_of(name, dtype))
    assert verdict.layout == "forest", verdict.refused


@pytest.mark.parametrize("name", NAMES)
def test_gradient_checkpointing_recomputes_the_same_on_the_device(name: str) -> None:
    network, sequences = network_of(name, torch.bfloat16), sequences_of("tree of 6")
    _, plain = scores_and_gradients(network, "forest", sequences)
    network.checkpoint_activations()
    _, again = scores_and_gradients(network, "forest", sequences)
    for key, gradient in again.items():
        assert relative_gap(gradient, plain[key]) <= TOLERANCE[torch.bfloat16], key


def test_autocast_over_fp32_weights_takes_the_half_precision_kernel() -> None:
    network, sequences = network_of("llama", torch.float32), sequences_of("pairs")
    choose_layout(network)
    assert network.layout == "forest"
    reference = network(network.arrange(sequences))
    with torch.autocast("cuda", dtype=torch.bfloat16):
        scores = network(network.arrange(sequences))
    assert scores.dtype == torch.float32
    assert 0 < relative_gap(scores, reference) <= TOLERANCE[torch.bfloat16]


@pytest.mark.parametrize("call", ["plain", "window", "soft cap"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kernels_agree_with_plain_products_over_many_blocks(call: str, dtype: torch.dtype) -> None:
    """Long prompts, so that there are full, partial and empty blocks; outputs and gradients."""
    forest = big_forest(5, 3000).to("cuda")
    window, softcap = {"plain": (None, None), "window": (300, None), "soft cap": (None, 5.0)}[call]
    inputs = [torch.randn(1, n, forest.num_tokens, 64, device="cuda") for n in (8, 2, 2)]
    weight = torch.randn(1, forest.num_tokens, 8, 64, device="cuda")
    found: list[list[torch.Tensor]] = []
    for backend in ("plain products", "varlen" if softcap is None else "flex"):
        kind = torch.float32 if backend == "plain products" else dtype
        leaves = [x.to(dtype).to(kind).requires_grad_() for x in inputs]
        if backend == "plain products":
            out = plain_products(*leaves, gather_plan(forest), 0.125, window, softcap)
        else:
            plan = AttentionPlan(forest)
            out = attention.compute(*leaves, plan, 0.125, window, softcap)
        found.append([out, *torch.autograd.grad((out.float() * weight).sum(), leaves)])
    assert not attention._refused
    for one, other in zip(*found, strict=True):
        assert relative_gap(other, one) <= TOLERANCE[dtype]


def test_recompilation_is_bounded_by_the_sizes() -> None:
    torch._dynamo.reset()
    counters.clear()
    forests = [big_forest(seed, 200 + 90 * seed) for seed in range(20)]
    for forest in forests:
        moved = forest.to("cuda")
        inputs = [torch.randn(1, n, forest.num_tokens, 32, device="cuda") for n in (4, 2, 2)]
        leaves = [x.requires_grad_() for x in inputs]
        attention.compute(*leaves, AttentionPlan(moved), 0.2, None, 3.0).sum().backward()
    assert counters["stats"]["unique_graphs"] <= len({bucket(f.num_tokens) for f in forests})
    assert not attention._refused


def test_a_step_takes_the_memory_that_was_promised() -> None:
    network = network_of("llama", torch.float32)
    choose_layout(network)
    units = [sequences_of("pairs")[:2], sequences_of("pairs")[2:4]] * 400
    need = measure(network, units[:16], half=True)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    torch.cuda.reset_peak_memory_stats()
    batch = network.arrange([sequence for unit in units for sequence in unit])
    with torch.autocast("cuda", dtype=torch.bfloat16):
        network(batch).square().sum().backward()
    taken = torch.cuda.max_memory_allocated() - need.there
    assert taken <= 1.25 * (need.of(batch.num_tokens) - need.there)
