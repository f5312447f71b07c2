"""Training: smorm against what people use, at identical numbers.

    python -m bench.training --json FILE [--rounds N] [--model reference|small] [--only NAME,...]

One thread, every run in a process of its own, in turns; random weights from a seed, AdamW at one
constant learning rate. Batches are drawn by the first seed that makes the timed ones typical of the
set (`bench.batching.typical`). smorm runs its own training path in bf16 (`bench.smorm_run`), TRL
its own `train()` (`bench.trl_run`). A round is two consecutive optimizer steps of each run.

- `train_vs_trl_default`: 8 multi-turn pairs a step in random order; TRL's defaults.
- `train_vs_trl_tuned`: 8 pairs a step from transformers' own length grouping, the same batches for
  both runs; TRL without gradient checkpointing, in two accumulation steps, which was its fastest
  setting of those tried.
- `train_pairs_of_many_vs_trl_tuned`: 4 answers a prompt and all 6 pairs, 6 pairs a step, TRL as
  above. Both runs draw from one set of pairs; TRL takes its length-grouped batches over that set,
  smorm one whole prompt a step, so each distinct response is computed once. A round's pairs differ
  between the runs, so seconds are divided by the real tokens (unpadded, unshared) of the pairs
  worked off. A round is one step.
- `joint_vs_padded_1024`: 8 pairs and 8 ratings a step against the official code's shape
  (`bench.padded_run`), always on the small model (or the tiny one), since 24 sequences of 1024
  tokens are a lot of padding. A round is one step.
- `gemm_share_bf16`, `gemm_share_fp32`: see `bench.gemm_share`.
- `peak_memory_vs_trl`: see `bench.memory`.

Equality: for each ratio the largest difference of a step's loss between the runs in fp32, without
checkpointing, on smorm's batches; `gradients` is the largest absolute difference of any entry of
any parameter's gradient, after clipping to norm 1, in the first steps of all of these."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from bench import batching, memory, results, training_data
from bench.batching import Batches
from bench.comparison import Comparison, against_padded, against_trl
from bench.gemm_share import DTYPES, gemm_shares, peak
from bench.machine import describe
from bench.measure import Ratio, pin
from bench.smorm_run import MAX_TOKENS, MODELS, VOCABULARY, Plan, run_config
from bench.training_data import TrainingSet
from bench.trl_run import Setting
from smorm.training.setup import Prepared, prepare

PAIRS_A_STEP = 8
PAIRS_OF_MANY = 6
# Passes for a step of the tuned TRL: all pairs in one forward pass took it longer, 12 pairs of long
# answers half as long again; fewer than 3 or 4 pairs in a pass were no faster.
ACCUMULATION = 2
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
        self, records: TrainingSet, model: str | None = None, pairs: int = PAIRS_A_STEP
    ) -> Callable[[str], Prepared]:
        """A new run on a set, always from the same weights, for each call with a precision."""

        def make(precision: str) -> Prepared:
            config = run_config(
                model or self.model, self.plan.folder, records.pairs, records.rated,
                precision=precision, batch_size=pairs, tokenizer=self.tokenizer
            )  # fmt: skip
            return prepare(config)

        return make


def hh(bench: Bench, setting: Setting) -> Comparison:
    """Multi-turn pairs against TRL."""
    records = training_data.hh_set(bench.data, bench.plan.folder, bench.limit)
    prepared = bench.prepared(records)
    # Batches are drawn by the tokens that smorm makes; its precision does not change them.
    lengths = prepared("bf16")

    def draw(seed: int) -> Batches:
        if setting == "tuned":
            grouped = batching.length_grouped_batches(lengths, PAIRS_A_STEP, seed)
            return Batches(grouped, grouped)
        return _same_random_batches(lengths, seed)

    batches = batching.typical(lengths, draw, _timed(bench.plan))
    accumulation = ACCUMULATION if setting == "tuned" else 1
    comparison = against_trl(
        setting, prepared, records, batches, bench.plan, bench.peaks["bf16"], accumulation
    )
    return _with_texts(comparison, records, lengths, batches, bench.plan)


def pairs_of_many(bench: Bench) -> Comparison:
    """Several answers a prompt, all their pairs, against TRL at its best."""
    records = training_data.many_set(bench.data, bench.plan.folder, bench.limit)
    plan = _one_step_a_round(bench.plan)
    prepared = bench.prepared(records, pairs=PAIRS_OF_MANY)
    lengths = prepared("bf16")

    def draw(seed: int) -> Batches:
        # smorm has all pairs of a prompt in one step (`data.mixing.group_by_prompt`); TRL cannot
        # share responses, and its best is to group the same pairs by length.
        by_prompt = batching.prompt_batches(lengths, PAIRS_OF_MANY, prompts=1, seed=seed)
        among = batching.distinct_pairs(by_prompt)
        grouped = batching.length_grouped_batches(lengths, PAIRS_OF_MANY, seed, among)
        return Batches(grouped, by_prompt)

    batches = batching.typical(lengths, draw, _timed(plan))
    comparison = against_trl(
        "tuned", prepared, records, batches, plan, bench.peaks["bf16"], ACCUMULATION
    )
    return _with_texts(comparison, records, lengths, batches, plan)


def joint(bench: Bench) -> Comparison:
    """Pairs and ratings against the official code's shape."""
    records = training_data.joint_set(bench.data, bench.plan.folder, bench.limit)
    plan = _one_step_a_round(bench.plan)
    # 24 sequences of 1024 tokens a step are too many for the reference model in minutes.
    model = "small" if bench.model == "reference" else bench.model
    prepared = bench.prepared(records, model)
    lengths = prepared("bf16")
    batches = batching.typical(
        lengths, lambda seed: _same_random_batches(lengths, seed), _timed(plan), MAX_TOKENS
    )
    comparison = against_padded(prepared, batches, plan, bench.peaks["bf16"])
    comparison = _with_texts(comparison, records, lengths, batches, plan, MAX_TOKENS)
    return replace(comparison, detail={**(comparison.detail or {}), "model": model})


