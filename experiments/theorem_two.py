"""Theorem 2 on trained networks: Single, Multi and joint runs at several weights, seeds matched.

    python -m experiments.theorem_two --output results/theory

In the generated world, where the true quality of any answer is known: every arm starts from the
same backbone, takes the same steps and, within a seed, sees the same data in the same order; each
seed draws its own data. Ratings are scarce and noisy, as in the paper's setting. Finished runs are
used again. About seven minutes on one core."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch

from experiments.command import say
from experiments.runs import train_once
from experiments.tables import DASH, table, with_interval
from smorm.config import Config, parse_config
from smorm.data.reading import Source
from smorm.data.scaling import apply_scales, rating_matrix
from smorm.evaluation.metric_names import MetricName
from smorm.evaluation.metrics import Metric
from smorm.files import read_json, sha256, write_json, write_text
from smorm.lab.artifacts import ArtifactStore
from smorm.model.store import versions
from smorm.scoring.reward_model import RewardModel
from smorm.theory.advice import Counts, sign_of, weights
from smorm.theory.features import Reading, featured, gold_of
from smorm.theory.matched import BASES, ComparisonData, compare, read_run, unmatched
from smorm.version import __version__
from smorm.world import backbone_path, write_dataset

# Few ratings beside many pairs, as in the paper's setting: there its claim is to be tested.
SEEDS, STEPS = 8, 120
SIZES: dict[str, Any] = {
    "num_pairs": 800,
    "num_rated": 120,
    "num_eval_pairs": 400,
    "num_eval_rated": 300,
}
REGIMES = ("ID", "OODtopic")
# Official: weight 1 on the mean over attributes. Paper: on the sum, 5 times as much.
ARMS: dict[str, dict[str, Any]] = {
    "Single": {"kind": "preference"},
    "Multi": {"kind": "regression"},
    "SMORM 0.02 mean": {"weighting": "fixed", "weight": 0.02},
    "SMORM 0.2 mean": {"weighting": "fixed", "weight": 0.2},
    "SMORM official": {"weighting": "official"},
    "SMORM paper": {"weighting": "paper"},
    "SMORM learned": {"weighting": "learned"},
}


def arm_run(arm: str, seed: int, files: Mapping[str, Path], work: Path) -> Path:
    """The run's folder, trained now or found finished."""

    def configure(folder: Path) -> Config:
        values = {
            "model": {"backbone": str(backbone_path())},
            "data": {
                "preference": str(files["train-pairs"]),
                "rated": str(files["train-rated"]),
                "max_tokens": 256,
            },
            "objective": ARMS[arm],
            "training": {
                "seed": seed,
                "max_steps": STEPS,
                "batch_size": 32,
                "learning_rate": 1e-3,
                "threads": 1,
                "log_every": STEPS,
            },
            "output": {"folder": str(folder)},
        }
        return parse_config(values, where=arm)

    data = [sha256(files[name]) for name in ("train-pairs", "train-rated")]
    recipe = [configure(work).hash, data, versions()]
    return train_once(ArtifactStore(work), "arms", f"seed{seed}-{arm}", recipe, configure)


def held_out(regime: str, work: Path, reader: RewardModel) -> ComparisonData:
    """Pairs with their gold and truly rated responses of a regime, the same for every run."""
    # The training sets of this data are not used, and as small as they may be.
    sizes = {**SIZES, "num_pairs": 1, "num_rated": 1}
    # A seed of no training set.
    files = write_dataset(work / "held-out", seed=1000, **sizes)
    pairs_file, rated_file = files[f"eval-pairs-{regime}"], files[f"eval-rated-{regime}"]
    pairs = featured(reader, Source(pairs_file), "preference", Reading())
    rated = featured(reader, Source(rated_file), "rated", Reading())
    gold = gold_of(str(pairs_file), pairs.records, Reading())
    return ComparisonData(pairs, gold, rated)


def likelihood_weight(folder: Path, held: ComparisonData) -> Metric:
    """The weight that a run's residuals on held-out ratings suggest (`reduction: mean`)."""
    assert held.rated is not None
    model, rated = RewardModel.load(folder), held.rated.records
    ratings = apply_scales(model.card.scales, rating_matrix(rated, model.attributes))
    predicted = apply_scales(model.card.scales, model.score(rated).attributes)
    counts = Counts(SIZES["num_pairs"], SIZES["num_rated"], "the experiment")
    return weights((predicted - ratings) ** 2, counts, held.rated.prompts)["mean"]


Metrics = Mapping[str, Metric]
HEADINGS = {
    "F/mse": "F: squared error",
    "F/accuracy": "F: accuracy",
    "L/mse": "L: squared error",
    "L/accuracy": "L: accuracy",
    "attributes/mse": "attributes: squared error",
}
PAGE = """\
# The theory, measured

Formulas, sources and how to read them: [docs/diagnose.md](../../docs/diagnose.md). Linear problems
with a known truth are in [linear.md](linear.md).

## Theorem 2 on trained networks

`python -m experiments.theorem_two --output results/theory` (smorm {version}). The generated
world, {num_pairs} pairs and {num_rated} noisy ratings of 5 attributes, {seeds} seeds (each with its
own data), {steps} steps of 32 pairs and 32 ratings, small pretrained backbone, everything with one
learning rate. Squared errors of F and L are against the true quality, centred within each prompt
and after the best slope; those of the attributes after the best line, in units of each rating's
variance. Below a number its paired difference from Single (F) or Multi (L, attributes) with the
95 % interval over prompts. `*`: that interval excludes 0; `†`: so does Student's t over the seeds.
{matched}

{tables}

Maximum-likelihood weight from the residuals of `SMORM official`, seed 0 (`reduction: mean`):
{weight}.

Differences of squared errors that hold over prompts and over seeds alike:

{verdicts}
"""


