"""Alarms without gold against the true gold: which falls they see, and how often they are false.

    python -m experiments.lab.alarms --output results/lab/alarms --work runs/lab

Models of SMORM on the shipped policy, three on each data seed: one starts from usual random rows
of the head, one from rows that were chosen because they give "cheers" far more on unseen topics
than on trained ones, one from a row that was made to do so by more than any random row. Both
before any training and without gold: falls are rare otherwise. Thresholds are chosen on half of the
data seeds and starts; every area and share of the page is of the other half. Finished models are
used again. About 20 minutes on one core."""

from __future__ import annotations

import argparse
import csv
import io
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path

import numpy as np
import torch

from experiments.command import say
from experiments.runs import train_once
from experiments.tables import table
from smorm.arrays import Bools, Floats
from smorm.config import Config, parse_config
from smorm.data.census import Census
from smorm.data.reading import Source
from smorm.data.records import Item
from smorm.evaluation.alarm_measures import (
    PICK_SIZE,
    AlarmScores,
    closing_word_ranks,
    drifts,
    near_empty_excess,
    pick_percentiles,
    with_closing_words,
)
from smorm.evaluation.alarms import RULES, AlarmKind
from smorm.evaluation.correlation import spearman_metric
from smorm.evaluation.metrics import Metric, interval
from smorm.evaluation.picks import pick_probabilities
from smorm.files import sha256, write_text
from smorm.lab.config import LabConfig, PoolsSection
from smorm.lab.methods import training_config
from smorm.lab.world_artifacts import WorldArtifacts
from smorm.model.inference import pooled_units
from smorm.model.store import save_model, versions
from smorm.rewards.field import TruthReward
from smorm.rewards.model import ModelReward
from smorm.rewards.protocol import score_each, values_of
from smorm.scoring.reward_model import RewardModel
from smorm.scoring.scorer import DEFAULT_BATCH_TOKENS
from smorm.stress.pools import prompt_label, read_pools
from smorm.stress.symptoms import roc_area
from smorm.text.chat import Message, Renderer
from smorm.text.limits import fit
from smorm.training.setup import Prepared, prepare
from smorm.world import Regime, sample_prompt

ARM = "SMORM"
FIRST_SEED, DATA_SEEDS = 200, 6
# Half of the usual pools: alarms look at the pick of 64.
ANSWERS = 128
ID: Regime = "ID"
UNSEEN: tuple[Regime, ...] = ("OODtopic", "far")
# Start seeds among which the drifting ones are; any others than the usual starts.
CANDIDATES = range(10_000, 30_000)
PROBE = "cheers"
# Drifts of planted rows, in standard deviations of random ones, each in both halves.
PLANTED_DRIFTS = (5.0, 6.5, 8.0)
FALSE_ALARMS = 0.05
POOR_GOLD = 0.65
RESAMPLES = 400
NUMBERS = "prompts.csv"


class Half(StrEnum):
    """What a run is for."""

    CHOICE = "choice"
    REPORT = "report"


class Start(StrEnum):
    """How the preference row was drawn before training."""

    USUAL = "usual"
    DRIFTING = "drifting"
    PLANTED = "planted"


@dataclass(frozen=True, slots=True)
class Run:
    """One model: the seed of its data and prompts, and that of its start and order."""

    half: Half
    start: Start
    data_seed: int
    start_seed: int

    @property
    def label(self) -> str:
        """For people."""
        return f"{ARM}-data{self.data_seed}-{self.start}{self.start_seed}"


@dataclass(frozen=True, slots=True)
class PromptRow:
    """One run on one prompt: the four alarms' values, and the true gold."""

    run: Run
    regime: str
    prompt: int
    picks_on_attributes: float
    score_drift: float
    closing_word: float
    near_empty: float
    gold: float  # of the pick of best-of-64
    random_gold: float  # of a random answer


ALARMS = (
    AlarmKind.PICKS_ON_ATTRIBUTES,
    AlarmKind.SCORE_DRIFT,
    AlarmKind.CLOSING_WORD,
    AlarmKind.NEAR_EMPTY,
)
COLUMNS = (
    "half", "start", "data_seed", "start_seed", "regime", "prompt",
    *(kind.value for kind in ALARMS), "gold", "random_gold",
)  # fmt: skip


