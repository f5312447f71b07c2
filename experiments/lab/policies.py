"""Policies optimised in the lab against six rewards, gold traced against KL.

    python -m experiments.lab.policies --output results/lab/rl

The models and policies are those of the grid (`experiments/lab/grid.yaml`), six seeds. The
settings are those of the recipes (`recipes/lab-ppo.yaml`, `recipes/lab-grpo.yaml`), which were
chosen on Single alone. A run that is done is not done again.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import yaml

from experiments.lab.numbers import holds, shown, table
from smorm.config.reading import load_section, parse_section
from smorm.evaluation.metrics import Metric, mean_over_seeds
from smorm.evaluation.result import Result, read_results, write_results
from smorm.files import write_text
from smorm.lab.config import LabConfig
from smorm.lab.world_artifacts import WorldArtifacts
from smorm.report.page import write_page
from smorm.stress.config import StressConfig
from smorm.stress.run import run_stress

SEEDS = (0, 1, 2, 3, 4, 5)
ALGORITHMS = ("ppo", "grpo")
SETS = ("ID", "OODtopic")
GRID = "experiments/lab/grid.yaml"
SHOWN = ("gold@first", "gold@peak", "gold@last", "fall", "kl@last", "length@last")
DEPTHS = (5.0, 20.0)
"""KL at which policies are compared that were pushed equally far, in nats an answer."""

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
    own = {
        "policy": str(artifacts.policy(seed)),
        "prompts": str(data["train-pairs"]),
        "seeds": [seed],
    }
    values = {
        "models": rewards(seed),
        "prompts": prompts,
        "gold": "lab",
        "output": str(output),
        "rl": {**recipe["rl"], **own},
    }
    return parse_section(StressConfig, values, f"{algorithm}, seed {seed}")


def run(algorithm: str, seed: int, output: Path) -> None:
    """One algorithm and seed, unless it is there."""
    import torch

    torch.set_num_threads(1)
    path = output / f"{algorithm}-{seed}.json"
    if path.exists():
        return
    config = configuration(algorithm, seed, path)

    def tell(line: str) -> None:
        print(f"{algorithm} {seed}: {line}", flush=True)

    write_results(path, run_stress(config, tell=tell))


def account(results: Sequence[Result]) -> str:
    """Markdown: what became of each policy, and the differences to Single's."""
    runs = [one for one in results if one.kind == "rl"]
    parts = [
        "# Policies optimised in the lab",
        "`python -m experiments.lab.policies --output results/lab/rl` wrote this page. "
        f"{len(SEEDS)} seeds: data, reward models, policies and their training all differ. "
        "Means ± half a 95 % interval (Student's t over seeds); **bold** "
        "differences leave 0 out. `gold@KL5` is gold where a policy first reached that KL, so that "
        "those pushed equally far are compared. `fall` is gold at its peak less gold at the end; "
        "KL is from the starting policy, in nats an answer.",
        _in_short(runs),
    ]
    for suite in dict.fromkeys(one.suite for one in runs):
        here = [at_depths(one) for one in runs if one.suite == suite]
        names = [*SHOWN[:3], *(f"gold@KL{depth:g}" for depth in DEPTHS), *SHOWN[3:]]
        labels = list(dict.fromkeys((one.model, one.view) for one in here))
        rows = [
            [_label(label), *(shown(_mean(here, label, name)) for name in names),
             _against_single(here, label, "gold@KL5"), _against_single(here, label, "gold@last")]
            for label in labels
        ]  # fmt: skip
        heading = ["reward", *names, "gold@KL5 − Single's", "gold@last − Single's"]
        parts.append(f"## {suite}\n\n{table(heading, rows)}")
    return "\n\n".join(parts) + "\n"


def _in_short(runs: Sequence[Result]) -> str:
    """What the intervals decide, in words."""
    fell = sum(
        "onset_step" in one.metrics and math.isfinite(one.metrics["onset_step"].value)
        for one in runs
    )
    decided, compared = [], 0
    for suite in dict.fromkeys(one.suite for one in runs):
        here = [at_depths(one) for one in runs if one.suite == suite]
        for label in dict.fromkeys((one.model, one.view) for one in here):
            for name in ("gold@KL5", "gold@last"):
                metric = _gain_over_single(here, label, name)
                compared += metric is not None
                if metric is not None and holds(metric):
                    decided.append(f"{_label(label)}'s {name} on {suite} ({metric.value:+.3f})")
    return (
        f"In {fell} of {len(runs)} traces gold falls after its peak by more than chance over "
        f"prompts (`onset_step`). Of {compared} differences to "
        f"Single {len(decided)} leave 0 out: {', '.join(decided) or 'none'}."
    )


def at_depths(result: Result) -> Result:
    """The result with gold where the policy first reached each KL, between two evaluations by a
    straight line; nothing where it never did."""
    listed: list[Any] = [] if isinstance(result.items, str) else result.items
    points = [(float(p["kl"]["value"]), float(p["gold"]["value"])) for p in listed]
    found = dict(result.metrics)
    for depth in DEPTHS:
        for (near, before), (far, after) in pairwise(points):
            if near < depth <= far:
                share = (depth - near) / (far - near)
                found[f"gold@KL{depth:g}"] = Metric(before + share * (after - before), 1)
                break
    return replace(result, metrics=found)


def _label(label: tuple[str, str]) -> str:
    return "-".join(label) if label[0] == "SMORM" else label[0]


def _by_seed(results: Sequence[Result], label: tuple[str, str], name: str) -> dict[str, float]:
    return {
        str(one.fingerprint["seed"]): one.metrics[name].value
        for one in results
        if (one.model, one.view) == label and name in one.metrics
    }


def _mean(results: Sequence[Result], label: tuple[str, str], name: str) -> Metric | None:
    found = list(_by_seed(results, label, name).values())
    return mean_over_seeds(found, len(found)) if found else None


def _against_single(results: Sequence[Result], label: tuple[str, str], name: str) -> str:
    metric = _gain_over_single(results, label, name)
    return "–" if metric is None else shown(metric, signed=True)


def _gain_over_single(
    results: Sequence[Result], label: tuple[str, str], name: str
) -> Metric | None:
    base, own = (_by_seed(results, one, name) for one in (("Single", "F"), label))
    both = [own[seed] - base[seed] for seed in own if seed in base]
    return None if not both or label == ("Single", "F") else mean_over_seeds(both, len(both))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("results/lab/rl"))
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    jobs = [(algorithm, seed) for seed in SEEDS for algorithm in ALGORITHMS]
    with ProcessPoolExecutor(given.workers, mp_context=get_context("spawn")) as pool:
        for future in [pool.submit(run, *job, given.output) for job in jobs]:
            future.result()
    results = [
        one for algorithm, seed in jobs
        for one in read_results(given.output / f"{algorithm}-{seed}.json")
    ]  # fmt: skip
    write_text(given.output / "README.md", account(results))
    page = [one.as_dict() for one in results]
    write_page(page, given.output / "report.html", "Policies in the lab", INTRO,
               figures=given.output / "figures")  # fmt: skip


if __name__ == "__main__":
    main()
