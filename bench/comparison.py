"""Two runs train the same model from the same weights, in turns; their losses are compared.

Seconds: bf16, rounds of consecutive optimizer steps, each run in its own shape. Numbers: both runs
again in fp32 and without checkpointing for a few steps on the same batches, where losses must agree
step by step and the first step's gradients too; and the bf16 losses against these."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch

from bench.batching import Batches, real_tokens
from bench.forked_arm import ForkedArm, Report
from bench.gemm_share import linear_weights
from bench.measure import Arm, Timing, interleave, ratio
from bench.padded_run import start_padded
from bench.results import Measurement, arm_facts
from bench.smorm_run import Batch, Plan, Run, SmormRun, start_smorm, stepped_arm
from bench.training_data import TrainingSet
from bench.trl_run import Setting, start_trl
from smorm.training.setup import Prepared


@dataclass(frozen=True, slots=True)
class Comparison(Measurement):
    """One comparison's figures; `gradients` is the largest difference in fp32."""

    gradients: float = 0.0


@dataclass(frozen=True, slots=True)
class Agreement:
    """fp32 losses of both runs and the largest differences of the first step's gradients.

    `gradients` is absolute, after clipping; `largest` the largest entry of the reference's."""

    baseline: list[float]
    smorm: list[float]
    gradients: float
    largest: float


class ReferenceRun(Run, Protocol):
    """A baseline that records its first step's gradients."""

    @property
    def gradients(self) -> dict[str, torch.Tensor]: ...


def against_trl(
    setting: Setting,
    prepared: Callable[[str], Prepared],
    data: TrainingSet,
    batches: Batches,
    plan: Plan,
    peak: float,
    accumulation: int = 1,
) -> Comparison:
    """smorm against TRL.

    Args:
        prepared: gives a new run in a precision at each call.
        peak: FLOPs a CPU second of the machine's matrix multiply in bf16.
        accumulation: TRL's passes for one step."""
    half = prepared("bf16")
    batches = _first_steps(batches, plan.steps)

    def trl() -> tuple[Arm, Report]:
        run = start_trl(
            setting, half, data, batches.baseline, plan.folder, accumulation=accumulation
        )

        def report() -> dict[str, Any]:
            passes = run.observed.forwards / len(run.observed.losses) / accumulation
            return {"forwards": passes, "dtype": run.observed.dtype}

        return stepped_arm("trl", run, batches.baseline, plan), report

    # Time in bf16, which is how people train; equality in fp32, where it means something.
    timings, losses, report = _timed("trl", trl, half, batches, plan)
    full, steps = prepared("fp32"), batches.smorm[: plan.equality_steps]
    with start_trl("fp32", full, data, steps, plan.folder, record_gradients=True) as reference:
        agreement = agree(reference, start_smorm(full, steps), len(steps))
    # Where each run groups the pairs in its own way, their bf16 losses are of different pairs.
    if not all(map(np.array_equal, *map(_pairs, batches))):
        del losses["trl"]
    detail = {
        "trl_setting": setting,
        "trl_computes_in": report["dtype"],
        "trl_forward_passes_of_a_row": report["forwards"],
        "trl_accumulation_steps": accumulation,
        # a row's backward pass is two products more
        "arms": _arm_facts(half, timings, peak, passes=2 + report["forwards"]),
    }
    return _comparison(agreement, timings, losses, detail, plan, half, batches)


def against_padded(
    prepared: Callable[[str], Prepared], batches: Batches, plan: Plan, peak: float
) -> Comparison:
    """smorm against the official code's shape, joint objective."""
    half = prepared("bf16")
    batches = _first_steps(batches, plan.steps)

    def padded() -> tuple[Arm, Report]:
        run = start_padded(half, batches.baseline)
        return stepped_arm("padded", run, batches.baseline, plan), dict

    timings, losses, _ = _timed("padded", padded, half, batches, plan)
    full, steps = prepared("fp32"), batches.smorm[: plan.equality_steps]
    agreement = agree(start_padded(full, steps), start_smorm(full, steps), len(steps))
    detail = {"arms": _arm_facts(half, timings, peak, passes=3)}
    return _comparison(agreement, timings, losses, detail, plan, half, batches)


def agree(reference: ReferenceRun, smorm: SmormRun, steps: int) -> Agreement:
    """Take fp32 steps of both runs and compare."""
    # In bf16 two correct programs differ by rounding alone; in fp32 what differs is a fault.
    agreement = Agreement([], [], 0.0, 0.0)
    for step in range(steps):
        agreement.baseline.append(reference.step().loss)
        agreement.smorm.append(smorm.step().loss)
        if step == 0:
            # AdamW's first update is a sign: later gradients amplify what rounding did here.
            gap, largest = gradient_gap(smorm, reference.gradients)
    return Agreement(agreement.baseline, agreement.smorm, gap, largest)


