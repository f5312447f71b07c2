"""Theorem 2 on trained networks: Single, Multi and joint runs at several weights, seeds matched.

    python -m experiments.theorem_two --output results/theory

In the generated world, where the true quality of any answer is known: every arm starts from the
same backbone, takes the same steps and, within a seed, sees the same data in the same order; each
seed draws its own data. Ratings are scarce and noisy, as in the paper's setting. Finished runs are
used again. About seven minutes on one core.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from smorm.config import parse_config
from smorm.data.reading import Source
from smorm.data.scaling import apply_scales, rating_matrix
from smorm.evaluation.metrics import Metric
from smorm.files import fingerprint, write_json, write_text
from smorm.scoring.reward_model import RewardModel
from smorm.theory.advice import sign_of
from smorm.theory.features import Reading, featured, gold_of
from smorm.theory.matched import BASES, ComparisonData, compare, read_run, unmatched
from smorm.theory.suggest import Counts, weights
from smorm.training.loop import train
from smorm.version import __version__
from smorm.world import backbone_path, write_dataset

SEEDS, STEPS = 8, 120
SIZES: dict[str, Any] = {
    "num_pairs": 800,
    "num_rated": 120,
    "num_eval_pairs": 400,
    "num_eval_rated": 300,
}
REGIMES = ("ID", "OODtopic")
ARMS: dict[str, dict[str, Any]] = {
    "Single": {"kind": "preference"},
    "Multi": {"kind": "regression"},
    "SMORM 0.02 mean": {"weighting": "fixed", "weight": 0.02},
    "SMORM 0.2 mean": {"weighting": "fixed", "weight": 0.2},
    "SMORM official": {"weighting": "official"},
    "SMORM paper": {"weighting": "paper"},
    "SMORM learned": {"weighting": "learned"},
}
"""Official: weight 1 on the mean over attributes. Paper: on the sum, 5 times as much."""


def trained(arm: str, seed: int, files: Mapping[str, Path], work: Path) -> Path:
    """The run's folder, trained now or found finished."""
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
        "output": {"folder": str(work)},
    }
    name = f"seed{seed}-{arm.replace(' ', '-')}-{fingerprint([values, SIZES, __version__])[:8]}"
    folder = work / name
    if not (folder / "model").is_dir():
        config = {**values, "output": {"folder": str(folder)}}
        train(parse_config(config, where=arm), resume=True)
    return folder


def held_out(regime: str, work: Path, reader: RewardModel) -> ComparisonData:
    """Pairs with their gold and truly rated responses of a regime, the same for every run."""
    sizes = {**SIZES, "num_pairs": 1, "num_rated": 1}
    files = write_dataset(work / "held-out", seed=1000, **sizes)
    pairs_file, rated_file = files[f"eval-pairs-{regime}"], files[f"eval-rated-{regime}"]
    pairs = featured(reader, Source(pairs_file), "preference", Reading())
    rated = featured(reader, Source(rated_file), "rated", Reading())
    gold = gold_of(str(pairs_file), pairs.records, Reading())
    return ComparisonData(pairs.records, pairs.prompts, gold, rated.records, rated.prompts)


def likelihood_weight(folder: Path, held: ComparisonData) -> Metric:
    """The weight that a run's residuals on held-out ratings suggest (`reduction: mean`)."""
    model = RewardModel.load(folder)
    ratings = rating_matrix(held.rated, model.attributes)
    found = apply_scales(model.card.scales, model.score(held.rated).attributes)
    residuals = (found - apply_scales(model.card.scales, ratings)) ** 2
    counts = Counts(SIZES["num_pairs"], SIZES["num_rated"], "the experiment")
    return weights(residuals, counts, held.rated_prompts)["mean"]


def table(found: Mapping[str, Metric]) -> str:
    """Markdown: one row an arm, one column a head's number, differences below the number."""
    heads = ("F/mse", "F/accuracy", "L/mse", "L/accuracy", "attributes/mse")
    lines = [
        "| arm | F: squared error | F: accuracy | L: squared error | L: accuracy "
        "| attributes: squared error |",
        "|---|---|---|---|---|---|",
    ]
    for arm in ARMS:
        cells = []
        for head in heads:
            own = found.get(f"{head}/{arm}")
            base = BASES[head.partition("/")[0]]
            gap = found.get(f"{head}/{arm} − {base}")
            seeds = found.get(f"{head}/{arm} − {base} over seeds")
            cells.append("–" if own is None else _cell(own, gap, seeds))
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(own: Metric, gap: Metric | None, seeds: Metric | None) -> str:
    if gap is None or seeds is None:
        return f"{own.value:.4f}"
    marks = "".join(mark for mark, one in (("*", gap), ("†", seeds)) if sign_of(one))
    return f"{own.value:.4f}<br>{gap.value:+.4f} [{gap.low:+.4f}, {gap.high:+.4f}]{marks}"


