"""ArmoRM's second stage, on hidden states of a backbone that stays as it comes: multiples of
verbosity to subtract from the ridge rows, over the responses of all pairs, and a gate on the state
at the end of the prompt, by Bradley–Terry on the pairs.

Debiasing (Wang et al., 2024, arXiv 2406.12845, section 3.2):

    r'_k = r_k - m_k v,    m_k nearest to 0 with |Spearman(r'_k, v)| <= limit over a reference set

In the paper the correlation is to be 0; the public code stops at 0.03 and tries multiples of 0 to
0.95. Each pair of responses that changes its order as m grows lowers the correlation, so that it
falls in m and bisection finds the multiple."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata

from smorm import files
from smorm.arrays import Floats, Tokens
from smorm.config import Config, ObjectiveSection
from smorm.errors import ConfigError, NonFiniteLossError
from smorm.model.heads import GatedHead, gate_network
from smorm.objectives.preference import bradley_terry
from smorm.objectives.terms import Metrics
from smorm.printing import get_logger
from smorm.training import optim
from smorm.training.armo.attributes import PairFeatures, Stage1, StateReader, fit_rows, read_pairs
from smorm.training.folder import Cost, write_beginnings, write_cost
from smorm.training.loop import open_run
from smorm.training.methods.armo import ArmoSection
from smorm.training.proof import save_proven
from smorm.training.setup import Prepared
from smorm.training.tracking import reporting

log = get_logger(__name__)

_DOUBLINGS = _HALVINGS = 60


@dataclass(frozen=True, slots=True)
class Debiased:
    """An attribute's multiple of verbosity, and its rank correlation with verbosity before and
    after. With few responses the correlation goes down in steps, and one may jump the limit."""

    multiple: float
    before: float
    after: float


def rank_correlation(x: Floats, y: Floats) -> float:
    """Spearman's, ties by average rank; 0 where either is constant."""
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    return float(np.corrcoef(rankdata(x), rankdata(y))[0, 1])


def debias(reward: Floats, verbosity: Floats, limit: float) -> Debiased:
    """The multiple of `verbosity` [responses] that, subtracted, frees `reward` from it."""
    before = rank_correlation(reward, verbosity)
    if abs(before) <= limit:
        return Debiased(0.0, before, before)
    sign = math.copysign(1.0, before)

    def correlation(multiple: float) -> float:
        """Times its sign at first: falls as the multiple grows."""
        return sign * rank_correlation(reward - sign * multiple * verbosity, verbosity)

    # At this multiple both have the same standard deviation: a first bound, which may be too low.
    low, high = 0.0, float(reward.std() / verbosity.std())
    for _ in range(_DOUBLINGS):
        if correlation(high) <= limit:
            break
        low, high = high, 2 * high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if correlation(middle) <= limit:
            high = middle
        else:
            low = middle
    return Debiased(sign * high, before, sign * correlation(high))


def find_multiples(stage1: Stage1, pairs: PairFeatures, limit: float) -> list[Debiased]:
    """Of each attribute the multiple of verbosity that is subtracted; of verbosity's row all of it,
    as in the public code. Where nothing is debiased the correlations are NaN."""
    if stage1.verbosity is None:
        return [Debiased(0.0, math.nan, math.nan)] * len(stage1.rows)
    multiples = []
    verbosity = pairs.verbosity.double().numpy().ravel()
    for index, row in enumerate(stage1.rows):
        reward = pairs.ratings[..., index].double().numpy().ravel()
        # Verbosity correlates with itself perfectly, and nothing of it remains.
        debiased = Debiased(1.0, 1.0, 0.0)
        if row is not stage1.verbosity:
            debiased = debias(reward, verbosity, limit)
        multiples.append(debiased)
        log.info("%s: correlation with verbosity %.3f, %.3f after subtracting %.3g of it",
                 row.name, debiased.before, debiased.after, debiased.multiple)  # fmt: skip
        if abs(debiased.after) > limit:
            log.warning("%s: warning: no multiple brings it to %g or less over these %d responses",
                        row.name, limit, len(reward))  # fmt: skip
    return multiples


def make_head(
    config: Config, header: Tokens, stage1: Stage1, multiples: Sequence[Debiased]
) -> GatedHead:
    """The head with its fitted rows and an untrained gate."""
    settings = config.objective.settings(ArmoSection)
    attributes = torch.from_numpy(np.stack([row.weights for row in stage1.rows])).float()
    count, width = attributes.shape
    verbosity = torch.zeros(width)
    if stage1.verbosity is not None:
        verbosity = torch.from_numpy(stage1.verbosity.weights).float()
    # Drawn from the seed of the run; the random state of the caller does not change.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.training.seed)
        gate = gate_network(width, count, width=settings.width, layers=settings.layers,
                            dropout=settings.dropout)  # fmt: skip
    subtracted = torch.tensor([debiased.multiple for debiased in multiples])
    ends = torch.from_numpy(np.array(header))
    return GatedHead(attributes, verbosity, subtracted, gate, ends, settings.temperature)


