"""One optimizer step: micro-batches whose losses add up to the exact mean of the step."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from smorm.errors import NonFiniteLossError
from smorm.objectives.terms import Metrics, Rows, Terms, Totals
from smorm.stopping import Stop
from smorm.training.batches import Batches, MicroBatch
from smorm.training.methods import Method, Outputs
from smorm.training.setup import Prepared


class Abandoned(Exception):  # noqa: N818  (a state, not an error)
    """A stop was requested in the middle of a step; nothing of the step was applied."""


@dataclass(slots=True)
class StepResult:
    """Losses and metrics of a step (means over it), and the tokens and passes that it cost."""

    values: dict[str, float] = field(default_factory=dict)
    tokens: int = 0
    micro_batches: int = 0
    first_pass_tokens: int = 0


def run_step(
    prepared: Prepared,
    method: Method,
    step: int,
    *,
    batches: Batches | None = None,
    stop: Stop = lambda: False,
    only: Rows | None = None,
) -> StepResult:
    """Forward and backward over the whole step: gradients are added to the parameters.

    `stop` is called before each micro-batch; `only` back-propagates only the terms that train these
    rows. Raises `Abandoned` where `stop` says so, with partial gradients that must be dropped, and
    NonFiniteLossError for a term that is NaN or infinite."""
    # Dropout (LoRA's) is a function of the step, so that resuming needs no random state.
    seed = np.random.SeedSequence([prepared.config.training.seed, step]).generate_state(1)
    torch.manual_seed(int(seed[0]))
    pairs, rated = prepared.order.step(step)
    # From the data, before any micro-batch is prepared: the first one divides by them already.
    observed = (~np.isnan(prepared.train.targets[rated])).sum(0)
    ratings = torch.tensor(observed, dtype=torch.float32, device=prepared.network.device)
    totals = Totals(len(pairs), len(rated), ratings)
    passes = _Passes(prepared, method, step, totals, stop, only)
    micros: Iterable[MicroBatch] = (batches or prepared.batches)(step)
    score_gradients: Iterable[torch.Tensor | None] = itertools.repeat(None)
    complete = False
    if method.needs_step_scores:
        micros = list(micros)
        # Scores of the only micro-batch are those of the whole step: no pass before it is needed.
        complete = len(micros) == 1
        if not complete:
            score_gradients = passes.without_gradient(micros)
            # Both passes must drop the same units, or the gradient is not that of these scores.
            torch.manual_seed(int(seed[0]))
    _back_propagate(passes.losses(method.head_terms(prepared.network), {}, []))
    # Each micro-batch is back-propagated at once: only its activations are in memory.
    for micro, score_gradient in zip(micros, score_gradients, strict=False):
        passes.with_gradient(micro, score_gradient, complete=complete)
    # Micro-batches divided by the totals of the step, so that sums over them are means over it.
    values = passes.result.values
    values["loss"] = sum(value for name, value in values.items() if name.startswith("loss/"))
    return passes.result


@dataclass(slots=True)
class _Passes:
    prepared: Prepared
    method: Method
    step: int
    totals: Totals
    stop: Stop
    only: Rows | None
    result: StepResult = field(default_factory=StepResult)

    def forward(self, micro: MicroBatch) -> Outputs:
        # Before every pass, so that a signal need not wait for the end of a long step.
        if self.stop():
            raise Abandoned
        with self.prepared.autocast():
            return self.method.forward(self.prepared.network, micro)

    def losses(self, terms: Terms, metrics: Metrics, where: Sequence[str]) -> list[torch.Tensor]:
        """Report terms and metrics; returns the values to back-propagate."""
        scalars = dict(metrics)
        for name, term in terms.items():
            # Checked before the backward pass, after which every gradient would be NaN.
            if not torch.isfinite(term.value):
                message = f"step {self.step + 1}: the {name} term is {float(term.value.detach())}. "
                if where:
                    message += f"Records of this micro-batch: {some_records(where)}. "
                advice = "Lower training.learning_rate, or look at the records."
                raise NonFiniteLossError(message + advice)
            scalars[f"loss/{name}"] = term.value
        values = self.result.values
        for name, value in scalars.items():
            values[name] = values.get(name, 0.0) + float(value.detach())
        return [term.value for term in terms.values() if self.only in (None, term.rows)]

    def without_gradient(self, micros: Sequence[MicroBatch]) -> Iterable[torch.Tensor | None]:
        """Compute the terms over all pairs of the step; returns, for each micro-batch, their
        gradient by the scores of its pairs, [pairs, 2, rows]."""
        scores = []
        with torch.no_grad():
            for micro in micros:
                scores.append(self.forward(micro).scores[micro.labels.pairs])
                self.result.first_pass_tokens += micro.batch.num_tokens
        # The scores of the step as a leaf of autograd: no graph leads to the network.
        compared = torch.cat(scores).requires_grad_()
        terms, metrics = self.method.step_terms(compared, micros)
        where = list(itertools.chain.from_iterable(micro.where for micro in micros))
        losses = self.losses(terms, metrics, where)
        if not losses:  # `only` excludes them all
            return itertools.repeat(None)
        (gradient,) = torch.autograd.grad(torch.stack(losses).sum(), compared)
        score_gradients: tuple[torch.Tensor, ...] = gradient.split(list(map(len, scores)))
        return score_gradients

    def with_gradient(
        self, micro: MicroBatch, score_gradient: torch.Tensor | None, *, complete: bool
    ) -> None:
        """Add the gradient of a micro-batch (the `complete` step), and that of the step's terms by
        its scores."""
        outputs = self.forward(micro)
        terms, metrics = self.method.terms(outputs, micro, self.totals)
        compared = outputs.scores[micro.labels.pairs]
        if complete:
            step_terms, step_metrics = self.method.step_terms(compared, [micro])
            terms, metrics = terms | step_terms, metrics | step_metrics
        losses = self.losses(terms, metrics, micro.where)
        if score_gradient is not None:
            # A number whose gradient by these scores is that of the step's terms, so that one
            # backward pass carries both kinds of terms. Its value means nothing.
            losses.append((compared * score_gradient).sum())
        _back_propagate(losses)
        self.result.tokens += micro.batch.num_tokens
        self.result.micro_batches += 1


def _back_propagate(losses: list[torch.Tensor]) -> None:
    if losses:
        torch.stack(losses).sum().backward()


def some_records(where: Sequence[str]) -> str:
    """The first of these records, for an error."""
    return ", ".join(where[:8]) + (" ..." if len(where) > 8 else "")


def diagnose_step(
    prepared: Prepared,
    method: Method,
    step: int,
    named: Mapping[str, torch.nn.Parameter],
    *,
    batches: Batches | None = None,
    stop: Stop = lambda: False,
) -> StepResult:
    """`run_step`, first for the preference row and then for the attribute rows: a step like any
    other, of twice the time. Adds `gradient/preference`, `gradient/regression` (norms of their
    terms' gradients on the backbone) and `gradient/cosine`."""
    # Batches that are prepared ahead can be read only once.
    micros = list((batches or prepared.batches)(step))
    gradients: dict[Rows, dict[str, torch.Tensor]] = {}
    norms: dict[Rows, float] = {}
    for rows in Rows:
        result = run_step(
            prepared, method, step, batches=lambda _: iter(micros), stop=stop, only=rows
        )
        gradients[rows], squares = {}, 0.0
        for name, parameter in named.items():
            if parameter.grad is not None:
                # Taken off the parameters: the other kind of terms must not add to them.
                gradient, parameter.grad = parameter.grad.detach(), None
                gradients[rows][name] = gradient
                if name.startswith("backbone."):
                    squares += float(gradient.double().square().sum())
        norms[rows] = math.sqrt(squares)
    preference, attributes = gradients[Rows.PREFERENCE], gradients[Rows.ATTRIBUTES]
    dot = 0.0
    for name, parameter in named.items():
        first, second = preference.get(name), attributes.get(name)
        # What neither kind of terms trains keeps no gradient at all: AdamW would still decay its
        # moments by one of zeros.
        parameter.grad = first if second is None else second
        if first is not None and second is not None:
            parameter.grad = first + second
            if name.startswith("backbone."):  # each row of the head belongs to one of them
                dot += float((first * second).double().sum())
    for rows, norm in norms.items():
        result.values[f"gradient/{rows.value}"] = norm
    product = math.prod(norms.values())
    if product > 0:
        result.values["gradient/cosine"] = dot / product
    return result
