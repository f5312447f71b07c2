"""Theorem 2 measured: Single, Multi and joint runs with matched seeds, item by item.

Published (SMORM, Theorem 2): joint training has a strictly lower asymptotic squared error than
either head alone. What can be shown: not a higher one, for a well-specified shared representation
and the maximum-likelihood weight of the two losses. So runs at several weights are compared.

Squared errors are taken after calibration. Bradley–Terry fixes neither a prompt's offset nor,
without its noise model, the scale, so reward and truth are centred within each prompt and the
reward is put on the truth's scale by least squares, with a slope of at least 0: a reward that
orders the wrong way is no better than a constant.

Shapes: `S` seeds, `N` responses, `P` pairs, `R` rated responses, `K` attributes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from smorm.arrays import Clusters, Floats
from smorm.config import Config, decisive, load_config
from smorm.config.objective import REGULARISERS
from smorm.data.scaling import rating_matrix
from smorm.errors import ConfigError
from smorm.evaluation.correlation import centred
from smorm.evaluation.metrics import Metric, mean_metric, mean_over_seeds, pair_outcomes
from smorm.scoring.reward_model import RewardModel
from smorm.theory.features import Featured, Reading

# The arm that a joint run is compared with, by the head that is measured.
BASES = {"F": "Single", "L": "Multi", "attributes": "Multi"}
_MAY_DIFFER = ("objective.", "training.seed", "output.", "evaluation.")

Outcomes = dict[tuple[str, str], Floats]  # numbers of each item by head and quantity


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run: which arm of the comparison it is, its seed and its configuration."""

    folder: Path
    arm: str
    seed: int
    config: Config


def read_run(folder: str) -> Run:
    """A run's folder, as `smorm train` leaves it; ConfigError where it has no resolved
    configuration or no model."""
    path = Path(folder)
    config_file = path / "config.yaml"
    if not config_file.is_file() or not (path / "model").is_dir():
        raise ConfigError(f"--compare {folder}: expected a run's folder with config.yaml and model")
    # The resolved configuration of the run, not the file that the user wrote.
    config = load_config(config_file)
    return Run(path, arm_of(config), config.training.seed, config)


def arm_of(config: Config) -> str:
    """The method's label, with its regularisers and `frozen` behind it."""
    objective = config.objective
    # Runs with equal labels are seeds of one arm, so all that sets arms apart must be in it.
    label = objective.method.label(objective)
    for name in REGULARISERS:
        if weight := getattr(objective, name):
            label += f" + {name} {weight:g}"
    if config.model.freeze:
        label += " + frozen"
    return label


def unmatched(runs: Sequence[Run]) -> list[str]:
    """Sentences about settings, other than the objective, in which arms of one seed differ."""
    sentences: list[str] = []
    for seed in dict.fromkeys(run.seed for run in runs):
        group = [run for run in runs if run.seed == seed]
        # A joint run, whose settings both sets concern.
        first = min(group, key=lambda run: len(_unused_sets(run)))
        for run in group:
            keys = _differing_keys(first, run)
            if keys:
                sentences.append(f"seed {seed}: {run.arm} and {first.arm} differ in {keys}.")
    return sentences


def _unused_sets(run: Run) -> set[str]:
    """Sections of sets that the run does not train on: they may be named or not."""
    method = run.config.objective.method
    used = {"data.preference": method.uses_pairs, "data.rated": method.uses_ratings}
    return {name for name in used if not used[name]}


def _differing_keys(first: Run, second: Run) -> str:
    a, b = decisive(first.config.as_dict()), decisive(second.config.as_dict())
    differing = {key for key in a.keys() | b.keys() if a.get(key) != b.get(key)}
    differing -= _unused_sets(first) | _unused_sets(second)
    return ", ".join(sorted(key for key in differing if not key.startswith(_MAY_DIFFER)))


@dataclass(frozen=True, slots=True)
class ComparisonData:
    """Items that all runs are measured on."""

    pairs: Featured
    gold: Floats | None = None  # of the sides of the pairs [P, 2]
    rated: Featured | None = None


def measure(run: Run, data: ComparisonData, reading: Reading) -> Outcomes:
    """A run's item outcomes: accuracy and, with a gold, squared error of each trained head on the
    pairs; squared errors of the attributes [R, K] on the rated responses."""
    model, outcomes = RewardModel.load(run.folder), {}
    options: Any = {"max_batch_tokens": reading.max_batch_tokens, "overlong": reading.overlong}
    scores = model.score(data.pairs.records, **options)
    trained = {"F": model.card.preference_trained, "L": bool(model.attributes)}
    for head in trained:
        if not trained[head]:
            continue
        values = scores.view(head).reshape(-1, 2)
        outcomes[head, "accuracy"] = pair_outcomes(values[:, 0], values[:, 1])[0]
        if data.gold is not None:
            outcomes[head, "mse"] = pair_errors(values, data.gold, data.pairs.prompts)
    if data.rated is not None and model.attributes:
        rated = data.rated.records
        predicted = model.score(rated, **options).attributes
        errors = affine_errors(predicted, rating_matrix(rated, model.attributes))
        if np.isfinite(errors).any():
            outcomes["attributes", "mse"] = errors
    return outcomes


