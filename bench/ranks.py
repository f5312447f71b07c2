"""Training by several ranks against one, in one run on this machine's CPU:

    python -m bench.ranks --json FILE [--ranks 2] [--rounds N] [--model reference|small|tiny]

The processes take turns: a step by the first rank alone (the others wait), the same step by all of
them replicated, the same by all of them sharded. `replicated` and `sharded` are the tokens per
second of all ranks divided by those of one, by round. Losses of all three are compared. `bytes` are
what a rank holds of weights, gradients and moments when sharded, by number of ranks, as a share of
what one process holds.

Ratios mean something only where every rank has a core that nobody else uses."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.machine import describe
from smorm import files

PAIRS = 16
TOKENS = 2048  # of a micro-batch at most
ARMS = ("one", "replicated", "sharded")


def compare(
    model: str, ranks: int, rounds: int, data: Path | None = None, limit: int | None = None
) -> dict[str, Any]:
    """The result file's content."""
    from bench.measure import Ratio
    from bench.texts import hh_pairs, write_preferences

    with tempfile.TemporaryDirectory(prefix="smorm-bench-ranks-") as scratch:
        folder = Path(scratch)
        source = hh_pairs(data)
        write_preferences(source.records[:limit], folder / "pairs.jsonl")
        report = run_ranks(_time_rounds, ranks, folder, model, rounds)
        seconds = report["seconds"]
        whole, shares = report["bytes"]["one"], {}
        for count in sorted({1, ranks, 2 * ranks}):
            held = run_ranks(_count_bytes, count, folder, model)["bytes"]
            shares[str(count)] = {"bytes": held, "of_one": held / whole, "ideal": 1 / count}
    ratios = {}
    for arm in ARMS[1:]:
        each = [one / both for one, both in zip(seconds["one"], seconds[arm], strict=True)]
        total = sum(seconds["one"]) / sum(seconds[arm])
        ratio = Ratio.of_rounds(each, each, total)
        ratios[arm] = {"value": ratio.median, "low": ratio.low, "high": ratio.high, "n": ratio.n}
    return {
        "kind": "ranks", "machine": describe(), "model": model, "ranks": ranks,
        "data": source.origin, "ratios": ratios, "bytes": shares,
        "loss_gap": report["loss_gap"], "tokens": report["tokens"], "seconds": seconds,
    }  # fmt: skip


def write_small_data(folder: Path) -> None:
    """Records of the generated world for a step or two."""
    from smorm.world import write_dataset

    write_dataset(
        folder, seed=11, num_pairs=24, num_rated=14, num_dev_pairs=6, num_eval_pairs=6,
        num_eval_rated=6,
    )  # fmt: skip


def run_ranks(function: Any, ranks: int, folder: Path, *arguments: Any) -> dict[str, Any]:
    """Call `function(rank, ranks, folder, *arguments)` in so many processes of one thread each, and
    return what the first one reports."""
    from smorm.processes import worker_context

    context = worker_context("smorm.training.loop", "bench.smorm_run")
    store = folder / f"store-{function.__name__}-{ranks}"
    report = folder / f"{store.name}.json"
    processes = []
    for rank in range(ranks):
        words = (function, rank, ranks, store, report, folder, *arguments)
        processes.append(context.Process(target=_rank, args=words))
        processes[-1].start()
    for process in processes:
        process.join()
    codes = [process.exitcode for process in processes]
    if any(codes):
        raise RuntimeError(f"ranks ended with {codes}")
    content: dict[str, Any] = json.loads(report.read_text())
    return content


