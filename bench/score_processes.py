"""A file scored by several processes: shards, actors of Ray, and an actor killed while it works.

    OMP_NUM_THREADS=1 python -m bench.score_processes --json results/scale/scoring.json

Every arm is `smorm score` as a command, on pairs of generated words, by a small model from random
weights. Its file is compared with that of one process byte by byte. `seconds` are from the first
finished chunk of 512 lines to the end: starting takes longer than such a small file."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.machine import describe
from bench.tokens import write_pairs
from smorm import files
from smorm.config import parse_config
from smorm.data.readers import scan_rows
from smorm.training.loop import train
from smorm.world import write_dataset

ROWS, WORDS = 2048, 16
CHUNK = 512
SIZES = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def make_model(folder: Path) -> Path:
    """A llama of 2 layers after two steps."""
    data = write_dataset(
        folder / "world", seed=5, num_pairs=40, num_rated=20, num_dev_pairs=10, num_eval_pairs=10,
        num_eval_rated=10,
    )  # fmt: skip
    values = {
        "model": {
            "backbone": {"architecture": "llama", **SIZES},
            "tokenizer": {"train": "bpe", "vocab_size": 1000},
        },
        "data": {"preference": str(data["train-pairs"]), "rated": str(data["train-rated"])},
        "training": {"max_steps": 2, "batch_size": 8, "threads": 1},
        "output": {"folder": str(folder / "run")},
    }
    return train(parse_config(values))


@contextmanager
def scoring(folder: Path, model: Path, output: Path, *words: str) -> Iterator[subprocess.Popen]:  # type: ignore[type-arg]
    """`smorm score` as a process of its own, until the block ends."""
    command = [sys.executable, "-m", "smorm", "score", str(model), "--input",
               str(folder / "in.jsonl"), "--output", str(output), *words]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_for(process: subprocess.Popen, path: Path) -> float:  # type: ignore[type-arg]
    """When a file is there; RuntimeError where the process ends before."""
    while not path.exists():
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode}")
        time.sleep(0.01)
    return time.monotonic()


def finished(process: subprocess.Popen) -> None:  # type: ignore[type-arg]
    """Wait for its end; RuntimeError where it failed."""
    if process.wait():
        raise RuntimeError(f"{process.args!r} ended with {process.returncode}")


def part_of(output: Path) -> Path:
    """The partial file of an output."""
    return output.with_name(f"{output.name}.part")


def timed(folder: Path, model: Path, output: Path, *words: str, kill: bool = False) -> float:
    """Seconds from the first chunk to the end; with `kill` an actor is killed after that chunk."""
    with scoring(folder, model, output, *words) as process:
        started = wait_for(process, part_of(output))
        if kill:
            os.kill(actors_of(process.pid)[0], signal.SIGKILL)
        finished(process)
    return time.monotonic() - started


def in_two_shards(folder: Path, model: Path, output: Path) -> float:
    """Seconds of two shards at the same time, from the first chunk to the end of the second."""
    names = [output.with_name(f"{output.name}.shard-{number}-of-2") for number in (1, 2)]
    with (
        scoring(folder, model, output, "--shards", "1/2") as first,
        scoring(folder, model, output, "--shards", "2/2") as second,
    ):
        started = min(
            wait_for(process, part_of(name))
            for process, name in zip((first, second), names, strict=True)
        )
        finished(first)
        finished(second)
    seconds = time.monotonic() - started
    subprocess.run(
        [sys.executable, "-m", "smorm", "join", str(output)], stdout=subprocess.DEVNULL, check=True
    )
    return seconds


def actors_of(pid: int) -> list[int]:
    """Processes of Ray's actors below a process."""
    parents, titles = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_bytes().rpartition(b")")[2].split()
            titles[int(folder.name)] = (folder / "cmdline").read_bytes()
        except OSError:  # it has ended
            continue
        parents[int(folder.name)] = int(fields[1])
    actors = []
    for child in titles:
        above = child
        while above not in (0, 1, pid):
            above = parents.get(above, 0)
        if above == pid and b"ChunkActor" in titles[child]:
            actors.append(child)
    return sorted(actors)


def passing(path: Path) -> float:
    """Microseconds in which a shard passes over a line of another one."""
    started = time.perf_counter()
    count = sum(1 for _ in scan_rows(path))
    return (time.perf_counter() - started) / count * 1e6


def measure(rows: int, folder: Path) -> dict[str, Any]:
    """All arms."""
    model = make_model(folder)
    write_pairs(folder / "in.jsonl", rows, WORDS)
    whole = folder / "one.jsonl"
    seconds = {"one_process": timed(folder, model, whole)}
    outputs = {"one_process": whole}
    outputs["two_shards"] = folder / "shards.jsonl"
    seconds["two_shards"] = in_two_shards(folder, model, outputs["two_shards"])
    for name, kill in (("two_actors", False), ("two_actors_one_killed", True)):
        outputs[name] = folder / f"{name}.jsonl"
        seconds[name] = timed(folder, model, outputs[name], "--ray", "2", kill=kill)
    arms = {}
    for name, output in outputs.items():
        same = output.read_bytes() == whole.read_bytes()
        rate = 2 * (rows - CHUNK) / seconds[name]
        arms[name] = {"seconds": seconds[name], "responses_per_second": rate, "same_bytes": same}
        print(f"{name}: {rate:,.0f} responses/s, same bytes: {same}")
    return {
        "machine": describe(),
        "rows": rows,
        "responses": 2 * rows,
        "bytes_of_the_file": whole.stat().st_size,
        "microseconds_to_pass_a_line": passing(folder / "in.jsonl"),
        "model": SIZES,
        "arms": arms,
    }


def main() -> None:
    """Measure, print, and write JSON; exit code 1 where a file is another one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=ROWS, help="pairs to score")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="smorm-bench-") as name:
        content = measure(options.rows, Path(name))
    if options.json is not None:
        files.write_json(options.json, content)
    sys.exit(not all(arm["same_bytes"] for arm in content["arms"].values()))


if __name__ == "__main__":
    main()