def compare(runs: Sequence[Run], data: ComparisonData, reading: Reading) -> dict[str, Metric]:
    """Every arm's numbers, and every joint arm's paired differences from its base.

    Metrics: `HEAD/QUANTITY/ARM` over the seeds that all arms have, and for a joint ARM
    `HEAD/QUANTITY/ARM − BASE` with the interval over prompts (of the mean over these seeds) and the
    same with ` over seeds`, Student's t over the seeds' means. HEAD is F, L or attributes."""
    table: dict[str, dict[int, Run]] = {}
    for run in runs:
        if run.seed in table.setdefault(run.arm, {}):
            raise ConfigError(f"--compare {run.folder}: {run.arm} with seed {run.seed} came before")
        table[run.arm][run.seed] = run
    # Only seeds that all arms have: differences are paired seed by seed.
    seeds = sorted(set.intersection(*(set(arm) for arm in table.values())))
    if not seeds:
        raise ConfigError("--compare: the runs have no seed in common: nothing is matched")
    outcomes = {}
    for arm, by_seed in table.items():
        outcomes[arm] = [measure(by_seed[seed], data, reading) for seed in seeds]
    return _metrics(outcomes, data)


def _metrics(outcomes: Mapping[str, list[Outcomes]], data: ComparisonData) -> dict[str, Metric]:
    metrics: dict[str, Metric] = {}
    prompts = dict.fromkeys(("F", "L"), data.pairs.prompts)
    if data.rated is not None:
        prompts["attributes"] = data.rated.prompts
    for arm, rows in outcomes.items():
        for key in rows[0]:
            head, quantity = key
            values = _by_seed(rows, key)
            name = f"{head}/{quantity}/{arm}"
            metrics[name] = _over_prompts(values, prompts[head])
            # A difference only for heads that the base has trained too.
            base = BASES[head]
            if base not in outcomes or arm == base or key not in outcomes[base][0]:
                continue
            gaps = values - _by_seed(outcomes[base], key)
            metrics[f"{name} − {base}"] = _over_prompts(gaps, prompts[head])
            means = np.nanmean(gaps, axis=1).tolist()
            metrics[f"{name} − {base} over seeds"] = mean_over_seeds(means, len(means))
    return metrics


def _by_seed(rows: Sequence[Outcomes], key: tuple[str, str]) -> Floats:
    table = np.stack([row[key] for row in rows])
    if table.ndim == 2:
        return table
    known = np.isfinite(table)
    # Items without any rating give NaN, and are left out over prompts.
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(known, table, 0.0).sum(axis=2) / known.sum(axis=2))


def _over_prompts(table: Floats, prompts: Clusters) -> Metric:
    """Mean over seeds, then over items that have the number, with the interval over prompts."""
    # Over seeds first: the interval is that of prompts, at these seeds.
    values = table.mean(axis=0)
    known = np.isfinite(values)
    codes = np.asarray(prompts, dtype=object)[known].tolist()
    return mean_metric(values[known], codes)


def pair_errors(reward: Floats, truth: Floats, prompts: Clusters) -> Floats:
    """Squared errors of rewards of pairs [P, 2], the mean of the two sides [P], both centred within
    their prompt, after the best slope; `prompts` has one label a pair."""
    # Both sides of a pair, and all pairs of a prompt, share the prompt's offset.
    labels = np.repeat(np.asarray(prompts, dtype=object), 2)
    x, y = centred(reward.reshape(-1), labels), centred(truth.reshape(-1), labels)
    return np.asarray(((y - _slope(x, y) * x) ** 2).reshape(-1, 2).mean(axis=1))


def affine_errors(predicted: Floats, ratings: Floats) -> Floats:
    """Squared errors [N, K] of attribute predictions after the best line, in units of the ratings'
    variance: a constant has 1. NaN where not rated, or where all ratings are equal."""
    errors = np.full(ratings.shape, np.nan)
    for column, (x, y) in enumerate(zip(predicted.T, ratings.T, strict=True)):
        known = np.isfinite(y)
        # No line through one point, and no variance to divide by.
        if known.sum() < 2 or np.ptp(y[known]) == 0:
            continue
        a, b = x[known] - x[known].mean(), y[known] - y[known].mean()
        errors[known, column] = (b - _slope(a, b) * a) ** 2 / float((b * b).mean())
    return errors


def _slope(x: Floats, y: Floats) -> float:
    """Least-squares slope of centred y on centred x, not below 0."""
    power = float(x @ x)
    return max(0.0, float(x @ y) / power) if power else 0.0
