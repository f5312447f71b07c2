"""Each kernel against the rule written out: softmax over the dense mask in float64."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from smorm.model.attention import AttentionPlan, choose_backend, forest_attention
from smorm.model.gathered import gather_plan, plain_products
from smorm.trees.forest import Forest, grow
from tests.trees.sequences import dense_mask, random_family

HEAD = 16
SCALE = 0.3
SEEDS = range(4)


def tensors(forest: Forest, heads: int, groups: int, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Query, key and value with entries large enough for a soft cap to matter."""
    generator = torch.Generator().manual_seed(seed)
    rows = forest.num_tokens
    return tuple(
        torch.randn(1, count, rows, HEAD, generator=generator).mul(1.5).requires_grad_()
        for count in (heads, groups, groups)
    )


def reference(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    forest: Forest,
    window: int | None = None,
    softcap: float | None = None,
    sinks: torch.Tensor | None = None,
) -> torch.Tensor:
    """The definition, in float64: [1, T, H, D]."""
    repeat = query.shape[1] // key.shape[1]
    query, key, value = query.double(), key.double(), value.double()
    key, value = key.repeat_interleave(repeat, 1), value.repeat_interleave(repeat, 1)
    scores = query @ key.transpose(2, 3) * SCALE
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~dense_mask(forest, window), -math.inf)
    if sinks is not None:
        sink = sinks.double().view(1, -1, 1, 1).expand(*scores.shape[:3], 1)
        scores = torch.cat([scores, sink], -1)
    weights = scores.softmax(-1)[..., : key.shape[2]]
    return (weights @ value).transpose(1, 2)


def assert_equal_forward_and_backward(
    run: Any, expect: Any, inputs: tuple[torch.Tensor, ...]
) -> None:
    """Outputs and the gradients of every input agree within 1e-5."""
    expected = expect(*inputs)
    weight = torch.randn(expected.shape, generator=torch.Generator().manual_seed(9))
    wanted = torch.autograd.grad((expected * weight).sum(), inputs)
    found = run(*inputs)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)
    for one, other in zip(torch.autograd.grad((found * weight).sum(), inputs), wanted, strict=True):
        torch.testing.assert_close(
            one, other, atol=1e-5 * max(1.0, float(other.abs().max())), rtol=0
        )


def attended(forest: Forest, *inputs: torch.Tensor) -> torch.Tensor:
    """Through the interface, [1, T, H, D]."""
    module = torch.nn.Identity()
    return forest_attention(module, *inputs, None, SCALE, plan=AttentionPlan(forest))[0]


def small_shares(seed: int) -> Forest:
    """A forest with many short forks: deeper nesting than a real batch has."""
    return grow(random_family(seed, vocabulary=3), min_share=1)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (4, 2), (6, 1)])
@pytest.mark.parametrize("build", [small_shares, lambda seed: grow(random_family(seed))])
def test_the_flash_chains_and_rectangles_are_exact(
    build: Any, heads: int, groups: int, seed: int
) -> None:
    forest = build(seed)
    assert forest.rectangles
    assert_equal_forward_and_backward(
        lambda q, k, v: forest_attention(
            torch.nn.Identity(), q, k, v, None, SCALE, plan=AttentionPlan(forest)
        )[0],
        lambda q, k, v: reference(q, k, v, forest),
        tensors(forest, heads, groups, seed),
    )


CALLS: dict[str, dict[str, Any]] = {
    "plain": {},
    "window": {"window": 4},
    "window of one": {"window": 1},
    "soft cap": {"softcap": 1.5},
    "sinks": {"sinks": torch.linspace(-1, 2, 4)},
    "all": {"window": 5, "softcap": 2.0, "sinks": torch.linspace(-1, 2, 4)},
}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_gathered_chains_are_exact(groups: int, call: str, seed: int) -> None:
    forest, settings = small_shares(seed), CALLS[call]
    assert_equal_forward_and_backward(
        lambda q, k, v: plain_products(q, k, v, gather_plan(forest), SCALE, **settings),
        lambda q, k, v: reference(q, k, v, forest, **settings),
        tensors(forest, 4, groups, seed),
    )


def test_a_sink_learns_too() -> None:
    forest = small_shares(0)
    inputs = (*tensors(forest, 4, 2), torch.linspace(-1, 2, 4).requires_grad_())
    assert_equal_forward_and_backward(
        lambda q, k, v, s: plain_products(q, k, v, gather_plan(forest), SCALE, sinks=s),
        lambda q, k, v, s: reference(q, k, v, forest, sinks=s),
        inputs,
    )


