"""One optimizer step: micro-batches whose losses add up to the exact mean of the step.

Shapes: P pairs, R rated responses, K attributes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from smorm.config import ObjectiveSection
from smorm.errors import NonFiniteLossError
from smorm.model.network import RewardNetwork
from smorm.objectives.joint import Terms, Totals, Weights, joint
from smorm.training.batches import Batches, MicroBatch, batches_of
from smorm.training.setup import Prepared
from smorm.training.sources import TokenSet

Gradients = dict[str, torch.Tensor]


class Abandoned(Exception):  # noqa: N818  (a state, not an error)
    """A stop was asked for in the middle of a step; nothing of the step was applied."""


@dataclass(slots=True)
class Objective:
    """The objective's settings and its one learned value, the noise of each attribute."""

    weights: Weights
    use_margin: bool
    log_variance: torch.nn.Parameter | None


@dataclass(slots=True)
class StepResult:
    """Losses and metrics of a step (means over the step), and what it cost."""

    values: dict[str, float] = field(default_factory=dict)
    tokens: int = 0
    micro_batches: int = 0

    def add(self, values: dict[str, torch.Tensor]) -> None:
        """Add one micro-batch's parts."""
        for name, value in values.items():
            self.values[name] = self.values.get(name, 0.0) + float(value.detach())


def make_objective(prepared: Prepared) -> Objective:
    """Settings of the regression term's weight, as `ObjectiveSection` documents them."""
    section: ObjectiveSection = prepared.config.objective
    weight, reduction = {
        "paper": (1.0, "sum"),
        "official": (1.0, "mean"),
        "fixed": (section.weight, section.reduction),
        "learned": (1.0, "sum"),
    }[section.weighting]
    device = prepared.network.device
    log_variance = scale = None
    if section.weighting == "learned" and prepared.train.rated:
        counts = (~np.isnan(prepared.train.targets)).sum(0)
        base = len(prepared.train.pairs) or len(prepared.train.rated)
        scale = torch.tensor(counts / base, dtype=torch.float32, device=device)
        log_variance = torch.nn.Parameter(torch.zeros(len(counts), device=device))
    weights = Weights(section.label_smoothing, weight, reduction, scale)  # type: ignore[arg-type]
    return Objective(weights, section.use_margin, log_variance)


def step_totals(data: TokenSet, rated: np.ndarray, num_pairs: int, device: torch.device) -> Totals:
    """What every micro-batch of the step divides by."""
    observed = (~np.isnan(data.targets[rated])).sum(0)
    ratings = torch.tensor(observed, dtype=torch.float32, device=device)
    return Totals(num_pairs, len(rated), ratings)


def run_step(
    prepared: Prepared,
    objective: Objective,
    step: int,
    *,
    batches: Batches | None = None,
    stop: Callable[[], bool] = lambda: False,
    only: str | None = None,
) -> StepResult:
    """Forward and backward over the whole step: gradients are added to the parameters.

    Args:
        batches: where the step's micro-batches come from; None prepares them here.
        stop: asked before each micro-batch.
        only: back-propagate this term alone (`preference` or `regression`).

    Raises:
        Abandoned: `stop` said so; gradients are partial and must be dropped.
        NonFiniteLossError: a term is NaN or infinite.
    """
    # Dropout (LoRA's) is a function of the step too, so that nothing else needs to be saved.
    seed = np.random.SeedSequence([prepared.config.training.seed, step]).generate_state(1)
    torch.manual_seed(int(seed[0]))
    pairs, rated = prepared.order.step(step)
    totals = step_totals(prepared.train, rated, len(pairs), prepared.network.device)
    result = StepResult()
    for micro in (batches or batches_of(prepared, objective.use_margin))(step):
        if stop():
            raise Abandoned
        scores = _forward(prepared, micro.batch)
        terms, metrics = joint(
            scores, micro.labels, totals, objective.weights, objective.log_variance
        )
        _check_finite(terms, step, micro)
        chosen = [term for name, term in terms.items() if only in (None, name)]
        if chosen:
            torch.stack(chosen).sum().backward()
        result.add({f"loss/{name}": term for name, term in terms.items()})
        result.add(metrics)
        result.tokens += micro.batch.num_tokens
        result.micro_batches += 1
    result.values["loss"] = sum(v for k, v in result.values.items() if k.startswith("loss/"))
    return result


def _forward(prepared: Prepared, batch: object) -> torch.Tensor:
    network: RewardNetwork = prepared.network
    half = prepared.config.training.precision == "bf16"
    with torch.autocast(network.device.type, dtype=torch.bfloat16, enabled=half):
        scores: torch.Tensor = network(batch)
    return scores


def _check_finite(terms: Terms, step: int, micro: MicroBatch) -> None:
    for name, term in terms.items():
        if not torch.isfinite(term):
            records = ", ".join(micro.where[:8]) + (" ..." if len(micro.where) > 8 else "")
            raise NonFiniteLossError(
                f"step {step + 1}: the {name} term is {float(term.detach())}. Records of this "
                f"micro-batch: {records}. Lower training.learning_rate, or look at the records."
            )


def diagnose_step(
    prepared: Prepared,
    objective: Objective,
    step: int,
    named: dict[str, torch.nn.Parameter],
    *,
    batches: Batches | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> StepResult:
    """`run_step`, one term at a time, to see how the two terms' gradients on the backbone relate.

    The parameters end with the sum of both gradients, so this is a step like any other (it costs
    twice the time). Adds `gradient/preference`, `gradient/regression` (norms) and
    `gradient/cosine`.
    """
    found: dict[str, Gradients] = {}
    twice = list((batches or batches_of(prepared, objective.use_margin))(step))
    for term in ("preference", "regression"):
        result = run_step(
            prepared, objective, step, batches=lambda _: iter(twice), stop=stop, only=term
        )
        found[term] = {
            name: p.grad.detach().clone() for name, p in named.items() if p.grad is not None
        }
        for parameter in named.values():
            parameter.grad = None
    for name, parameter in named.items():
        parts = [found[term][name] for term in found if name in found[term]]
        parameter.grad = sum(parts[1:], parts[0]) if parts else None
    preference, regression = found["preference"], found["regression"]
    shared = [n for n in preference if n.startswith("backbone.") and n in regression]
    norms = {term: _norm(gradients) for term, gradients in found.items()}
    dot = sum(float((preference[n] * regression[n]).double().sum()) for n in shared)
    for term, norm in norms.items():
        result.values[f"gradient/{term}"] = norm
    product = norms["preference"] * norms["regression"]
    if product > 0:
        result.values["gradient/cosine"] = dot / product
    return result


def _norm(gradients: Gradients) -> float:
    """L2 norm over the backbone's parameters."""
    squares = [g.double().square().sum() for n, g in gradients.items() if n.startswith("backbone.")]
    return float(torch.stack(squares).sum().sqrt()) if squares else 0.0
