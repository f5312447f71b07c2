"""What `group_by_prompt` saves, and what it does to the gradient.

    python -m experiments.grouping --data ../shared/data --output results/grouping

Prompts with 4 answers each: all pairs of different score, and the 4 ratings. One small model is
trained for a moment; then, at the same weights, the gradient of every step of four epochs is taken
with grouped and with ungrouped batches of the same size. Trains nothing else: about a minute.

Shapes: B steps, W weights."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from experiments.command import make_parser, say
from experiments.several_answers import ANSWERS, Answered, arena_answers, lab_answers, write_records
from experiments.tables import interval, table
from smorm.arrays import Floats, Ints
from smorm.config import parse_config
from smorm.files import fingerprint, read_json, write_json, write_text
from smorm.objectives.terms import Rows
from smorm.training.methods import make_method
from smorm.training.optim import make_optimizer, named_trainable
from smorm.training.setup import Prepared, prepare
from smorm.training.step import run_step
from smorm.version import __version__
from smorm.world import backbone_path

# Variances are estimated over steps, of which one epoch has only a few dozen.
BATCH, WARM_STEPS, EPOCHS, RESAMPLES = 24, 30, 4, 1000
TERMS = ("preference", "regression", "joint")
Row = dict[str, Any]
# The real answers need a tokenizer of their own: the lab's backbone knows only the lab's words.
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
    # At random weights the gradients of all items point the same way, which hides the noise.
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
    gradients: dict[str, list[NDArray[np.float32]]] = {"preference": [], "regression": []}
    tokens = 0
    # No step is taken in between: every gradient is one at the same weights.
    for step in range(steps):
        for term, rows in gradients.items():
            # Zeros and not None, so that a weight that a term does not reach has its columns too.
            for parameter in named.values():
                parameter.grad = torch.zeros_like(parameter)
            result = run_step(prepared, method, step, only=Rows(term))
            flat = [p.grad.flatten() for p in named.values() if p.grad is not None]
            rows.append(torch.cat(flat).numpy())
        tokens += result.tokens
    preference, regression = map(np.stack, gradients.values())
    first, second = inner_products(preference, preference), inner_products(regression, regression)
    cross = inner_products(preference, regression)
    # The gradient of the sum of both terms has the inner products of the sum of both gradients.
    joint = first + second + cross + cross.T
    return dict(zip(TERMS, (first, second, joint), strict=True)), tokens


def inner_products(first: NDArray[np.float32], second: NDArray[np.float32]) -> Floats:
    """[B, B] in double precision."""
    total = np.zeros((len(first), len(second)))
    # Some columns at a time: a copy of all gradients in double precision would not fit.
    for start in range(0, first.shape[1], 65536):
        columns = slice(start, start + 65536)
        total += first[:, columns].astype(np.float64) @ second[:, columns].astype(np.float64).T
    return total


def variance(gram: Floats) -> tuple[float, float]:
    """Of gradients with these inner products [B, B]: trace of the covariance of a step's gradient,
    and the squared norm of the mean gradient without what the noise adds to it."""
    count = len(gram)
    trace = float((np.trace(gram) - gram.sum() / count) / (count - 1))
    return trace, float(gram.sum() / count**2) - trace / count


def compare(grouped: Floats, ungrouped: Floats, size: float) -> Row:
    """Variance ratio with a bootstrap interval over steps, correlation and noise scales.

    Args:
        grouped, ungrouped: inner products of gradients, [B, B].
        size: items over one prompt that an item has beside it, itself included: sum m^2 / sum m."""
    grams = [grouped, ungrouped]
    (high, high_norm), (low, low_norm) = map(variance, grams)
    # The same draws for every term, so that the terms' intervals can be compared.
    rng = np.random.default_rng(0)
    ratios = []
    for _ in range(RESAMPLES):
        traces = []
        for gram in grams:
            index = rng.integers(0, len(gram), len(gram))
            # A step that is drawn twice has no distance to itself: correct for the ties.
            ties = (index[:, None] == index[None, :]).mean()
            inner = gram[np.ix_(index, index)]
            traces.append((np.trace(inner) / len(gram) - inner.mean()) / (1 - ties))
        ratios.append(traces[0] / traces[1])
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


def measure(name: str, answered: list[Answered], model: Row, max_tokens: int) -> Row:
    """Both orders at the same weights."""
    with tempfile.TemporaryDirectory() as scratch:
        sources = write_records(answered, Path(scratch))
        pairs = len(Path(sources["preference"]).read_text().splitlines())
        ratio = ANSWERS * len(answered) / pairs  # an epoch of pairs is one of ratings
        data = {**sources, "max_tokens": max_tokens, "mixing": {"rated_per_pair": ratio}}
        prepared = warmed(model, data, Path(scratch) / "run")
    train, plain = prepared.train, prepared.order
    # The same data and weights: only the order of items differs.
    order = replace(plain, pair_groups=train.pair_prompts, rated_groups=train.rated_prompts)
    steps = order.num_steps(EPOCHS)
    grouped, grouped_tokens = step_gradients(replace(prepared, order=order), steps)
    ungrouped, ungrouped_tokens = step_gradients(prepared, steps)
    sizes = [_group_size(train.pair_prompts), _group_size(train.rated_prompts)]
    group_size = dict(zip(TERMS, [*sizes, sizes[0]], strict=True))
    # A path is no setting.
    kind: Any = model
    if model is LAB:
        kind = "the lab's backbone"
    setting = {"model": kind, "batch": BATCH, "warm": WARM_STEPS, "epochs": EPOCHS}
    return {
        "name": name,
        "prompts": len(answered),
        "pairs": plain.num_pairs,
        "rated": plain.num_rated,
        "batch": BATCH,
        "ratings_a_step": order.rated_per_step,
        "group_size": group_size,
        "tokens_per_pair_grouped": grouped_tokens / (steps * BATCH),
        "tokens_per_pair_ungrouped": ungrouped_tokens / (steps * BATCH),
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


def _group_size(prompts: Ints) -> float:
    """Items over an item's own prompt, itself included: sum m^2 / sum m over prompts."""
    counts = np.bincount(prompts)
    return float((counts**2).sum() / counts.sum())