def _same_random_batches(prepared: Prepared, seed: int) -> Batches:
    batches = batching.random_batches(prepared, seed)
    return Batches(batches, batches)


def _one_step_a_round(plan: Plan) -> Plan:
    """These steps are long: two of them a round would take many minutes."""
    return replace(plan, steps_a_round=1, equality_steps=min(2, plan.equality_steps))


def _with_texts(
    comparison: Comparison,
    records: TrainingSet,
    prepared: Prepared,
    batches: Batches,
    plan: Plan,
    length: int | None = None,
) -> Comparison:
    """With the texts' origin and their token statistics in the detail."""
    statistics = batching.token_statistics(prepared, batches, _timed(plan), length)
    facts = {"texts": records.origin, "tokens": statistics}
    return replace(comparison, detail={**(comparison.detail or {}), **facts})


def _timed(plan: Plan) -> tuple[int, int]:
    return plan.warmup * plan.steps_a_round, plan.steps


COMPARISONS: dict[str, Callable[[Bench], Comparison]] = {
    "train_vs_trl_default": lambda bench: hh(bench, "default"),
    "train_vs_trl_tuned": lambda bench: hh(bench, "tuned"),
    "train_pairs_of_many_vs_trl_tuned": pairs_of_many,
    "joint_vs_padded_1024": joint,
}
SHARES = ("gemm_share_bf16", "gemm_share_fp32")
NAMES = (*COMPARISONS, *SHARES, "peak_memory_vs_trl")


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
    records = training_data.hh_set(data, plan.folder, limit)
    many = training_data.many_set(data, plan.folder, limit)
    # never so few pieces that the long answers exceed the token limit
    pieces = max(LEAST_PIECES, VOCABULARY[model])
    tokenizer = training_data.write_tokenizer([records, many], pieces, plan.folder)
    peaks = {name: peak(dtype, repeats=plan.peak_repeats) for name, dtype in DTYPES.items()}
    bench = Bench(model, data, plan, tokenizer, peaks, limit)
    # `gemm_shares` raises a peak where a second measurement is higher, and the file has that one.
    machine["peak"] = peaks
    seconds: dict[str, float] = {}
    figures = results.Figures(machine, {"model": model, "seconds": seconds})
    gradients = 0.0
    for name, compare in COMPARISONS.items():
        if name not in names:
            continue
        started = time.monotonic()
        comparison = compare(bench)
        figures.add(name, comparison)
        figures.equality["gradients"] = gradients = max(gradients, comparison.gradients)
        seconds[name] = round(time.monotonic() - started, 1)
        times, gap = comparison.ratio.median, figures.equality[name]
        print(f"{name}: {times:.2f} times, losses within {gap:.1e}", flush=True)
    shares = [name for name in names if name in SHARES]
    if shares:
        runs = {precision: bench.prepared(records)(precision) for precision in DTYPES}
        measured, figures.detail["gemm_share"] = gemm_shares(runs, plan, peaks)
        for name in shares:
            figures.add(name, results.Measurement(measured[name]))
    if "peak_memory_vs_trl" in names:
        peak_memory = memory.compare(model, data, MEMORY_RUNS, ("ours", "trl"))
        for name, entry in peak_memory["ratios"].items():
            ratio = Ratio(**entry, total=entry["median"], wall=entry["median"])
            figures.add(name, results.Measurement(ratio))
        figures.equality |= peak_memory["equality"]
        figures.detail["peak_memory_vs_trl"] = peak_memory["detail"]
    figures.save(path)
    print(results.table(results.load([path])), flush=True)


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
    parser.add_argument("--warmup", type=int, default=3, help="rounds that are not timed")
    parser.add_argument("--peak-repeats", type=int, default=5, help="timings of each product")
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
            Path(folder), options.rounds, options.warmup, options.steps,
            options.equality_steps, options.peak_repeats
        )  # fmt: skip
        run(options.model, options.data, plan, names, options.json, options.limit)
    return 0


if __name__ == "__main__":
    sys.exit(main())
