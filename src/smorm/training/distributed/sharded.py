"""Each rank holds a part of the weights, gradients and moments (FSDP2, `fully_shard`).

A decoder layer is gathered while it computes, the rest of the backbone once a pass. The head, and
what a method trains beside the network, are small: every rank has them, and their gradients are
added up by hand. All ranks compute the same number of passes in every step."""

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load as load_distributed
from torch.distributed.checkpoint.state_dict_saver import save as save_distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from smorm.model.cpu.fuse import decoder_layers
from smorm.model.network import RewardNetwork


def shard(network: RewardNetwork, world: int, *, half: bool) -> None:
    """Leave of the backbone on each rank its part; `half`: gathered and computed in bf16, and
    reduced in fp32."""
    network.sharded = True
    mesh = init_device_mesh(network.device.type, (world,))
    policy = MixedPrecisionPolicy()
    if half:
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    backbone = network.backbone
    for layer in decoder_layers(backbone, backbone.config.get_text_config().num_hidden_layers):
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(backbone, mesh=mesh, mp_policy=policy)
    for module in backbone.modules():
        if isinstance(module, FSDPModule):
            # The losses are divided by the totals of the step. gloo has no operation for a factor
            # of 1, but it has a sum.
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


def gathered(tensor: Tensor) -> Tensor:
    """The whole of a tensor, on every rank; all ranks call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def clip_gradients(parameters: Iterable[torch.nn.Parameter], limit: float) -> float:
    """As `smorm.training.optim.clip_gradients`, where some parameters are sharded."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    square = torch.zeros((), dtype=torch.float64)
    # Norms of sharded and of plain tensors are computed apart: torch mixes them in no operation.
    for sharded in (True, False):
        group = [gradient for gradient in gradients if isinstance(gradient, DTensor) is sharded]
        if group:
            square += gathered(torch.nn.utils.get_total_norm(group)).double().cpu().square()
    norm = float(square.sqrt())
    if limit < norm < float("inf"):
        for gradient in gradients:
            gradient.mul_(limit / (norm + 1e-6))
    return norm


def save(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors, each rank its part; all ranks call it."""
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    save_distributed(dict(tensors), storage_writer=writer)


def read_whole(folder: Path) -> dict[str, Tensor]:
    """What `save` wrote, whole, whatever the number of ranks was."""
    reader = HuggingFaceStorageReader(str(folder))
    tensors: dict[str, Any] = {}
    for name, stored in reader.read_metadata().state_dict_metadata.items():
        assert isinstance(stored, TensorStorageMetadata)
        tensors[name] = torch.empty(stored.size, dtype=stored.properties.dtype)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        load_distributed(tensors, storage_reader=reader, no_dist=True)
    return tensors