def _rank(
    function: Any, rank: int, world: int, store: Path, report: Path, folder: Path, *arguments: Any
) -> None:
    import torch.distributed as dist

    from bench.measure import pin

    pin(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    content = function(rank, world, folder, *arguments)
    if rank == 0:
        report.write_text(json.dumps(content))
    dist.destroy_process_group()


def _start(folder: Path, model: str, rank: int, world: int, *, sharded: bool = False) -> Any:
    """A run of this rank (`world` 1: alone), from the same weights everywhere."""
    from bench.smorm_run import run_config, start_smorm
    from smorm.training.distributed.ranks import Ranks
    from smorm.training.setup import prepare

    config = run_config(
        model, folder / f"run-{os.getpid()}", folder / "pairs.jsonl", precision="fp32",
        batch_size=PAIRS,
    )  # fmt: skip
    # The same micro-batches for any number of ranks.
    changes = {"max_batch_tokens": TOKENS, "step_parts": 4}
    config = config.model_copy(update={"training": config.training.model_copy(update=changes)})
    prepared = replace(prepare(config), ranks=Ranks(rank, world, rank, world, sharded))
    if sharded:
        from smorm.training.distributed.sharded import shard

        shard(prepared.network, world, half=False)
    return start_smorm(prepared)


def _time_rounds(rank: int, world: int, folder: Path, model: str, rounds: int) -> dict[str, Any]:
    import torch.distributed as dist

    runs = {"replicated": _start(folder, model, rank, world)}
    runs["sharded"] = _start(folder, model, rank, world, sharded=True)
    if rank == 0:
        runs["one"] = _start(folder, model, 0, 1)
    seconds: dict[str, list[float]] = {arm: [] for arm in ARMS}
    losses: dict[str, list[float]] = {arm: [] for arm in ARMS}
    tokens = 0
    # The first round warms up.
    for turn in range(rounds + 1):
        first = turn % len(ARMS)
        for arm in ARMS[first:] + ARMS[:first]:
            dist.barrier()
            began = time.perf_counter()
            if arm in runs:
                step = runs[arm].step()
                losses[arm].append(step.loss)
                tokens += step.positions * (arm == "one")
            dist.barrier()
            if turn:
                seconds[arm].append(time.perf_counter() - began)
    gap = 0.0
    if rank == 0:
        for arm in ARMS[1:]:
            gaps = [abs(a - b) for a, b in zip(losses["one"], losses[arm], strict=True)]
            gap = max(gap, *gaps)
    held = {arm: held_bytes(run) for arm, run in runs.items()}
    return {"seconds": seconds, "loss_gap": gap, "tokens": tokens, "bytes": held}


def _count_bytes(rank: int, world: int, folder: Path, model: str) -> dict[str, Any]:
    import torch.distributed as dist

    run = _start(folder, model, rank, world, sharded=True)
    run.step()
    # The rank that holds most.
    held = [0] * world
    dist.all_gather_object(held, held_bytes(run))
    return {"bytes": max(held)}


def held_bytes(run: Any) -> int:
    """Bytes of a run's weights, gradients and moments in this process."""
    from torch import Tensor
    from torch.distributed.tensor import DTensor

    def local(tensor: Tensor) -> int:
        return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).nbytes

    count = 0
    for parameter in run.named.values():
        count += local(parameter)
        if parameter.grad is not None:
            count += local(parameter.grad)
        count += sum(local(moment) for moment in run.optimizer.state[parameter].values())
    return count


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.ranks", description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--model", default="small", choices=["reference", "small", "tiny"])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--limit", type=int, default=400, help="pairs")
    options = parser.parse_args(arguments)
    content = compare(options.model, options.ranks, options.rounds, options.data, options.limit)
    files.write_json(options.json, content)
    for arm, ratio in content["ratios"].items():
        print(f"{arm}: {ratio['value']:.2f} times one rank "
              f"[{ratio['low']:.2f}, {ratio['high']:.2f}], n {ratio['n']}")  # fmt: skip
    for count, share in content["bytes"].items():
        print(f"{count} rank(s), sharded: {share['of_one']:.3f} of the bytes of one process")
    print(f"largest difference of a loss: {content['loss_gap']:.1e}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