def train_gate(prepared: Prepared, head: GatedHead, pairs: PairFeatures, cost: Cost) -> None:
    """Put the head in its place and train its gate by Bradley–Terry on the pairs, in the order and
    by the settings of `training`; both sides of a pair get one draw of the gate's dropout."""
    training, network, total = prepared.config.training, prepared.network, prepared.num_steps
    # The gate trains on the rewards that it will mix; the public code trains it on r, not on r'.
    debiased = pairs.ratings - pairs.verbosity[..., None] * head.multiples.cpu()
    mixed = replace(pairs, ratings=debiased)
    # In its place before training, so that `validate` scores with it.
    network.head = head.train().to(network.device)
    optimizer = optim.make_optimizer(training, network, {})
    devices = [network.device] if network.device.type == "cuda" else []
    with reporting(prepared, 0, total) as report, torch.random.fork_rng(devices=devices):
        torch.manual_seed(training.seed)
        for step in range(total):
            factor = optim.begin_step(optimizer, training, step, total)
            chosen = torch.from_numpy(prepared.order.step(step)[0])
            loss, metrics = gate_loss(prepared.config.objective, head, mixed, chosen)
            loss.backward()
            norm = optim.clip_gradients(network.head.parameters(), training.max_grad_norm)
            value = loss.item()
            if not math.isfinite(value) or not math.isfinite(norm):
                problem = f"step {step + 1}: the gate's loss is {value}, its gradient {norm}"
                raise NonFiniteLossError(f"{problem}. Lower training.learning_rate.")
            optimizer.step()
            cost.steps, cost.passes = cost.steps + 1, cost.passes + 1
            values = {name: metric.item() for name, metric in metrics.items()}
            values |= {"loss": value, "gradient_norm": norm}
            values |= {"scale": head.scale.item(), "learning_rate_factor": factor}
            report(step + 1, values)


def gate_loss(
    objective: ObjectiveSection, head: GatedHead, pairs: PairFeatures, chosen: torch.Tensor
) -> tuple[torch.Tensor, Metrics]:
    """The preference loss of a step, whose pairs are `chosen` of all."""
    device = head.scale.device
    # A prompt goes through the gate once, so that its two responses get one draw of the dropout.
    used, index = torch.unique(pairs.which[chosen], return_inverse=True)
    shares = head.gate_weights(pairs.prompts[used].to(device))[index.to(device)]
    scores = head.mix(shares.flatten(0, 1), pairs.ratings[chosen].to(device).flatten(0, 1))
    sides = scores.unflatten(0, (-1, 2))
    margin = pairs.margins[chosen].to(device) if objective.use_margin else None
    return bradley_terry(
        sides[:, 0], sides[:, 1], total=len(chosen), margin=margin,
        label_smoothing=objective.label_smoothing,
    )  # fmt: skip


def train_armo(config: Config, *, resume: bool = False) -> Path:
    """`smorm.training.loop.train` for an ArmoRM. There are no checkpoints; `armo.json` in the run's
    folder has each attribute's penalty, held-out errors, multiple, correlations and mean share. Of
    `training`, batch size, steps, rates and schedule are the gate's."""
    if resume:
        problem = "--resume: objective.kind armo writes no checkpoints"
        raise ConfigError(f"{problem}: leave out --resume, and it starts from the beginning")
    prepared = open_run(config, resume=False)
    settings, cost = config.objective.settings(ArmoSection), Cost()
    reader = StateReader(prepared, cost)
    # After the reader: a template that cannot be used leaves no half-written folder.
    write_beginnings(prepared)
    stage1 = fit_rows(reader, prepared)
    pairs = read_pairs(reader, prepared, stage1)
    multiples = find_multiples(stage1, pairs, settings.correlation)
    head = make_head(config, reader.header, stage1, multiples)
    train_gate(prepared, head, pairs, cost)
    head.eval()  # the gate's dropout off, for the shares below and in the saved model
    report = {
        "debias": settings.debias,
        "scale": float(head.scale.detach()),
        "attributes": _attributes(head, stage1, multiples, pairs),
    }
    files.write_json(config.output.folder / "armo.json", report)
    write_cost(prepared, cost)
    return save_proven(prepared)


def _attributes(
    head: GatedHead, stage1: Stage1, multiples: Sequence[Debiased], pairs: PairFeatures
) -> dict[str, Any]:
    # Averaged over prompts, not over pairs: a prompt with many pairs counts once.
    with torch.inference_mode():
        shares = head.gate_weights(pairs.prompts.to(head.scale.device)).mean(0).tolist()
    report: dict[str, Any] = {}
    for row, debiased, share in zip(stage1.rows, multiples, shares, strict=True):
        correlation = None
        if stage1.verbosity is not None:
            correlation = {"before": debiased.before, "after": debiased.after}
        report[row.name] = {
            "alpha": row.alpha,
            "held_out_error": {f"{alpha:g}": error for alpha, error in row.errors.items()},
            "held_out_ratings": row.held_out,
            "multiple": debiased.multiple,
            "correlation": correlation,
            "mean_share": share,
        }
    return report
