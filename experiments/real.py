"""The comparison on real data, from files to tables, by one command:

    python -m experiments.real --data ../shared/data --output results/real

Trains Single, Multi and SMORM with the hyper-parameters of `tuning.json` and several seeds on every
task, measures them on `dev`, and writes results, statistics and a page. Finished runs are used
again, interrupted ones go on. Without the data it says so and does nothing."""

from __future__ import annotations

import gzip
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson

from experiments.command import make_run_parser, one_thread_each, run_command, say
from experiments.real_page import TFIDF, page
from experiments.real_summary import Finished, summarise
from experiments.runs import (
    MINUTES,
    MULTI,
    SINGLE,
    SMORM,
    Run,
    data_overrides,
    in_processes,
    read_metrics,
)
from experiments.tasks import TASKS, Files, Task, dev_files, read_tuning, readme_baseline
from smorm.config import Config, load_config
from smorm.config.sections import TrainedTokenizer
from smorm.data.reading import Source
from smorm.evaluation.result import Result, parse_result, write_results
from smorm.evaluation.suites import Suite, run_suite
from smorm.files import read_json, write_bytes, write_json, write_text
from smorm.lab.artifacts import ArtifactStore
from smorm.model.store import versions
from smorm.report.page import write_page
from smorm.scoring.reward_model import RewardModel
from smorm.text.tokenizers import train_bpe
from smorm.training.sources import sources_of, training_texts

METHODS = {"Single": SINGLE, "Multi": MULTI, "SMORM": SMORM}

INTRO = """\
Small Llama decoders from random weights, trained on pairs alone (Single), on ratings alone \
(Multi) or on both (SMORM), and measured on prompts and debates that are in no training file. \
README.md beside this page has the intervals over prompts, the paired differences, the cost and \
what was tried.

Simple rules are strong here. Accuracies of a linear model over words and length, from the data's \
own READMEs: {baselines}."""


def shared_tokenizer(task: Task, files: Files, work: Path) -> Path:
    """One tokenizer for all methods, trained on the pairs' and the ratings' training texts.

    Without it each method would train one on the texts that it reads, and the comparison would not
    be matched."""
    config = load_config(task.recipe, data_overrides(files))
    tokenizer = config.model.tokenizer
    assert isinstance(tokenizer, TrainedTokenizer)
    data = config.as_dict()["data"]
    recipe = [files.hashes(), data, tokenizer.vocab_size, versions()]
    sources = sources_of(config.data, pairs=True, rated=True)

    def make(scratch: Path) -> None:
        texts = training_texts(config, sources)
        train_bpe(texts, tokenizer.vocab_size).save_pretrained(scratch)

    store = ArtifactStore(work)
    return store.folder(store.path(task.name, recipe, label="tokenizer"), recipe, make)


def make_run(
    task: Task,
    name: str,
    seed: int,
    files: Files,
    tokenizer: Path,
    work: Path,
    settings: Sequence[str] = (),
) -> Run:
    """A run of one of `METHODS`; `settings` are overrides of the recipe."""
    # Every step is logged, because the cost counts the tokens of each.
    overrides = (f"model.tokenizer={json.dumps(str(tokenizer))}", "training.log_every=1")
    return Run(task, name, METHODS[name], seed, files, work, (*overrides, *settings))


def plan(
    task: Task, data: Path, work: Path, seeds: int, settings: dict[str, dict[str, Any]]
) -> list[Run]:
    """Every run of a task; `settings` are each method's chosen overrides."""
    files = dev_files(task, data)
    tokenizer = shared_tokenizer(task, files, work)
    runs = []
    for seed in range(seeds):
        for method in METHODS:
            overrides = [f"{key}={value}" for key, value in settings[method].items()]
            runs.append(make_run(task, method, seed, files, tokenizer, work, overrides))
    return runs


def execute(run: Run) -> Finished:
    """Train and measure, or read the results of the finished run."""

    def make(path: Path) -> None:
        folder = run.train()
        # Loaded again: what is measured is the saved model, as a user would have it.
        model = RewardModel.load(folder / "model")
        results = list(map(Result.as_dict, _measure(run, model)))
        cost = _cost(folder, model, run.config(folder))
        write_json(path, {"results": results, "cost": cost})

    measured = run.derived("measured", [], make)
    results = [parse_result(value, run.label) for value in measured["results"]]
    return Finished(run, results, measured["cost"])


def _measure(run: Run, model: RewardModel) -> list[Result]:
    label = f"{run.task.name}-{run.files.label}"
    pairs = Suite(f"pairs/{label}", Source(run.files.test_pairs))
    results = run_suite(model, pairs, run.method.views, name=run.name, seed=run.seed)
    if model.attributes:
        rated = Suite(f"rated/{label}", Source(run.files.test_rated))
        results += run_suite(model, rated, name=run.name, seed=run.seed)
    return results