def page(found: Mapping[str, Mapping[str, Metric]], weight: Metric, told: Sequence[str]) -> str:
    """The results as Markdown."""
    parts = "\n\n".join(f"### {regime}\n\n{table(found[regime])}" for regime in found)
    matched = " ".join(told) or "The runs differ in nothing but the objective and the seed."
    return f"""# The theory, measured

Formulas, sources and how to read them: [docs/diagnose.md](../../docs/diagnose.md). Linear problems
with a known truth are in [linear.md](linear.md).

## Theorem 2 on trained networks

`python -m experiments.theorem_two --output results/theory` (smorm {__version__}). The generated
world, {SIZES["num_pairs"]} pairs and {SIZES["num_rated"]} noisy ratings of 5 attributes, {SEEDS}
seeds (each with its own data), {STEPS} steps of 32 pairs and 32 ratings, small pretrained backbone,
everything with one learning rate. Squared errors of F and L are against the true quality, centred
within each prompt and after the best slope; those of the attributes after the best line, in units
of each rating's variance. Below a number its paired difference from Single (F) or Multi (L,
attributes) with the 95 % interval over prompts. `*`: that interval leaves 0 out; `†`: so does
Student's t over the seeds. {matched}

{parts}

Maximum-likelihood weight from the residuals of `SMORM official`, seed 0 (`reduction: mean`):
{weight.value:.3f} [{weight.low:.3f}, {weight.high:.3f}].

{reading(found)}
"""


def reading(found: Mapping[str, Mapping[str, Metric]]) -> str:
    """Sentences that the intervals bear out, for every regime and head."""
    lines = ["What holds over prompts and over seeds alike:", ""]
    for regime, metrics in found.items():
        for head, base in BASES.items():
            arms: dict[str, list[str]] = {"better": [], "worse": [], "undecided": []}
            for arm in ARMS:
                name = f"{head}/mse/{arm} − {base}"
                if name in metrics:
                    arms[verdict(metrics[name], metrics[f"{name} over seeds"])].append(arm)
            said = "; ".join(f"{word}: {', '.join(some) or 'none'}" for word, some in arms.items())
            lines.append(f"- {regime}, squared error of {head} against {base}: {said}.")
    return "\n".join(lines)


def verdict(gap: Metric, seeds: Metric) -> str:
    """What a difference of squared errors shows, over prompts and over seeds."""
    if sign_of(gap) != sign_of(seeds):
        return "undecided"
    return {-1: "better", 0: "undecided", 1: "worse"}[sign_of(gap)]


def grid(work: Path) -> dict[tuple[str, int], Path]:
    """Every arm with every seed, trained now or found finished."""
    folders = {}
    for seed in range(SEEDS):
        files = write_dataset(work / f"data-seed{seed}", seed=seed, **SIZES)
        for arm in ARMS:
            folders[arm, seed] = trained(arm, seed, files, work)
            print(f"{arm}, seed {seed}: {folders[arm, seed]}", flush=True)
    return folders


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, compare, and write `theorem_two.json` and `README.md`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--output", type=Path, default=Path("results/theory"))
    parser.add_argument("--work", type=Path, default=Path("runs/theory"))
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    folders = grid(options.work)
    runs = [read_run(str(folder)) for folder in folders.values()]
    reader = RewardModel.load(runs[0].folder)
    held = {regime: held_out(regime, options.work, reader) for regime in REGIMES}
    found = {regime: compare(runs, held[regime], Reading()) for regime in REGIMES}
    weight = likelihood_weight(folders["SMORM official", 0], held[REGIMES[0]])
    told = unmatched(runs)
    plain = {regime: _plain(metrics) for regime, metrics in found.items()}
    write_json(
        options.output / "theorem_two.json",
        {
            "version": __version__,
            "sizes": SIZES,
            "steps": STEPS,
            "seeds": SEEDS,
            "not_matched": told,
            "weight_mean": weight.as_dict(),
            "metrics": plain,
        },
    )
    write_text(options.output / "README.md", page(found, weight, told))
    print(page(found, weight, told))


def _plain(metrics: Mapping[str, Metric]) -> dict[str, Any]:
    return {name: metric.as_dict() for name, metric in metrics.items()}


if __name__ == "__main__":
    main()