PAGE = """\
# Pairs over one prompt in one step: what it saves and what it costs

Written by `python -m experiments.grouping`; do not edit. `results.json` has the numbers with \
their fingerprints. Prompts with 4 answers, all pairs of different score, all ratings; {batch} \
pairs a step; gradients of every step of {epochs} epochs at one set of weights. The interval is a \
bootstrap over steps (95 %).

{tokens}

{variances}

m: items over an item's own prompt, itself included (sum of squares over sum). The variance of a \
step's gradient grows by 1 + (m - 1) times the correlation of two items over one prompt; the \
effective batch is the batch divided by that. Noise scale: trace of the covariance over the \
squared norm of the mean gradient, in pairs. The last column is above 1 where grouping pays even \
if the batch is enlarged until the gradient is as steady as without it.
"""
TOKEN_HEADINGS = ("data", "tokens a pair, ungrouped", "grouped", "saved")
VARIANCE_HEADINGS = (
    "data", "term", "m", "variance, grouped / ungrouped", "correlation", "effective batch",
    "noise scale, ungrouped", "grouped", "tokens for equal variance, ungrouped / grouped",
)  # fmt: skip


def page(results: Sequence[Row]) -> str:
    """The results as Markdown."""
    tokens, variances = [], []
    for result in results:
        name = result["name"]
        grouped = result["tokens_per_pair_grouped"]
        ungrouped = result["tokens_per_pair_ungrouped"]
        saved = ungrouped / grouped
        tokens.append([name, f"{ungrouped:.0f}", f"{grouped:.0f}", f"{saved:.2f} times"])
        for term, row in result["terms"].items():
            ratio = row["variance_ratio"]
            variances.append([
                name,
                term,
                f"{result['group_size'][term]:.1f}",
                f"{ratio['value']:.2f} {interval(ratio['low'], ratio['high'], '.2f')}",
                f"{row['correlation']:+.2f}",
                f"{row['effective_batch']:.1f}",
                f"{row['noise_scale_ungrouped']:.0f}",
                f"{row['noise_scale_grouped']:.0f}",
                f"{saved / ratio['value']:.2f}",
            ])  # fmt: skip
    return PAGE.format(
        batch=BATCH,
        epochs=EPOCHS,
        tokens=table(TOKEN_HEADINGS, tokens),
        variances=table(VARIANCE_HEADINGS, variances),
    )


def run(data: Path, output: Path) -> None:
    """Measure and write."""
    torch.set_num_threads(1)
    # The lab's texts come with the package, so that the question has an answer without the data.
    results = [measure("lab", lab_answers(), LAB, 256)]
    arena = data / "arena_bench_v1" / "train_scores.jsonl.gz"
    if arena.is_file():
        results.append(measure("arena_bench_v1", arena_answers(arena), TINY, 1024))
    else:
        say(f"{arena}: not there, so only the lab is measured")
    write_json(output / "results.json", {"kind": "grouping", "results": results})
    rewrite(output)
    say((output / "README.md").read_text(encoding="utf-8"))


def rewrite(output: Path) -> None:
    """README.md, from `results.json`."""
    write_text(output / "README.md", page(read_json(output / "results.json")["results"]))


def main() -> None:
    """Parse and run."""
    options = make_parser("grouping").parse_args()
    run(options.data, options.output)


if __name__ == "__main__":
    main()
