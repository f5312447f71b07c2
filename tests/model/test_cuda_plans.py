"""What the CUDA kernels are told to compute, checked without a CUDA device: cell by cell against
the mask, and by running the same calls where a CPU can."""

from __future__ import annotations

import logging
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._dynamo.utils import counters
from torch.utils.checkpoint import checkpoint

from smorm.model import attention
from smorm.model.attention import AttentionPlan
from smorm.model.flex import (
    BLOCK,
    BlockLists,
    block_lists,
    block_mask,
    bucket,
    flex,
    padded_rule,
)
from smorm.model.gathered import STEP, GatherRows, gather_plan, missing, varlen, varlen_plan
from smorm.trees.forest import Forest, grow
from tests.model.test_attention import (
    SCALE,
    assert_equal_forward_and_backward,
    reference,
    small_shares,
    tensors,
)
from tests.trees.sequences import dense_mask, random_family

SEEDS = range(4)


def big_forest(seed: int, rows: int) -> Forest:
    """Prompts of very different length with 1 to 5 answers, some of which begin alike, so that
    trees lie across the borders of blocks in every way; about `rows` rows."""
    rng = np.random.default_rng(seed)

    def draw(longest: int) -> np.ndarray:
        return rng.integers(0, 9000, int(rng.integers(9, longest))).astype(np.int32)

    found: list[np.ndarray] = []
    while sum(map(len, found)) < rows:
        prompt = draw(int(rng.choice([30, 200, 900])))
        stem = np.concatenate([prompt, draw(60)])
        found += [np.concatenate([prompt, draw(150)]) for _ in range(int(rng.integers(1, 4)))]
        found += [np.concatenate([stem, draw(90)]) for _ in range(int(rng.integers(0, 3)))]
    return grow(found)


# FlexAttention's block lists


def padded_mask(forest: Forest, window: int | None) -> np.ndarray:
    """The mask of the padded rows, [N, N]: a padded row sees itself."""
    size, rows = bucket(forest.num_tokens), forest.num_tokens
    mask = np.eye(size, dtype=np.bool_)
    mask[:rows, :rows] = dense_mask(forest, window).numpy()
    return mask


def by_counting(mask: np.ndarray) -> BlockLists:
    """The block lists by counting allowed cells."""
    blocks = len(mask) // BLOCK
    count = mask.reshape(blocks, BLOCK, blocks, BLOCK).sum((1, 3))
    return BlockLists((count > 0) & (count < BLOCK**2), count == BLOCK**2)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10_000),
    st.integers(20, 2500),
    st.none() | st.integers(1, 1200),
)
def test_the_block_lists_are_exactly_the_blocks_of_the_mask(
    seed: int, rows: int, window: int | None
) -> None:
    forest = big_forest(seed, rows)
    lists, counted = block_lists(forest, window), by_counting(padded_mask(forest, window))
    assert np.array_equal(lists.partial | lists.full, counted.partial | counted.full)
    assert np.array_equal(lists.full, counted.full)


def test_a_long_prompt_has_full_blocks_and_strangers_leave_most_empty() -> None:
    rng = np.random.default_rng(0)
    prompt = rng.integers(0, 9000, 1000).astype(np.int32)
    tails = [rng.integers(0, 9000, 300).astype(np.int32) for _ in range(3)]
    one = block_lists(grow([np.concatenate([prompt, tail]) for tail in tails]))
    assert one.full.sum() > one.partial.sum() > 0
    strangers = [rng.integers(0, 9000, 128).astype(np.int32) for _ in range(24)]
    apart = block_lists(grow(strangers))
    assert (apart.partial | apart.full).mean() < 0.1


@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("seed", SEEDS)
def test_the_rule_inside_a_block_is_the_mask_for_every_cell(seed: int, window: int | None) -> None:
    forest = small_shares(seed)
    mask = block_mask(forest, window)
    rows = torch.arange(bucket(forest.num_tokens))
    query, key = torch.meshgrid(rows, rows, indexing="ij")
    found = mask.mask_mod(None, None, query, key)
    assert np.array_equal(found.numpy(), padded_mask(forest, window))


def test_the_mask_keeps_its_lists_and_is_made_once() -> None:
    forest = big_forest(3, 1500)
    plan = AttentionPlan(forest)
    mask = plan.block_mask(None)
    assert plan.block_mask(None) is mask
    assert plan.block_mask(4) is not mask
    lists = block_lists(forest)
    listed = np.zeros_like(lists.full)
    for row, count in enumerate(mask.full_kv_num_blocks[0, 0].tolist()):
        listed[row, mask.full_kv_indices[0, 0, row, :count].numpy()] = True
    assert np.array_equal(listed, lists.full)
    assert np.array_equal(mask.to_dense()[0, 0].numpy().astype(bool), lists.partial | lists.full)


