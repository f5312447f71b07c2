"""Policies optimised in the lab against six rewards, gold traced against KL.

    python -m experiments.lab.policies --output results/lab/rl

The models and policies are those of the grid (`experiments/lab/grid.yaml`), six seeds. The
settings are those of the recipes (`recipes/lab-ppo.yaml`, `recipes/lab-grpo.yaml`), which were
chosen on Single alone. Finished runs are used again."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from experiments.command import say
from experiments.lab.numbers import paired
from experiments.runs import in_processes, write_finished
from experiments.tables import excludes_zero, plus_minus, table
from smorm.config.reading import load_section, parse_section
from smorm.evaluation.metric_names import MetricName
from smorm.evaluation.metrics import Metric, mean_over_seeds
from smorm.evaluation.result import Result, read_results, write_results
from smorm.files import write_text
from smorm.lab.config import LabConfig
from smorm.lab.world_artifacts import WorldArtifacts
from smorm.model.store import versions
from smorm.report.page import write_page
from smorm.stress.config import StressConfig
from smorm.stress.run import run_stress

SEEDS = (0, 1, 2, 3, 4, 5)
ALGORITHMS = ("ppo", "grpo")
SETS = ("ID", "OODtopic")
GRID = "experiments/lab/grid.yaml"
# KL at which policies are compared that were optimised equally far, in nats an answer.
DEPTHS = (5.0, 20.0)
COLUMNS = (
    "gold@first", "gold@peak", "gold@last", *(f"gold@KL{depth:g}" for depth in DEPTHS), "fall",
    "kl@last", "length@last",
)  # fmt: skip
COMPARED = ("gold@KL5", "gold@last")
# The settings of both algorithms were chosen on it alone, which favours it in every comparison.
BASELINE = ("Single", "F")
# A reward's model and view.
Label = tuple[str, str]

INTRO = """\
Policies of the lab, optimised against six rewards by PPO and by GRPO, on prompts as in training \
(ID); gold is the true quality of what they answer, on other prompts of the same kind and on \
topics that no reward model has seen (OODtopic)."""


def rewards(seed: int) -> dict[str, dict[str, Any]]:
    """The six rewards of a seed, as `smorm stress` takes them."""
    artifacts = WorldArtifacts(load_section(LabConfig, GRID))

    def model(arm: str) -> str:
        return str(artifacts.arm(arm, seed) / "model")

    members = [{"model": model("Single"), "view": "F", "name": "Single"},
               {"model": model("Multi"), "view": "L", "name": "Multi"}]  # fmt: skip
    return {
        "Single": {"model": model("Single"), "view": "F", "seed": seed},
        "GRM": {"model": model("GRM"), "view": "F", "seed": seed},
        "ODIN": {"model": model("ODIN"), "view": "F", "seed": seed},
        "SM": {"ensemble": members, "seed": seed},
        "SMORM": {"model": model("SMORM"), "views": ["F", "M"], "seed": seed},
    }


def configuration(algorithm: str, seed: int, output: Path) -> StressConfig:
    """A seed's runs by one algorithm."""
    artifacts = WorldArtifacts(load_section(LabConfig, GRID))
    recipe = yaml.safe_load(Path(f"recipes/lab-{algorithm}.yaml").read_text(encoding="utf-8"))
    data = artifacts.data(seed)
    prompts = {name: {"path": str(data[f"eval-pairs-{name}"]), "limit": 24} for name in SETS}
    overrides = {
        "policy": str(artifacts.policy(seed)),
        "prompts": str(data["train-pairs"]),
        "seeds": [seed],
    }
    values = {
        "models": rewards(seed),
        "prompts": prompts,
        "gold": "lab",
        "output": str(output),
        "rl": {**recipe["rl"], **overrides},
    }
    return parse_section(StressConfig, values, f"{algorithm}, seed {seed}")


def run(job: tuple[str, int, Path]) -> None:
    """One algorithm and seed: made now, or found finished in the grid's work folder."""
    import torch

    torch.set_num_threads(1)
    algorithm, seed, output = job
    label = f"{algorithm}-{seed}"
    path = output / f"{label}.json"
    config = configuration(algorithm, seed, path)

    def make(scratch: Path) -> None:
        write_results(scratch, run_stress(config, tell=lambda line: say(f"{label}: {line}")))

    # The folders of models, data and policies end with their fingerprints, so that the
    # configuration says what is in them.
    recipe = [config.model_dump(mode="json", exclude={"output"}), versions()]
    store = WorldArtifacts(load_section(LabConfig, GRID)).store
    write_finished(store, "rl", label, recipe, path, make)


