"""One optimizer step: micro-batches whose losses add up to the exact mean of the step, on one rank
or shared out among several."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from smorm.arrays import Ints
from smorm.errors import NonFiniteLossError
from smorm.model.device import seed_generators
from smorm.objectives.terms import Metrics, Rows, Terms, Totals
from smorm.stopping import Stop
from smorm.training.batches import Batches, MicroBatch
from smorm.training.distributed.ranks import Abandoned as Abandoned
from smorm.training.distributed.replicated import sum_gradients
from smorm.training.distributed.shares import imbalance
from smorm.training.methods import Method, Outputs
from smorm.training.optim import named_trainable
from smorm.training.setup import Prepared

_NAMED = 8  # records in an error


@dataclass(slots=True)
class StepResult:
    """Losses and metrics of a step (means over it), and the tokens and passes that it cost."""

    values: dict[str, float] = field(default_factory=dict)
    tokens: int = 0
    micro_batches: int = 0
    first_pass_tokens: int = 0

    def add(self, partial: "StepResult") -> None:
        """Add what another rank computed of the same step."""
        for name, value in partial.values.items():
            # What is not finite is null in a message.
            number = math.nan if value is None else value
            self.values[name] = self.values.get(name, 0.0) + number
        self.tokens += partial.tokens
        self.micro_batches += partial.micro_batches
        self.first_pass_tokens += partial.first_pass_tokens


def run_step(
    prepared: Prepared,
    method: Method,
    step: int,
    *,
    batches: Batches | None = None,
    stop: Stop = lambda: False,
    only: Rows | None = None,
) -> StepResult:
    """Forward and backward over the whole step: gradients, summed over all ranks, are added to the
    parameters.

    `stop` is called before each micro-batch; `only` back-propagates only the terms that train these
    rows. Raises `Abandoned` where it is true on any rank, with partial gradients that must be
    dropped, and NonFiniteLossError for a term that is NaN or infinite."""
    ranks = prepared.ranks
    # A rank without micro-batches looks for a stop too; sharded ones stop before a step only.
    if ranks.sharded:
        if any(ranks.gather(stop())):
            raise Abandoned
    elif stop():
        ranks.abandon()
    pairs, rated = prepared.order.step(step)
    # From the data, before any micro-batch is prepared: the first one divides by them already.
    observed = (~np.isnan(prepared.train.targets[rated])).sum(0)
    ratings = torch.tensor(observed, dtype=torch.float32, device=prepared.network.device)
    totals = Totals(len(pairs), len(rated), ratings)
    passes = _Passes(prepared, method, step, totals, stop, only)
    micros: Iterable[MicroBatch] = (batches or prepared.batches)(step)
    score_gradients: torch.Tensor | None = None
    complete = False
    if method.needs_step_scores:
        micros = list(micros)
        # Scores of the only micro-batch are those of the whole step: no pass before it is needed.
        complete = len(micros) == 1 and ranks.world == 1
        if not complete:
            score_gradients = passes.without_gradient(micros)
    if ranks.is_first:
        _back_propagate(passes.losses(method.head_terms(prepared.network), {}, []))
    # Each micro-batch is back-propagated at once: only its activations are in memory.
    with ranks.passes():
        for micro in micros:
            passes.with_gradient(micro, score_gradients, complete=complete)
    result = passes.summed()
    if ranks.world > 1:
        sum_gradients(named_trainable(prepared.network, method.parameters).values(), ranks)
    # Micro-batches divided by the totals of the step, so that sums over them are means over it.
    values = result.values
    values["loss"] = sum(value for name, value in values.items() if name.startswith("loss/"))
    return result


@dataclass(slots=True)
class _Passes:
    prepared: Prepared
    method: Method
    step: int
    totals: Totals
    stop: Stop
    only: Rows | None
    result: StepResult = field(default_factory=StepResult)
    failure: NonFiniteLossError | None = None

    def forward(self, micro: MicroBatch) -> Outputs:
        # Before every pass, so that a signal need not wait for the end of a long step.
        if not self.prepared.ranks.sharded and self.stop():
            self.prepared.ranks.abandon()
        # Dropout (LoRA's) is a function of the micro-batch, so that resuming needs no random state,
        # both passes drop the same units, and so does whichever rank computes it.
        seed = _seed(self.prepared.config.training.seed, self.step, micro.number)
        seed_generators(seed, self.prepared.network.device)
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
                self.fail(NonFiniteLossError(message + advice))
            scalars[f"loss/{name}"] = term.value
        values = self.result.values
        for name, value in scalars.items():
            values[name] = values.get(name, 0.0) + float(value.detach())
        return [term.value for term in terms.values() if self.only in (None, term.rows)]

    def fail(self, failure: NonFiniteLossError) -> None:
        """Raise an error; where all ranks compute their passes together, after the last one."""
        if not self.prepared.ranks.sharded:
            raise failure
        self.failure = self.failure or failure

    def without_gradient(self, micros: Sequence[MicroBatch]) -> torch.Tensor | None:
        """Compute the terms over all pairs of the step; returns their gradient by the scores of the
        pairs, [pairs of the step, 2, rows], in the order of the micro-batches."""
        ranks, network = self.prepared.ranks, self.prepared.network
        with ranks.passes():
            scores, pairs = self._own_scores(micros)
        if ranks.world > 1:
            ranks.gather()
            for tensor in (scores, pairs):
                ranks.sum(tensor)
        # The scores of the step as a leaf of autograd: no graph leads to the network.
        compared = scores.to(network.device).requires_grad_()
        terms, metrics = self.method.step_terms(compared, pairs.numpy())
        before = dict(self.result.values)
        losses = self.losses(terms, metrics, self._where_of(pairs.numpy()))
        if not ranks.is_first:  # every rank computes them, and one reports them
            self.result.values = before
        if not losses:  # `only` excludes them all
            return None
        (gradient,) = torch.autograd.grad(torch.stack(losses).sum(), compared)
        return gradient

    def _own_scores(self, micros: Sequence[MicroBatch]) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores [pairs, 2, rows] and indices in the training set [pairs] of the step's pairs; of
        those that are in no micro-batch of this rank 0."""
        rows = self.prepared.network.head.count
        device = self.prepared.network.device
        scores = torch.zeros(self.totals.pairs, 2, rows, device=device)
        pairs = torch.zeros(self.totals.pairs, dtype=torch.int64)
        with torch.no_grad():
            for micro in micros:
                compared = self.forward(micro).scores[micro.labels.pairs]
                if micro.idle:
                    continue
                rows_of_micro = slice(micro.first_pair, micro.first_pair + len(compared))
                scores[rows_of_micro] = compared
                pairs[rows_of_micro] = torch.tensor(micro.pair_indices, dtype=torch.int64)
                self.result.first_pass_tokens += micro.batch.num_tokens
        return scores, pairs

    def _where_of(self, pairs: Ints) -> list[str]:
        return [self.prepared.train.pairs[index].where for index in pairs[: _NAMED + 1]]

    def with_gradient(
        self, micro: MicroBatch, score_gradients: torch.Tensor | None, *, complete: bool
    ) -> None:
        """Add the gradient of a micro-batch (the `complete` step), and that of the step's terms by
        its scores."""
        if self.prepared.network.sharded:
            backbone: Any = self.prepared.network.backbone
            # Gradients are added up over the ranks once a step.
            backbone.set_requires_gradient_sync(micro.last)
            backbone.set_is_last_backward(micro.last)
        outputs = self.forward(micro)
        terms, metrics = self.method.terms(outputs, micro, self.totals)
        if micro.idle:
            _back_propagate([0.0 * term.value for term in terms.values()])
            return
        compared = outputs.scores[micro.labels.pairs]
        if complete:
            pairs = np.array(micro.pair_indices, dtype=np.int64)
            step_terms, step_metrics = self.method.step_terms(compared, pairs)
            terms, metrics = terms | step_terms, metrics | step_metrics
        losses = self.losses(terms, metrics, micro.where)
        if score_gradients is not None:
            # A number whose gradient by these scores is that of the step's terms, so that one
            # backward pass carries both kinds of terms. Its value means nothing.
            gradient = score_gradients[micro.first_pair : micro.first_pair + len(compared)]
            losses.append((compared * gradient).sum())
        _back_propagate(losses)
        self.result.tokens += micro.batch.num_tokens
        self.result.micro_batches += 1

    def summed(self) -> StepResult:
        """What all ranks computed of the step, in the order of the ranks."""
        ranks = self.prepared.ranks
        if self.failure is not None:
            raise self.failure
        if ranks.world == 1:
            return self.result
        total = StepResult()
        results = [StepResult(**result) for result in ranks.gather(asdict(self.result))]
        for result in results:
            total.add(result)
        total.values["imbalance"] = imbalance([result.tokens for result in results])
        return total


def _seed(run: int, step: int, micro_batch: int) -> int:
    # The first micro-batch has the seed that the whole step had when it was seeded once.
    key = [run, step, micro_batch] if micro_batch else [run, step]
    return int(np.random.SeedSequence(key).generate_state(1)[0])


def _back_propagate(losses: list[torch.Tensor]) -> None:
    if losses:
        torch.stack(losses).sum().backward()


def some_records(where: Sequence[str]) -> str:
    """The first of these records, for an error."""
    return ", ".join(where[:_NAMED]) + (" ..." if len(where) > _NAMED else "")


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
