"""The benchmarks run through, by one command:

    python -m experiments.judge --data ../shared/data --output results/benchmarks

Two small models are trained from scratch on real pairs (and ratings), and two that this project did
not train are taken as they are: a small public Llama with a random head of one row and of six. All
are measured on LLMBar, HHH alignment, HumanEvalPack and XSTest, with paired differences and sanity
tests; then on a made-up stand-in of every benchmark of the hub in its published schema, which shows
that the whole way works and says nothing about the models."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from experiments.command import make_parser, run_command, say
from experiments.runs import train_once
from experiments.stand_ins import write_stand_in
from experiments.tables import table, with_interval
from smorm.config import Config, parse_config
from smorm.evaluation.benchmarks import BENCHMARKS
from smorm.evaluation.metric_names import SuiteName
from smorm.evaluation.result import Result, differences, read_results
from smorm.evaluation.sanity import check_sanity
from smorm.evaluation.suites import Suite, parse_suite, run_suite, suite_pairs
from smorm.files import read_json, sha256, write_json, write_text
from smorm.lab.artifacts import ArtifactStore
from smorm.model.store import versions
from smorm.report.selection import by_attribute, present_in, reject, select
from smorm.scoring.reward_model import RewardModel

REAL = {
    "llmbar": "llmbar/llmbar={data}/eval/llmbar/test.jsonl.gz",
    "hhh": "hhh={data}/eval/hhh_alignment/test.jsonl.gz",
    "humanevalpack": "best-of-k/humanevalpack={data}/eval/humanevalpack/test.jsonl.gz",
    "xstest": "best-of-k/xstest={data}/eval/xstest/test.jsonl.gz",
}
# Sets, and how many of their training records are used: minutes on one core.
PAIRS = {
    "hh_harmless_test": 1500,
    "ultrafeedback_sample": 300,
    "pandalm_human": 595,
    "arena_bench_v1": 600,
}
RATED = {"hanna_human": 400, "truthfulqa_attributes": 1500}
# One seed each: the page shows that any model goes through, not which of them is better.
TRAINED: dict[str, tuple[str, tuple[str, ...]]] = {
    "Single": ("preference", ("F",)),
    "SMORM": ("joint", ("F", "L", "M")),
}
# Numbers that stand beside every benchmark's own columns.
BESIDE = ("length_only/overall", "length_correlation_within_prompt")


@dataclass(frozen=True, slots=True)
class JudgedModel:
    """A model that is measured, and the views to measure."""

    name: str
    folder: Path
    views: tuple[str, ...]


def config(data: Path, folder: Path, kind: str, steps: int | None) -> dict[str, Any]:
    """A small Llama from random weights on four sets of pairs, and two of ratings."""
    values: dict[str, Any] = {
        "model": {
            "backbone": {
                "architecture": "llama", "hidden_size": 192, "intermediate_size": 512,
                "num_hidden_layers": 4, "num_attention_heads": 6, "num_key_value_heads": 6,
            },
            "tokenizer": {"train": "bpe", "vocab_size": 8000},
        },
        "data": {
            "preference": [_source(data, name, limit) for name, limit in PAIRS.items()],
            "rated": [_source(data, name, limit) for name, limit in RATED.items()],
            "max_tokens": 2048,
            "overlong": "drop",
            "cache": None,
        },
        "objective": {"kind": kind},
        "training": {
            "epochs": 1.0, "batch_size": 32, "learning_rate": 1e-3, "warmup": 0.05,
            "threads": 1, "precision": "auto",
        },
        "output": {"folder": str(folder)},
    }  # fmt: skip
    if steps:
        values["training"]["max_steps"] = steps
    return values


def _source(data: Path, name: str, limit: int) -> dict[str, Any]:
    return {"path": str(data / name / "train.jsonl.gz"), "limit": limit}


def random_head(source: Path, rows: int, folder: Path) -> None:
    """Write a public decoder with a random head, as plain transformers does."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    # The head is drawn when the model is built.
    torch.manual_seed(rows)
    # The first row is the preference row, so that views F and L exist.
    labels = {0: "preference", **{row: f"LABEL_{row}" for row in range(1, rows)}}
    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    model = AutoModelForSequenceClassification.from_pretrained(
        source, trust_remote_code=False, id2label=labels, problem_type="regression",
        pad_token_id=tokenizer.unk_token_id or 0,
    )  # fmt: skip
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def trained_model(data: Path, work: Path, name: str, steps: int | None) -> Path:
    """The folder of one of `TRAINED`, trained now or found finished."""
    kind, _ = TRAINED[name]

    def configure(folder: Path) -> Config:
        return parse_config(config(data, folder, kind, steps))

    hashes = [sha256(data / folder / "train.jsonl.gz") for folder in (*PAIRS, *RATED)]
    recipe = [configure(work).hash, hashes, versions()]
    return train_once(ArtifactStore(work), "trained", name, recipe, configure) / "model"


def models_of(data: Path, work: Path, steps: int | None) -> list[JudgedModel]:
    """Every model; finished ones are used again."""
    models = []
    for name, (_, views) in TRAINED.items():
        models.append(JudgedModel(name, trained_model(data, work, name, steps), views))
    store, source = ArtifactStore(work), data / "stories260k" / "hf"
    # One row is a plain reward model, six are one with attributes: both kinds of folders are read.
    for rows in (1, 6):
        name = f"stories260k-random-{rows}"
        recipe = [sha256(source / "config.json"), rows, "labels", versions()]
        path = store.path("random", recipe, label=name)
        folder = store.folder(path, recipe, partial(random_head, source, rows))
        models.append(JudgedModel(name, folder, ("F", "L") if rows > 1 else ("F",)))
    return models