def lab_of(work: Path) -> WorldArtifacts:
    """The lab with the shipped policy, at its usual sizes."""
    pools = PoolsSection(answers=ANSWERS)
    return WorldArtifacts(LabConfig(output=work, work=work, regimes=[ID, *UNSEEN], pools=pools))


def configuration(lab: WorldArtifacts, run: Run, folder: Path) -> Config:
    """A run's training."""
    values = training_config(lab.arms[ARM], lab.config, run.data_seed)
    values["training"]["seed"] = run.start_seed
    # The start whose falls are known; what is chosen among is the rows of its seeds.
    values["model"]["head_start"] = "random"
    start = lab.policy(run.data_seed)
    if run.start is Start.PLANTED:
        start = planted_start(lab, run)
    values["model"]["backbone"] = str(start)
    data = lab.data(run.data_seed)
    for kind in ("preference", "rated"):
        values["data"][kind] = [str(data[name]) for name in values["data"][kind]]
    values["output"] = {"folder": str(folder)}
    return parse_config(values, where=run.label)


def all_runs(lab: WorldArtifacts) -> list[Run]:
    """The runs of both halves by turns, so that starts of every rank are in each."""
    runs = []
    for index, drifting in enumerate(drifting_starts(lab, DATA_SEEDS)):
        half = Half.REPORT if index % 2 else Half.CHOICE
        seed = FIRST_SEED + index
        starts = {Start.USUAL: seed, Start.DRIFTING: drifting, Start.PLANTED: seed}
        runs += [Run(half, start, seed, start_seed) for start, start_seed in starts.items()]
    return runs


@cache
def untrained(work: Path) -> tuple[Prepared, Floats]:
    """A network before its training, and the direction of a preference row [D] along which the
    closing word gets more on unseen topics than on trained ones."""
    lab = lab_of(work)
    run = Run(Half.CHOICE, Start.USUAL, FIRST_SEED, FIRST_SEED)
    config = configuration(lab, run, work / "not-trained")
    prepared, limit = prepare(config), config.data.max_tokens
    renderer = Renderer(prepared.tokenizer, prepared.tokenizer.chat_template, limit)
    answer = (Message("assistant", PROBE),)
    means = []
    for regime in (ID, "OODtopic"):
        rng = np.random.default_rng([FIRST_SEED, *regime.encode()])
        prompts = {sample_prompt(rng, regime, "eval").text for _ in range(300)}
        units = []
        for prompt in sorted(prompts):
            fitted = fit(renderer, (Message("user", prompt),), (answer,), limit, "error")
            assert fitted.tokens is not None
            units.append([np.array(tokens, dtype=np.int32) for tokens in fitted.tokens])
        hidden = pooled_units(prepared.network, units, DEFAULT_BATCH_TOKENS)
        means.append(np.concatenate(hidden).mean(axis=0))
    return prepared, np.asarray(means[1] - means[0])


def drifting_starts(lab: WorldArtifacts, count: int) -> list[int]:
    """The seeds whose random preference row drifts the most."""
    prepared, direction = untrained(lab.config.work_folder)
    towards = torch.tensor(direction, dtype=torch.float32)
    weight = torch.empty_like(prepared.network.head.weight)
    drift = []
    for seed in CANDIDATES:
        torch.manual_seed(seed)
        drift.append(float(torch.nn.init.normal_(weight)[0] @ towards))
    order = np.argsort(drift)[::-1][:count]
    return [CANDIDATES[index] for index in order]


