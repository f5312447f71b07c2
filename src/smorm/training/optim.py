"""AdamW and a learning rate that is a pure function of the step."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from smorm.config.sections import TrainingSection
from smorm.model.base_dtype import import_bitsandbytes
from smorm.model.network import RewardNetwork
from smorm.model.pieces import Pieces
from smorm.printing import get_logger

log = get_logger(__name__)

# bitsandbytes' own: of smaller tensors the moments stay in fp32, and of others each block of so
# many values has a scale.
SMALL, BLOCK = 4096, 256


def learning_rate_factor(step: int, total: int, warmup: float, schedule: str) -> float:
    """What the peak learning rate is multiplied with at step `step` (from 0) of `total`. Linear
    warm-up over the first `warmup` share of the steps, then `cosine` or `linear` decay to 0 after
    the last step, or `constant`."""
    warmup_steps = math.ceil(warmup * total)
    if step < warmup_steps:
        # From 1 / warmup_steps, not from 0: no step is without effect.
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, total - warmup_steps)
    if schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * progress))
    if schedule == "linear":
        return 1.0 - progress
    return 1.0


def named_trainable(
    network: RewardNetwork, parameters: Mapping[str, torch.nn.Parameter]
) -> dict[str, torch.nn.Parameter]:
    """Everything that the optimizer changes, `parameters` of a method too, by a stable name."""
    named = dict(network.named_parameters())
    named = {name: parameter for name, parameter in named.items() if parameter.requires_grad}
    return {**named, **parameters}


def make_optimizer(
    training: TrainingSection,
    network: RewardNetwork,
    parameters: Mapping[str, torch.nn.Parameter],
    parameter_learning_rate: float = 0.0,
) -> torch.optim.Optimizer:
    """AdamW over fp32 master weights, its moments in fp32 or in 8 bits. No weight decay on vectors,
    the head or `parameters`. Each group's `initial_lr` is its peak; `begin_step` scales it."""
    # Decay pulls weights towards zero. That is meant for matrices; it would shrink the scale of
    # norms, and the head's rows, whose length is the scale of the reward.
    matrices, vectors, head = [], [], []
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        if name.startswith("head."):
            head.append(parameter)
        elif parameter.ndim > 1:
            matrices.append(parameter)
        else:
            vectors.append(parameter)
    rate = training.learning_rate
    # Checkpoints hold moments by parameter name: the order of groups may change between versions.
    groups = []
    for members, peak, decay in (
        (matrices, rate, training.weight_decay),
        (vectors, rate, 0.0),
        (head, training.head_learning_rate or rate, 0.0),
        (list(parameters.values()), parameter_learning_rate, 0.0),
    ):
        if members:
            group = {"params": members, "lr": peak, "initial_lr": peak, "weight_decay": decay}
            groups.append(group)
    trained = list(named_trainable(network, parameters).values())
    count, total = (sum(map(torch.numel, weights)) for weights in (trained, network.parameters()))
    log.info("training %s of %s parameters (%.3g %%) on %s, in %s", f"{count:,}", f"{total:,}",
             100 * count / total, network.device, training.precision)  # fmt: skip
    if training.optimizer == "adamw_8bit":
        bitsandbytes = import_bitsandbytes("training.optimizer: adamw_8bit")
        options = {"betas": training.betas, "eps": training.epsilon}
        optimizer: torch.optim.Optimizer = bitsandbytes.optim.AdamW8bit(groups, **options)
        return optimizer
    # Fused or not decides the last bits of an update, so all groups must allow it.
    # One pass over weights, gradients and moments instead of a dozen.
    fused = all(p.is_floating_point() and p.device.type in ("cuda", "cpu") for p in trained)
    return torch.optim.AdamW(groups, betas=training.betas, eps=training.epsilon, fused=fused)


def moment_bytes(parameters: Iterable[torch.Tensor], optimizer: str) -> int:
    """Bytes of AdamW's two moments of what this rank holds. In 8 bits: a byte each and a scale for
    every 256; small tensors stay in fp32."""
    total = 0
    for parameter in parameters:
        count = parameter.numel()
        if optimizer == "adamw_8bit" and count >= SMALL:
            total += 2 * (count + 4 * -(-count // BLOCK))
        else:
            total += 2 * parameter.nbytes
    return total


def state_tensors(
    optimizer: torch.optim.Optimizer, parameter: torch.nn.Parameter
) -> dict[str, torch.Tensor]:
    """What a checkpoint holds of a parameter's moments, sorted by name."""
    state = optimizer.state[parameter]
    tensors = {}
    for key, value in sorted(state.items()):
        # The codes of 8 bits are constant, and the same tensor for all parameters.
        if not key.startswith("qmap"):
            tensors[key] = value if isinstance(value, torch.Tensor) else torch.tensor(value)
    return tensors


def restore_8bit(optimizer: Any, named: Mapping[str, torch.nn.Parameter], moments: Pieces) -> None:
    """Put moments in 8 bits back, bit for bit."""
    by_parameter = {id(parameter): name for name, parameter in named.items()}
    for group_index, group in enumerate(optimizer.param_groups):
        for index, parameter in enumerate(group["params"]):
            prefix = f"{by_parameter[id(parameter)]}/"
            keys = [key for key in moments.shapes if key.startswith(prefix)]
            # A checkpoint before the first step has none.
            if keys:
                # What is constant is made anew.
                optimizer.init_state(group, parameter, group_index, index)
            state = optimizer.state[parameter]
            for key in keys:
                value = moments.read(key).clone()
                moment = key.removeprefix(prefix)
                state[moment] = int(value) if moment == "step" else value.to(parameter.device)


def begin_step(
    optimizer: torch.optim.Optimizer, training: TrainingSection, step: int, total: int
) -> float:
    """Set the rates of a step (from 0), and drop gradients; returns `learning_rate_factor`."""
    # The rate is a function of the step: no scheduler has a state to be saved.
    factor = learning_rate_factor(step, total, training.warmup, training.schedule)
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor
    # None, not zeros: AdamW skips parameters without a gradient.
    optimizer.zero_grad(set_to_none=True)
    return factor


def clip_gradients(parameters: Iterable[torch.nn.Parameter], limit: float) -> float:
    """Scale all gradients so that their norm is at most `limit`; returns the norm before. Gradients
    within the limit, or not finite, stay as they are."""
    parameters = list(parameters)
    if any(isinstance(parameter, DTensor) for parameter in parameters):
        from smorm.training.distributed.sharded import clip_gradients as clip_sharded_gradients

        return clip_sharded_gradients(parameters, limit)
    trained, gradients = [], []
    for parameter in parameters:
        if parameter.grad is not None:
            trained.append(parameter)
            gradients.append(parameter.grad)
    total = torch.nn.utils.get_total_norm(gradients)
    norm = float(total)  # waits for the device, once a step
    if limit < norm < math.inf:
        torch.nn.utils.clip_grads_with_norm_(trained, limit, total)
    return norm
