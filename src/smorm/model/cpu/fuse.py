"""Layers of the Llama family on the CPU: recognised by their structure, run as one function.

A layer is fused when its class is known to compute what `smorm.model.cpu.decoder_layer` computes
(Llama and SmolLM2, Mistral, Qwen2) and when it is built of exactly those modules: no adapters, no
other biases. Anything else runs as transformers has it."""

from typing import Any

import torch
from torch import Tensor, nn

from smorm.model.attention import AttentionPlan
from smorm.model.cpu.decoder_layer import LayerCall, LayerWeights, layer
from smorm.trees.forest import Leaves

_FAMILIES = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2"}
_CLASSES = {
    f"transformers.models.{name}.modeling_{name}": prefix for name, prefix in _FAMILIES.items()
}
_CHILDREN = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
_FEED_FORWARD = ("gate_proj", "up_proj", "down_proj")


def decoder_layers(backbone: nn.Module, count: int) -> list[nn.Module]:
    """The decoder's layers, first to last; empty where there is no such list."""
    for module in backbone.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return list(module)
    return []


def fusible(module: nn.Module) -> bool:
    """Whether a decoder layer is built of exactly the modules that the fused one computes."""
    if not _is_known(module, "DecoderLayer", _CHILDREN):
        return False
    attention: Any = module.self_attn
    mlp: Any = module.mlp
    if not _is_known(attention, "Attention", set(_PROJECTIONS)):
        return False
    if not _is_known(mlp, "MLP", {*_FEED_FORWARD, "act_fn"}):
        return False
    linears = [getattr(attention, name) for name in _PROJECTIONS]
    linears += [getattr(mlp, name) for name in _FEED_FORWARD]
    # Adapters replace linear modules by a class of their own. Query, key and value may have biases.
    if any(type(linear) is not nn.Linear for linear in linears):
        return False
    if any(linear.bias is not None for linear in linears[3:]):
        return False
    return (
        type(mlp.act_fn).__name__ in ("SiLU", "SiLUActivation")
        and _is_rms_norm(module.input_layernorm)
        and _is_rms_norm(module.post_attention_layernorm)
        and linears[0].out_features % linears[1].out_features == 0
        and isinstance(getattr(attention, "head_dim", None), int)
    )


def _is_known(module: nn.Module, suffix: str, children: set[str]) -> bool:
    # Structure alone does not decide: what a class does to long texts only (windows, scaled
    # queries) does not show in the short ones by which `smorm.model.verify` compares.
    family = _CLASSES.get(type(module).__module__)
    if family is None or type(module).__name__ != family + suffix:
        return False
    return set(dict(module.named_children())) == children


def _is_rms_norm(module: Any) -> bool:
    names = list(dict(module.named_parameters()))
    return names == ["weight"] and hasattr(module, "variance_epsilon")


def can_run(module: Any, hidden: Tensor, plan: AttentionPlan, rotary: Any) -> bool:
    """Whether this call may be computed by the fused layer."""
    if hidden.device.type != "cpu" or hidden.shape[0] != 1:
        return False
    # Adapters may have been added since the forward was set, or hooks on a module that the fused
    # layer would not call.
    if not fusible(module) or any(_has_hooks(child) for child in module.children()):
        return False
    if hidden.dtype not in (torch.float32, torch.bfloat16):
        return False
    # The fused attention knows no window: it is right where the window masks nothing.
    # The attention's own (Qwen2: None in its full layers), else the config's.
    config = getattr(module.self_attn, "config", None)
    default = getattr(config, "sliding_window", None)
    window = getattr(module.self_attn, "sliding_window", default)
    if window and plan.batch.max_position >= window:
        return False
    if not isinstance(rotary, tuple) or len(rotary) != 2:
        return False
    return bool(rotary[0].shape[-1] == module.self_attn.head_dim)


def _has_hooks(module: nn.Module) -> bool:
    return any(
        inner._forward_hooks
        or inner._forward_pre_hooks
        or inner._backward_hooks
        or inner._backward_pre_hooks
        for inner in module.modules()
    )


def run_fused(
    module: Any, hidden: Tensor, plan: AttentionPlan, rotary: Any, *, only_leaves: bool
) -> Tensor:
    """The layer on hidden [1, T, M] -> [1, T, M], or [1, U, M] for the forest's leaves alone."""
    plan.calls += 1
    attention, mlp = module.self_attn, module.mlp
    query, key, value = attention.q_proj, attention.k_proj, attention.v_proj
    norm1, norm2 = module.input_layernorm, module.post_attention_layernorm
    weights = LayerWeights(
        norm1.weight,
        query.weight,
        key.weight,
        value.weight,
        query.bias,
        key.bias,
        value.bias,
        attention.o_proj.weight,
        norm2.weight,
        mlp.gate_proj.weight,
        mlp.up_proj.weight,
        mlp.down_proj.weight,
    )
    size = attention.head_dim
    heads, groups = query.weight.shape[0] // size, key.weight.shape[0] // size
    epsilons = (norm1.variance_epsilon, norm2.variance_epsilon)
    dtype = weights.query.dtype
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
    rows = None
    if only_leaves:
        plan = plan.leaves
        assert isinstance(plan.batch, Leaves)
        rows = plan.batch.rows
    call = LayerCall(heads, groups, size, epsilons, attention.scaling, plan.blocks, rows, dtype)
    # The residual stream is fp32 inside, whatever the modules' precision.
    cos, sin = rotary[0][0].float(), rotary[1][0].float()
    out = layer(hidden[0].float(), cos, sin, call, weights)
    return out.to(hidden.dtype)[None]
