"""What `group_by_prompt` saves, and what it does to the gradient.

    python -m experiments.grouping --data ../shared/data --output results/grouping

Prompts with 4 answers each: all pairs of different score, and the 4 ratings. One small model is
trained for a moment; then, at the same weights, the gradient of every step of four epochs is taken
with grouped and with ungrouped batches of the same size. Trains nothing else: about a minute.

Shapes: B steps, W weights.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from experiments.several_answers import (
    ANSWERS,
    Answered,
    arena_answers,
    lab_answers,
    write_records,
)
from smorm.arrays import Floats
from smorm.config import parse_config
from smorm.files import fingerprint, write_json, write_text
from smorm.objectives.terms import Rows
from smorm.training.methods import make_method
from smorm.training.optim import make_optimizer, named_trainable
from smorm.training.setup import Prepared, prepare
from smorm.training.step import run_step
from smorm.version import __version__
from smorm.world import backbone_path

BATCH, WARM_STEPS, EPOCHS, RESAMPLES = 24, 30, 4, 1000
TERMS = ("preference", "regression", "joint")
Row = dict[str, Any]
TINY = {
    "backbone": {
        "architecture": "llama",
        "hidden_size": 64,
        "intermediate_size": 176,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
    "tokenizer": {"train": "bpe", "vocab_size": 4000},
}
LAB = {"backbone": str(backbone_path())}


def warmed(model: Row, data: Row, folder: Path) -> Prepared:
    """A run after a few ungrouped steps: at the start, gradients are all alike."""
    training = {
        "batch_size": BATCH,
        "learning_rate": 1e-3,
        "max_batch_tokens": 8192,
        "device": "cpu",
    }
    output = {"folder": str(folder)}
    config = parse_config({"model": model, "data": data, "training": training, "output": output})
    prepared = prepare(config)
    method = make_method(prepared)
    optimizer = make_optimizer(config.training, prepared.network, {})
    for step in range(WARM_STEPS):
        optimizer.zero_grad()
        run_step(prepared, method, step)
        optimizer.step()
    return prepared


def step_gradients(prepared: Prepared, steps: int) -> tuple[dict[str, Floats], int]:
    """Inner products of the steps' gradients by term, [B, B], and the tokens of all steps."""
    method = make_method(prepared)
    named = named_trainable(prepared.network, {})
    found: dict[str, list[NDArray[np.float32]]] = {term: [] for term in TERMS[:2]}
    tokens = 0
    for step in range(steps):
        for term, rows in found.items():
            for parameter in named.values():
                parameter.grad = torch.zeros_like(parameter)
            result = run_step(prepared, method, step, only=Rows(term))
            parts = [p.grad.flatten() for p in named.values() if p.grad is not None]
            rows.append(torch.cat(parts).numpy())
        tokens += result.tokens
    preference, regression = (np.stack(rows) for rows in found.values())
    first, second = inner_products(preference, preference), inner_products(regression, regression)
    cross = inner_products(preference, regression)
    joint = first + second + cross + cross.T
    return dict(zip(TERMS, (first, second, joint), strict=True)), tokens


def inner_products(one: NDArray[np.float32], other: NDArray[np.float32]) -> Floats:
    """[B, B] in double precision, some columns at a time."""
    total = np.zeros((len(one), len(other)))
    for start in range(0, one.shape[1], 65536):
        part = slice(start, start + 65536)
        total += one[:, part].astype(np.float64) @ other[:, part].astype(np.float64).T
    return total


def variance(gram: Floats) -> tuple[float, float]:
    """Of gradients with these inner products [B, B]: trace of the covariance of a step's gradient,
    and the squared norm of the mean gradient without what the noise adds to it."""
    count = len(gram)
    spread = float((np.trace(gram) - gram.sum() / count) / (count - 1))
    return spread, float(gram.sum() / count**2) - spread / count


def compare(grouped: Floats, ungrouped: Floats, size: float) -> Row:
    """Variance ratio with a bootstrap interval over steps, correlation and noise scales.

    Args:
        grouped, ungrouped: inner products of gradients, [B, B].
        size: items over one prompt that an item has beside it, itself included: sum m^2 / sum m.
    """
    grams = [grouped, ungrouped]
    (high, high_norm), (low, low_norm) = (variance(gram) for gram in grams)
    rng = np.random.default_rng(0)
    ratios = []
    for _ in range(RESAMPLES):
        drawn = []
        for gram in grams:
            index = rng.integers(0, len(gram), len(gram))
            # A step that is drawn twice has no distance to itself: correct for the ties.
            ties = (index[:, None] == index[None, :]).mean()
            inner = gram[np.ix_(index, index)]
            drawn.append((np.trace(inner) / len(gram) - inner.mean()) / (1 - ties))
        ratios.append(drawn[0] / drawn[1])
    ratio = high / low
    low_end, high_end = np.percentile(ratios, [2.5, 97.5])
    return {
        "variance_ratio": {
            "value": ratio,
            "low": float(low_end),
            "high": float(high_end),
            "n": len(grouped),
        },
        "correlation": (ratio - 1) / (size - 1),
        "effective_batch": BATCH / ratio,
        "noise_scale_grouped": BATCH * high / high_norm,
        "noise_scale_ungrouped": BATCH * low / low_norm,
    }


