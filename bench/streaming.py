"""What a run holds in memory for each pair: while pairs become tokens, and while batches are drawn.

    OMP_NUM_THREADS=1 python -m bench.streaming --json results/scale/streaming.json

Three things, each in a process of its own and for two numbers of pairs: the difference in memory,
over the difference in pairs, is what a pair costs.

- `tokenise`: generated pairs in Parquet shards, as a data set of the hub has them, become a store
  by two processes (fewer pairs: this is what takes long).
- `write`: a store of many pairs of made-up tokens (75 a pair) is written by the same writer.
- `draw`: as every rank of a training does, that store is mapped, the set and its order are made,
  and steps of 64 pairs from all over the epoch are drawn; `draw_grouped` with pairs of a prompt in
  one step.

Memory is anonymous resident memory: objects and arrays. Mapped pages of the store come and go as
the system has room, and are counted apart (`file_mib`)."""

from __future__ import annotations

import argparse
import ctypes
import gc
import itertools
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from bench.machine import MIB, describe, json_of_process
from bench.tokens import VOCABULARY, generated_pairs, write_tokenizer
from smorm import files
from smorm.data.census import Census
from smorm.data.encode import Encoder
from smorm.data.mixing import DataOrder
from smorm.data.reading import Source
from smorm.data.token_cache import TokenRequest, tokens_of
from smorm.data.token_store import StoreWriter, open_store
from smorm.data.tokeniser import Tokeniser
from smorm.text.chat import Renderer
from smorm.training.sources import Stores, token_set

WORDS, SHARD_ROWS, BATCH, STEPS = 8, 10_000, 64, 400


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


def release() -> None:
    """Give freed memory back to the system, which counts what the allocator keeps."""
    gc.collect()
    with suppress(AttributeError):  # not of glibc
        ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def watched() -> Iterator[dict[str, float]]:
    """Seconds, and the memory that the block adds: at its peak, and what remains at its end."""
    release()
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
    release()
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


def tokenise(folder: Path, count: int) -> dict[str, Any]:
    """Make tokens of generated pairs."""
    source = folder / f"pairs-{count}"
    write_shards(source, count)
    request = TokenRequest(Source(source), "preference", "stop", folder / "quarantine.jsonl")
    with tokeniser_of(folder, 2) as tokeniser, watched() as figures:
        store = tokens_of(request, tokeniser, str(folder / "cache"))
        del store
    return {"tokenise": figures}


def write(folder: Path, count: int) -> dict[str, Any]:
    """Write a store of made-up tokens, four pairs over one prompt."""
    target = folder / f"store-{count}"
    target.mkdir()
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, VOCABULARY, size=1 << 16, dtype=np.int32)
    with watched() as figures, StoreWriter(target, "preference", ["made-up"]) as writer:
        for number in range(count):
            # Sequences of 30 to 45 tokens from somewhere.
            begin = number * 7 % (len(tokens) - 128)
            chosen = tokens[begin : begin + 30 + number % 16]
            rejected = tokens[begin + 64 : begin + 94 + number % 16]
            prompt = (number // 4) * 0x9E3779B97F4A7C15 % (1 << 64)
            writer.add_pair(chosen, rejected, 0.0, prompt, f"made-up:{number + 1}")
        writer.finish(Census(), count)
    return {"write": figures}


def draw(folder: Path, count: int, grouped: bool) -> dict[str, Any]:
    """Map the store, make the set and the order, and draw steps."""
    with watched() as mapping:
        store = open_store(folder / f"store-{count}")
    with watched() as joining:
        data = token_set(Stores((store,), ()), [], Census())
    with watched() as drawing:
        groups = data.pair_prompts if grouped else None
        order = DataOrder(len(data.pairs), 0, BATCH, pair_groups=groups)
        tokens = 0
        last_step = order.num_steps(1) - 2
        for step in np.linspace(0, last_step, min(STEPS, last_step)).astype(int).tolist():
            for index in order.step(step)[0]:
                pair = data.pairs[index]
                tokens += len(pair.chosen) + len(pair.rejected)
    drawing["tokens_drawn"] = tokens
    return {"map": mapping, "set": joining, "order_and_batches": drawing}


TASKS: dict[str, Callable[[Path, int], dict[str, Any]]] = {
    "tokenise": tokenise,
    "write": write,
    "draw": lambda folder, count: draw(folder, count, grouped=False),
    "draw_grouped": lambda folder, count: draw(folder, count, grouped=True),
}


def measure(pairs: int, tokenised: int, folder: Path) -> dict[str, Any]:
    """All figures, and bytes for each pair."""
    sizes = dict.fromkeys(TASKS, (pairs // 10, pairs))
    sizes["tokenise"] = (tokenised // 4, tokenised)
    if not tokenised:
        del sizes["tokenise"]
    else:
        write_tokenizer(folder / "tokenizer")
    figures: dict[str, Any] = {}
    per_pair: dict[str, Any] = {}
    for task, (few, many) in sizes.items():
        small, large = (
            json_of_process("bench.streaming", "--one", json.dumps([str(folder), task, count]))
            for count in (few, many)
        )
        figures[task] = {str(few): small, str(many): large}
        for phase in large:
            bytes_of = per_pair[f"{task}, {phase}"] = {}
            for what in ("held_bytes", "peak_bytes"):
                added = large[phase][what] - small[phase][what]
                bytes_of[what] = round(added / (many - few), 1)
            print(
                f"{task}, {phase}: {bytes_of} a pair, {large[phase]['seconds']:.1f} s", flush=True
            )
    return {"machine": describe(), "figures": figures, "bytes_a_pair": per_pair}


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=1_000_000, help="pairs of the large store")
    parser.add_argument("--tokenised", type=int, default=40_000, help="pairs to tokenise; 0: none")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        folder, task, count = json.loads(options.one)
        print(json.dumps(TASKS[task](Path(folder), count)))
        return
    # A temporary folder that may be a disk: the store and the shards are some hundred MB.
    with tempfile.TemporaryDirectory(prefix="smorm-bench-", dir=os.environ.get("TMPDIR")) as name:
        content = measure(options.pairs, options.tokenised, Path(name))
    if options.json is not None:
        files.write_json(options.json, content)


if __name__ == "__main__":
    main()
