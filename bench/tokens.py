"""Data at scale: how fast pairs become tokens, what it costs in memory, how fast a start is.

    python -m bench.tokens --pairs 1000000 --words 8 --json results/bench/tokens.json

Pairs are generated (texts of 5 to 50 words, four pairs over one prompt), the tokenizer is a
byte-level BPE of 8,000 tokens. Every figure is of a process of its own: seconds of the wall clock
from the open file to mapped tokens, its CPU seconds, and the peak of its resident memory, also
above what it had when all was imported.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.machine import describe
from smorm import files
from smorm.data.encode import Encoder
from smorm.data.reading import Source
from smorm.data.token_cache import TokenRequest, tokens_of
from smorm.data.tokeniser import Tokeniser
from smorm.text.bpe import train_bpe
from smorm.text.chat import Renderer

MIB = 1 << 20
TIMED = 50_000
VOCABULARY = 8000


def generated_pairs(count: int, most: int = 50, seed: int = 0) -> Iterator[bytes]:
    """Lines of preference records: prompts and answers of 5 to `most` words."""
    rng = random.Random(seed)
    letters = "etaoinshrdlucmfwypvbgk"
    words = ["".join(rng.choices(letters, k=rng.randint(2, 9))) for _ in range(20_000)]

    def text() -> str:
        return " ".join(rng.choices(words, k=rng.randint(5, most)))

    prompt = ""
    for number in range(count):
        if number % 4 == 0:
            prompt = text()
        row = {"prompt": prompt, "chosen": text(), "rejected": text()}
        yield json.dumps(row).encode() + b"\n"


def write_pairs(path: Path, count: int, most: int) -> None:
    """Write the lines as they are made: the benchmark holds no text either."""
    with path.open("wb") as stream:
        stream.writelines(generated_pairs(count, most))


def write_tokenizer(folder: Path) -> None:
    """Train the tokenizer on the first texts."""
    rows = [json.loads(line) for line in generated_pairs(2000)]
    tokenizer = train_bpe((text for row in rows for text in row.values()), VOCABULARY)
    tokenizer.save_pretrained(folder)


def one_start(folder: Path, source: Path, cache: str | None, workers: int) -> dict[str, Any]:
    """Tokens of a source in this process: seconds, records, tokens, memory in MiB."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer")
    encoder = Encoder(Renderer(tokenizer, None, 2048), 2048, "error")
    wanted = TokenRequest(Source(source), "preference", "stop", folder / "quarantine.jsonl")
    before = _peak(resource.RUSAGE_SELF)
    started, used = time.monotonic(), _cpu()
    with Tokeniser(encoder, workers) as tokeniser:
        store = tokens_of(wanted, tokeniser, cache)
    return {
        "seconds": time.monotonic() - started,
        "cpu_seconds": _cpu() - used,
        "pairs": len(store),
        "tokens": len(store.arrays["ids"]),
        "peak_rss_mib": _peak(resource.RUSAGE_SELF),
        "rss_added_mib": _peak(resource.RUSAGE_SELF) - before,
        "worker_peak_rss_mib": _peak(resource.RUSAGE_CHILDREN),
    }


def _cpu() -> float:
    """CPU seconds of this process and of those that it waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _peak(whose: int) -> float:
    """Peak resident memory in MiB (macOS counts bytes, Linux KiB)."""
    found = resource.getrusage(whose).ru_maxrss
    return found / MIB if sys.platform == "darwin" else found / 1024


def in_a_process(folder: Path, source: Path, cache: str | None, workers: int) -> dict[str, Any]:
    """`one_start` in a process of its own, so that its peak is its own."""
    arguments = json.dumps([str(folder), str(source), cache, workers])
    command = [sys.executable, "-m", "bench.tokens", "--one", arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def measure(pairs: int, timed: int, most: int, folder: Path) -> dict[str, Any]:
    """All figures; the files are written to `folder`."""
    write_tokenizer(folder / "tokenizer")
    small, large, cache = folder / "timed.jsonl", folder / "pairs.jsonl", str(folder / "cache")
    write_pairs(small, timed, most)
    speed = {}
    for workers in (1, 2):
        found = in_a_process(folder, small, None, workers)
        speed[str(workers)] = {**found, "pairs_per_second": timed / found["seconds"]}
        print(
            f"{workers} process(es): {timed / found['seconds']:,.0f} pairs/s, "
            f"{1e3 * found['cpu_seconds'] / timed:.2f} ms of CPU a pair"
        )
    write_pairs(large, pairs, most)
    first = in_a_process(folder, large, cache, min(2, os.cpu_count() or 1))
    again = in_a_process(folder, large, cache, 1)
    for name, found in (("first start", first), ("cached start", again)):
        print(
            f"{name}: {found['pairs']:,} pairs, {found['tokens']:,} tokens in "
            f"{found['seconds']:.1f} s, peak RSS {found['peak_rss_mib']:.0f} MiB "
            f"({found['rss_added_mib']:.0f} above the start)"
        )
    sizes = {
        "text_mib": large.stat().st_size / MIB,
        "timed_pairs": timed,
        "pairs": pairs,
        "words": most,
    }
    return {
        "machine": describe(),
        "sizes": sizes,
        "speed": speed,
        "first_start": first,
        "cached_start": again,
    }


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=100_000, help="pairs of the memory figure")
    parser.add_argument("--timed", type=int, default=TIMED, help="pairs of the speed figures")
    parser.add_argument("--words", type=int, default=50, help="most words of a text")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    if arguments.one:
        folder, source, cache, workers = json.loads(arguments.one)
        print(json.dumps(one_start(Path(folder), Path(source), cache, workers)))
        return
    with tempfile.TemporaryDirectory(prefix="smorm-bench-") as name:
        found = measure(arguments.pairs, arguments.timed, arguments.words, Path(name))
    if arguments.json:
        files.write_json(arguments.json, found)


if __name__ == "__main__":
    main()
