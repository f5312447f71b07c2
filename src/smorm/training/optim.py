"""AdamW and a learning rate that is a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

from smorm.config import Config
from smorm.model.network import RewardNetwork


def learning_rate_factor(step: int, total: int, warmup: float, schedule: str) -> float:
    """What the peak learning rate is multiplied with at step `step` (from 0) of `total`.

    Linear warm-up over the first `warmup` share of the steps, then `cosine` or `linear` decay to 0
    behind the last step, or `constant`.
    """
    warmup_steps = math.ceil(warmup * total)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, total - warmup_steps)
    if schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * progress))
    return 1.0 - progress if schedule == "linear" else 1.0


def named_trainable(
    network: RewardNetwork, log_variance: torch.nn.Parameter | None
) -> dict[str, torch.nn.Parameter]:
    """Everything that the optimizer changes, by a stable name."""
    named = {n: p for n, p in network.named_parameters() if p.requires_grad}
    if log_variance is not None:
        named["log_variance"] = log_variance
    return named


def make_optimizer(
    config: Config, network: RewardNetwork, log_variance: torch.nn.Parameter | None
) -> torch.optim.AdamW:
    """AdamW over fp32 master weights. No weight decay on vectors, the head or the noise.

    Each group's `initial_lr` is its peak; `set_learning_rate` scales it.
    """
    training = config.training
    groups: dict[str, list[torch.nn.Parameter]] = {"matrix": [], "vector": [], "head": []}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            kind = "matrix" if parameter.ndim > 1 else "vector"
            groups["head" if name.startswith("head.") else kind].append(parameter)
    head_rate = training.head_learning_rate or training.learning_rate
    rates = {"matrix": training.learning_rate, "vector": training.learning_rate, "head": head_rate}
    settings = [
        {
            "params": parameters,
            "lr": rates[kind],
            "initial_lr": rates[kind],
            "weight_decay": training.weight_decay if kind == "matrix" else 0.0,
        }
        for kind, parameters in groups.items()
        if parameters
    ]
    if log_variance is not None:
        rate = config.objective.noise_learning_rate
        settings.append(
            {"params": [log_variance], "lr": rate, "initial_lr": rate, "weight_decay": 0.0}
        )
    fused = all(_can_be_fused(p) for group in settings for p in group["params"])  # type: ignore[attr-defined]
    return torch.optim.AdamW(settings, betas=training.betas, eps=training.epsilon, fused=fused)


def _can_be_fused(parameter: torch.nn.Parameter) -> bool:
    """One pass over weights, gradients and moments instead of a dozen."""
    return parameter.device.type in ("cuda", "cpu") and parameter.is_floating_point()


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Scale every group's peak."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor


def clip_gradients(parameters: Iterable[torch.nn.Parameter], limit: float) -> float:
    """Scale all gradients so that their norm is at most `limit`; returns the norm before.

    Gradients within the limit, or not finite, are left alone: multiplying them by one would be a
    pass over all of them.
    """
    trained = [parameter for parameter in parameters if parameter.grad is not None]
    total = torch.nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None])
    norm = float(total)
    if limit < norm < math.inf:
        torch.nn.utils.clip_grads_with_norm_(trained, limit, total)
    return norm
