"""Every rank holds all weights: gradients are added up once a step, and updates are equal.

Without DDP: the losses of a step are divided by the totals of all ranks already, so that a sum is
all that is left to do; and ranks without work, parameters that some ranks do not use, and those
that are in no module need no rule."""

from collections.abc import Iterable, Iterator

import torch
from torch.distributed.tensor import DTensor

from smorm.training.distributed.ranks import Ranks

BUCKET = 1 << 24
"""Elements that are summed at once: a copy of so many is in memory, not of all gradients."""


def sum_gradients(parameters: Iterable[torch.nn.Parameter], ranks: Ranks) -> None:
    """Add up the gradients of all ranks, in the order of the parameters. A parameter that no rank
    has a gradient of keeps none: the optimizer passes it over. Those of sharded parameters were
    added up in the backward pass."""
    if ranks.world == 1:
        return
    parameters = [each for each in parameters if not isinstance(each, DTensor)]
    has_gradient = torch.tensor([parameter.grad is not None for parameter in parameters])
    counts = has_gradient.int()
    ranks.sum(counts)
    used = [
        parameter for parameter, count in zip(parameters, counts.tolist(), strict=True) if count
    ]
    for bucket in _buckets(used):
        gradients = []
        for parameter in bucket:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        ranks.sum(flat)
        sums = flat.split([gradient.numel() for gradient in gradients])
        for gradient, total in zip(gradients, sums, strict=True):
            gradient.copy_(total.view_as(gradient))


def _buckets(parameters: Iterable[torch.nn.Parameter]) -> Iterator[list[torch.nn.Parameter]]:
    """Parameters of one type, in their order, of at most `BUCKET` elements together (or one)."""
    bucket: list[torch.nn.Parameter] = []
    size = 0
    for parameter in parameters:
        new_dtype = bucket and bucket[0].dtype != parameter.dtype
        if new_dtype or (bucket and size + parameter.numel() > BUCKET):
            yield bucket
            bucket, size = [], 0
        bucket.append(parameter)
        size += parameter.numel()
    if bucket:
        yield bucket