def test_padded_rows_end_at_themselves() -> None:
    forest = grow(random_family(0))
    end, positions = padded_rule(forest)
    rows = forest.num_tokens
    assert len(end) == len(positions) == 512
    assert end[rows:].tolist() == list(range(rows + 1, 513))
    assert not positions[rows:].any()


def test_few_sizes_are_ever_compiled() -> None:
    sizes = sorted({bucket(rows) for rows in range(1, 32_769)})
    assert len(sizes) <= 12
    assert all(size % BLOCK == 0 for size in sizes)
    assert all(bucket(size) == size for size in sizes)
    assert all(rows <= bucket(rows) <= max(512, 1.5 * rows + 512) for rows in range(1, 32_769, 7))


# FlexAttention, compiled for a CPU (which has no backward)

CALLS: dict[str, dict[str, Any]] = {
    "plain": {"window": None, "softcap": None},
    "window": {"window": 33, "softcap": None},
    "soft cap": {"window": None, "softcap": 1.5},
    "both": {"window": 33, "softcap": 1.5},
}


def needs_a_compiler() -> None:
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except (InvalidCxxCompiler, RuntimeError):
        pytest.skip("compiling FlexAttention for a CPU needs a C++ compiler: there is none here")


@pytest.mark.slow
@pytest.mark.parametrize("call", CALLS)
def test_compiled_flex_gives_what_the_mask_gives(call: str) -> None:
    needs_a_compiler()
    for seed, rows in ((1, 100), (2, 700)):
        forest = big_forest(seed, rows)
        inputs = tuple(t.detach() for t in tensors(forest, 4, 2))
        with torch.no_grad():
            mask = block_mask(forest, CALLS[call]["window"])
            found = flex(*inputs, mask, SCALE, CALLS[call]["softcap"])
            expected = reference(*inputs, forest, **CALLS[call])
        torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_forty_forests_compile_no_more_than_their_sizes() -> None:
    needs_a_compiler()
    torch._dynamo.reset()
    counters.clear()
    forests = [big_forest(seed, 60 + 35 * seed) for seed in range(40)]
    with torch.no_grad():
        for forest in forests:
            query, key, value = (t.detach() for t in tensors(forest, 2, 1))
            flex(query, key, value, block_mask(forest, None), SCALE, None)
    sizes = {bucket(forest.num_tokens) for forest in forests}
    assert len({forest.num_tokens for forest in forests}) > 30
    assert len(sizes) >= 3
    assert counters["stats"]["unique_graphs"] == len(sizes)


# Variable-length attention


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("seed", SEEDS)
def test_the_gathered_plan_is_the_mask_cell_by_cell(seed: int, window: int | None) -> None:
    """Simulates the kernel: query i of a run of n sees the keys that end with it, causally."""
    forest = small_shares(seed)
    plan = varlen_plan(gather_plan(forest))
    index, cu_query, cu_key = plan.index, plan.cu_query, plan.cu_key
    assert cu_query.dtype == cu_key.dtype == torch.int32
    assert (int(cu_query[-1]), int(cu_key[-1])) == (forest.num_tokens, len(index))
    for bound, cumulative in ((plan.max_query, cu_query), (plan.max_key, cu_key)):
        assert type(bound) is int
        assert bound % STEP == 0
        assert 0 <= bound - int(cumulative.diff().max()) < STEP
    count = torch.zeros(forest.num_tokens, forest.num_tokens, dtype=torch.long)
    for run in range(len(cu_query) - 1):
        rows = range(int(cu_query[run]), int(cu_query[run + 1]))
        keys = index[int(cu_key[run]) : int(cu_key[run + 1])]
        for i, row in enumerate(rows):
            past = len(keys) - len(rows) + i + 1
            count[row, keys[max(0, past - window) if window else 0 : past]] += 1
    assert torch.equal(count, dense_mask(forest, window).long())


def by_the_book(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_query: torch.Tensor,
    cu_key: torch.Tensor,
    max_query: int,
    max_key: int,
    *,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
) -> torch.Tensor:
    """`varlen_attn` as its documentation has it, in plain products: query [T, H, D]; causality and
    windows aligned to the ends of queries and keys."""
    assert enable_gqa == (query.shape[1] != key.shape[1])
    repeat = query.shape[1] // key.shape[1]
    parts = []
    for run in range(len(cu_query) - 1):
        q = query[int(cu_query[run]) : int(cu_query[run + 1])].transpose(0, 1)
        k, v = (
            x[int(cu_key[run]) : int(cu_key[run + 1])].transpose(0, 1).repeat_interleave(repeat, 0)
            for x in (key, value)
        )
        assert q.shape[1] <= max_query
        assert k.shape[1] <= max_key
        row = torch.arange(q.shape[1])[:, None] + k.shape[1] - q.shape[1]
        behind = row - torch.arange(k.shape[1])[None, :]
        allowed = behind >= -window_size[1]
        if window_size[0] >= 0:
            allowed &= behind <= window_size[0]
        scores = (q @ k.transpose(1, 2) * scale).masked_fill(~allowed, -math.inf)
        parts.append((scores.softmax(-1) @ v).transpose(0, 1))
    return torch.cat(parts)


