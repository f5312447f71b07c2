"""How far a step by several ranks is from the same step by one process:

    python -m bench.ranks_exact --json FILE [--ranks 1 2 4]

For each objective, numbers of gloo processes, replicated and sharded: the largest difference of a
loss, and of a gradient relative to its largest entry, on a CPU. `passes` are the micro-batches that
each rank computed."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.machine import describe
from bench.ranks import run_ranks, write_small_data
from smorm import files

WHOLE = 10**6  # tokens: one micro-batch
SMALLEST = 1e-3  # a gradient whose largest entry is below is compared with this
CASES: dict[str, dict[str, Any]] = {
    "joint": {},
    "learned noise": {"objective": {"weighting": "learned"}},
    "ODIN": {"objective": {"kind": "odin"}},
    "BSR": {"objective": {"bsr": 0.1, "positive_regularisation": 0.1}},
    "GRM": {"objective": {"kind": "grm", "grm": {"regulariser": "dpo"}}},
    "LoRA with dropout": {"lora": {"rank": 4, "alpha": 8, "dropout": 0.2}},
    "bf16": {"training": {"precision": "bf16"}},
    "recomputed activations": {"training": {"gradient_checkpointing": True}},
    "unequal shares": {"training": {"max_batch_tokens": 600, "step_parts": 3}},
    "empty shares": {
        "objective": {"bsr": 0.1},
        "training": {"max_batch_tokens": WHOLE, "step_parts": 1},
    },
}
NOT_SHARDED = ("GRM",)


def config_of(folder: Path, case: str) -> Any:
    """A run on the generated world, from the laboratory's backbone."""
    from smorm.config import parse_config
    from smorm.world import backbone_path

    changes = CASES[case]
    model: dict[str, Any] = {"backbone": str(backbone_path())}
    if "lora" in changes:
        model["lora"] = changes["lora"]
    training: dict[str, Any] = {"batch_size": 6, "max_batch_tokens": 200, "threads": 1}
    # The same micro-batches for any number of ranks.
    training |= {"step_parts": 4, "device": "cpu"}
    return parse_config({
        "model": model,
        "data": {
            "preference": str(folder / "train-pairs.jsonl"),
            "rated": str(folder / "train-rated.jsonl"),
            "max_tokens": 256,
        },
        "objective": changes.get("objective", {}),
        "training": training | changes.get("training", {}),
        "output": {"folder": str(folder / "unused")},
    })  # fmt: skip


def step_of(folder: Path, case: str, ranks: Any) -> tuple[float, dict[str, Any], int]:
    """Loss, whole gradients and micro-batches of a step by these ranks."""
    import torch

    from smorm.training.distributed.sharded import shard
    from smorm.training.distributed.tensors import gathered
    from smorm.training.methods import make_method
    from smorm.training.optim import named_trainable
    from smorm.training.setup import prepare
    from smorm.training.step import run_step

    ready = replace(prepare(config_of(folder, case)), ranks=ranks)
    # At zero, as adapters begin, half of their gradients are zero.
    for name, parameter in ready.network.named_parameters():
        if "lora_B" in name:
            with torch.no_grad():
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
    method = make_method(ready)
    if ranks.sharded:
        shard(ready.network, ranks.world, half=ready.config.training.precision == "bf16")
    passes = sum(not micro.idle for micro in ready.batches(1))
    result = run_step(ready, method, 1)
    named = named_trainable(ready.network, method.parameters)
    gradients = {n: gathered(p.grad) for n, p in named.items() if p.grad is not None}
    return result.values["loss"], gradients, passes


def _gaps(rank: int, world: int, folder: Path) -> dict[str, Any]:
    import torch.distributed as dist

    from smorm.training.distributed.ranks import ALONE, Ranks

    rows = []
    for case in CASES:
        # Every rank computes it: nobody waits for hours in a message.
        loss, expected, _ = step_of(folder, case, ALONE)
        for way in ("replicated", "sharded"):
            if way == "sharded" and case in NOT_SHARDED:
                continue
            ranks = Ranks(rank, world, rank, world, way == "sharded")
            found_loss, found, passes = step_of(folder, case, ranks)
            assert found.keys() == expected.keys()
            gap = 0.0
            for name, gradient in expected.items():
                scale = max(float(gradient.abs().max()), SMALLEST)
                gap = max(gap, float((found[name] - gradient).abs().max()) / scale)
            shares: list[int] = [0] * world
            dist.all_gather_object(shares, passes)
            rows.append({
                "case": case, "ranks": world, "parallel": way, "loss_gap": abs(found_loss - loss),
                "gradient_gap": gap, "passes": shares,
            })  # fmt: skip
    return {"rows": rows}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.ranks_exact", description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    options = parser.parse_args(arguments)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="smorm-bench-ranks-") as scratch:
        folder = Path(scratch)
        write_small_data(folder)
        for count in options.ranks:
            rows += run_ranks(_gaps, count, folder)["rows"]
    files.write_json(options.json, {"kind": "ranks-exact", "machine": describe(), "rows": rows})
    for row in rows:
        print(f"{row['case']:24} {row['ranks']} {row['parallel']:10} loss {row['loss_gap']:.1e}  "
              f"gradient {row['gradient_gap']:.1e}  passes {row['passes']}")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
