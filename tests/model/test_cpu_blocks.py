"""Block attention on the CPU against softmax over the dense mask in float64."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from smorm.model.cpu import attention as cpu
from smorm.model.cpu.attention import (
    attend,
    attend_backward,
    cpu_blocks,
    cut_blocks,
    fold,
    unfold,
)
from smorm.trees.forest import Forest, Leaves, find_leaves, grow
from tests.trees.sequences import dense_mask, random_family

SIZE = 8
SCALE = 0.3
SEEDS = range(4)
# Constants so small that every chain, rectangle and set of keys is cut (all chains meeting their
# prompt in rectangles, or few of them taking its keys beside their own), and the real ones.
SMALL, MIXED, REAL = (
    (3, 5, 4, 0),
    (3, 5, 4, 2),
    (cpu.ROWS, cpu.WIDE, cpu.KEEP, cpu.FEW),
)


@pytest.fixture(params=[SMALL, MIXED, REAL], ids=["small blocks", "mixed blocks", "real blocks"])
def cut(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[bool]:
    """Whether blocks are small in this test."""
    for name, value in zip(("ROWS", "WIDE", "KEEP", "FEW"), request.param, strict=True):
        monkeypatch.setattr(cpu, name, value)
    cpu._causal_bias.cache_clear()  # it holds masks of ROWS rows
    yield request.param != REAL
    cpu._causal_bias.cache_clear()


def nested(seed: int) -> Forest:
    """Many short forks, and chains and rectangles longer than the small blocks."""
    rng = np.random.default_rng(seed)
    stem = rng.integers(0, 3, 17).astype(np.int32)
    family = random_family(seed, vocabulary=3)
    tails = [np.concatenate([stem, one]) for one in family[:5]]
    return grow([*family, *tails, stem, stem[:11]], min_share=1)


def operands(
    plan: Forest | Leaves, heads: int, groups: int, seed: int, spread: float = 1.5
) -> tuple[torch.Tensor, ...]:
    keys = plan.keys[-1][-1][1]  # the last row is a leaf
    generator = torch.Generator().manual_seed(seed)
    shapes = ((heads, plan.num_tokens), (groups, keys), (groups, keys))
    return tuple(
        (torch.randn(1, *shape, SIZE, generator=generator) * spread).requires_grad_()
        for shape in shapes
    )


def visible(forest: Forest, plan: Forest | Leaves) -> torch.Tensor:
    mask = dense_mask(forest)
    return mask[plan.rows] if isinstance(plan, Leaves) else mask


def reference(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """The definition, [1, Q, H, D] in float64."""
    repeat = query.shape[1] // key.shape[1]
    key, value = (t.double().repeat_interleave(repeat, 1) for t in (key, value))
    scores = (query.double() @ key.transpose(2, 3)) * SCALE
    return (scores.masked_fill(~mask, -torch.inf).softmax(-1) @ value).transpose(1, 2)


def assert_exact(forest: Forest, plan: Forest | Leaves, inputs: tuple[torch.Tensor, ...]) -> None:
    """Output and all gradients within 1e-5 of the largest entry."""
    expected = reference(*inputs, visible(forest, plan))
    direction = torch.randn(expected.shape, generator=torch.Generator().manual_seed(9))
    wanted = torch.autograd.grad((expected * direction).sum(), inputs)
    found = cpu_blocks(*inputs, cut_blocks(plan), SCALE)
    assert_near(found, expected)
    gradients = torch.autograd.grad((found * direction).sum(), inputs)
    for one, other in zip(gradients, wanted, strict=True):
        assert_near(one, other)


def assert_near(found: torch.Tensor, expected: torch.Tensor, share: float = 1e-5) -> None:
    found, expected = found.detach(), expected.detach()
    assert found.isfinite().all()
    gap = float((found.double() - expected.double()).abs().max())
    assert gap <= share * max(1.0, float(expected.abs().max()))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (4, 2), (6, 1)])
@pytest.mark.parametrize("whole", [True, False], ids=["every row", "leaves"])
def test_output_and_gradients_are_those_of_the_dense_softmax(
    cut: bool, whole: bool, heads: int, groups: int, seed: int
) -> None:
    forest = nested(seed)
    plan = forest if whole else find_leaves(forest)
    assert_exact(forest, plan, operands(plan, heads, groups, seed))


@pytest.mark.parametrize("cut", [SMALL, MIXED], indirect=True)
def test_the_families_above_reach_every_kind_of_block(cut: bool) -> None:
    plan = [block for seed in SEEDS for block in cut_blocks(nested(seed))]
    assert any(block.causal and block.b - block.a < block.length for block in plan)
    assert any(block.merge and block.b - block.a == cpu.WIDE for block in plan)
    assert {block.complete for block in plan} == {True, False}
    assert {block.length > cpu.KEEP for block in plan if block.causal} == {True, False}
    assert {block.length > cpu.KEEP for block in plan if block.merge} == {True, False}
    leaves = [block for seed in SEEDS for block in cut_blocks(find_leaves(nested(seed)))]
    assert {block.complete for block in leaves} == {True, False}
    assert {block.merge for block in leaves} == {True, False}
    beside = any(len(block.ranges) > 1 for block in plan + leaves)
    assert beside == (cpu.FEW > 0), "keys of a prompt beside a chain's own"


@pytest.mark.parametrize("whole", [True, False], ids=["every row", "leaves"])
def test_blocks_cover_each_visible_cell_once(cut: bool, whole: bool) -> None:
    for seed in SEEDS:
        forest = nested(seed)
        plan = forest if whole else find_leaves(forest)
        mask = visible(forest, plan)
        count = torch.zeros(mask.shape, dtype=torch.int64)
        for block in cut_blocks(plan):
            own = block.b - block.a
            part = torch.ones(own, block.length, dtype=torch.int64)
            if block.causal:
                part[:, -own:] = part[:, -own:].tril()
            keys = torch.cat([torch.arange(first, last) for first, last in block.ranges])
            count[block.a : block.b].index_add_(1, keys, part)
        assert torch.equal(count, mask.long())


def test_chains_longer_than_a_real_block_and_rectangles_wider_than_one() -> None:
    rng = np.random.default_rng(0)

    def draw(length: int) -> np.ndarray:
        return rng.integers(0, 97, length).astype(np.int32)

    prompt = draw(cpu.KEEP + 30)
    tails = [draw(n) for n in (cpu.WIDE, cpu.WIDE, 9, *[3] * cpu.FEW)]
    forest = grow([np.concatenate([prompt, tail]) for tail in tails])
    plan = cut_blocks(forest)
    assert any(block.causal and block.length > cpu.KEEP for block in plan)
    assert sum(block.merge for block in plan) > 1, "a rectangle in several blocks"
    assert_exact(forest, forest, operands(forest, 2, 1, 0))
    leaves = find_leaves(forest)
    assert_exact(forest, leaves, operands(leaves, 2, 1, 0))


@pytest.mark.parametrize("whole", [True, False], ids=["every row", "leaves"])
def test_extreme_scores_stay_finite_and_right(cut: bool, whole: bool) -> None:
    """Logits of +-80 and beyond: exp of their differences under- and overflows in fp32."""
    forest = nested(1)
    plan = forest if whole else find_leaves(forest)
    query, key, value = operands(plan, 4, 2, 1, spread=10.0)
    logits = (query[:, :2] @ key.transpose(2, 3)) * SCALE
    assert float(logits.detach().abs().max()) > 80
    expected = reference(query, key, value, visible(forest, plan))
    found = cpu_blocks(query, key, value, cut_blocks(plan), SCALE)
    assert_near(found, expected, 1e-4)
    inputs = (query, key, value)
    for one, other in zip(
        torch.autograd.grad(found.square().sum(), inputs),
        torch.autograd.grad(expected.square().sum(), inputs),
        strict=True,
    ):
        assert_near(one, other, 1e-4)


@pytest.mark.parametrize("sign", [-1, 1])
def test_a_constant_of_eighty_in_all_scores_changes_nothing(cut: bool, sign: int) -> None:
    forest = nested(0)
    query, key, value = (t.detach() for t in operands(forest, 2, 2, 0))
    query[..., 0], key[..., 0] = 0.0, 0.0
    plain = cpu_blocks(query, key, value, cut_blocks(forest), SCALE)
    query[..., 0], key[..., 0] = 1.0, sign * 80 / SCALE
    assert_near(cpu_blocks(query, key, value, cut_blocks(forest), SCALE), plain, 1e-4)


@pytest.mark.parametrize("whole", [True, False], ids=["every row", "leaves"])
def test_half_precision_is_as_close_as_its_operands(cut: bool, whole: bool) -> None:
    forest = nested(2)
    plan = forest if whole else find_leaves(forest)
    exact = operands(plan, 4, 2, 2)
    inputs = tuple(t.detach().bfloat16().requires_grad_() for t in exact)
    mask = visible(forest, plan)
    expected = reference(*inputs, mask)
    found = cpu_blocks(*inputs, cut_blocks(plan), SCALE)
    merged = any(block.merge for block in cut_blocks(plan))
    assert found.dtype == (torch.float32 if merged else torch.bfloat16)
    assert_near(found.float(), expected, 0.02)
    direction = torch.randn(expected.shape, generator=torch.Generator().manual_seed(9))
    wanted = torch.autograd.grad((expected * direction).sum(), inputs)
    for one, other in zip(
        torch.autograd.grad((found * direction).sum(), inputs), wanted, strict=True
    ):
        assert one.dtype == torch.bfloat16
        assert_near(one, other, 0.04)


def test_what_is_remembered_changes_no_bit_of_the_output(cut: bool) -> None:
    forest = nested(3)
    query, key, value = (t.detach() for t in operands(forest, 4, 2, 3))
    arguments = (fold(query[0], 2), key[0], value[0], cut_blocks(forest))
    saving, saved = attend(*arguments, save=True)
    without, nothing = attend(*arguments)
    assert torch.equal(saving, without)
    assert nothing is None
    assert saved is not None
    assert [kept is None for kept in saved.operands] == [
        block.length > cpu.KEEP for block in cut_blocks(forest)
    ]
    assert (None in saved.operands) == cut
    again = attend_backward(saving, *arguments, saved)
    assert all(g.dtype == torch.float32 for g in again)
    assert [g.shape for g in again] == [t.shape for t in arguments[:3]]


def test_the_operands_are_left_as_they_were(cut: bool) -> None:
    forest = nested(0)
    inputs = operands(forest, 4, 4, 0)
    before = [t.detach().clone() for t in inputs]
    cpu_blocks(*inputs, cut_blocks(forest), SCALE).sum().backward()
    assert all(torch.equal(t, old) for t, old in zip(inputs, before, strict=True))


def test_folded_heads_unfold_to_rows_of_heads() -> None:
    query = torch.randn(6, 5, SIZE)
    assert torch.equal(unfold(fold(query, 2), 3), query.transpose(0, 1))
