"""Two sides train the same model from the same weights, in turns; what each loses is compared.

Seconds: bf16, rounds of consecutive optimizer steps, each side in its own shape. Numbers: both
sides again in fp32 and without checkpointing for a few steps on the same batches, where losses must
agree step by step and the first step's gradients too; and the bf16 losses against these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.apart import Apart, Facts
from bench.batching import real_tokens
from bench.equality import Truth, both, trl_truth
from bench.flops import linear_weights
from bench.measure import Arm, Ratio, Timing, interleave, ratio
from bench.ours import Batch
from bench.padded_side import begin_padded
from bench.results import arm_facts
from bench.sides import Plan, Side, our_side, trl_side
from bench.training_data import TrainingSet
from bench.trl_side import Setting
from smorm.training.setup import Prepared


@dataclass(frozen=True, slots=True)
class Compared:
    """One comparison's figures: `equality` and `gradients` are largest differences in fp32."""

    ratio: Ratio
    equality: float
    gradients: float
    detail: dict[str, Any]


def against_trl(
    setting: Setting,
    prepared: Callable[[str], Prepared],
    data: TrainingSet,
    theirs: Sequence[Batch],
    ours: Sequence[Batch],
    plan: Plan,
    peak: float,
    parts: int = 1,
) -> Compared:
    """smorm against TRL.

    Args:
        prepared: gives a new run in a precision at each call.
        parts: TRL's accumulation steps.
    """
    half = prepared("bf16")
    theirs, ours = _first(theirs, plan.steps), _first(ours, plan.steps)

    def trl() -> tuple[Arm, Facts]:
        side = trl_side(setting, half, data, theirs, plan.folder, parts=parts)

        def step() -> tuple[float, int]:
            loss = side.step()
            return loss, side.watch.positions[-1]

        def facts() -> dict[str, Any]:
            watch = side.watch
            return {"forwards": watch.forwards / len(watch.losses) / parts, "dtype": watch.dtype}

        return Side("trl", step, theirs, []).arm(plan), facts

    with Apart("trl", trl) as slow, Apart("smorm", _ours(half, ours, plan)) as fast:
        timings = interleave([slow.arm(), fast.arm()], plan.rounds, warmup=plan.warmup)
        told = slow.finish()
        fast.finish()
    detail = {
        "trl_setting": setting,
        "trl_computes_in": told["dtype"],
        "trl_forward_passes_of_a_row": told["forwards"],
        "trl_accumulation_steps": parts,
        "arms": _facts(half, timings, peak, passes=2 + told["forwards"]),
    }
    truth = trl_truth(prepared("fp32"), data, ours[: plan.equality_steps], plan.folder)
    same = _flat(slow.values) if _equal(theirs, ours) else None
    return _compared(truth, timings, same, _flat(fast.values), detail, plan, (half, theirs, ours))


def _ours(
    prepared: Prepared, batches: Sequence[Batch], plan: Plan
) -> Callable[[], tuple[Arm, Facts]]:
    def build() -> tuple[Arm, Facts]:
        side, _ = our_side(prepared, batches)
        return side.arm(plan), dict

    return build


def _flat(rounds: Sequence[Sequence[float]]) -> list[float]:
    return [loss for losses in rounds for loss in losses]


def against_padded(
    prepared: Callable[[str], Prepared], batches: Sequence[Batch], plan: Plan, peak: float
) -> Compared:
    """smorm against the official code's shape, joint objective."""
    half, batches = prepared("bf16"), _first(batches, plan.steps)

    def official() -> tuple[Arm, Facts]:
        side = begin_padded(half, tuple(batches))

        def step() -> tuple[float, int]:
            loss = side.step()
            return loss, side.positions[-1]

        return Side("padded", step, batches, []).arm(plan), dict

    with Apart("padded", official) as slow, Apart("smorm", _ours(half, batches, plan)) as fast:
        timings = interleave([slow.arm(), fast.arm()], plan.rounds, warmup=plan.warmup)
        slow.finish()
        fast.finish()
    full = prepared("fp32")
    reference = begin_padded(full, tuple(batches), keep_gradients=True)
    truth = both(full, batches[: plan.equality_steps], reference.step,
                   lambda: reference.gradients or {})  # fmt: skip
    detail = {"arms": _facts(half, timings, peak, passes=3)}
    return _compared(
        truth,
        timings,
        _flat(slow.values),
        _flat(fast.values),
        detail,
        plan,
        (half, batches, batches),
    )