def test_packing_without_sharing_is_a_row_of_strangers() -> None:
    forest = grow(random_family(1), share=False)
    assert forest.rectangles == []
    assert_equal_forward_and_backward(
        lambda q, k, v: forest_attention(
            torch.nn.Identity(), q, k, v, None, SCALE, plan=AttentionPlan(forest)
        )[0],
        lambda q, k, v: reference(q, k, v, forest),
        tensors(forest, 4, 2),
    )


@pytest.mark.parametrize("backend", ["cpu_blocks", "gathered"])
def test_half_precision_stays_close_and_comes_back_in_its_own(backend: str) -> None:
    forest = grow(random_family(2))
    inputs = tuple(t.detach().bfloat16() for t in tensors(forest, 4, 2))
    settings = {} if backend == "cpu_blocks" else {"softcap": 50.0}
    assert choose_backend(inputs[0], None, settings.get("softcap"), None) == backend
    found, _ = forest_attention(
        torch.nn.Identity(), *inputs, None, SCALE, plan=AttentionPlan(forest), **settings
    )
    assert found.dtype == torch.bfloat16
    expected = reference(*inputs, forest, **settings)
    torch.testing.assert_close(found.double(), expected, atol=0.05, rtol=0.05)


# Which kernel, and what is refused


def on(device: str, dtype: torch.dtype = torch.float32) -> Any:
    """What the choice looks at, of a tensor on a device that need not be here."""
    return SimpleNamespace(device=torch.device(device), dtype=dtype)


@pytest.mark.parametrize(
    ("query", "window", "softcap", "sinks", "expected"),
    [
        (on("cpu"), None, None, None, "cpu_blocks"),
        (on("cpu", torch.bfloat16), None, None, None, "cpu_blocks"),
        (on("cpu"), 12, None, None, "gathered"),
        (on("cpu"), None, 50.0, None, "gathered"),
        (on("cpu"), None, None, torch.ones(4), "gathered"),
        (on("cuda", torch.bfloat16), None, None, None, "varlen"),
        (on("cuda", torch.float16), 12, None, None, "varlen"),
        (on("cuda", torch.bfloat16), None, 50.0, None, "flex"),
        (on("cuda"), None, None, None, "flex"),
        (on("cuda"), 12, 50.0, None, "flex"),
        (on("cuda", torch.bfloat16), None, None, torch.ones(4), "gathered"),
        (on("mps"), None, None, None, "gathered"),
    ],
)
def test_the_kernel_follows_device_precision_and_what_is_asked(
    query: Any, window: int | None, softcap: float | None, sinks: Any, expected: str
) -> None:
    assert choose_backend(query, window, softcap, sinks) == expected


def test_a_window_longer_than_the_text_is_no_window() -> None:
    forest = grow(random_family(0))
    inputs = tensors(forest, 4, 2)
    call = {"module": torch.nn.Identity(), "scaling": SCALE, "plan": AttentionPlan(forest)}
    wide, _ = forest_attention(
        query=inputs[0],
        key=inputs[1],
        value=inputs[2],
        sliding_window=forest.max_position + 1,
        **call,
    )
    none, _ = forest_attention(query=inputs[0], key=inputs[1], value=inputs[2], **call)
    assert torch.equal(wide, none)
    narrow, _ = forest_attention(
        query=inputs[0], key=inputs[1], value=inputs[2], sliding_window=forest.max_position, **call
    )
    assert not torch.allclose(narrow, none)


def test_the_scale_is_the_usual_one_where_none_is_given() -> None:
    forest = grow(random_family(0))
    query, key, value = tensors(forest, 4, 2)
    module = torch.nn.Identity()
    usual, _ = forest_attention(module, query, key, value, plan=AttentionPlan(forest))
    given, _ = forest_attention(
        module, query, key, value, scaling=HEAD**-0.5, plan=AttentionPlan(forest)
    )
    assert torch.equal(usual, given)


def test_a_call_that_lost_the_forest_or_drops_out_is_refused() -> None:
    forest = grow(random_family(0))
    query, key, value = tensors(forest, 4, 2)
    module = torch.nn.Identity()
    with pytest.raises(RuntimeError, match="did not reach this attention call"):
        forest_attention(module, query, key, value)
    with pytest.raises(RuntimeError, match="did not reach this attention call"):
        forest_attention(module, query[:, :, :-1], key, value, plan=AttentionPlan(forest))
    with pytest.raises(RuntimeError, match="attention dropout is not possible"):
        forest_attention(module, query, key, value, dropout=0.1, plan=AttentionPlan(forest))
