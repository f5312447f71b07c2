"""Training: smorm against what people use, at identical numbers.

    python -m bench.training --json FILE [--rounds N] [--model reference|small] [--only NAME,...]

One thread, one process, sides in turns; random weights from a seed, AdamW at one constant learning
rate. Batches are drawn by the first seed that makes the timed ones typical of the set
(`bench.batching.typical`). smorm runs its own training path in bf16 (`bench.ours`), TRL its own
`train()` (`bench.trl_side`). A round is two consecutive optimizer steps of each side.

- `train_vs_trl_default`: 8 multi-turn pairs a step in random order; TRL's defaults.
- `train_vs_trl_tuned`: 8 pairs a step from transformers' own length grouping, the same batches on
  both sides; TRL without gradient checkpointing, in two accumulation steps, which was its fastest
  setting of those tried.
- `train_pairs_of_many_vs_trl_tuned`: 4 answers a prompt and all 6 pairs, 6 pairs a step, TRL as
  above. Both sides draw from one set of pairs; TRL takes its length-grouped batches over that set,
  smorm one whole prompt a step, so each distinct response is computed once. A round's pairs differ
  between the sides, so seconds are divided by the real tokens (unpadded, unshared) of the pairs
  worked off. A round is one step.
- `joint_vs_padded_1024`: 8 pairs and 8 ratings a step against the official code's shape
  (`bench.padded_side`), always on the small model (or the tiny one), since 24 sequences of 1024
  tokens are a lot of padding. A round is one step.
- `gemm_share_bf16`, `gemm_share_fp32`: see `bench.flops`.
- `peak_memory_vs_trl`: see `bench.memory`.

Equality: for each ratio the largest difference of a step's loss between the sides in fp32, without
checkpointing, on smorm's batches; `gradients` is the largest absolute difference of any entry of
any parameter's gradient, after clipping to norm 1, in the first steps of all of these.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench import batching, memory, results, training_data
from bench.comparison import Compared, against_padded, against_trl
from bench.flops import peak
from bench.gemm_share import DTYPES, gemm_shares
from bench.machine import describe
from bench.measure import Ratio, pin
from bench.ours import MAX_TOKENS, MODELS, VOCABULARY, Batch, config_of
from bench.sides import Plan
from bench.training_data import TrainingSet
from smorm.training.setup import Prepared, prepare

NAMES = (
    "train_vs_trl_default",
    "train_vs_trl_tuned",
    "train_pairs_of_many_vs_trl_tuned",
    "joint_vs_padded_1024",
    "gemm_share_bf16",
    "gemm_share_fp32",
    "peak_memory_vs_trl",
)
PAIRS_A_STEP = 8
PAIRS_OF_MANY = 6
PARTS = 2
"""Accumulation steps of the tuned TRL: all pairs in one forward pass took it longer, 12 pairs of
long answers half as long again; smaller parts than 3 or 4 pairs were no faster."""
LEAST_PIECES = 8000
MEMORY_RUNS = 5


@dataclass(frozen=True, slots=True)
class Bench:
    """What all comparisons of a run share."""

    model: str
    data: Path | None
    plan: Plan
    tokenizer: Path
    peaks: dict[str, float]
    limit: int | None = None

    def prepared(
        self, one: TrainingSet, model: str | None = None, pairs: int = PAIRS_A_STEP
    ) -> Callable[[str], Prepared]:
        """A new run on a set, always from the same weights, for each call with a precision."""

        def make(precision: str) -> Prepared:
            config = config_of(
                model or self.model, self.plan.folder, one.pairs, one.rated,
                precision=precision, batch_size=pairs, tokenizer=self.tokenizer,
            )  # fmt: skip
            return prepare(config)

        return make


def hh(bench: Bench, tuned: bool) -> Compared:
    """Multi-turn pairs against TRL."""
    one = training_data.hh_set(bench.data, bench.plan.folder, bench.limit)
    prepared = bench.prepared(one)
    looked = prepared("bf16")

    def draw(seed: int) -> tuple[list[Batch], list[Batch]]:
        if tuned:
            grouped = batching.length_grouped_batches(looked, PAIRS_A_STEP, seed)
            return grouped, grouped
        return (batching.random_batches(looked, seed),) * 2

    batches, _ = batching.typical(looked, draw, _timed(bench.plan))
    setting: Any = "tuned" if tuned else "default"
    parts, top = PARTS if tuned else 1, bench.peaks["bf16"]
    found = against_trl(setting, prepared, one, batches, batches, bench.plan, top, parts)
    return _told(found, one, looked, batches, batches, bench.plan)


def pairs_of_many(bench: Bench) -> Compared:
    """Several answers a prompt, all their pairs, against TRL at its best."""
    one = training_data.many_set(bench.data, bench.plan.folder, bench.limit)
    plan = replace(bench.plan, steps_a_round=1, equality_steps=min(2, bench.plan.equality_steps))
    prepared = bench.prepared(one, pairs=PAIRS_OF_MANY)
    looked = prepared("bf16")

    def draw(seed: int) -> tuple[list[Batch], list[Batch]]:
        own = batching.prompt_batches(looked, PAIRS_OF_MANY, prompts=1, seed=seed)
        among = batching.only_pairs(own)
        return batching.length_grouped_batches(looked, PAIRS_OF_MANY, seed, among), own

    theirs, ours = batching.typical(looked, draw, _timed(plan))
    top = bench.peaks["bf16"]
    found = against_trl("tuned", prepared, one, theirs, ours, plan, top, PARTS)
    return _told(found, one, looked, theirs, ours, plan)


def joint(bench: Bench) -> Compared:
    """Pairs and ratings against the official code's shape."""
    one = training_data.joint_set(bench.data, bench.plan.folder, bench.limit)
    plan = replace(bench.plan, steps_a_round=1, equality_steps=min(2, bench.plan.equality_steps))
    model = "small" if bench.model == "reference" else bench.model
    prepared = bench.prepared(one, model)
    looked = prepared("bf16")
    batches, _ = batching.typical(
        looked, lambda seed: (batching.random_batches(looked, seed),) * 2, _timed(plan), MAX_TOKENS
    )
    found = against_padded(prepared, batches, plan, bench.peaks["bf16"])
    found.detail["model"] = model
    return _told(found, one, looked, batches, batches, plan, MAX_TOKENS)


