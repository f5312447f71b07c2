"""The benchmarks run through, by one command:

    python -m experiments.judge --data ../shared/data --output results/benchmarks

Two small models are trained from scratch on real pairs (and ratings), and two that this project did
not train are taken as they are: a small public Llama with a random head of one row and of six. All
are measured on LLMBar, HHH alignment, HumanEvalPack and XSTest, with paired differences and sanity
tests; then on a made-up stand-in of every benchmark of the hub in its published schema, which shows
that the whole way works and says nothing about the models.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from experiments.stand_ins import write_stand_in
from smorm.config import parse_config
from smorm.evaluation.benchmarks import BENCHMARKS
from smorm.evaluation.compare import differences
from smorm.evaluation.metrics import Metric
from smorm.evaluation.result import Result
from smorm.evaluation.sanity import check_sanity
from smorm.evaluation.suite import Suite, parse_suite
from smorm.evaluation.suites import run_suite, suite_pairs
from smorm.files import write_json, write_text
from smorm.scoring.reward_model import RewardModel
from smorm.training.loop import train

REAL = {
    "llmbar": "llmbar/llmbar={data}/eval/llmbar/test.jsonl.gz",
    "hhh": "hhh={data}/eval/hhh_alignment/test.jsonl.gz",
    "humanevalpack": "best-of-k/humanevalpack={data}/eval/humanevalpack/test.jsonl.gz",
    "xstest": "best-of-k/xstest={data}/eval/xstest/test.jsonl.gz",
}
PAIRS = {
    "hh_harmless_test": 1500,
    "ultrafeedback_sample": 300,
    "pandalm_human": 595,
    "arena_bench_v1": 600,
}
RATED = {"hanna_human": 400, "truthfulqa_attributes": 1500}
"""Sets, and how many of their training records are used: minutes on one core."""
TRAINED = {"Single": ("preference", ("F",)), "SMORM": ("joint", ("F", "L", "M"))}


def config(data: Path, folder: Path, kind: str, steps: int | None) -> dict[str, Any]:
    """A small Llama from random weights on four sets of pairs, and two of ratings."""
    return {
        "model": {
            "backbone": {
                "architecture": "llama", "hidden_size": 192, "intermediate_size": 512,
                "num_hidden_layers": 4, "num_attention_heads": 6, "num_key_value_heads": 6,
            },
            "tokenizer": {"train": "bpe", "vocab_size": 8000},
        },
        "data": {
            "preference": [_source(data, *one) for one in PAIRS.items()],
            "rated": [_source(data, *one) for one in RATED.items()],
            "max_tokens": 2048,
            "overlong": "drop",
            "cache": None,
        },
        "objective": {"kind": kind},
        "training": {
            "epochs": 1.0, "batch_size": 32, "learning_rate": 1e-3, "warmup": 0.05,
            "threads": 1, "precision": "auto", **({"max_steps": steps} if steps else {}),
        },
        "output": {"folder": str(folder)},
    }  # fmt: skip


def _source(data: Path, name: str, limit: int) -> dict[str, Any]:
    return {"path": str(data / name / "train.jsonl.gz"), "limit": limit}


def random_head(source: Path, folder: Path, rows: int) -> Path:
    """A public decoder with a random head, as plain transformers writes it."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(rows)
    tokenizer = AutoTokenizer.from_pretrained(source)
    model = AutoModelForSequenceClassification.from_pretrained(
        source, num_labels=rows, problem_type="regression", pad_token_id=tokenizer.unk_token_id or 0
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def models_of(data: Path, work: Path, steps: int | None) -> list[tuple[str, Path, list[Any]]]:
    """Name, folder and views of every model; finished ones are used again."""
    found: list[tuple[str, Path, list[Any]]] = []
    for name, (kind, views) in TRAINED.items():
        folder = work / name
        if not (folder / "model" / "config.json").is_file():
            shutil.rmtree(folder, ignore_errors=True)
            train(parse_config(config(data, folder, kind, steps)))
        found.append((name, folder / "model", list(views)))
    for rows in (1, 6):
        folder = work / f"stories260k-random-{rows}"
        if not folder.is_dir():
            random_head(data / "stories260k" / "hf", folder, rows)
        found.append((folder.name, folder, ["F", "L"] if rows > 1 else ["F"]))
    return found


def measure(
    models: Sequence[tuple[str, Path, list[Any]]], suites: Sequence[Suite]
) -> tuple[list[Result], list[str]]:
    """Results, differences and what the sanity tests found."""
    results: list[Result] = []
    told: list[str] = []
    for name, folder, views in models:
        model = RewardModel.load(folder)
        for suite in suites:
            started = time.monotonic()
            results += run_suite(
                model, suite, views, name=name, overlong="truncate_prompt", on_bad_record="skip"
            )
            print(f"{name} on {suite.name}: {time.monotonic() - started:.0f} s", flush=True)
        pairs = suite_pairs(suites[0])[:64]
        found = check_sanity(model, pairs, views[0])
        told += [f"{name}: {line}" for line in found.failures or ["all sanity tests pass"]]
    return results + differences(results), told


def table(results: Sequence[Result], names: Sequence[str]) -> list[str]:
    """Markdown: models by numbers, with intervals."""
    head = ["model", "view", *names, "n"]
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for one in results:
        cells = [_cell(one.metrics.get(name), one.kind == "difference") for name in names]
        count = next((one.metrics[name].n for name in names if name in one.metrics), 0)
        lines.append(f"| {one.model} | {one.view} | {' | '.join(cells)} | {count} |")
    return lines


def _cell(metric: Metric | None, signed: bool) -> str:
    if metric is None:
        return "–"
    form = "+.3f" if signed else ".3f"
    return f"{metric.value:{form}} [{metric.low:{form}}, {metric.high:{form}}]"


BESIDE = ("length_only/overall", "length_correlation_within_prompt")


def page(results: Sequence[Result], told: Sequence[str], stand_ins: Sequence[Result]) -> str:
    """The README of the results."""
    lines = [INTRO]
    for suite in dict.fromkeys(one.suite for one in results):
        rows = [one for one in results if one.suite == suite]
        shown = [n for n in BENCHMARKS[suite.partition("/")[0]].columns if n in rows[0].metrics]
        lines += [
            f"\n## {suite}\n",
            *table([r for r in rows if r.kind == "eval"], [*shown, *BESIDE]),
        ]
        lines += ["\nPaired differences:\n", *table([r for r in rows if r.kind != "eval"], shown)]
        notes = dict.fromkeys(n for r in rows if r.kind == "eval" for n in r.notes)
        lines += ["", *(f"- {note}" for note in notes)]
    lines += ["\n## Sanity tests, on 64 comparisons of LLMBar\n", *(f"- {line}" for line in told)]
    lines += ["\n## Stand-ins of the hub's benchmarks\n", STAND_INS]
    for suite in dict.fromkeys(one.suite for one in stand_ins):
        rows = [one for one in stand_ins if one.suite == suite and one.kind == "eval"]
        shown = [n for n in BENCHMARKS[suite.partition("/")[0]].columns if n in rows[0].metrics]
        lines += [f"\n### {suite}\n", *table(rows, shown)]
    return "\n".join(lines) + "\n"


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


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--output", type=Path, default=Path("results/benchmarks"))
    parser.add_argument("--work", type=Path, default=Path("runs/judge"))
    parser.add_argument("--steps", type=int, help="training steps, for a quick look")
    options = parser.parse_args(arguments)
    if not options.data.is_dir():
        print(f"{options.data}: the real data is not here: nothing to do", file=sys.stderr)
        return 0
    models = models_of(options.data, options.work, options.steps)
    suites = [parse_suite(text.format(data=options.data)) for text in REAL.values()]
    results, told = measure(models, suites)
    made_up = [parse_suite(f"{name}={path}") for name, path in stand_ins(options.work).items()]
    on_stand_ins = [
        one
        for name, folder, views in models[:2]
        for suite in made_up
        for one in run_suite(
            RewardModel.load(folder), suite, views, name=name, overlong="truncate_prompt"
        )
    ]
    objects = [{**one.as_dict(), "items": []} for one in results]
    write_json(options.output / "results.json", objects)
    write_text(options.output / "README.md", page(results, told, on_stand_ins))
    print(f"results: {options.output}")
    return 0


def stand_ins(work: Path) -> dict[str, Path]:
    """Stand-ins of every benchmark, by name."""
    folder = work / "stand-ins"
    return {name: write_stand_in(name, folder / name) for name in BENCHMARKS}


if __name__ == "__main__":
    sys.exit(main())
