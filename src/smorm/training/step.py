"""One optimizer step: micro-batches whose losses add up to the exact mean of the step.

Shapes: P pairs, R rated responses, K attributes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from smorm.errors import NonFiniteLossError
from smorm.objectives.joint import Terms, Totals
from smorm.training.batches import Batches, MicroBatch, batches_of
from smorm.training.methods import (
    Objective,
    forward,
    head_terms,
    lengths_of,
    make_objective,
    terms_of,
    whole_terms,
)
from smorm.training.setup import Prepared
from smorm.training.sources import TokenSet

__all__ = [
    "Abandoned",
    "Objective",
    "StepResult",
    "diagnose_step",
    "make_objective",
    "run_step",
    "step_totals",
]

Gradients = dict[str, torch.Tensor]
Shares = Iterable[torch.Tensor | None]


class Abandoned(Exception):  # noqa: N818  (a state, not an error)
    """A stop was asked for in the middle of a step; nothing of the step was applied."""


@dataclass(slots=True)
class StepResult:
    """Losses and metrics of a step (means over the step), and what it cost: `tokens` and
    `micro_batches` with a gradient, and tokens of a first pass without one."""

    values: dict[str, float] = field(default_factory=dict)
    tokens: int = 0
    micro_batches: int = 0
    first_pass_tokens: int = 0

    def add(self, values: dict[str, torch.Tensor]) -> None:
        """Add one micro-batch's parts."""
        for name, value in values.items():
            self.values[name] = self.values.get(name, 0.0) + float(value.detach())


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
        only: back-propagate the terms of these rows alone (`preference`, with its regularisers, or
            `regression`).

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
    micros: Iterable[MicroBatch] = (batches or batches_of(prepared, objective.use_margin))(step)
    shares: Shares = itertools.repeat(None)
    alone: list[MicroBatch] = []
    if objective.whole:
        micros = list(micros)
        alone = micros if len(micros) == 1 else []
        shares = _first_pass(prepared, objective, step, micros, result, stop)
        torch.manual_seed(int(seed[0]))  # both passes drop the same units
        _head_pass(prepared, objective, step, micros, result, only)
    for micro, share in zip(micros, shares, strict=False):
        if stop():
            raise Abandoned
        outputs = forward(prepared, objective, micro)
        terms, metrics = terms_of(objective, outputs, micro, totals)
        if alone:
            compared = outputs.scores[micro.labels.pairs]
            more, told = whole_terms(objective, compared, _lengths(objective, alone, compared))
            terms, metrics = {**terms, **more}, {**metrics, **told}
        _check_finite(terms, step, micro.where)
        chosen = [term for name, term in terms.items() if only in (None, _rows_of(name))]
        if share is not None and only in (None, "preference"):
            chosen.append((outputs.scores[micro.labels.pairs] * share).sum())
        if chosen:
            torch.stack(chosen).sum().backward()
        result.add({f"loss/{name}": term for name, term in terms.items()})
        result.add(metrics)
        result.tokens += micro.batch.num_tokens
        result.micro_batches += 1
    result.values["loss"] = sum(v for k, v in result.values.items() if k.startswith("loss/"))
    return result


def _rows_of(term: str) -> str:
    """Which of the head's rows a term trains: all but the regression act on the preference's."""
    return "regression" if term == "regression" else "preference"


def _first_pass(
    prepared: Prepared,
    objective: Objective,
    step: int,
    micros: Sequence[MicroBatch],
    result: StepResult,
    stop: Callable[[], bool],
) -> Shares:
    """The terms over all pairs of the step: their values go into `result`; returned is, for each
    micro-batch, their gradient by the scores of its pairs, [P, 2, 1 + K]. One micro-batch alone is
    the whole step, and needs no pass of its own."""
    if len(micros) == 1 or not set(objective.whole or ()) - {"orthogonality"}:
        return itertools.repeat(None)
    found = []
    with torch.no_grad():
        for micro in micros:
            if stop():
                raise Abandoned
            scores = forward(prepared, objective, micro).scores
            found.append(scores[micro.labels.pairs])
            result.first_pass_tokens += micro.batch.num_tokens
    compared = torch.cat(found).requires_grad_()
    terms, metrics = whole_terms(objective, compared, _lengths(objective, micros, compared))
    _check_finite(terms, step, [where for micro in micros for where in micro.where])
    result.add({f"loss/{name}": term for name, term in terms.items()})
    result.add(metrics)
    (gradient,) = torch.autograd.grad(torch.stack(list(terms.values())).sum(), compared)
    shares: Sequence[torch.Tensor] = gradient.split([len(part) for part in found])
    return shares


def _lengths(
    objective: Objective, micros: Sequence[MicroBatch], compared: torch.Tensor
) -> torch.Tensor | None:
    if objective.starts is None:
        return None
    return lengths_of(objective, micros).to(compared.device)


def _head_pass(
    prepared: Prepared,
    objective: Objective,
    step: int,
    micros: Sequence[MicroBatch],
    result: StepResult,
    only: str | None,
) -> None:
    """The terms over the head's rows, once a step."""
    if "orthogonality" not in (objective.whole or {}):
        return
    terms = head_terms(objective, prepared.network.head.rows())
    _check_finite(terms, step, [where for micro in micros for where in micro.where])
    result.add({f"loss/{name}": term for name, term in terms.items()})
    if only in (None, "preference"):
        torch.stack(list(terms.values())).sum().backward()


def _check_finite(terms: Terms, step: int, where: Sequence[str]) -> None:
    for name, term in terms.items():
        if not torch.isfinite(term):
            records = ", ".join(where[:8]) + (" ..." if len(where) > 8 else "")
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