def _cost(folder: Path, model: RewardModel, config: Config) -> dict[str, float]:
    """Parameters, steps, sequences read, tokens computed, minutes of training."""
    steps = read_metrics(folder, "tokens")
    counts = read_json(folder / "data.json")
    method, batch = config.objective.method, config.training.batch_size
    pairs = ratings = 0
    if method.uses_pairs:
        pairs = batch
    if method.uses_ratings:
        # Beside pairs the ratings have a share of their own; a batch without pairs is all ratings.
        ratings = batch
        if method.uses_pairs:
            ratings = round(batch * config.data.mixing.rated_per_pair)
    return {
        "parameters": float(sum(weight.numel() for weight in model.network.parameters())),
        "training_pairs": float(counts["pairs"]),
        "training_rated": float(counts["rated"]),
        "steps": float(len(steps)),
        "pair_passes": float(len(steps) * pairs),
        "rated_passes": float(len(steps) * ratings),
        "tokens": float(sum(row["tokens"] for row in steps.values())),
        "minutes": float(read_json(folder / MINUTES)),
    }


def write_all(
    finished: Sequence[Finished], data: Path, output: Path, tuning: dict[str, Any]
) -> None:
    """Result file, scores, statistics, README and page of finished runs."""
    by_task: dict[str, list[Finished]] = {}
    for done in sorted(finished, key=_order):
        by_task.setdefault(done.run.task.name, []).append(done)
    results: list[Result] = []
    summaries = {}
    for name, runs in by_task.items():
        for done in runs:
            results += done.results
        summaries[name] = summarise(runs, runs[0].run.files)
        # The bar for a network: a linear model over words and length.
        summaries[name]["baseline"] = readme_baseline(TASKS[name], data)
    # Items are larger than all else; their scores are in a packed file of their own.
    plain = [replace(result, items="scores.jsonl.gz") for result in results]
    write_results(output / "results.json", plain)
    write_bytes(output / "scores.jsonl.gz", _scores(results))
    write_json(output / "summary.json", summaries)
    rewrite(output, tuning)
    baselines = []
    for name, summary in summaries.items():
        if TFIDF in summary["baseline"]:
            baselines.append(f"{TASKS[name].title} {summary['baseline'][TFIDF]:.3f}")
    intro = INTRO.format(baselines=", ".join(baselines) or "none")
    objects = list(map(Result.as_dict, plain))
    write_page(objects, output / "report.html", "Real data", intro)


def rewrite(output: Path, tuning: dict[str, Any] | None = None) -> None:
    """README.md, from `summary.json` and `tuning.json`."""
    text = page(read_json(output / "summary.json"), tuning or read_tuning())
    write_text(output / "README.md", text)


def _order(done: Finished) -> tuple[int, int, int]:
    run = done.run
    return list(TASKS).index(run.task.name), list(METHODS).index(run.name), run.seed


def _scores(results: Sequence[Result]) -> bytes:
    """One line a result: its scores in the order of the dev file, to six digits."""
    lines = []
    for result in results:
        items: Any = result.items
        scores = []
        for item in items:
            values = item.get("scores") or list(item["attributes"].values())
            # fp32 has seven digits, and products in another order change the last.
            scores.append([float(f"{value:.6g}") for value in values])
        row = {
            "suite": result.suite,
            "model": result.model,
            "view": result.view,
            "seed": result.fingerprint["seed"],
            "scores": scores,
        }
        lines.append(orjson.dumps(row) + b"\n")
    return gzip.compress(b"".join(lines), mtime=0)


def run_everything(data: Path, output: Path, work: Path, seeds: int, jobs: int) -> None:
    """Plan, run, and write."""
    tuning = read_tuning()
    runs: list[Run] = []
    for task in TASKS.values():
        runs += plan(task, data, work, seeds, tuning["chosen"][task.name])
    # Long runs first, so that no process is left alone with one at the end.
    runs.sort(key=lambda run: ("SMORM", "Single", "Multi").index(run.name))
    started = time.monotonic()
    finished: list[Finished] = []
    for done in in_processes(execute, runs, jobs):
        finished.append(done)
        say(
            f"[{len(finished)}/{len(runs)}] {done.run.task.name} {done.run.name} "
            f"seed {done.run.seed}: {done.cost['minutes']:.1f} min of training"
        )
    write_all(finished, data, output, tuning)
    say((output / "README.md").read_text(encoding="utf-8"))
    say(f"{output}: written after {(time.monotonic() - started) / 60:.1f} min")


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run; the exit code."""
    options = make_run_parser("real").parse_args(arguments)
    one_thread_each()
    return run_command(
        options.data,
        lambda: run_everything(
            options.data, options.output, options.work, options.seeds, options.jobs
        ),
    )


if __name__ == "__main__":
    sys.exit(main())