def of_an_older_release(*arguments: Any, scale: float, window_size: tuple[int, int]) -> Any:
    """Without `enable_gqa`: fewer key heads are taken as they are."""
    gqa = arguments[0].shape[1] != arguments[1].shape[1]
    return by_the_book(*arguments, scale=scale, window_size=window_size, enable_gqa=gqa)


@pytest.mark.parametrize("kernel", [by_the_book, of_an_older_release])
@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_varlen_calls_give_output_and_gradients_of_the_mask(
    groups: int, window: int | None, kernel: Any
) -> None:
    for seed in SEEDS:
        forest = small_shares(seed)
        assert_equal_forward_and_backward(
            lambda q, k, v, forest=forest: varlen(
                q, k, v, varlen_plan(gather_plan(forest)), SCALE, window, kernel
            ),
            lambda q, k, v, forest=forest: reference(q, k, v, forest, window),
            tensors(forest, 4, groups, seed),
        )


@pytest.mark.parametrize("window", [None, 4])
def test_recomputed_in_the_backward_pass_varlen_gives_the_same_gradients(
    window: int | None,
) -> None:
    forest = small_shares(2)
    inputs = tensors(forest, 4, 2)
    plan = varlen_plan(gather_plan(forest))

    def run(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return varlen(q, k, v, plan, SCALE, window, by_the_book)

    plain = torch.autograd.grad(run(*inputs).square().sum(), inputs)
    again = checkpoint(run, *inputs, use_reentrant=False)
    for one, other in zip(torch.autograd.grad(again.square().sum(), inputs), plain, strict=True):
        assert torch.equal(one, other)


def test_gradients_of_shared_rows_are_summed_in_fp32_and_rounded_once() -> None:
    """Of 200 gradients, each too small for bf16 to add to their sum: half precision loses them."""
    rows = torch.zeros(3, 2, 4, dtype=torch.bfloat16, requires_grad=True)
    index = torch.tensor([1] * 200 + [2])
    parts = torch.full((201, 2, 4), 2.0**-9, dtype=torch.bfloat16)
    parts[0] = 1.0
    GatherRows.apply(rows, index).backward(parts)
    assert rows.grad is not None
    assert rows.grad.dtype == torch.bfloat16
    exact = torch.zeros(3, 2, 4, dtype=torch.float64).index_add_(0, index, parts.double())
    assert torch.equal(rows.grad, exact.bfloat16())
    one_by_one = torch.zeros(2, 4, dtype=torch.bfloat16)
    for part in parts[:-1]:
        one_by_one = one_by_one + part
    assert not torch.equal(one_by_one, rows.grad[1])


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        (None, "has no torch.nn.attention.varlen"),
        (frozenset({"query", "is_causal"}), "has no scale, window_size"),
        (frozenset({"query", "scale", "window_size"}), None),
    ],
)
def test_a_torch_that_cannot_is_named(
    parameters: frozenset[str] | None, expected: str | None
) -> None:
    reason = missing(parameters)
    assert reason is None if expected is None else expected in str(reason)


def test_the_torch_that_is_here_can() -> None:
    from torch.nn.attention.varlen import varlen_attn

    from smorm.model.gathered import _parameters

    assert missing(_parameters(varlen_attn)) is None


# What is done where a kernel fails


def test_where_flex_cannot_be_computed_the_plain_products_are_and_it_is_said_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CPU has no backward of FlexAttention: with gradients the call fails by itself."""
    forest = grow(random_family(1))
    plan = AttentionPlan(forest)
    monkeypatch.setattr(attention, "choose_backend", lambda *_: "flex")
    attention._refused.clear()
    try:
        with caplog.at_level(logging.WARNING):
            for _ in range(2):
                assert_equal_forward_and_backward(
                    lambda q, k, v: attention.compute(q, k, v, plan, SCALE, None, 1.5),
                    lambda q, k, v: reference(q, k, v, forest, softcap=1.5),
                    tensors(forest, 4, 2),
                )
        told = [record.message for record in caplog.records if "passed over" in record.message]
        assert len(told) == 1
        assert "flex" in told[0]
        assert "plain products" in told[0]
    finally:
        attention._refused.clear()
