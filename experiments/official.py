"""The official RewardBench package on one of our exports, beside our own numbers.

    python -m experiments.official --python /path/to/env/bin/python --model MODEL \\
        --data ../shared/data --output results/benchmarks

The package (`pip install rewardbench`) pins transformers 4.51, so it cannot be installed beside
smorm: `--python` names the interpreter of an environment of its own. It is run as its users run it
(`rewardbench --model EXPORT`), in a folder where `allenai/reward-bench` is a data set of the
published schema: its 23 subsets filled with real comparisons (LLMBar, HumanEvalPack and XSTest are
parts of the real one; the others hold pairs of other sets under the published names). Both sides
read the same exported folder, and their accuracies must be the same."""

from __future__ import annotations

import ast
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import datasets
import numpy as np

from experiments.command import make_parser, say
from experiments.tables import table
from experiments.tasks import read_lines
from smorm.errors import SmormError
from smorm.evaluation.benchmarks.rewardbench import SECTIONS
from smorm.evaluation.metric_names import MetricName
from smorm.evaluation.result import Result
from smorm.evaluation.suites import parse_suite, run_suite
from smorm.files import read_json, write_json
from smorm.scoring.reward_model import RewardModel
from smorm.text.chat import Message

# Scores in fp32, padded on one side and packed on the other.
SAME = 1e-4

RUN = """
import torch, transformers
if not torch.cuda.is_available():  # the package's pipeline asks for CUDA whatever there is
    move = transformers.BatchEncoding.to
    transformers.BatchEncoding.to = lambda self, device, **options: move(self, "cpu")
from rewardbench.rewardbench import main
main()
"""
# Of each subset. The claim is that two programs agree, which needs few items.
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
    rows_of: dict[str, list[dict[str, Any]]] = {}
    for name in ("llmbar", "humanevalpack", "xstest"):
        for row in read_lines(data / "eval" / name / "test.jsonl.gz"):
            rows_of.setdefault(NAMES.get(row["subset"], row["subset"]), []).append(row)
    for name, filled in FILLED.items():
        rows = read_lines(data / name / "dev.jsonl.gz")
        # A prompt of several turns is no prompt of the published schema.
        rows = [row for row in rows if not isinstance(row["prompt"], list)]
        for index, subset in enumerate(filled):
            rows_of[subset] = rows[index :: len(filled)]
    for subset in itertools.chain.from_iterable(SECTIONS.values()):
        yield subset, list(itertools.islice(filter(fits, rows_of[subset]), ITEMS))


def fits(model: RewardModel, row: dict[str, Any]) -> bool:
    """Whether both conversations are within the model's limit: the package would cut them."""
    lengths = []
    for side in ("chosen", "rejected"):
        messages = (Message("user", row["prompt"]), Message("assistant", row[side]))
        lengths.append(len(model.renderer.render(messages)))
    return max(lengths) <= model.card.max_tokens


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
        SmormError: it failed; the message holds the end of its output."""
    # It writes beside the model's path, so the model lies in the scratch folder under a plain name.
    shutil.copytree(export, folder / "export")
    # A process of its own interpreter: the package pins other versions.
    command = [
        str(python), "-c", RUN, "--model", "export", "--not_quantized", "--torch_dtype", "float32",
        "--max_length", str(limit), "--batch_size", "8", "--output_dir", "out/",
    ]  # fmt: skip
    settings = {"HF_DATASETS_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **settings}, capture_output=True, text=True
    )
    output = done.stdout + done.stderr
    printed = re.findall(r"Results: (\{.*?\})", output)
    if done.returncode or not printed:
        raise SmormError(f"the official package failed: {output[-3000:]}")
    lines = (folder / "out" / "export_outputs.jsonl").read_text().splitlines()
    rows = map(json.loads, lines)
    scores = [(row["scores_chosen"], row["scores_rejected"]) for row in rows]
    grouped = read_json(folder / "out" / "export.json")["extra_results"]
    return ast.literal_eval(printed[-1]), grouped, scores


def sections_table(ours: Mapping[str, float], theirs: Mapping[str, float]) -> str:
    """Markdown of both sides' sections."""
    rows = []
    for section, value in ours.items():
        reference = theirs[section]
        rows.append([section, f"{value:.6f}", f"{reference:.6f}", f"{value - reference:+.1e}"])
    return table(["section", "smorm", "official", "difference"], rows)


def gaps(
    ours: Result,
    sections: dict[str, float],
    grouped: dict[str, float],
    scores: Sequence[tuple[float, float]],
) -> dict[str, float]:
    """Largest differences of sections, of subsets and of single scores."""
    # Both sides read the rows in the file's order.
    items: list[Any] = list(ours.items)
    own_scores = np.array([item["scores"] for item in items])
    subsets = {str(MetricName("subset", subset=name)): value for name, value in grouped.items()}
    return {
        "sections": _largest_gap(ours, sections),
        "subsets": _largest_gap(ours, subsets),
        "scores": float(np.abs(own_scores - np.array(scores)).max()),
        "spread of scores": float(own_scores.std()),
    }


def _largest_gap(ours: Result, theirs: Mapping[str, float]) -> float:
    return max(abs(ours.metrics[name].value - value) for name, value in theirs.items())


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = make_parser("official", "results/benchmarks")
    parser.add_argument("--python", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True, help="an exported one-row folder")
    options = parser.parse_args(arguments)
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model = RewardModel.load(options.model)
        path = write_set(options.data, folder, model)
        # An error, since the two programs would cut a text that is too long at other places.
        (ours,) = run_suite(model, parse_suite(f"rewardbench={path}"), ["F"], overlong="error")
        python = options.python.absolute()
        sections, grouped, scores = official(python, options.model, folder, model.card.max_tokens)
    largest = gaps(ours, sections, grouped, scores)
    values = {name: ours.metrics[name].value for name in SECTIONS}
    say(sections_table(values, sections))
    say(str(largest))
    compared = {"smorm": values, "official": sections, "largest differences": largest}
    write_json(options.output / "official.json", {"items": len(scores), **compared})
    return int(max(largest["sections"], largest["scores"]) >= SAME)


if __name__ == "__main__":
    sys.exit(main())
