"""What the head starts from (`model.head_start`), in the lab.

    python -m experiments.lab.start --seeds 16 --output results/lab/start

Single and SMORM from every start, on the world and the policy of the search
(`experiments/lab/search.yaml`) and seeds of their own: the default is chosen here, and no final
number sees them. `--shipped` takes the package's world and policy, which nothing has to pretrain;
they are among those of the final numbers, the seeds are not. Models that are made already are used
again, so that seeds can be added."""

from __future__ import annotations

import argparse
import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from experiments.command import say
from experiments.lab.numbers import Numbers, gold_at, paired
from experiments.tables import plus_minus, table
from smorm.config.reading import parse_section
from smorm.evaluation.metrics import LEVEL, Metric, mean_over_seeds
from smorm.files import read_json, write_text
from smorm.lab.config import LabConfig
from smorm.lab.run import run_lab, write_config, write_table
from smorm.lab.world_artifacts import WorldArtifacts
from smorm.report.paired import holm, two_sided
from smorm.report.selection import reject

STARTS = ("random", "zero", "probe", "trl", "openrlhf")
BASE = "random"
REGIMES = ("ID", "OODtopic", "far")
OUT_OF_DISTRIBUTION = REGIMES[1:]
GOLD, RANDOM_ANSWER = gold_at(64), gold_at(1)
FIRST_SEED, SEEDS = 300, 16
VIEWS = {"Single": ("F",), "SMORM": ("F", "L", "M")}
_ARMS: dict[str, dict[str, Any]] = {
    "Single": {"data": "pairs", "objective": {"kind": "preference"}},
    "SMORM": {"data": "both", "objective": {"kind": "joint"}},
}
BEGINNINGS = "beginnings.csv"
_COLUMNS = ("arm", "seed", "loss", "tokens", "probe_tokens", "probe_seconds")

PAGE = """\
# What the head starts from

`python -m experiments.lab.start --seeds {seeds} --methods {methods}{shipped}` made this page: \
{seeds} seeds ({first} to {last}), which no final number uses, on {place}; {pairs:,} pairs, \
{rated:,} rated answers, {answers} answers to {prompts} prompts a regime, all else as in [the \
grid](../README.md). The starts are those of `model.head_start` (docs/training.md). The number of \
epochs was tuned with the random start, and so were all other settings: that favours it.

Stated before the run: what decides is gold of best-of-64 out of distribution (OODtopic and far), \
each start less `random`, paired by seed; a *collapse* is a seed and a regime out of distribution \
with gold of best-of-64 below that of a random answer. `±` is half a 95 % interval, Student's t \
over seeds; **bold** differences exclude 0, and † marks those that still do after Holm's \
correction for all {tests} differences of this page.

## In short

- Differences that remain after Holm's correction: {remaining}.
- Differences that exclude 0 without it: {bold} of {tests}.
- Collapses, of {cases} for each start ({rewards}; seeds and regimes): {collapses}.
- The half-widths of the differences out of distribution are {narrowest:.3f} to {widest:.3f}: \
{seeds} seeds cannot see smaller effects than these. A start that fails in one run of eight shows \
no failure in {seeds} runs with probability {unseen:.2f}.

## Gold of best-of-64

{golds}

## Less the random start

{differences}

## The first step, and what the probe costs

Loss of the first step's 32 pairs (and 32 ratings), which are the same for all starts of a seed: \
not the mean loss of all data, to which `probe` is fitted. Tokens are computed ones, in thousands; \
seconds are those of the probe, on a machine that did other work too.

{beginnings}
"""


@dataclass(frozen=True, slots=True)
class Beginning:
    """Of one run: the loss of its first step, the tokens that it computed in all and for a probe,
    and the seconds of the probe."""

    loss: float
    tokens: int
    probe_tokens: int
    probe_seconds: float


@dataclass(frozen=True, slots=True)
class Difference:
    """A start's gold less that of the random start, and its p value after Holm's correction."""

    reward: str
    start: str
    regime: str
    gain: Metric
    adjusted: float

    @property
    def remains(self) -> bool:
        """Whether it excludes 0 after the correction."""
        return self.adjusted < 1 - LEVEL


