"""Layers of the Llama family on the CPU: found by their structure, run as one function.

A layer is taken when its class is known to compute what `smorm.model.cpu.decoder_layer` writes
out (Llama and SmolLM2, Mistral, Qwen2) and when it is built of exactly those parts: no adapters, no
biases elsewhere. Anything else runs as transformers has it. Looks alone do not decide, because what
a class does to long texts only (windows, scaled queries) does not show in the short ones by which
`smorm.model.verify` compares both ways.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from smorm.model.cpu.blocks import blocks
from smorm.model.cpu.decoder_layer import Call, Shape, Weights, layer
from smorm.trees.forest import Forest
from smorm.trees.leaves import leaves_of

_FAMILIES = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2"}
_CLASSES = {
    f"transformers.models.{name}.modeling_{name}": prefix for name, prefix in _FAMILIES.items()
}
_PARTS = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
_FEED_FORWARD = ("gate_proj", "up_proj", "down_proj")


def decoder_layers(backbone: nn.Module, count: int) -> list[nn.Module]:
    """The decoder's layers, first to last; empty where there is no such list."""
    for module in backbone.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return list(module)
    return []


def fusible(module: nn.Module) -> bool:
    """Whether a decoder layer is built of exactly the parts that the fused one computes."""
    if not _known(module, "DecoderLayer"):
        return False
    if {name for name, _ in module.named_children()} != _PARTS:
        return False
    attention: Any = module.self_attn
    mlp: Any = module.mlp
    if not _known(attention, "Attention") or not _known(mlp, "MLP"):
        return False
    if {name for name, _ in attention.named_children()} != set(_PROJECTIONS):
        return False
    if {name for name, _ in mlp.named_children()} != {*_FEED_FORWARD, "act_fn"}:
        return False
    linears = [getattr(attention, name) for name in _PROJECTIONS]
    linears += [getattr(mlp, name) for name in _FEED_FORWARD]
    plain = all(type(one) is nn.Linear for one in linears)
    norms: Any = (module.input_layernorm, module.post_attention_layernorm)
    return (
        plain
        and all(one.bias is None for one in linears[3:])
        and type(mlp.act_fn).__name__ in ("SiLU", "SiLUActivation")
        and all(_is_norm(norm) for norm in norms)
        and linears[0].out_features % linears[1].out_features == 0
        and isinstance(getattr(attention, "head_dim", None), int)
    )


def _known(module: nn.Module, part: str) -> bool:
    family = _CLASSES.get(type(module).__module__)
    return family is not None and type(module).__name__ == family + part


def _is_norm(module: nn.Module) -> bool:
    names = [name for name, _ in module.named_parameters()]
    return names == ["weight"] and hasattr(module, "variance_epsilon")


def can_run(module: Any, hidden: torch.Tensor, forest: Any, rotary: Any) -> bool:
    """Whether this call may go the fused way."""
    if not isinstance(forest, Forest) or hidden.device.type != "cpu" or hidden.shape[0] != 1:
        return False
    # Adapters may have come since the way was chosen, or hooks on a part that would not be called.
    if not fusible(module) or any(_watched(part) for part in module.children()):
        return False
    if hidden.dtype not in (torch.float32, torch.bfloat16):
        return False
    window = _window(module.self_attn)
    turned = isinstance(rotary, tuple) and len(rotary) == 2
    if not turned or (window and forest.max_position >= window):
        return False
    return bool(rotary[0].shape[-1] == module.self_attn.head_dim)


def _watched(part: nn.Module) -> bool:
    """Whether somebody's hook waits for a call of this module or of one within it."""
    return any(
        one._forward_hooks or one._forward_pre_hooks or one._backward_hooks
        or one._backward_pre_hooks
        for one in part.modules()
    )  # fmt: skip


def _window(attention: Any) -> int | None:
    """The sliding window: the attention's own (Qwen2: None where full), else the config's."""
    config = getattr(attention, "config", None)
    found: int | None = getattr(
        attention, "sliding_window", getattr(config, "sliding_window", None)
    )
    return found


def run_fused(
    module: Any, hidden: torch.Tensor, forest: Forest, rotary: tuple[torch.Tensor, torch.Tensor],
    *, only_leaves: bool,
) -> torch.Tensor:  # fmt: skip
    """The layer on hidden [1, T, M] -> [1, T, M], or [1, U, M] for the forest's leaves alone."""
    forest.cache["calls"] = forest.cache.get("calls", 0) + 1
    attention, mlp = module.self_attn, module.mlp
    weights = Weights(
        module.input_layernorm.weight,
        attention.q_proj.weight,
        attention.k_proj.weight,
        attention.v_proj.weight,
        attention.q_proj.bias,
        attention.k_proj.bias,
        attention.v_proj.bias,
        attention.o_proj.weight,
        module.post_attention_layernorm.weight,
        mlp.gate_proj.weight,
        mlp.up_proj.weight,
        mlp.down_proj.weight,
    )
    size = attention.head_dim
    shape = Shape(
        weights.query.shape[0] // size,
        weights.key.shape[0] // size,
        size,
        (module.input_layernorm.variance_epsilon, module.post_attention_layernorm.variance_epsilon),
        attention.scaling,
    )
    half = torch.is_autocast_enabled("cpu")
    dtype = torch.get_autocast_dtype("cpu") if half else weights.query.dtype
    leaves = leaves_of(forest) if only_leaves else None
    plan = blocks(forest if leaves is None else leaves)
    cos, sin = (part[0].float() for part in rotary)
    rows = None if leaves is None else leaves.rows
    out = layer(hidden[0].float(), cos, sin, Call(shape, plan, rows, dtype), weights)
    return out.to(hidden.dtype)[None]
