"""The same numbers: both sides in fp32 on the same batches, losses and gradients compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from bench.ours import Batch, Ours
from bench.sides import our_side, trl_side
from bench.training_data import TrainingSet
from smorm.training.setup import Prepared


@dataclass(frozen=True, slots=True)
class Truth:
    """fp32 losses of both sides and the largest differences of the first step's gradients.

    `gradients` is absolute, after clipping; `largest` the largest entry of the reference's.
    """

    theirs: list[float]
    ours: list[float]
    gradients: float
    largest: float


def trl_truth(
    prepared: Prepared, data: TrainingSet, batches: Sequence[Batch], folder: Path
) -> Truth:
    """TRL and smorm in fp32 on the same batches."""
    with trl_side("fp32", prepared, data, batches, folder, keep_gradients=True) as trl:
        return both(prepared, batches, trl.step, lambda: trl.watch.gradients or {})


def both(
    prepared: Prepared,
    batches: Sequence[Batch],
    reference: Callable[[], float],
    gradients: Callable[[], dict[str, torch.Tensor]],
) -> Truth:
    ours, run = our_side(prepared, batches)
    theirs, mine, gap, largest = [], [], 0.0, 0.0
    for step in range(len(batches)):
        theirs.append(reference())
        mine.append(ours.step()[0])
        if step == 0:
            gap, largest = gradient_gap(run, gradients())
    return Truth(theirs, mine, gap, largest)


def gradient_gap(run: Ours, reference: dict[str, torch.Tensor]) -> tuple[float, float]:
    """Largest difference to the classifier's gradients, and their largest entry.

    Raises:
        RuntimeError: the two sides do not train the same parameters.
    """
    names = {
        name.replace("backbone.", "model.", 1).replace("head.", "score.", 1): parameter
        for name, parameter in run.named.items()
    }
    if names.keys() != reference.keys():
        raise RuntimeError(f"different parameters: {sorted(names.keys() ^ reference.keys())[:4]}")
    gap = largest = 0.0
    for name, expected in reference.items():
        found = names[name].grad
        assert found is not None
        gap = max(gap, float((found - expected).abs().max()))
        largest = max(largest, float(expected.abs().max()))
    return gap, largest