def _facts(
    prepared: Prepared, timings: dict[str, Timing], peak: float, *, passes: float
) -> dict[str, Any]:
    """Each side's figures; `passes` are the baseline's products a row: forward ones and two."""
    weights = linear_weights(prepared.network)
    found = {}
    for name, timing in timings.items():
        times = 3.0 if name == "smorm" else passes
        flops = 2.0 * times * weights * sum(timing.tokens) / len(timing.tokens)
        # smorm's own share is `gemm_share_bf16`, where its pruned rows are counted
        found[name] = arm_facts(timing, flops=0.0 if name == "smorm" else flops, peak=peak)
    return found


def _first(batches: Sequence[Batch], steps: int) -> Sequence[Batch]:
    if len(batches) < steps:
        raise ValueError(f"the set has {len(batches)} batches, and {steps} are to be measured")
    return batches[:steps]


def _equal(left: Sequence[Batch], right: Sequence[Batch]) -> bool:
    return all(np.array_equal(a[0], b[0]) for a, b in zip(left, right, strict=True))


def _compared(
    truth: Truth,
    timings: dict[str, Timing],
    slow: list[float] | None,
    fast: list[float],
    detail: dict[str, Any],
    plan: Plan,
    worked: tuple[Prepared, Sequence[Batch], Sequence[Batch]],
) -> Compared:
    prepared, theirs, ours = worked
    baseline = next(name for name in timings if name != "smorm")
    work = {baseline: theirs, "smorm": ours}
    scaled = {
        name: _per_token(timing, prepared, work[name], plan) for name, timing in timings.items()
    }
    n = len(truth.theirs)
    gaps = [abs(a - b) for a, b in zip(truth.theirs, truth.ours, strict=True)]
    detail |= {
        "fp32_losses": {"theirs": truth.theirs, "smorm": truth.ours, "differences": gaps},
        "fp32_gradients": {"largest difference": truth.gradients, "largest entry": truth.largest},
        "bf16_error_against_fp32": {
            "smorm": max(abs(a - b) for a, b in zip(fast[:n], truth.theirs, strict=True))
        },
    }
    if slow is not None:
        detail["bf16_error_against_fp32"]["theirs"] = max(
            abs(a - b) for a, b in zip(slow[:n], truth.theirs, strict=True)
        )
        detail["bf16_loss_difference"] = max(abs(a - b) for a, b in zip(slow, fast, strict=True))
    return Compared(ratio(scaled[baseline], scaled["smorm"]), max(gaps), truth.gradients, detail)


def _per_token(timing: Timing, prepared: Prepared, batches: Sequence[Batch], plan: Plan) -> Timing:
    """Seconds for each real token of the pairs of a round.

    Where both sides hold the same batches this changes no ratio. Where each groups the same set in
    its own way, a round's pairs differ, and what is compared is the time for equal work.
    """
    scaled = Timing(results=timing.results, tokens=timing.tokens, units=timing.units)
    for number, (cpu, wall) in enumerate(zip(timing.cpu, timing.wall, strict=True)):
        first = (number + plan.warmup) * plan.steps_a_round
        work = sum(real_tokens(prepared, b) for b in batches[first : first + plan.steps_a_round])
        scaled.cpu.append(cpu / work)
        scaled.wall.append(wall / work)
    return scaled