def measure(name: str, found: list[Answered], model: Row, max_tokens: int) -> Row:
    """Both orders at the same weights."""
    with tempfile.TemporaryDirectory() as scratch:
        sources = write_records(found, Path(scratch))
        pairs = len(Path(sources["preference"]).read_text().splitlines())
        ratio = ANSWERS * len(found) / pairs  # an epoch of pairs is one of ratings
        data = {**sources, "max_tokens": max_tokens, "mixing": {"rated_per_pair": ratio}}
        prepared = warmed(model, data, Path(scratch) / "run")
    train, plain = prepared.train, prepared.order
    order = replace(plain, pair_groups=train.pair_prompts, rated_groups=train.rated_prompts)
    steps = order.num_steps(EPOCHS)
    grouped, few = step_gradients(replace(prepared, order=order), steps)
    ungrouped, many = step_gradients(prepared, steps)
    counts = [np.bincount(ids) for ids in (train.pair_prompts, train.rated_prompts)]
    sizes = [float((m**2).sum() / m.sum()) for m in counts]
    group_size = dict(zip(TERMS, [*sizes, sizes[0]], strict=True))
    kind = "the lab's backbone" if model is LAB else model  # a path is no setting
    setting = {"model": kind, "batch": BATCH, "warm": WARM_STEPS, "epochs": EPOCHS}
    return {
        "name": name,
        "prompts": len(found),
        "pairs": plain.num_pairs,
        "rated": plain.num_rated,
        "batch": BATCH,
        "ratings_a_step": order.rated_per_step,
        "group_size": group_size,
        "tokens_per_pair_grouped": few / (steps * BATCH),
        "tokens_per_pair_ungrouped": many / (steps * BATCH),
        "terms": {
            term: compare(grouped[term], ungrouped[term], group_size[term]) for term in TERMS
        },
        "fingerprint": {
            "data": prepared.data_hash,
            "config": fingerprint(setting),
            "smorm": __version__,
            "torch": torch.__version__,
        },
    }


def table(results: list[Row]) -> str:
    """The results as Markdown."""
    lines = [
        "# Pairs over one prompt in one step: what it saves and what it costs",
        "",
        "Written by `python -m experiments.grouping`; do not edit. `results.json` has the numbers "
        "with their fingerprints. Prompts with 4 answers, all pairs of different score, all "
        f"ratings; {BATCH} pairs a step; gradients of every step of {EPOCHS} epochs at one set of "
        "weights. The interval is a bootstrap over steps (95 %).",
        "",
        "| data | tokens a pair, ungrouped | grouped | saved |",
        "| --- | --- | --- | --- |",
    ]
    for one in results:
        few, many = one["tokens_per_pair_grouped"], one["tokens_per_pair_ungrouped"]
        lines.append(f"| {one['name']} | {many:.0f} | {few:.0f} | {many / few:.2f} times |")
    lines += [
        "",
        "| data | term | m | variance, grouped / ungrouped | correlation | effective batch "
        "| noise scale, ungrouped | grouped | tokens for equal variance, ungrouped / grouped |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for one in results:
        saved = one["tokens_per_pair_ungrouped"] / one["tokens_per_pair_grouped"]
        for term, found in one["terms"].items():
            ratio = found["variance_ratio"]
            lines.append(
                f"| {one['name']} | {term} | {one['group_size'][term]:.1f} "
                f"| {ratio['value']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}] "
                f"| {found['correlation']:+.2f} | {found['effective_batch']:.1f} "
                f"| {found['noise_scale_ungrouped']:.0f} | {found['noise_scale_grouped']:.0f} "
                f"| {saved / ratio['value']:.2f} |"
            )
    lines += [
        "",
        "m: items over an item's own prompt, itself included (sum of squares over sum). The "
        "variance of a step's gradient grows by 1 + (m - 1) times the correlation of two items "
        "over one prompt; the effective batch is the batch divided by that. Noise scale: trace of "
        "the covariance over the squared norm of the mean gradient, in pairs. The last column is "
        "above 1 where grouping pays even if the batch is enlarged until the gradient is as "
        "steady as without it.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--output", type=Path, default=Path("results/grouping"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = [measure("lab", lab_answers(), LAB, 256)]
    arena = arguments.data / "arena_bench_v1" / "train_scores.jsonl.gz"
    if arena.is_file():
        results.append(measure("arena_bench_v1", arena_answers(arena), TINY, 1024))
    else:
        print(f"{arena}: not there, so the lab alone is measured")
    arguments.output.mkdir(parents=True, exist_ok=True)
    write_json(arguments.output / "results.json", {"kind": "grouping", "results": results})
    write_text(arguments.output / "README.md", table(results))
    print(table(results))


if __name__ == "__main__":
    main()