def study(
    output: Path,
    work: Path,
    *,
    seeds: int = SEEDS,
    methods: Sequence[str] = tuple(VIEWS),
    shipped: bool = False,
) -> LabConfig:
    """The configuration of the study."""
    world, policy = (0, 0) if shipped else (1, 10)
    arms, systems = {}, {}
    for method in methods:
        for start in STARTS:
            arm = f"{method} {start}"
            arms[arm] = {
                **_ARMS[method], "training": {"epochs": 2}, "model": {"head_start": start}
            }  # fmt: skip
            for view in VIEWS[method]:
                members = {"members": [f"{arm}:{view}"], "model": arm, "view": view}
                systems[f"{arm}-{view}"] = members
    values = {
        "output": str(output), "work": str(work), "seeds": seeds, "first_seed": FIRST_SEED,
        "regimes": list(REGIMES), "world": {"facts": world}, "policy": {"seeds": [policy]},
        "arms": arms, "systems": systems, "methods": list(systems),
    }  # fmt: skip
    return parse_section(LabConfig, values, "experiments.lab.start")


def run(config: LabConfig) -> None:
    """Make what is missing, and write numbers and page."""
    results = run_lab(config, lambda step: say(f"  {step}"))
    # Curves are large, and no table has them.
    write_table(config.output / "numbers.csv", reject(results, kind=["training"]))
    write_config(config, config.output / "config.yaml")
    _write_beginnings(config)
    rewrite(config.output)


def _write_beginnings(config: LabConfig) -> None:
    artifacts, stream = WorldArtifacts(config), io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for arm in config.arms:
        for seed in config.runs:
            folder = artifacts.arm(arm, seed)
            with (folder / "metrics.jsonl").open(encoding="utf-8") as lines:
                first = json.loads(next(lines))
            cost = read_json(folder / "cost.json")
            probe = cost.get("head_start", {"tokens": 0, "seconds": 0.0})
            tokens = sum(cost["tokens"].values())
            writer.writerow(
                (arm, seed, f"{first['loss']:.6g}", tokens, probe["tokens"], probe["seconds"])
            )
    write_text(config.output / BEGINNINGS, stream.getvalue())


def read_beginnings(path: Path) -> dict[str, dict[int, Beginning]]:
    """Those of every arm, by seed."""
    arms: dict[str, dict[int, Beginning]] = {}
    with path.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            counts = int(row["tokens"]), int(row["probe_tokens"])
            beginning = Beginning(float(row["loss"]), *counts, float(row["probe_seconds"]))
            arms.setdefault(row["arm"], {})[int(row["seed"])] = beginning
    return arms


def account(folder: Path) -> str:
    """Markdown: every start's gold, its worst seed and collapses, and the differences to random."""
    numbers = Numbers.read(folder / "numbers.csv")
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    beginnings = read_beginnings(folder / BEGINNINGS)
    rewards = _rewards(numbers)
    differences = _differences(numbers, rewards)
    outside = [each.gain for each in differences if each.regime in OUT_OF_DISTRIBUTION]
    half_widths = [(gain.high - gain.low) / 2 for gain in outside]
    remaining = []
    for each in differences:
        if each.remains:
            where = f"{each.reward} from {each.start}, {each.regime}"
            remaining.append(f"{where} ({each.gain.value:+.3f})")
    counts = {
        start: sum(collapses(numbers, reward, start) for reward in rewards) for start in STARTS
    }
    shipped = config["world"]["facts"] == 0
    place = "world 1 and its own policy, which no final number uses either"
    if shipped:
        place = "the package's world and policy, which final numbers use too"
    return PAGE.format(
        shipped=" --shipped" * shipped,
        place=place,
        seeds=config["seeds"],
        first=config["first_seed"],
        last=config["first_seed"] + config["seeds"] - 1,
        methods=" ".join(dict.fromkeys(arm.split()[0] for arm in config["arms"])),
        pairs=config["data"]["pairs"],
        rated=config["data"]["rated"],
        answers=config["pools"]["answers"],
        prompts=config["pools"]["prompts"],
        tests=len(differences),
        remaining="; ".join(remaining) or "none",
        bold=sum(each.gain.excludes_zero for each in differences),
        cases=len(rewards) * config["seeds"] * len(OUT_OF_DISTRIBUTION),
        rewards=", ".join(rewards),
        collapses=", ".join(f"{start} {count}" for start, count in counts.items()),
        narrowest=min(half_widths),
        widest=max(half_widths),
        unseen=(7 / 8) ** config["seeds"],
        golds=_golds(numbers, rewards),
        differences=_difference_table(differences),
        beginnings=_beginnings(beginnings),
    )


def label_of(reward: str, start: str) -> str:
    """`SMORM-M` from a start, as the numbers name it."""
    method, _, view = reward.partition("-")
    return f"{method} {start}" + f"-{view}" * bool(view)


