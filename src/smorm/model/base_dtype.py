"""The precision of the weights that adapters are on: fp32, bf16, or 4 bits each (NF4).

Adapters and head stay in fp32. 4-bit weights are bitsandbytes' (`smorm[qlora]`), as in QLoRA
(Dettmers et al., 2023, arXiv 2305.14314): blocks of 64 values, their scales in 8 bits too. Where
a model is loaded again, its weights are rounded in the same way and then kept as ordinary ones, so
that whatever reads models needs to know nothing of it."""

import importlib.util
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from smorm.config import BaseDtype
from smorm.errors import ConfigError

STORED = {"fp32": torch.float32, "bf16": torch.bfloat16, "nf4": torch.bfloat16}
"""The type of what is not in 4 bits: embeddings, norms, biases."""


def import_bitsandbytes(key: str) -> Any:
    """bitsandbytes, for the key of a configuration that needs it; `ConfigError` without it."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(f"{key} needs bitsandbytes: pip install 'smorm[qlora]'")
    import bitsandbytes

    return bitsandbytes


def convert_base(backbone: Any, base: BaseDtype) -> None:
    """Hold a backbone's weights in another type, in place; before adapters are put on it."""
    # Buffers stay: rotary frequencies in bf16 would be other positions.
    for parameter in backbone.parameters():
        parameter.data = parameter.data.to(STORED[base])
    if base == "nf4":
        bitsandbytes = import_bitsandbytes("model.lora.base: nf4")
        replace_linears(backbone, partial(_four_bits, bitsandbytes))
        # By this peft knows which of its adapters it needs.
        backbone.is_loaded_in_4bit = True


def round_base(backbone: nn.Module, base: BaseDtype, dtype: torch.dtype) -> None:
    """Round a loaded backbone's weights as `convert_base` does, and hold them in `dtype`."""
    if base == "nf4":
        bitsandbytes = import_bitsandbytes("a model on a 4-bit base")
        for parameter in backbone.parameters():
            parameter.data = parameter.data.to(STORED[base])
        for _, _, linear in _plain_linears(backbone):
            packed = _four_bits(bitsandbytes, linear).weight
            values = bitsandbytes.functional.dequantize_4bit(packed.data, packed.quant_state)
            linear.weight.data = values.to(STORED[base]).view_as(linear.weight)
    for parameter in backbone.parameters():
        parameter.data = parameter.data.to(STORED[base]).to(dtype)


def replace_linears(backbone: nn.Module, make: Callable[[nn.Linear], nn.Module]) -> None:
    """Put what `make` makes of it in the place of each plain linear module."""
    for parent, name, linear in _plain_linears(backbone):
        setattr(parent, name, make(linear))


def _plain_linears(backbone: nn.Module) -> list[tuple[nn.Module, str, nn.Linear]]:
    """Each linear module, with its name in its parent. No subclasses: they compute in their way."""
    return [
        (parent, name, module)
        for parent in backbone.modules()
        for name, module in parent.named_children()
        if type(module) is nn.Linear
    ]


def _four_bits(bitsandbytes: Any, linear: nn.Linear) -> Any:
    """A linear module in 4 bits, quantised on the host wherever it goes: the bits are the same."""
    module = bitsandbytes.nn.Linear4bit(
        linear.in_features,
        linear.out_features,
        bias=linear.bias is not None,
        compute_dtype=torch.bfloat16,
        quant_type="nf4",
    )
    module.weight = bitsandbytes.nn.Params4bit(
        linear.weight.data.cpu(), requires_grad=False, quant_type="nf4", module=module
    )
    module.bias = linear.bias
    return module.to("cpu")
