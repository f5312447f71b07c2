"""Each rank holds a part of the weights, gradients and moments (FSDP2, `fully_shard`).

A decoder layer is gathered while it computes, the rest of the backbone once a pass. The head, and
what a method trains beside the network, are small: every rank has them, and their gradients are
added up by hand. All ranks compute the same number of passes in every step."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)
from torch.distributed.tensor import DTensor

from smorm.model.cpu.fuse import decoder_layers
from smorm.model.network import RewardNetwork
from smorm.training.distributed.tensors import gathered, own_rows


def shard(network: RewardNetwork, world: int, *, half: bool, offload: bool = False) -> None:
    """Leave of the backbone on each rank its part; `half`: gathered and computed in bf16, and
    reduced in fp32; `offload`: parts, and so gradients and moments, are on the host."""
    network.sharded = True
    mesh = init_device_mesh(network.device.type, (world,))
    policy = MixedPrecisionPolicy()
    if half:
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    # Pages that a device reads by itself; without one torch has none.
    on_host = CPUOffloadPolicy(pin_memory=network.device.type != "cpu")
    offload_policy = on_host if offload else OffloadPolicy()
    backbone = network.backbone
    for layer in decoder_layers(backbone, backbone.config.get_text_config().num_hidden_layers):
        fully_shard(layer, mesh=mesh, mp_policy=policy, offload_policy=offload_policy)
    fully_shard(backbone, mesh=mesh, mp_policy=policy, offload_policy=offload_policy)
    for module in backbone.modules():
        if isinstance(module, FSDPModule):
            # The losses are divided by the totals of the step. gloo has no operation for a factor
            # of 1, but it has a sum.
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


def release(network: RewardNetwork) -> None:
    """Leave each rank with its part alone. After a pass without gradients what is no layer would
    stay gathered, and whoever then asked for the parameters would get whole ones."""
    for module in network.backbone.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def read_parts(
    network: RewardNetwork, read: Callable[[str, int, int], Tensor], *, offload: bool = False
) -> None:
    """Give a sharded backbone on the meta device its weights: `read` gives the rows of one of them
    from a first to before a last one. No rank reads those of another."""
    device = torch.device("cpu") if offload else network.device
    for prefix, module in network.backbone.named_modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            first, past = own_rows(parameter)
            shape = (past - first, *parameter.shape[1:])
            rows = torch.empty(shape, dtype=parameter.dtype, device=device)
            rows.copy_(read(f"{prefix}.{name}" if prefix else name, first, past))
            weight = DTensor.from_local(
                rows, parameter.device_mesh, parameter.placements, run_check=False,
                shape=parameter.shape, stride=parameter.stride(),
            )  # fmt: skip
            trained = parameter.requires_grad
            module.register_parameter(name, torch.nn.Parameter(weight, requires_grad=trained))


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