def _told(
    found: Compared,
    one: TrainingSet,
    prepared: Prepared,
    theirs: Sequence[Batch],
    ours: Sequence[Batch],
    plan: Plan,
    length: int | None = None,
) -> Compared:
    found.detail["texts"] = one.origin
    found.detail["tokens"] = batching.facts(prepared, theirs, ours, _timed(plan), length)
    return found


def _timed(plan: Plan) -> tuple[int, int]:
    return plan.warmup * plan.steps_a_round, plan.steps


COMPARISONS: dict[str, Callable[[Bench], Compared]] = {
    "train_vs_trl_default": lambda bench: hh(bench, tuned=False),
    "train_vs_trl_tuned": lambda bench: hh(bench, tuned=True),
    "train_pairs_of_many_vs_trl_tuned": pairs_of_many,
    "joint_vs_padded_1024": joint,
}


def run(
    model: str,
    data: Path | None,
    plan: Plan,
    names: Sequence[str],
    path: Path,
    limit: int | None = None,
) -> None:
    """Measure what is named, and write the JSON file; `limit` records of each set only."""
    machine = describe()
    makers = (training_data.hh_set, training_data.many_set)
    sets = [make(data, plan.folder, limit) for make in makers]
    # never so few pieces that the long answers exceed the token limit
    pieces = max(LEAST_PIECES, VOCABULARY[model])
    tokenizer = training_data.write_tokenizer(sets, pieces, plan.folder)
    peaks = {name: peak(kind) for name, kind in DTYPES.items()}
    bench = Bench(model, data, plan, tokenizer, peaks, limit)
    ratios: dict[str, Ratio] = {}
    equality: dict[str, float] = {}
    detail: dict[str, Any] = {"model": model, "seconds": {}}
    for name, compare in COMPARISONS.items():
        if name not in names:
            continue
        started = time.monotonic()
        found = compare(bench)
        ratios[name], equality[name], detail[name] = found.ratio, found.equality, found.detail
        equality["gradients"] = max(equality.get("gradients", 0.0), found.gradients)
        detail["seconds"][name] = round(time.monotonic() - started, 1)
        _say(f"{name}: {found.ratio.median:.2f} times, losses within {found.equality:.1e}")
    shares = [name for name in names if name.startswith("gemm_share")]
    if shares:
        one = training_data.hh_set(data, plan.folder, limit)
        runs = {precision: bench.prepared(one)(precision) for precision in DTYPES}
        measured, detail["gemm_share"] = gemm_shares(runs, plan, bench.peaks)
        ratios |= {name: measured[name] for name in shares}
    if "peak_memory_vs_trl" in names:
        held = memory.compared(model, data, MEMORY_RUNS, ("ours", "trl"))
        for name, one in held["ratios"].items():
            ratios[name] = Ratio(**one, total=one["median"], wall=one["median"])
        equality |= held["equality"]
        detail["peak_memory_vs_trl"] = held["detail"]
    machine["peak"] = bench.peaks
    results.save(path, ratios=ratios, equality=equality, machine=machine, detail=detail)
    _say(results.table(results.load([path])))


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.training",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=2, help="optimizer steps a round")
    parser.add_argument("--equality-steps", type=int, default=2)
    parser.add_argument("--model", choices=tuple(MODELS), default="reference")
    parser.add_argument("--only", default=",".join(NAMES), help="names, separated by commas")
    parser.add_argument("--data", type=Path, default=None, help="instead of ../shared/data")
    parser.add_argument("--limit", type=int, default=None, help="records of each set (for tests)")
    options = parser.parse_args(arguments)
    names = options.only.split(",")
    unknown = sorted(set(names) - set(NAMES))
    if unknown:
        parser.error(f"--only: unknown {', '.join(unknown)}; known are {', '.join(NAMES)}")
    pin(1)
    with TemporaryDirectory() as folder:
        plan = Plan(
            Path(folder), options.rounds, steps_a_round=options.steps,
            equality_steps=options.equality_steps,
        )  # fmt: skip
        run(options.model, options.data, plan, names, options.json, options.limit)
    return 0


if __name__ == "__main__":
    sys.exit(main())