class Verdict(StrEnum):
    """What a difference of squared errors shows, over prompts and over seeds."""

    BETTER = "better"
    WORSE = "worse"
    UNDECIDED = "undecided"


def verdict_of(gap: Metric, seeds: Metric) -> Verdict:
    """`BETTER` or `WORSE` where both intervals are on that side of 0."""
    # Over prompts alone a difference may be an accident of these seeds.
    if sign_of(gap) != sign_of(seeds) or sign_of(gap) == 0:
        return Verdict.UNDECIDED
    return Verdict.BETTER if sign_of(gap) < 0 else Verdict.WORSE


def difference(metrics: Metrics, head: str, number: str, arm: str) -> tuple[Metric, Metric] | None:
    """An arm's difference from the head's base, over prompts and over seeds; None for the base."""
    name = MetricName(head, subset=f"{number}/{arm}", base=BASES[head])
    gap = metrics.get(str(name))
    if gap is None:
        return None
    return gap, metrics[str(replace(name, over="seeds"))]


def regime_table(metrics: Metrics) -> str:
    """Markdown: one row an arm, one column a head's number, differences below the number."""
    rows = []
    for arm in ARMS:
        cells = [arm]
        for heading in HEADINGS:
            head, _, number = heading.partition("/")
            cells.append(
                _cell(metrics.get(f"{heading}/{arm}"), difference(metrics, head, number, arm))
            )
        rows.append(cells)
    return table(["arm", *HEADINGS.values()], rows)


def _cell(metric: Metric | None, gap: tuple[Metric, Metric] | None) -> str:
    if metric is None:
        return DASH
    if gap is None:
        return f"{metric.value:.4f}"
    text = f"{metric.value:.4f}<br>{with_interval(gap[0], '+.4f')}"
    # One sign for each interval that excludes 0: over prompts, over seeds.
    for interval, sign in zip(gap, "*†", strict=True):
        text += sign * (sign_of(interval) != 0)
    return text


def verdict_table(regimes: Mapping[str, Metrics]) -> str:
    """Which arms each regime and head find better and worse than its base."""
    rows = []
    for regime, metrics in regimes.items():
        for head, base in BASES.items():
            arms: dict[Verdict, list[str]] = {verdict: [] for verdict in Verdict}
            for arm in ARMS:
                gap = difference(metrics, head, "mse", arm)
                if gap is not None:
                    arms[verdict_of(*gap)].append(arm)
            cells = [", ".join(names) or "none" for names in arms.values()]
            rows.append([regime, f"{head} against {base}", *cells])
    return table(["prompts", "squared error of", *Verdict], rows)


def page(results: Mapping[str, Any]) -> str:
    """The page, from `theorem_two.json`."""
    regimes = {}
    for regime, metrics in results["metrics"].items():
        regimes[regime] = {name: Metric(**value) for name, value in metrics.items()}
    sections = ""
    for regime, metrics in regimes.items():
        sections += f"### {regime}\n\n{regime_table(metrics)}\n\n"
    matched = "The runs differ in nothing but the objective and the seed."
    return PAGE.format(
        version=results["version"],
        num_pairs=results["sizes"]["num_pairs"],
        num_rated=results["sizes"]["num_rated"],
        seeds=results["seeds"],
        steps=results["steps"],
        matched=" ".join(results["not_matched"]) or matched,
        tables=sections.rstrip(),
        weight=with_interval(Metric(**results["weight_mean"])),
        verdicts=verdict_table(regimes),
    )


def run(output: Path, work: Path) -> None:
    """Train every arm with every seed, compare, and write `theorem_two.json` and `README.md`."""
    torch.set_num_threads(1)
    folders = {}
    for seed in range(SEEDS):
        # A seed draws its own data, so that intervals over seeds cover the data too.
        files = write_dataset(work / f"data-seed{seed}", seed=seed, **SIZES)
        for arm in ARMS:
            folders[arm, seed] = arm_run(arm, seed, files, work)
            say(f"{arm}, seed {seed}: {folders[arm, seed]}")
    runs = [read_run(str(folder)) for folder in folders.values()]
    reader = RewardModel.load(runs[0].folder)
    held = {regime: held_out(regime, work, reader) for regime in REGIMES}
    metrics = {}
    for regime in REGIMES:
        compared = compare(runs, held[regime], Reading())
        metrics[regime] = {name: metric.as_dict() for name, metric in compared.items()}
    weight = likelihood_weight(folders["SMORM official", 0], held[REGIMES[0]])
    results = {
        "version": __version__,
        "sizes": SIZES,
        "steps": STEPS,
        "seeds": SEEDS,
        "not_matched": unmatched(runs),
        "weight_mean": weight.as_dict(),
        "metrics": metrics,
    }
    write_json(output / "theorem_two.json", results)
    rewrite(output)
    say((output / "README.md").read_text(encoding="utf-8"))


def rewrite(output: Path) -> None:
    """README.md, from `theorem_two.json`."""
    write_text(output / "README.md", page(read_json(output / "theorem_two.json")))


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(prog="python -m experiments.theorem_two")
    parser.add_argument("--output", type=Path, default=Path("results/theory"))
    parser.add_argument("--work", type=Path, default=Path("runs/theory"))
    options = parser.parse_args(arguments)
    run(options.output, options.work)


if __name__ == "__main__":
    main()
