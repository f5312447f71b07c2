"""The official RewardBench package on one of our exports, beside our own numbers.

    python -m experiments.official --python /path/to/env/bin/python --model MODEL \\
        --data ../shared/data --output results/benchmarks

The package (`pip install rewardbench`) pins transformers 4.51, so it cannot be installed beside
smorm: `--python` names the interpreter of an environment of its own. It is run as its users run it
(`rewardbench --model EXPORT`), in a folder where `allenai/reward-bench` is a data set of the
published schema: its 23 subsets filled with real comparisons (LLMBar, HumanEvalPack and XSTest are
parts of the real one; the others hold pairs of other sets under the published names). Both sides
read the same exported folder, and their accuracies must be the same.
"""

from __future__ import annotations

import argparse
import ast
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import datasets
import numpy as np

from experiments.tasks import read_lines
from smorm.errors import SmormError
from smorm.evaluation.benchmarks.rewardbench import SECTIONS
from smorm.evaluation.result import Result
from smorm.evaluation.suite import parse_suite
from smorm.evaluation.suites import run_suite
from smorm.files import read_json, write_json
from smorm.scoring.reward_model import RewardModel
from smorm.text.chat import Message

SAME = 1e-4
"""Scores in fp32, padded on one side and packed on the other."""

RUN = """
import torch, transformers
if not torch.cuda.is_available():  # the package's pipeline asks for CUDA whatever there is
    move = transformers.BatchEncoding.to
    transformers.BatchEncoding.to = lambda self, device, **options: move(self, "cpu")
from rewardbench.rewardbench import main
main()
"""
ITEMS = 40
FILLED = {
    "hh_harmless_test": ("refusals-dangerous", "refusals-offensive", "donotanswer"),
    "ultrafeedback_sample": ("alpacaeval-easy", "alpacaeval-length", "alpacaeval-hard"),
    "arena_bench_v1": ("mt-bench-easy", "mt-bench-med", "mt-bench-hard"),
    "gsm8k_solution_pairs": ("math-prm",),
}
NAMES = {
    "llmbar-adver-Manual": "llmbar-adver-manual",
    "llmbar-adver-Neighbor": "llmbar-adver-neighbor",
}


def subsets(
    data: Path, fits: Callable[[dict[str, Any]], bool]
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Every subset of RewardBench with up to `ITEMS` real pairs that fit the model."""
    found: dict[str, list[dict[str, Any]]] = {}
    for name in ("llmbar", "humanevalpack", "xstest"):
        for row in read_lines(data / "eval" / name / "test.jsonl.gz"):
            found.setdefault(NAMES.get(row["subset"], row["subset"]), []).append(row)
    for name, wanted in FILLED.items():
        rows = [r for r in read_lines(data / name / "dev.jsonl.gz") if isinstance(r["prompt"], str)]
        for place, subset in enumerate(wanted):
            found[subset] = rows[place :: len(wanted)]
    for subset in (name for part in SECTIONS.values() for name in part):
        yield subset, list(itertools.islice(filter(fits, found[subset]), ITEMS))


def fits(model: RewardModel, row: dict[str, Any]) -> bool:
    """Whether both conversations are within the model's limit: the package would cut them."""
    ask = Message("user", row["prompt"])
    sides = [(ask, Message("assistant", row[side])) for side in ("chosen", "rejected")]
    return all(len(model.renderer.render(side)) <= model.card.max_tokens for side in sides)


def write_set(data: Path, folder: Path, model: RewardModel) -> Path:
    """`allenai/reward-bench` in its published schema, split `filtered`, as a Parquet file."""
    rows: list[dict[str, Any]] = []
    for subset, pairs in subsets(data, lambda row: fits(model, row)):
        for row in pairs:
            rows.append(
                {
                    "prompt": row["prompt"], "chosen": row["chosen"], "chosen_model": "a",
                    "rejected": row["rejected"], "rejected_model": "b", "subset": subset,
                    "id": len(rows),
                }
            )  # fmt: skip
    path = folder / "allenai" / "reward-bench" / "data" / "filtered-00000-of-00001.parquet"
    path.parent.mkdir(parents=True)
    datasets.Dataset.from_list(rows).to_parquet(str(path))
    return path


def official(
    python: Path, export: Path, folder: Path, limit: int
) -> tuple[dict[str, float], dict[str, float], list[tuple[float, float]]]:
    """The package's sections and subsets, and its scores of each item (chosen, rejected).

    Raises:
        SmormError: it failed; the message holds the end of what it said.
    """
    # It writes beside the model's path, so the model lies in the scratch folder under a plain name.
    shutil.copytree(export, folder / "export")
    command = [
        str(python), "-c", RUN, "--model", "export", "--not_quantized", "--torch_dtype", "float32",
        "--max_length", str(limit), "--batch_size", "8", "--output_dir", "out/",
    ]  # fmt: skip
    settings = {"HF_DATASETS_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **settings}, capture_output=True, text=True
    )
    said = done.stdout + done.stderr
    printed = re.findall(r"Results: (\{.*?\})", said)
    if done.returncode or not printed:
        raise SmormError(f"the official package failed: {said[-3000:]}")
    lines = (folder / "out" / "export_outputs.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    scores = [(row["scores_chosen"], row["scores_rejected"]) for row in rows]
    grouped = read_json(folder / "out" / "export.json")["extra_results"]
    return ast.literal_eval(printed[-1]), grouped, scores


def table(ours: Result, theirs: dict[str, float]) -> list[str]:
    """Markdown of both sides' sections."""
    lines = ["| section | smorm | official | difference |", "| --- | --- | --- | --- |"]
    for section in SECTIONS:
        mine, other = ours.metrics[section].value, theirs[section]
        lines.append(f"| {section} | {mine:.6f} | {other:.6f} | {mine - other:+.1e} |")
    return lines


def gaps(
    ours: Result,
    sections: dict[str, float],
    grouped: dict[str, float],
    scores: Sequence[tuple[float, float]],
) -> dict[str, float]:
    """Largest differences of sections, of subsets and of single scores."""
    items: list[Any] = list(ours.items)
    mine = np.array([item["scores"] for item in items])
    return {
        "sections": max(abs(ours.metrics[n].value - value) for n, value in sections.items()),
        "subsets": max(abs(ours.metrics[f"subset/{n}"].value - v) for n, v in grouped.items()),
        "scores": float(np.abs(mine - np.array(list(scores))).max()),
        "spread of scores": float(mine.std()),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True, help="an exported one-row folder")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--output", type=Path, default=Path("results/benchmarks"))
    options = parser.parse_args(arguments)
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model = RewardModel.load(options.model)
        path = write_set(options.data, folder, model)
        (ours,) = run_suite(model, parse_suite(f"rewardbench={path}"), ["F"], overlong="error")
        python = options.python.absolute()
        sections, grouped, scores = official(python, options.model, folder, model.card.max_tokens)
    found = gaps(ours, sections, grouped, scores)
    print("\n".join(table(ours, sections)))
    print(found)
    mine = {name: ours.metrics[name].value for name in SECTIONS}
    write_json(
        options.output / "official.json",
        {"items": len(scores), "smorm": mine, "official": sections, "largest differences": found},
    )
    return 0 if found["sections"] < SAME and found["scores"] < SAME else 1


if __name__ == "__main__":
    sys.exit(main())
