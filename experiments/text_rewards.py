"""The rewards that are compared, made of finished runs: views of a model, ensembles of several.

Shapes: M members, N responses of a record.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from experiments.text_runs import METHODS, Kept
from smorm.arrays import Floats
from smorm.rewards.ensemble import SIMPLE_MEAN, UNCHANGED, Rule, Standard, standard_of

REFERENCE = "reference"
"""The set of training responses on which the members of an ensemble are standardised."""
FURTHER = 100
"""The further members of an ensemble of seed s have the seeds s + 100, s + 200, ..."""
BASELINE = ("Single", "F")

Finished = Mapping[tuple[str, int], Kept]
"""Runs of one task by method and seed."""


@dataclass(frozen=True, slots=True)
class Part:
    """A member: a run, the view of it that counts, and its standard on the reference set."""

    kept: Kept
    view: str
    standard: Standard = UNCHANGED

    def values(self, name: str) -> list[Floats]:
        """Of each record of a set the values [N] on the common scale."""
        return [self.standard.apply(one) for one in self.kept.values[self.view][name]]


@dataclass(frozen=True, slots=True)
class Reward:
    """One reward of one seed; with several parts an ensemble under `rule`."""

    name: str
    view: str
    seed: int
    parts: tuple[Part, ...]
    rule: Rule = SIMPLE_MEAN

    def values(self, name: str) -> list[Floats]:
        """Of each record of a set the values [N]."""
        columns = [part.values(name) for part in self.parts]
        if len(columns) == 1:
            return columns[0]
        return [self.rule.combine(np.stack(row)) for row in zip(*columns, strict=True)]

    @property
    def is_baseline(self) -> bool:
        """Whether the others are compared with it."""
        return (self.name, self.view) == BASELINE


def ensemble_seeds(seed: int, members: int) -> list[int]:
    """Seeds of the Singles of the ensemble that belongs to a seed; the first is that seed's own."""
    return [seed + FURTHER * at for at in range(members)]


def rewards_of(finished: Finished, seed: int, members: int, prompts: Sequence[str]) -> list[Reward]:
    """Every reward of a seed, the baseline first.

    Args:
        members: how many Singles the seed ensembles have.
        prompts: of each record of the reference set a label of its prompt.

    Raises:
        DataError: fewer than 10 prompts in the reference set, or a reward that does not vary.
    """
    found = [
        Reward(name, view, seed, (Part(finished[name, seed], view),))
        for name, method in METHODS.items()
        for view in method.views
    ]
    singles = [(finished["Single", one], "F") for one in ensemble_seeds(seed, members)]
    both = [(finished["Single", seed], "F"), (finished["Multi", seed], "L")]
    together = f"Single × {members}"
    found += [
        _ensemble("SM", seed, both, Rule("mean"), prompts),
        _ensemble(together, seed, singles, Rule("mean"), prompts),
        _ensemble(together, seed, singles, Rule("min"), prompts),
    ]
    return found


def _ensemble(
    name: str,
    seed: int,
    members: Sequence[tuple[Kept, str]],
    rule: Rule,
    prompts: Sequence[str],
) -> Reward:
    parts = []
    for kept, view in members:
        rows = kept.values[view][REFERENCE]
        labels = [label for label, one in zip(prompts, rows, strict=True) for _ in one]
        standard = standard_of(np.concatenate(rows), labels, f"{kept.run.method} ({view})", rule)
        parts.append(Part(kept, view, standard))
    return Reward(name, rule.how, seed, tuple(parts), rule)


def label_of(name: str, view: str) -> str:
    """What a table calls a reward: `SMORM-F`, `SM`, `Single × 3 (min)`, or the bare method."""
    if name == "SMORM":
        return f"{name}-{view}"
    return f"{name} ({view})" if "×" in name else name
