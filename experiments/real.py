"""The comparison on real data, from files to tables, by one command:

    python -m experiments.real --data ../shared/data --output results/real

Trains Single, Multi and SMORM with the hyper-parameters of `tuning.json` and several seeds on every
task, measures them on `dev`, and writes results, statistics and a page. Finished runs are used
again, interrupted ones go on. Where the data is absent it says so and does nothing.
"""

from __future__ import annotations

import gzip
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson

from experiments.entry import carried_out, one_thread_each, parser_of_runs, say
from experiments.readme import readme
from experiments.runs import METHODS, Finished, Run, execute_all, shared_tokenizer
from experiments.summary import summarise
from experiments.tasks import TASKS, Task, dev_files, read_tuning, readme_baseline
from smorm.evaluation.result import Result, write_results
from smorm.files import write_bytes, write_json, write_text
from smorm.report.page import write_page

INTRO = """\
Small Llama decoders from random weights, trained on pairs alone (Single), on ratings alone \
(Multi) or on both (SMORM), and measured on prompts and debates that are in no training file. \
README.md beside this page has the intervals over prompts, the paired differences, the cost and \
what was tried.

Simple rules are strong here. Of a linear model over words and length the data's own READMEs say: \
{baselines}"""


def plan(
    task: Task, data: Path, work: Path, seeds: int, settings: dict[str, dict[str, Any]]
) -> list[Run]:
    """Every run of a task; `settings` are each method's chosen overrides."""
    files = dev_files(task, data)
    tokenizer = shared_tokenizer(task, files, work)
    return [
        Run(
            task,
            method,
            seed,
            files,
            tokenizer,
            work,
            tuple(f"{key}={value}" for key, value in settings[method].items()),
        )
        for seed in range(seeds)
        for method in METHODS
    ]


def write_all(
    finished: Sequence[Finished], data: Path, output: Path, tuning: dict[str, Any]
) -> None:
    """Result file, scores, statistics, README and page of finished runs."""
    finished = sorted(finished, key=_place)
    results = [result for done in finished for result in done.results]
    plain = [replace(result, items="scores.jsonl.gz") for result in results]
    write_results(output / "results.json", plain)
    write_bytes(output / "scores.jsonl.gz", _scores(results))
    by_task = {
        name: [done for done in finished if done.run.task.name == name]
        for name in TASKS
        if any(done.run.task.name == name for done in finished)
    }
    summaries = {name: summarise(found, found[0].run.files) for name, found in by_task.items()}
    baselines = {name: readme_baseline(TASKS[name], data) for name in by_task}
    write_json(output / "summary.json", summaries)
    write_text(output / "README.md", readme(summaries, baselines, tuning))
    told = ", ".join(f"{TASKS[n].title} {b['dev']:.3f}" for n, b in baselines.items() if "dev" in b)
    intro = INTRO.format(baselines=f"{told}." if told else "nothing.")
    write_page([r.as_dict() for r in plain], output / "report.html", "Real data", intro)


def _place(done: Finished) -> tuple[int, int, int]:
    run = done.run
    return list(TASKS).index(run.task.name), list(METHODS).index(run.method), run.seed


def _scores(results: Sequence[Result]) -> bytes:
    """One line a result: its scores in the order of the dev file, to six digits."""
    lines = []
    for result in results:
        items: Any = result.items
        values = [one.get("scores") or list(one["attributes"].values()) for one in items]
        row = {
            "suite": result.suite,
            "model": result.model,
            "view": result.view,
            "seed": result.fingerprint["seed"],
            "scores": [[float(f"{value:.6g}") for value in numbers] for numbers in values],
        }
        lines.append(orjson.dumps(row) + b"\n")
    return gzip.compress(b"".join(lines), mtime=0)


def run_everything(data: Path, output: Path, work: Path, seeds: int, jobs: int) -> None:
    """Plan, run (long runs first, so that no process ends alone), and write."""
    tuning = read_tuning()
    runs = [
        run
        for task in TASKS.values()
        for run in plan(task, data, work, seeds, tuning["chosen"][task.name])
    ]
    runs.sort(key=lambda run: ("SMORM", "Single", "Multi").index(run.method))
    started = time.monotonic()
    finished: list[Finished] = []
    for done in execute_all(runs, jobs):
        finished.append(done)
        say(
            f"[{len(finished)}/{len(runs)}] {done.run.task.name} {done.run.method} "
            f"seed {done.run.seed}: {done.cost['minutes']:.1f} min of training"
        )
    write_all(finished, data, output, tuning)
    say((output / "README.md").read_text(encoding="utf-8"))
    say(f"{output}: written after {(time.monotonic() - started) / 60:.1f} min")


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run; the exit code."""
    asked = parser_of_runs("real").parse_args(arguments)
    one_thread_each()
    return carried_out(
        asked.data,
        lambda: run_everything(asked.data, asked.output, asked.work, asked.seeds, asked.jobs),
    )


if __name__ == "__main__":
    sys.exit(main())