def measure(models: Sequence[JudgedModel], suites: Sequence[Suite]) -> list[Result]:
    """Results of every model on every suite."""
    results: list[Result] = []
    for judged in models:
        model = RewardModel.load(judged.folder)
        for suite in suites:
            started = time.monotonic()
            views: list[Any] = list(judged.views)
            results += run_suite(
                model,
                suite,
                views,
                name=judged.name,
                # Cut, not left out: all models are measured on the same items.
                overlong="truncate_prompt",
                on_bad_record="skip",
            )
            say(f"{judged.name} on {suite.name}: {time.monotonic() - started:.0f} s")
    return results


def sanity_lines(models: Sequence[JudgedModel], suite: Suite) -> list[str]:
    """The failed sanity tests of every model."""
    # The tests score each pair several times, and need no more to find a fault.
    pairs = suite_pairs(suite)[:64]
    lines = []
    for judged in models:
        failures = check_sanity(RewardModel.load(judged.folder), pairs, judged.views[0]).failures
        lines += [f"{judged.name}: {failure}" for failure in failures]
        if not failures:
            lines.append(f"{judged.name}: all sanity tests pass")
    return lines


def models_table(results: Sequence[Result], names: Sequence[str]) -> str:
    """Markdown: models by numbers, with intervals."""
    rows = []
    for result in results:
        form = "+.3f" if result.kind == "difference" else ".3f"
        cells = [with_interval(result.metrics.get(name), form) for name in names]
        measured = present_in(names, result.metrics)
        count = result.metrics[measured[0]].n if measured else 0
        rows.append([result.model, result.view, *cells, str(count)])
    return table(["model", "view", *names, "n"], rows)


INTRO = """# Benchmarks run through

Written by `python -m experiments.judge`; do not edit. `results.json` holds every number with its
interval.

Single and SMORM are Llama decoders of 3 million parameters, trained from random weights for one
pass over 3,000 real pairs (and 1,900 ratings): they are far too small and too little trained to
judge instructions or code, and the numbers show it. The two `stories260k-random` models are a
public decoder of 260,000 parameters with a random head: they know nothing. Where one of them leaves
one half, it goes with length by chance, and LLMBar's good answers are mostly the shorter ones: this
is what the length-only rule and the correlation with length are there to show. What the page shows
is that any reward model goes through every benchmark, with intervals, yardsticks and paired
differences beside each number."""

STAND_INS = """A few made-up rows of each benchmark in its published schema: these show that the
file is read and the published rule applied from end to end, and say nothing about a model."""


def page(results: Sequence[Result], sanity: Sequence[str], stand_ins: Sequence[Result]) -> str:
    """The README of the results."""
    blocks = [INTRO]
    for suite, measured in by_attribute(results, "suite").items():
        names = _columns(suite, measured[0])
        scored, differing = select(measured, kind=["eval"]), reject(measured, kind=["eval"])
        blocks += [f"## {suite}", models_table(scored, [*names, *BESIDE])]
        blocks += ["Paired differences:", models_table(differing, names)]
        notes: dict[str, None] = {}
        for result in scored:
            notes |= dict.fromkeys(result.notes)
        blocks.append(_bullets(notes))
    blocks += ["## Sanity tests, on 64 comparisons of LLMBar", _bullets(sanity)]
    blocks += ["## Stand-ins of the hub's benchmarks", STAND_INS]
    for suite, measured in by_attribute(stand_ins, "suite").items():
        blocks += [f"### {suite}", models_table(measured, _columns(suite, measured[0]))]
    return "\n\n".join(blocks) + "\n"


def _columns(suite: str, result: Result) -> list[str]:
    """The benchmark's columns that a result has."""
    return present_in(BENCHMARKS[SuiteName.parse(suite).kind].columns, result.metrics)


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def run(data: Path, output: Path, work: Path, steps: int | None) -> None:
    """Train, measure and write."""
    models = models_of(data, work, steps)
    suites = [parse_suite(spelling.format(data=data)) for spelling in REAL.values()]
    results = measure(models, suites)
    _write(output / "results.json", results + differences(results))
    write_json(output / "sanity.json", sanity_lines(models, suites[0]))
    made_up = []
    for name in BENCHMARKS:
        path = write_stand_in(name, work / "stand-ins" / name)
        made_up.append(parse_suite(f"{name}={path}"))
    # A random head says no more about the reading of a file than a trained one.
    _write(output / "stand_ins.json", measure(models[: len(TRAINED)], made_up))
    rewrite(output)


def _write(path: Path, results: Sequence[Result]) -> None:
    """Results without their items, which are as large as the benchmarks."""
    write_json(path, [{**result.as_dict(), "items": []} for result in results])


def rewrite(output: Path) -> None:
    """README.md, from `results.json`, `sanity.json` and `stand_ins.json`."""
    results = read_results(output / "results.json")
    stand_ins = read_results(output / "stand_ins.json")
    text = page(results, read_json(output / "sanity.json"), stand_ins)
    write_text(output / "README.md", text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run; the exit code."""
    parser = make_parser("judge", "results/benchmarks")
    parser.add_argument("--work", type=Path, default=Path("runs/judge"))
    parser.add_argument("--steps", type=int, help="training steps, for a quick look")
    options = parser.parse_args(arguments)
    return run_command(
        options.data, lambda: run(options.data, options.output, options.work, options.steps)
    )


if __name__ == "__main__":
    sys.exit(main())