PAGE = """\
# Policies optimised in the lab

`python -m experiments.lab.policies --output results/lab/rl` wrote this page. {seeds} seeds: data, \
reward models, policies and their training all differ. Means ± half a 95 % interval (Student's t \
over seeds); **bold** differences exclude 0. `gold@KL5` is gold where a policy first reached that \
KL, so that policies are compared that were optimised equally far. `fall` is gold at its peak less \
gold at the end; KL is from the starting policy, in nats an answer.

In {falls} of {traces} traces gold falls after its peak by more than chance over prompts \
(`onset_step`). Of {compared} differences to Single {count} exclude 0: {decided}.

{sections}
"""


def account(results: Sequence[Result]) -> str:
    """Markdown: what became of each policy, and the differences to Single's."""
    by_suite: dict[str, list[Result]] = {}
    traces, falls = 0, 0
    for result in results:
        if result.kind == "rl":
            onset = result.metrics.get("onset_step")
            traces += 1
            falls += onset is not None and math.isfinite(onset.value)
            by_suite.setdefault(result.suite, []).append(at_depths(result))
    sections: list[str] = []
    decided: list[str] = []
    compared = 0
    for suite, runs in by_suite.items():
        rows = []
        for label in dict.fromkeys((run.model, run.view) for run in runs):
            cells = [_title(label)]
            for name in COLUMNS:
                values = list(_by_seed(runs, label, name).values())
                cells.append(plus_minus(mean_over_seeds(values, len(values)) if values else None))
            for name in COMPARED:
                gap = _gain_over_single(runs, label, name)
                cells.append(plus_minus(gap, signed=True))
                compared += gap is not None
                if gap is not None and excludes_zero(gap):
                    decided.append(f"{_title(label)}'s {name} on {suite} ({gap.value:+.3f})")
            rows.append(cells)
        headings = ["reward", *COLUMNS, *(f"{name} − Single's" for name in COMPARED)]
        sections.append(f"## {suite}\n\n{table(headings, rows)}")
    return PAGE.format(
        seeds=len(SEEDS),
        falls=falls,
        traces=traces,
        compared=compared,
        count=len(decided),
        decided=", ".join(decided) or "none",
        sections="\n\n".join(sections),
    )


def at_depths(result: Result) -> Result:
    """The result with gold where the policy first reached each KL, interpolated linearly between
    two evaluations; without it where it never did."""
    # A policy's points are in the result itself.
    assert isinstance(result.items, list)
    points = [(float(p["kl"]["value"]), float(p["gold"]["value"])) for p in result.items]
    metrics = dict(result.metrics)
    for depth in DEPTHS:
        for (near, before), (far, after) in pairwise(points):
            # KL is not monotonic in training: the first crossing counts.
            if near < depth <= far:
                share = (depth - near) / (far - near)
                name = str(MetricName("gold", point=f"KL{depth:g}"))
                metrics[name] = Metric(before + share * (after - before), 1)
                break
    return replace(result, metrics=metrics)


def _title(label: Label) -> str:
    return "-".join(label) if label[0] == "SMORM" else label[0]


def _by_seed(results: Sequence[Result], label: Label, name: str) -> dict[int, float]:
    values = {}
    for result in results:
        if (result.model, result.view) == label and name in result.metrics:
            values[result.fingerprint["seed"]] = result.metrics[name].value
    return values


def _gain_over_single(results: Sequence[Result], label: Label, name: str) -> Metric | None:
    """The difference to Single's number, paired by seed; None for Single itself."""
    if label == BASELINE:
        return None
    base, values = _by_seed(results, BASELINE, name), _by_seed(results, label, name)
    gaps = list(paired(values, base).values())
    return mean_over_seeds(gaps, len(gaps)) if gaps else None


def read_all(output: Path) -> list[Result]:
    """The results of every algorithm and seed."""
    results: list[Result] = []
    for seed in SEEDS:
        for algorithm in ALGORITHMS:
            results += read_results(output / f"{algorithm}-{seed}.json")
    return results


def rewrite(output: Path) -> None:
    """README.md, from the results of all runs."""
    write_text(output / "README.md", account(read_all(output)))


def main() -> None:
    """Optimise every policy, and write the page."""
    parser = argparse.ArgumentParser(prog="python -m experiments.lab.policies")
    parser.add_argument("--output", type=Path, default=Path("results/lab/rl"))
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    # Seed by seed, so that an early end leaves complete seeds of both algorithms.
    jobs = [(algorithm, seed, options.output) for seed in SEEDS for algorithm in ALGORITHMS]
    for _ in in_processes(run, jobs, options.workers):
        pass
    rewrite(options.output)
    objects = [result.as_dict() for result in read_all(options.output)]
    page, figures = options.output / "report.html", options.output / "figures"
    write_page(objects, page, "Policies in the lab", INTRO, figures=figures)


if __name__ == "__main__":
    main()