def _rewards(numbers: Numbers) -> list[str]:
    """`Single`, `SMORM-F` and so on, as far as they were measured."""
    labels = numbers.labels(f"best-of-n/{REGIMES[0]}")
    return [label.replace(f" {BASE}", "") for label in labels if f" {BASE}" in label]


def _differences(numbers: Numbers, rewards: Sequence[str]) -> list[Difference]:
    """Every start's gold less that of the random start, regime by regime."""
    names, gains, p_values = [], [], []
    for reward, start, regime in product(rewards, STARTS[1:], REGIMES):
        suite = f"best-of-n/{regime}"
        label, base = label_of(reward, start), label_of(reward, BASE)
        values, base_values = (numbers.values[suite, name, GOLD] for name in (label, base))
        names.append((reward, start, regime))
        gains.append(numbers.gain(suite, label, base, GOLD))
        p_values.append(two_sided(list(paired(values, base_values).values())))
    adjusted = holm(p_values)
    return [
        Difference(*name, gain, p_value)
        for name, gain, p_value in zip(names, gains, adjusted, strict=True)
    ]


def _difference_table(differences: Sequence[Difference]) -> str:
    rows: dict[tuple[str, str], list[str]] = {}
    for each in differences:
        cells = rows.setdefault((each.reward, each.start), [each.reward, each.start])
        cells.append(plus_minus(each.gain, signed=True) + " †" * each.remains)
    return table(["reward", "start", *REGIMES], rows.values())


def collapses(numbers: Numbers, reward: str, start: str) -> int:
    """In how many seeds and regimes out of distribution picks are worse than a random answer."""
    count = 0
    for regime in OUT_OF_DISTRIBUTION:
        suite, label = f"best-of-n/{regime}", label_of(reward, start)
        picked, drawn = (numbers.values[suite, label, name] for name in (GOLD, RANDOM_ANSWER))
        count += sum(picked[seed] < drawn[seed] for seed in picked)
    return count


def _golds(numbers: Numbers, rewards: Sequence[str]) -> str:
    rows = []
    for reward in rewards:
        for start in STARTS:
            label = label_of(reward, start)
            cells = [plus_minus(numbers.mean(f"best-of-n/{name}", label, GOLD)) for name in REGIMES]
            for regime in OUT_OF_DISTRIBUTION:
                worst = min(numbers.values[f"best-of-n/{regime}", label, GOLD].values())
                cells.append(f"{worst:.3f}")
            rows.append([reward, start, *cells, str(collapses(numbers, reward, start))])
    worst_headings = [f"worst seed, {regime}" for regime in OUT_OF_DISTRIBUTION]
    return table(["reward", "start", *REGIMES, *worst_headings, "collapses"], rows)


def _beginnings(arms: dict[str, dict[int, Beginning]]) -> str:
    rows = []
    for arm, by_seed in arms.items():
        values = list(by_seed.values())
        count = len(values)
        loss = mean_over_seeds([value.loss for value in values], count)
        largest = max(value.loss for value in values)
        tokens = sum(value.tokens for value in values) / count / 1000
        of_probe = sum(value.probe_tokens for value in values) / count / 1000
        seconds = sum(value.probe_seconds for value in values) / count
        cells = [plus_minus(loss, digits=2), f"{largest:.2f}", f"{tokens:,.0f}"]
        rows.append([*arm.rsplit(" ", 1), *cells, f"{of_probe:,.0f}", f"{seconds:.1f}"])
    return table(
        ["method", "start", "loss of step 1", "largest", "tokens", "of the probe", "seconds"], rows
    )


def rewrite(output: Path) -> None:
    """README.md, from the numbers beside it."""
    write_text(output / "README.md", account(output))


def main() -> None:
    """Run the study and write its page."""
    parser = argparse.ArgumentParser(prog="python -m experiments.lab.start")
    parser.add_argument("--output", type=Path, default=Path("results/lab/start"))
    parser.add_argument("--work", type=Path, default=Path("runs/lab"))
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--methods", nargs="+", choices=list(VIEWS), default=list(VIEWS))
    parser.add_argument("--shipped", action="store_true", help="the package's world and policy")
    parser.add_argument("--workers", type=int, default=0, help="processes; 0 for one a core")
    options = parser.parse_args()
    config = study(
        options.output, options.work,
        seeds=options.seeds, methods=options.methods, shipped=options.shipped,
    )  # fmt: skip
    if options.workers:
        config = config.model_copy(update={"workers": options.workers})
    run(config)


if __name__ == "__main__":
    main()