def gradient_gap(run: SmormRun, reference: dict[str, torch.Tensor]) -> tuple[float, float]:
    """Largest difference to the classifier's gradients, and their largest entry.

    Raises:
        RuntimeError: the two runs do not train the same parameters."""
    parameters = {}
    for name, parameter in run.named.items():
        # transformers' names of the same parameters
        name = name.replace("backbone.", "model.", 1).replace("head.", "score.", 1)
        parameters[name] = parameter
    if parameters.keys() != reference.keys():
        different = sorted(parameters.keys() ^ reference.keys())
        raise RuntimeError(f"different parameters: {different[:4]}")
    gap = largest = 0.0
    for name, expected in reference.items():
        gradient = parameters[name].grad
        assert gradient is not None
        gap = max(gap, float((gradient - expected).abs().max()))
        # Without it a gap of 1e-6 could be of gradients that are no larger.
        largest = max(largest, float(expected.abs().max()))
    return gap, largest


def _timed(
    name: str,
    baseline: Callable[[], tuple[Arm, Report]],
    prepared: Prepared,
    batches: Batches,
    plan: Plan,
) -> tuple[dict[str, Timing], dict[str, list[float]], dict[str, Any]]:
    """Timings and losses (warm-up included) of both runs, and the baseline's report."""

    # The run starts in the child: what it allocates is in no other process.
    def ours() -> tuple[Arm, Report]:
        run = start_smorm(prepared, batches.smorm)
        return stepped_arm("smorm", run, batches.smorm, plan), dict

    with ForkedArm(name, baseline) as slow, ForkedArm("smorm", ours) as fast:
        timings = interleave([slow.arm(), fast.arm()], plan.rounds, warmup=plan.warmup)
        report = slow.finish()
        fast.finish()
    # a round's values are the losses of its steps
    losses: dict[str, list[float]] = {}
    for arm in (slow, fast):
        losses[arm.name] = list(itertools.chain.from_iterable(arm.values))
    return timings, losses, report


def _arm_facts(
    prepared: Prepared, timings: dict[str, Timing], peak: float, *, passes: float
) -> dict[str, Any]:
    """Each run's figures; `passes` are the products of a row in the baseline, in forward passes."""
    facts = {}
    for name, timing in timings.items():
        flops = 0.0
        # smorm's own share is `gemm_share_bf16`, where its pruned rows are counted
        if name != "smorm":
            positions = sum(timing.tokens) / len(timing.tokens)
            flops = 2.0 * passes * linear_weights(prepared.network) * positions
        facts[name] = arm_facts(timing, flops=flops, peak=peak)
    return facts


def _first_steps(batches: Batches, steps: int) -> Batches:
    fewest = min(map(len, batches))
    if fewest < steps:
        raise ValueError(f"the set has {fewest} batches, and {steps} are to be measured")
    return batches.span(0, steps)


def _pairs(batches: Sequence[Batch]) -> list[Any]:
    return [pairs for pairs, _ in batches]


def _comparison(
    agreement: Agreement,
    timings: dict[str, Timing],
    losses: dict[str, list[float]],
    detail: dict[str, Any],
    plan: Plan,
    prepared: Prepared,
    batches: Batches,
) -> Comparison:
    slow, fast = timings.values()
    per_token = partial(_per_token, prepared=prepared, plan=plan)
    measured = ratio(per_token(slow, batches.baseline), per_token(fast, batches.smorm))
    gaps = np.abs(np.subtract(agreement.baseline, agreement.smorm)).tolist()
    detail |= {
        "fp32_losses": {
            "theirs": agreement.baseline,
            "smorm": agreement.smorm,
            "differences": gaps,
        },
        "fp32_gradients": {
            "largest difference": agreement.gradients,
            "largest entry": agreement.largest,
        },
    }
    errors = {"smorm": _largest_gap(losses["smorm"], agreement.baseline)}
    for name in losses.keys() - {"smorm"}:
        errors["theirs"] = _largest_gap(losses[name], agreement.baseline)
        detail["bf16_loss_difference"] = _largest_gap(losses[name], losses["smorm"])
    detail["bf16_error_against_fp32"] = errors
    return Comparison(measured, max(gaps), detail, agreement.gradients)


def _largest_gap(losses: Sequence[float], reference: Sequence[float]) -> float:
    """Over the steps that the reference has."""
    return float(np.abs(np.subtract(losses[: len(reference)], reference)).max())


def _per_token(
    timing: Timing, batches: Sequence[Batch], *, prepared: Prepared, plan: Plan
) -> Timing:
    """Seconds for each real token of the pairs of a round.

    Where both runs take the same batches this changes no ratio. Where each groups the same set in
    its own way, a round's pairs differ, and the time for equal work is compared."""
    real = np.array([real_tokens(prepared, batch) for batch in batches])
    work = real.reshape(-1, plan.steps_a_round).sum(axis=1)[plan.warmup :]
    cpu, wall = np.divide(timing.cpu, work).tolist(), np.divide(timing.wall, work).tolist()
    return Timing(cpu, wall, timing.values, timing.tokens, timing.units)
