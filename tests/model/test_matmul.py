"""Products by either library are torch's own, whatever the operands' strides."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from smorm.model.cpu import matmul

HAS_ONEDNN = hasattr(torch.ops.mkldnn, "_linear_pointwise")
LIBRARIES = [
    False,
    pytest.param(True, marks=pytest.mark.skipif(not HAS_ONEDNN, reason="no oneDNN in this torch")),
]


@pytest.fixture(params=LIBRARIES, ids=["torch", "onednn"], autouse=True)
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[bool]:
    """Both choices on any processor."""
    monkeypatch.setattr(matmul, "onednn_wins", lambda: request.param)
    return request.param


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def strided(*shape: int, seed: int = 0) -> torch.Tensor:
    """Every second column of a wider tensor."""
    return draw(*shape[:-1], 2 * shape[-1], seed=seed)[..., ::2]


def transposed(*shape: int, seed: int = 0) -> torch.Tensor:
    return draw(*shape[:-2], shape[-1], shape[-2], seed=seed).transpose(-1, -2)


def assert_same(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    gap = (found.double() - expected.double()).abs().max() / expected.double().abs().max()
    assert float(gap) < 1e-5


MAKERS = [draw, strided, transposed]


@pytest.mark.parametrize("weight_of", MAKERS)
@pytest.mark.parametrize("x_of", MAKERS)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(7, 33), (1, 33), (2, 5, 33), (1, 64, 33)])
def test_linear_is_torchs(shape: tuple[int, ...], bias: bool, x_of, weight_of) -> None:
    x = x_of(*shape)
    weight = weight_of(19, 33, seed=1)
    b = draw(19, seed=2) if bias else None
    assert_same(matmul.linear(x, weight, b), torch.nn.functional.linear(x, weight, b))


@pytest.mark.parametrize("weight_of", MAKERS)
@pytest.mark.parametrize("a_of", MAKERS)
@pytest.mark.parametrize("rows", [1, 40])
def test_the_inputs_gradient_is_a_plain_product(rows: int, a_of, weight_of) -> None:
    a, weight = a_of(rows, 19), weight_of(19, 33, seed=1)
    assert_same(matmul.product(a, weight), a @ weight)


@pytest.mark.parametrize("x_of", MAKERS)
@pytest.mark.parametrize("a_of", MAKERS)
@pytest.mark.parametrize("rows", [1, 40])
def test_the_weights_gradient_is_a_transposed_product(rows: int, a_of, x_of) -> None:
    a, x = a_of(rows, 19), x_of(rows, 33, seed=1)
    assert_same(matmul.transposed_product(a, x), a.t() @ x)


def test_half_and_double_precision_stay_with_torch() -> None:
    for dtype in (torch.bfloat16, torch.float64):
        x, weight, a = (t.to(dtype) for t in (draw(6, 8), draw(5, 8, seed=1), draw(6, 5, seed=2)))
        assert torch.equal(matmul.linear(x, weight), torch.nn.functional.linear(x, weight))
        assert torch.equal(matmul.product(a, weight), a @ weight)
        assert torch.equal(matmul.transposed_product(a, x), a.t() @ x)


def test_operands_are_left_as_they_were() -> None:
    x, weight, bias = draw(6, 8), draw(5, 8, seed=1), draw(5, seed=2)
    before = [t.clone() for t in (x, weight, bias)]
    matmul.linear(x, weight, bias)
    matmul.product(x, weight.t())
    matmul.transposed_product(x, x)
    assert all(torch.equal(t, old) for t, old in zip((x, weight, bias), before, strict=True))


def test_equal_operands_give_equal_bits_every_time() -> None:
    x, weight = draw(65, 96), draw(64, 96, seed=1)
    first = matmul.linear(x, weight)
    assert all(torch.equal(matmul.linear(x, weight), first) for _ in range(5))
