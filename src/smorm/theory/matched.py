"""Theorem 2 measured: Single, Multi and joint runs with matched seeds, item by item.

Published (SMORM, Theorem 2): joint training has a strictly lower asymptotic squared error than
either head alone. What can be shown: not a higher one, for a well-specified shared representation
and the maximum-likelihood weight of the two losses. So runs at several weights are compared.

Shapes: `S` seeds, `P` pairs, `R` rated responses, `K` attributes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from smorm.config import Config, decisive, load_config
from smorm.config.objective import REGULARISERS
from smorm.data.records import Preference, Rated
from smorm.data.scaling import rating_matrix
from smorm.errors import ConfigError
from smorm.evaluation.metrics import (
    Clusters,
    Floats,
    Metric,
    mean_metric,
    mean_over_seeds,
    pair_outcomes,
)
from smorm.scoring.reward_model import RewardModel
from smorm.theory.calibrated import affine_errors, pair_errors
from smorm.theory.features import Reading

BASES = {"F": "Single", "L": "Multi", "attributes": "Multi"}
"""What a joint run is compared with, by the head that is measured."""
_MAY_DIFFER = ("objective.", "training.seed", "output.", "evaluation.")


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run: which arm of the comparison it is, its seed and its configuration."""

    folder: Path
    arm: str
    seed: int
    config: Config


def read_run(folder: str) -> Run:
    """A run's folder, as `smorm train` leaves it.

    Raises:
        ConfigError: it has no resolved configuration or no model.
    """
    place = Path(folder)
    config_file = place / "config.yaml"
    if not config_file.is_file() or not (place / "model").is_dir():
        raise ConfigError(f"--compare {folder}: expected a run's folder with config.yaml and model")
    config = load_config(config_file)
    return Run(place, arm_of(config), config.training.seed, config)


def arm_of(config: Config) -> str:
    """The method's label, with its regularisers and `frozen` behind it."""
    objective = config.objective
    label = objective.method.label(objective)
    for name in REGULARISERS:
        weight = getattr(objective, name)
        if weight:
            label += f" + {name} {weight:g}"
    if config.model.freeze:
        label += " + frozen"
    return label


def unmatched(runs: Sequence[Run]) -> list[str]:
    """Sentences about settings in which two arms of one seed differ beside the objective."""
    told: list[str] = []
    for seed in dict.fromkeys(run.seed for run in runs):
        group = [run for run in runs if run.seed == seed]
        first = next((run for run in group if run.arm.startswith("SMORM")), group[0])
        for run in group:
            keys = _differing(first, run)
            if keys:
                told.append(f"seed {seed}: {run.arm} and {first.arm} differ in {', '.join(keys)}.")
    return told


def _differing(one: Run, other: Run) -> list[str]:
    left, right = (decisive(run.config.as_dict()) for run in (one, other))
    unused = set()
    for run in (one, other):
        objective = run.config.objective
        if not objective.uses_ratings:
            unused.add("data.rated")
        if not objective.uses_pairs:
            unused.add("data.preference")
    return sorted(
        key
        for key in left.keys() | right.keys()
        if left.get(key) != right.get(key) and not key.startswith(_MAY_DIFFER) and key not in unused
    )


@dataclass(frozen=True, slots=True)
class HeldOut:
    """What all runs are measured on: pairs with their prompts [P] and perhaps a gold [P, 2], and
    perhaps rated responses with theirs [R]."""

    pairs: Sequence[Preference]
    pair_prompts: Clusters
    gold: Floats | None = None
    rated: Sequence[Rated] = ()
    rated_prompts: Clusters = ()


