"""Linear modules through the faster library: the same numbers, put on and taken off cleanly."""

from __future__ import annotations

import copy
from types import MethodType
from typing import Any

import pytest
import torch
from torch import nn

from smorm.model.cpu import matmul
from smorm.model.network import RewardNetwork
from tests.model.architectures import tiny
from tests.model.test_forest_equals_padded import adapted, scores_and_gradients, sequences_of

NEEDS_ONEDNN = pytest.mark.skipif(
    not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="no oneDNN in this torch"
)
pytestmark = NEEDS_ONEDNN


@pytest.fixture(autouse=True)
def _faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a processor where oneDNN wins."""
    monkeypatch.setattr(matmul, "onednn_wins", lambda: True)


def through(out: torch.Tensor) -> bool:
    """Whether a result came by our function."""
    return out.grad_fn is not None and type(out.grad_fn).__name__ == "_LinearBackward"


def installed(module: nn.Module) -> int:
    return sum("forward" in vars(one) for one in module.modules() if type(one) is nn.Linear)


@pytest.mark.parametrize("frozen", ["nothing", "weight", "bias", "input"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(7, 33), (2, 5, 33), (33,)])
def test_output_and_gradients_are_the_modules(
    shape: tuple[int, ...], bias: bool, frozen: str
) -> None:
    torch.manual_seed(0)
    plain = nn.Linear(33, 19, bias=bias)
    if frozen in ("weight", "bias") and getattr(plain, frozen) is not None:
        getattr(plain, frozen).requires_grad_(False)
    ours = copy.deepcopy(plain)
    matmul.use_fast_linears(ours)
    inputs = [torch.randn(shape).requires_grad_(frozen != "input") for _ in range(1)]
    inputs.append(inputs[0].detach().clone().requires_grad_(frozen != "input"))
    outs = [module(x) for module, x in zip((plain, ours), inputs, strict=True)]
    assert through(outs[1])
    torch.testing.assert_close(outs[1], outs[0], atol=1e-5, rtol=1e-5)
    for out in outs:
        out.square().sum().backward()
    for name, parameter in [("input", inputs[0]), *plain.named_parameters()]:
        other = inputs[1] if name == "input" else ours.get_parameter(name)
        assert (parameter.grad is None) == (other.grad is None)
        if parameter.grad is not None:
            torch.testing.assert_close(other.grad, parameter.grad, atol=1e-5, rtol=1e-5)


def test_a_frozen_layer_keeps_no_input() -> None:
    layer = nn.Linear(8, 8).requires_grad_(False)
    matmul.use_fast_linears(layer)
    x = torch.randn(3, 8, requires_grad=True)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.append(t.data_ptr()) or t, lambda t: t
    ):
        layer(x.exp()).sum().backward()
    assert kept.count(layer.weight.data_ptr()) == 1
    assert len(kept) == 2, "exp keeps its output, the layer its weight"


def test_other_precisions_and_no_gradients_go_their_own_way() -> None:
    layer = nn.Linear(8, 8)
    plain = copy.deepcopy(layer)
    matmul.use_fast_linears(layer)
    x = torch.randn(3, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
        assert torch.equal(layer(x), plain(x))
    with torch.no_grad():
        torch.testing.assert_close(layer(x), plain(x), atol=1e-6, rtol=1e-5)
        assert not layer(x).requires_grad
    for dtype in (torch.bfloat16, torch.float64):
        assert torch.equal(layer.to(dtype)(x.to(dtype)), plain.to(dtype)(x.to(dtype)))
        assert not through(layer(x.to(dtype)))


def test_where_torchs_library_is_as_fast_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matmul, "onednn_wins", lambda: False)
    layer = nn.Linear(8, 8)
    plain = copy.deepcopy(layer)
    matmul.use_fast_linears(layer)
    x = torch.randn(3, 8)
    assert torch.equal(layer(x), plain(x))
    assert not through(layer(x))


def test_what_others_have_set_is_neither_replaced_nor_removed() -> None:
    def hooked(self: nn.Linear, x: torch.Tensor) -> torch.Tensor:
        return 2 * nn.Linear.forward(self, x)

    class Own(nn.Linear):
        """A class of its own may compute what it likes."""

    theirs, own = nn.Linear(4, 4), Own(4, 4)
    theirs.forward = MethodType(hooked, theirs)  # type: ignore[method-assign]
    model = nn.Sequential(theirs, own, nn.Linear(4, 4))
    matmul.use_fast_linears(model)
    matmul.use_fast_linears(model)
    assert ["forward" in vars(module) for module in model] == [True, False, True]
    matmul.use_plain_linears(model)
    assert ["forward" in vars(module) for module in model] == [True, False, False]
    x = torch.randn(2, 4)
    assert torch.equal(theirs(x), 2 * nn.Linear.forward(theirs, x))


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("name", ["qwen3", "gemma2", "gpt_neox", "llama"])
def test_networks_keep_their_scores_and_gradients(
    name: str, lora: bool, checkpointing: bool
) -> None:
    backbone = adapted(tiny(name)) if lora else tiny(name)
    net: Any = RewardNetwork(backbone, rows=4, pad_id=0).train()
    expected = scores_and_gradients(net, "padded", sequences_of("tree of 6"))
    assert installed(net) == 0, "the reference is transformers' own"
    if checkpointing:
        net.checkpoint_activations()
    scores, gradients = scores_and_gradients(net, "forest", sequences_of("tree of 6"))
    linears = sum(type(module) is nn.Linear for module in net.backbone.modules())
    assert installed(net.backbone) == linears > 0
    torch.testing.assert_close(scores, expected[0], atol=1e-5, rtol=0)
    assert gradients.keys() == expected[1].keys()
    for key, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[1][key], atol=1e-5, rtol=1e-5)
    net.use_layout("forest", fast_layers=False)
    assert installed(net) == 0


def test_a_copy_runs_its_own_weights() -> None:
    layer = nn.Linear(8, 8)
    matmul.use_fast_linears(layer)
    other = copy.deepcopy(layer)
    with torch.no_grad():
        other.weight.zero_()
    x = torch.randn(3, 8)
    torch.testing.assert_close(other(x), other.bias.expand(3, 8))
    assert (layer(x) - other(x)).abs().max() > 0.01