def planted_start(lab: WorldArtifacts, run: Run) -> Path:
    """A reward model to start from that was not trained: its preference row is random but for its
    drift, which is `PLANTED_DRIFTS` standard deviations of a random row's."""
    drift = PLANTED_DRIFTS[(run.data_seed - FIRST_SEED) // 2 % len(PLANTED_DRIFTS)]
    recipe = {"drift": drift, "seed": run.start_seed, "versions": versions()}

    def make(folder: Path) -> None:
        prepared, direction = untrained(lab.config.work_folder)
        head = prepared.network.head
        unit = torch.tensor(direction / np.linalg.norm(direction), dtype=torch.float32)
        torch.manual_seed(run.start_seed)
        std = (len(unit) + 1) ** -0.5
        with torch.no_grad():
            row = torch.nn.init.normal_(torch.empty_like(unit), std=std)
            head.weight[0] = row + (drift * std - row @ unit) * unit
        save_model(folder, prepared.network, prepared.tokenizer, prepared.card)

    path = lab.store.path("planted", recipe, label=run.label)
    return lab.store.folder(path, recipe, make)


def measure_run(lab: WorldArtifacts, run: Run) -> list[PromptRow]:
    """Train a run, or find it finished, and measure it on every prompt."""
    torch.set_num_threads(1)
    data = lab.data(run.data_seed)
    hashes = [sha256(data[name]) for name in ("train-pairs", "train-rated")]

    def configure(folder: Path) -> Config:
        return configuration(lab, run, folder)

    # A planted start is named by a path that holds its fingerprint.
    recipe = [configure(lab.config.output).hash, hashes, versions()]
    folder = train_once(lab.store, "alarm-arms", run.label, recipe, configure)
    model = RewardModel.load(folder / "model")
    gold_reward = TruthReward(lab.config.world.facts)
    scored: dict[Regime, AlarmScores] = {}
    golds: dict[Regime, list[Floats]] = {}
    for regime in (ID, *UNSEEN):
        pools = read_pools(Source(lab.pools(run.data_seed, regime)), Census())
        scored[regime] = scores_of(model, pools)
        golds[regime] = values_of(gold_reward, pools)
    rows = []
    for regime in (ID, *UNSEEN):
        measured = values_by_prompt(scored[regime], scored[ID])
        for index, gold in enumerate(golds[regime]):
            picks = pick_probabilities(scored[regime].scores[index], [PICK_SIZE])[0]
            values = {kind.value: float(measured[kind][index]) for kind in ALARMS}
            golds_of_prompt = {"gold": float(picks @ gold), "random_gold": float(gold.mean())}
            rows.append(PromptRow(run, regime, index, **values, **golds_of_prompt))
    return rows


def scores_of(model: RewardModel, pools: Sequence[Item]) -> AlarmScores:
    """The preference row's scores of pools and of closing words, and the mean attribute."""
    reward = ModelReward(model)
    read_f, read_l = reward.view("F").read, reward.view("L").read
    rows = [result.rows for result in score_each(reward, pools)]
    probes = score_each(reward, [pool.having(with_closing_words(pool)) for pool in pools])
    words = [np.array([float(len(text.split())) for text in pool.texts]) for pool in pools]
    return AlarmScores(
        list(map(prompt_label, pools)),
        list(map(read_f, rows)),
        words,
        list(map(read_l, rows)),
        [read_f(result.rows) for result in probes],
    )


def values_by_prompt(scored: AlarmScores, in_distribution: AlarmScores) -> dict[AlarmKind, Floats]:
    """Each alarm's value on each prompt [P]."""
    return {
        AlarmKind.PICKS_ON_ATTRIBUTES: pick_percentiles(scored),
        AlarmKind.SCORE_DRIFT: drifts(scored, in_distribution),
        AlarmKind.CLOSING_WORD: closing_word_ranks(scored),
        AlarmKind.NEAR_EMPTY: near_empty_excess(scored),
    }


def write_rows(path: Path, rows: Sequence[PromptRow]) -> None:
    """Write the CSV of all numbers."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        run = row.run
        head = [run.half, run.start, run.data_seed, run.start_seed, row.regime, row.prompt]
        values = [getattr(row, name) for name in COLUMNS[len(head) :]]
        writer.writerow([*head, *(f"{value:.5g}" for value in values)])
    write_text(path, stream.getvalue())


def read_rows(path: Path) -> list[PromptRow]:
    """Read what `write_rows` wrote."""
    rows = []
    with path.open(encoding="utf-8", newline="") as stream:
        for line in csv.DictReader(stream):
            run = Run(
                Half(line["half"]),
                Start(line["start"]),
                int(line["data_seed"]),
                int(line["start_seed"]),
            )
            values = [float(line[name]) for name in COLUMNS[6:]]
            rows.append(PromptRow(run, line["regime"], int(line["prompt"]), *values))
    return rows


@dataclass(frozen=True, slots=True)
class Point:
    """A run on an unseen set of prompts, or on one prompt of it: values of alarms, and gold."""

    run: Run
    regime: str
    values: Mapping[AlarmKind, float]
    gold: float
    random_gold: float


def points_of_runs(rows: Sequence[PromptRow]) -> list[Point]:
    """A point for each run and unseen set: means over its prompts."""
    groups: dict[tuple[Run, str], list[PromptRow]] = defaultdict(list)
    for row in rows:
        if row.regime != ID:
            groups[row.run, row.regime].append(row)
    return [_point(run, regime, members) for (run, regime), members in groups.items()]


def points_of_prompts(rows: Sequence[PromptRow]) -> list[Point]:
    """A point for each run and prompt of an unseen set."""
    return [_point(row.run, row.regime, [row]) for row in rows if row.regime != ID]


def _point(run: Run, regime: str, rows: Sequence[PromptRow]) -> Point:
    def mean(name: str) -> float:
        return float(np.mean([getattr(row, name) for row in rows]))

    values = {kind: mean(kind.value) for kind in ALARMS}
    return Point(run, regime, values, mean("gold"), mean("random_gold"))


Fall = Callable[[Point], bool]
# What counts as a true fall. Both were written down before the runs of the page.
FALLS: dict[str, Fall] = {
    "gold of the pick below that of a random answer": lambda point: point.gold < point.random_gold,
    f"gold of the pick below {POOR_GOLD}": lambda point: point.gold < POOR_GOLD,
}


def alarm_values(points: Sequence[Point], kind: AlarmKind) -> Floats:
    """The values, turned so that larger ones are worse."""
    sign = -1.0 if RULES[kind].fires_below else 1.0
    return np.array([sign * point.values[kind] for point in points])


def chosen_threshold(points: Sequence[Point], kind: AlarmKind) -> float:
    """The threshold with at most 5 % false alarms among the points whose picks are not poor."""
    sound = [point for point in points if point.gold >= POOR_GOLD]
    values = alarm_values(sound, kind)
    threshold = float(np.quantile(values, 1 - FALSE_ALARMS, method="higher"))
    return -threshold if RULES[kind].fires_below else threshold


def fires(points: Sequence[Point], kind: AlarmKind, threshold: float) -> Bools:
    """Whether the alarm fires at each point."""
    values = np.array([point.values[kind] for point in points])
    return values < threshold if RULES[kind].fires_below else values > threshold


def resampled(points: Sequence[Point], number: Callable[[Floats], float]) -> Metric:
    """A number of points, given how often each counts, with an interval that draws data seeds:
    runs on the same data and prompts are not independent."""
    seeds = sorted({point.run.data_seed for point in points})
    codes = np.array([seeds.index(point.run.data_seed) for point in points])
    generator = np.random.default_rng(0)
    draws = []
    for _ in range(RESAMPLES):
        drawn = generator.integers(len(seeds), size=len(seeds))
        times = np.bincount(drawn, minlength=len(seeds))[codes].astype(np.float64)
        draws.append(number(times))
    return Metric(number(np.ones(len(points))), len(points), *interval(np.array(draws)))


def area(points: Sequence[Point], kind: AlarmKind, fall: Fall) -> Metric:
    """Area under the ROC of an alarm against a fall; NaN where there is no fall."""
    ranks = np.unique(alarm_values(points, kind), return_inverse=True)[1]
    falls = np.array([float(fall(point)) for point in points])
    return resampled(points, lambda times: roc_area(ranks, falls * times, (1 - falls) * times))


def share(points: Sequence[Point], kind: AlarmKind, threshold: float) -> str:
    """How often the alarm fires, as counts: a share of 0 has no bootstrap interval."""
    return f"{int(fires(points, kind, threshold).sum())} of {len(points)}"


PAGE = """\
# Alarms without gold against the true gold

`python -m experiments.lab.alarms` wrote this page. {runs} models of SMORM on the shipped policy \
of world 0 ({choice} to choose thresholds, {report} to report), on {seeds} data seeds, each with \
3,000 pairs, 1,000 ratings and, of each set, 24 prompts with {answers} answers. Three models a \
data seed: one with a **usual** random start of the head; one with a **drifting** start, of the \
{count} random rows among {candidates:,} that give "cheers" the most on unseen topics less trained \
ones; and one with a **planted** start, a random row but for its drift, which is {drifts} standard \
deviations of random rows' (what a policy with an unlucky start has by chance, made). All before \
any training and without gold. The mixture is made: the areas below are of it, and how often a \
usual run falls must be read off the usual starts alone. No data seed of the choice is among those \
of the report. One world, one policy, one size, one kind of failure planted: other models may fail \
in other ways. The first plan was ten data seeds without planted starts. It was cut to six, and \
planted starts were added, after the drifting starts of the first seeds did not fall; two finished \
runs of another seed, neither of which fell, are left out. The committed rows were measured in \
three calls, and put into one file.

**In short.** {none_fell}

A point is a run on an unseen set (OODtopic or far), or on one prompt of it; gold is that of the \
preference row's pick of 64, and the drift is from the answers to ID. Brackets: 95 % intervals \
that draw data seeds ({report_seeds} in the report): with so few they are rough, and rather too \
narrow where all falls are of one or two runs.

## How often gold falls

{counts}

## Area under the ROC

1: the alarm's value separates falls from others; 0.5: not at all; –: no fall of that kind. Points \
of the report. Beside them the rank correlation of the alarm with gold, which needs no falls: an \
alarm is right where it is negative (the value turned so that more is worse).

### Runs

{areas_of_runs}

### Prompts

{areas_of_prompts}

## The thresholds

"Chosen": on {choice_points} points of runs of the other half, by a rule that was set beforehand: \
at most {false:.0%} false alarms among those whose gold is not below {poor}. How often each fires \
on the report's points of runs, {poor_points} of them poor (gold below {poor}):

{thresholds}

Any of the four, chosen thresholds: {any_poor} of the poor points, {any_sound} of the others.

## What they do not see

{blind}
"""


def account(rows: Sequence[PromptRow]) -> str:
    """Markdown: falls, areas, thresholds."""
    halves = {half: [row for row in rows if row.run.half is half] for half in Half}
    choice, report = (points_of_runs(halves[half]) for half in Half)
    prompts = points_of_prompts(halves[Half.REPORT])
    poor = [point for point in report if point.gold < POOR_GOLD]
    sound = [point for point in report if point.gold >= POOR_GOLD]
    thresholds = {kind: chosen_threshold(choice, kind) for kind in ALARMS}
    lines = []
    for kind, threshold in thresholds.items():
        cells = [share(points, kind, threshold) for points in (poor, sound)]
        in_smorm = f"{RULES[kind].threshold:g}"
        lines.append([kind.value, f"{threshold:.3f}", *cells, in_smorm])
    any_fires = []
    for points in (poor, sound):
        fired = [fires(points, kind, thresholds[kind]) for kind in ALARMS if points]
        count = int(np.any(fired, axis=0).sum()) if points else 0
        any_fires.append(f"{count} of {len(points)}")
    headings = ["alarm", "chosen", "fires, gold poor", "fires, others", "in smorm"]
    return PAGE.format(
        runs=len({row.run for row in rows}),
        choice=len({row.run for row in halves[Half.CHOICE]}),
        report=len({row.run for row in halves[Half.REPORT]}),
        candidates=len(CANDIDATES),
        count=DATA_SEEDS,
        drifts=", ".join(f"{drift:g}" for drift in PLANTED_DRIFTS),
        answers=ANSWERS,
        seeds=len({row.run.data_seed for row in rows}),
        report_seeds=len({row.run.data_seed for row in halves[Half.REPORT]}),
        counts=_counts(choice, report, prompts),
        areas_of_runs=_areas(report),
        areas_of_prompts=_areas(prompts),
        poor_points=len(poor),
        choice_points=len(choice),
        false=FALSE_ALARMS,
        poor=POOR_GOLD,
        thresholds=table(headings, lines),
        any_poor=any_fires[0],
        any_sound=any_fires[1],
        none_fell=_none_fell(report),
        blind=_blind(prompts, thresholds),
    )


def _shown(metric: Metric) -> str:
    return "–" if np.isnan(metric.value) else f"{metric:.2f}"


def _counts(choice: Sequence[Point], report: Sequence[Point], prompts: Sequence[Point]) -> str:
    lines = []
    for (name, points), start in (
        (pair, start)
        for pair in (("runs, choice", choice), ("runs, report", report), ("prompts", prompts))
        for start in Start
    ):
        of_start = [point for point in points if point.run.start is start]
        cells = []
        for fall in FALLS.values():
            fallen = [point for point in of_start if fall(point)]
            cells.append(f"{len(fallen)} ({len({point.run for point in fallen})} runs)")
        golds = [point.gold for point in of_start]
        mean, lowest = f"{np.mean(golds):.3f}", f"{np.min(golds):.3f}"
        lines.append([name, start.value, str(len(of_start)), *cells, mean, lowest])
    return table(["points", "start", "n", *FALLS, "mean gold", "lowest"], lines)


def _areas(points: Sequence[Point]) -> str:
    usual = [point for point in points if point.run.start is Start.USUAL]
    lines = []
    for kind in ALARMS:
        cells = []
        for fall in FALLS.values():
            cells += [_shown(area(members, kind, fall)) for members in (points, usual)]
        golds = np.array([point.gold for point in points])
        seeds = [point.run.data_seed for point in points]
        correlation = spearman_metric(alarm_values(points, kind), golds, seeds)
        lines.append([kind.value, *cells, _shown(correlation)])
    headings = ["alarm"]
    for name in FALLS:
        headings += [name, f"{name}, usual starts"]
    return table([*headings, "rank correlation with gold"], lines)


def _none_fell(report: Sequence[Point]) -> str:
    counts = []
    for name, fall in FALLS.items():
        fallen = [point for point in report if fall(point)]
        counts.append(f"{name}: {len(fallen)} of {len(report)}")
    return (
        f"Points of runs in the report with {'; '.join(counts)}. From so few falls an area says "
        "what happened in those runs; whether an alarm sees the collapse of other runs is not "
        "decided here."
    )


def _blind(prompts: Sequence[Point], thresholds: Mapping[AlarmKind, float]) -> str:
    fallen = [point for point in prompts if point.gold < point.random_gold]
    if not fallen:
        return "No pick of the report was worse than a random answer."
    fired = np.array([fires(fallen, kind, thresholds[kind]) for kind in ALARMS])
    kind = ALARMS[0]
    high = sum(point.values[kind] > 1 - 1 / PICK_SIZE for point in fallen)
    return (
        f"Of {len(fallen)} prompts whose pick is worse than a random answer, "
        f"{int((~fired.any(axis=0)).sum())} raise none of the four (the run's thresholds taken for "
        f"single prompts); on {high} the pick stands in the top 64th of its pool by the mean "
        "attribute as well: both heads fail alike, and `picks_on_attributes` cannot see it."
    )


def rewrite(output: Path) -> None:
    """README.md, from the committed numbers."""
    write_text(output / "README.md", account(read_rows(output / NUMBERS)))


def main() -> None:
    """Train and measure every run, and write the page."""
    parser = argparse.ArgumentParser(prog="python -m experiments.lab.alarms")
    parser.add_argument("--output", type=Path, default=Path("results/lab/alarms"))
    parser.add_argument("--work", type=Path, default=Path("runs/lab"))
    options = parser.parse_args()
    lab = lab_of(options.work)
    rows: list[PromptRow] = []
    for run in all_runs(lab):
        rows += measure_run(lab, run)
        golds = [point.gold for point in points_of_runs(rows)[-len(UNSEEN) :]]
        say(f"{run.label}, {run.half}, {run.start}: gold {', '.join(f'{g:.3f}' for g in golds)}")
        # Each finished run is kept, whatever becomes of the next.
        write_rows(options.output / NUMBERS, rows)
    rewrite(options.output)


if __name__ == "__main__":
    main()