def measure(run: Run, held: HeldOut, reading: Reading) -> dict[tuple[str, str], Floats]:
    """A run's item outcomes: accuracy and, with a gold, squared error of each trained head on the
    pairs; squared error of the attributes, averaged over them, on the rated responses."""
    model = RewardModel.load(run.folder)
    options = {"max_batch_tokens": reading.max_batch_tokens, "overlong": reading.overlong}
    found: dict[tuple[str, str], Floats] = {}
    scores = model.score(held.pairs, **options)  # type: ignore[arg-type]
    for head in _heads(model):
        values = scores.view(head).reshape(-1, 2)
        found[head, "accuracy"] = pair_outcomes(values[:, 0], values[:, 1])[0]
        if held.gold is not None:
            found[head, "mse"] = pair_errors(values, held.gold, held.pair_prompts)
    if held.rated and model.attributes:
        predicted = model.score(held.rated, **options).attributes  # type: ignore[arg-type]
        errors = affine_errors(predicted, rating_matrix(held.rated, model.attributes))
        if np.isfinite(errors).any():
            found["attributes", "mse"] = errors
    return found


def _heads(model: RewardModel) -> list[str]:
    return ["F"] * model.card.preference_trained + ["L"] * bool(model.attributes)


def compare(runs: Sequence[Run], held: HeldOut, reading: Reading) -> dict[str, Metric]:
    """Every arm's numbers, and every joint arm's paired differences from its base.

    Metrics: `HEAD/QUANTITY/ARM` over the seeds that all arms have, and for a joint ARM
    `HEAD/QUANTITY/ARM − BASE` with the interval over prompts (of the mean over these seeds) and the
    same with ` over seeds`, Student's t over the seeds' means. HEAD is F, L or attributes.

    Raises:
        ConfigError: two runs are the same arm and seed, or the arms have no seed in common.
    """
    table: dict[str, dict[int, Run]] = {}
    for run in runs:
        if run.seed in table.setdefault(run.arm, {}):
            raise ConfigError(f"--compare {run.folder}: {run.arm} with seed {run.seed} came before")
        table[run.arm][run.seed] = run
    seeds = sorted(set.intersection(*(set(arm) for arm in table.values())))
    if not seeds:
        raise ConfigError("--compare: the runs have no seed in common: nothing is matched")
    outcomes = {
        arm: [measure(by_seed[seed], held, reading) for seed in seeds]
        for arm, by_seed in table.items()
    }
    return _numbers(outcomes, held)


def _numbers(
    outcomes: Mapping[str, list[dict[tuple[str, str], Floats]]], held: HeldOut
) -> dict[str, Metric]:
    found: dict[str, Metric] = {}
    for arm, rows in outcomes.items():
        for head, quantity in rows[0]:
            prompts = held.rated_prompts if head == "attributes" else held.pair_prompts
            mine = _stacked(rows, head, quantity)
            name = f"{head}/{quantity}/{arm}"
            found[name] = _over_prompts(mine, prompts)
            base = BASES[head]
            if base not in outcomes or arm == base or (head, quantity) not in outcomes[base][0]:
                continue
            gaps = mine - _stacked(outcomes[base], head, quantity)
            found[f"{name} − {base}"] = _over_prompts(gaps, prompts)
            values = [float(np.nanmean(gap)) for gap in gaps]
            found[f"{name} − {base} over seeds"] = mean_over_seeds(values, len(values))
    return found


def _stacked(rows: Sequence[Mapping[tuple[str, str], Floats]], head: str, quantity: str) -> Floats:
    """Seeds by items [S, items]; an item's attributes are averaged over those it has."""
    table = np.stack([row[head, quantity] for row in rows])
    if table.ndim == 2:
        return table
    kept = np.isfinite(table)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(kept, table, 0.0).sum(axis=2) / kept.sum(axis=2))


def _over_prompts(table: Floats, prompts: Clusters) -> Metric:
    """Mean over seeds, then over items that have the number, with the interval over prompts."""
    values = table.mean(axis=0)
    known = np.isfinite(values)
    codes = np.asarray(prompts, dtype=object)[known].tolist()
    return mean_metric(values[known], codes)
