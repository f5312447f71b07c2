"""Tensors of which each rank may hold a part: its rows, of the first dimension (a `DTensor`)."""

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from smorm.model.pieces import Pieces


def own_part(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor: all of one that is not sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def own_rows(tensor: Tensor) -> tuple[int, int]:
    """The first row of a tensor that this rank holds, and the one after its last."""
    if not isinstance(tensor, DTensor):
        return 0, tensor.shape[0] if tensor.ndim else 0
    shape, offset = compute_local_shape_and_global_offset(
        tensor.shape, tensor.device_mesh, tensor.placements
    )
    # Of a rank without rows the offset is none of a row.
    return (offset[0], offset[0] + shape[0]) if shape[0] else (0, 0)


def gathered(tensor: Tensor) -> Tensor:
    """The whole of a tensor, on every rank; all ranks call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def read_into(target: Tensor, pieces: Pieces, name: str) -> None:
    """Copy what this rank holds of a stored tensor into `target`."""
    first, past = own_rows(target)
    with torch.no_grad():
        own_part(target).copy_(pieces.read(name, first, past))
