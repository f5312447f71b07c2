"""What a run holds in memory for each pair: while pairs become tokens, and while batches are drawn.

    OMP_NUM_THREADS=1 python -m bench.streaming --pairs 1000000 --json results/scale/streaming.json

Generated pairs (texts of 5 to 8 words, four pairs over one prompt) stand in Parquet shards, as a
data set of the hub does. They are tokenised into a store by two processes; then a process of its
own, as every rank of a training is, maps the store, makes the order and draws steps of 64 pairs
from all over the epoch. Both are done for a tenth of the pairs as well: the difference, over the
difference in pairs, is what one pair costs.

Memory is anonymous resident memory: objects and arrays. Mapped pages of the store come and go as
the system has room, and are counted apart (`file_mib`)."""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from bench.machine import MIB, describe, json_of_process
from bench.tokens import generated_pairs, write_tokenizer
from smorm import files
from smorm.data.census import Census
from smorm.data.encode import Encoder
from smorm.data.mixing import DataOrder
from smorm.data.reading import Source
from smorm.data.token_cache import TokenRequest, tokens_of
from smorm.data.tokeniser import Tokeniser
from smorm.text.chat import Renderer
from smorm.training.sources import Stores, token_set

WORDS, SHARD_ROWS, BATCH, STEPS = 8, 62_500, 64, 400


def write_shards(folder: Path, count: int) -> None:
    """`train-00000-of-00016.parquet` and so on, each written by itself."""
    import pyarrow
    from pyarrow import parquet

    lines = generated_pairs(count, WORDS)
    num_shards = -(-count // SHARD_ROWS)
    folder.mkdir()
    for index in range(num_shards):
        rows = list(map(json.loads, itertools.islice(lines, SHARD_ROWS)))
        name = f"train-{index:05}-of-{num_shards:05}.parquet"
        parquet.write_table(pyarrow.Table.from_pylist(rows), folder / name)


def memory() -> tuple[int, int]:
    """Anonymous and mapped resident memory of this process, bytes."""
    values = {}
    for line in Path("/proc/self/status").read_text("ascii").splitlines():
        name, _, value = line.partition(":")
        if name in ("RssAnon", "RssFile"):
            values[name] = int(value.split()[0]) * 1024
    return values["RssAnon"], values["RssFile"]


@contextmanager
def watched() -> Iterator[dict[str, float]]:
    """Seconds, and the memory that the block adds: at its peak, and what remains at its end."""
    gc.collect()
    start, _ = memory()
    peak, ended = start, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(0.005):
            peak = max(peak, memory()[0])

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    began = time.monotonic()
    figures: dict[str, float] = {}
    try:
        yield figures
    finally:
        ended.set()
        thread.join()
    figures["seconds"] = time.monotonic() - began
    gc.collect()
    held, mapped = memory()
    figures["peak_bytes"] = max(peak, held) - start
    figures["held_bytes"] = held - start
    figures["file_mib"] = mapped / MIB


def tokeniser_of(folder: Path, workers: int) -> Tokeniser:
    """Of the tokenizer that stands in a folder."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(
        folder / "tokenizer", trust_remote_code=False
    )
    return Tokeniser(Encoder(Renderer(tokenizer, None, 2048), 2048, "error"), workers)


def tokenise(folder: Path, source: Path) -> dict[str, Any]:
    """Fill the cache."""
    request = TokenRequest(Source(source), "preference", "stop", folder / "quarantine.jsonl")
    with tokeniser_of(folder, 2) as tokeniser, watched() as figures:
        store = tokens_of(request, tokeniser, str(folder / "cache"))
        del store
    return dict(figures)


def draw(folder: Path, source: Path, grouped: bool) -> dict[str, Any]:
    """Map the store, make the set and the order, and draw steps."""
    request = TokenRequest(Source(source), "preference", "stop", folder / "quarantine.jsonl")
    with tokeniser_of(folder, 1) as tokeniser:
        with watched() as mapping:
            store = tokens_of(request, tokeniser, str(folder / "cache"))
        with watched() as joining:
            data = token_set(Stores((store,), ()), [], Census())
        with watched() as drawing:
            groups = data.pair_prompts if grouped else None
            order = DataOrder(len(data.pairs), 0, BATCH, pair_groups=groups)
            tokens = 0
            last_step = order.num_steps(1) - 1
            for step in np.linspace(0, last_step, min(STEPS, last_step)).astype(int).tolist():
                for index in order.step(step)[0]:
                    pair = data.pairs[index]
                    tokens += len(pair.chosen) + len(pair.rejected)
    return {"map": mapping, "set": joining, "order_and_batches": drawing, "tokens_drawn": tokens}


def in_process(folder: Path, task: str, source: Path) -> dict[str, Any]:
    """A task in a process of its own."""
    return json_of_process("bench.streaming", "--one", json.dumps([str(folder), task, str(source)]))


TASKS = ("tokenise", "draw", "draw_grouped")


def run_task(folder: Path, task: str, source: Path) -> dict[str, Any]:
    """The figures of one task."""
    if task == "tokenise":
        return tokenise(folder, source)
    return draw(folder, source, grouped=task == "draw_grouped")


def measure(pairs: int, folder: Path) -> dict[str, Any]:
    """All figures, and bytes for each pair."""
    write_tokenizer(folder / "tokenizer")
    sizes = (pairs // 10, pairs)
    by_size: dict[str, dict[str, Any]] = {}
    for size in sizes:
        source = folder / f"pairs-{size}"
        write_shards(source, size)
        by_size[str(size)] = {task: in_process(folder, task, source) for task in TASKS}
        print(json.dumps({size: by_size[str(size)]}))
    small, large = (_phases(by_size[str(size)]) for size in sizes)
    per_pair = {}
    for name in large:
        held, peak = (
            (large[name][what] - small[name][what]) / (sizes[1] - sizes[0])
            for what in ("held_bytes", "peak_bytes")
        )
        per_pair[name] = {"held": round(held, 1), "peak": round(peak, 1)}
        print(f"{name}: {held:.1f} bytes a pair are held, {peak:.1f} at the peak")
    return {"machine": describe(), "words": WORDS, "figures": by_size, "bytes_a_pair": per_pair}


def _phases(figures: dict[str, Any]) -> dict[str, Any]:
    phases = {"tokenise": figures["tokenise"]}
    for task in TASKS[1:]:
        phases |= {f"{task}.{name}": figures[task][name] for name in ("set", "order_and_batches")}
    return phases


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        folder, task, source = json.loads(options.one)
        print(json.dumps(run_task(Path(folder), task, Path(source))))
        return
    # A temporary folder that may be a disk: the store and the shards are some hundred MB.
    with tempfile.TemporaryDirectory(prefix="smorm-bench-", dir=os.environ.get("TMPDIR")) as name:
        content = measure(options.pairs, Path(name))
    if options.json is not None:
        files.write_json(options.json, content)


if __name__ == "__main__":
    main()
