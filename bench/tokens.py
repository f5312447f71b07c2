"""Data at scale: how fast pairs become tokens, what it costs in memory, how fast a start is.

    python -m bench.tokens --pairs 1000000 --words 8 --json results/bench/tokens.json

Pairs are generated (texts of 5 to 50 words, four pairs over one prompt), the tokenizer is a
byte-level BPE of 8,000 tokens. Every figure is of a separate process: seconds of the wall clock
from the open file to mapped tokens, its CPU seconds, and the peak of its resident memory, also
above what it had when all was imported."""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.machine import MIB, describe, json_of_process, peak_rss
from smorm import files
from smorm.data.encode import Encoder
from smorm.data.reading import Source
from smorm.data.token_cache import TokenRequest, tokens_of
from smorm.data.tokeniser import Tokeniser
from smorm.text.chat import Renderer
from smorm.text.tokenizers import train_bpe

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
        # Prompts repeat, as in UltraFeedback.
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
    texts: list[str] = []
    for line in generated_pairs(2000):
        texts += json.loads(line).values()
    train_bpe(texts, VOCABULARY).save_pretrained(folder)


def measure_start(folder: Path, source: Path, cache: str | None, workers: int) -> dict[str, Any]:
    """Tokens of a source in this process: seconds, records, tokens, memory in MiB."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(
        folder / "tokenizer", trust_remote_code=False
    )
    encoder = Encoder(Renderer(tokenizer, None, 2048), 2048, "error")
    request = TokenRequest(Source(source), "preference", "stop", folder / "quarantine.jsonl")
    before = peak_rss() / MIB
    started, used = time.monotonic(), _cpu()
    with Tokeniser(encoder, workers) as tokeniser:
        store = tokens_of(request, tokeniser, cache)
    return {
        "seconds": time.monotonic() - started,
        "cpu_seconds": _cpu() - used,
        "pairs": len(store),
        "tokens": len(store.arrays["ids"]),
        "peak_rss_mib": peak_rss() / MIB,
        "rss_added_mib": peak_rss() / MIB - before,
        "worker_peak_rss_mib": peak_rss(children=True) / MIB,
    }


def _cpu() -> float:
    """CPU seconds of this process and of those that it waited for."""
    return sum(os.times()[:4])


def measure_in_process(
    folder: Path, source: Path, cache: str | None, workers: int
) -> dict[str, Any]:
    """`measure_start` in a process of its own, so that its peak is its own."""
    arguments = json.dumps([str(folder), str(source), cache, workers])
    return json_of_process("bench.tokens", "--one", arguments)


def measure(pairs: int, timed: int, most: int, folder: Path) -> dict[str, Any]:
    """All figures; the files are written to `folder`."""
    write_tokenizer(folder / "tokenizer")
    small, large, cache = folder / "timed.jsonl", folder / "pairs.jsonl", str(folder / "cache")
    write_pairs(small, timed, most)
    speed = {}
    for workers in (1, 2):
        start = measure_in_process(folder, small, None, workers)
        speed[str(workers)] = {**start, "pairs_per_second": timed / start["seconds"]}
        print(
            f"{workers} process(es): {timed / start['seconds']:,.0f} pairs/s, "
            f"{1e3 * start['cpu_seconds'] / timed:.2f} ms of CPU a pair"
        )
    write_pairs(large, pairs, most)
    starts = {}
    # The first start fills the cache that the second one reads: one process is enough for it.
    for name, workers in (("first", min(2, os.cpu_count() or 1)), ("cached", 1)):
        start = starts[name] = measure_in_process(folder, large, cache, workers)
        print(
            f"{name} start: {start['pairs']:,} pairs, {start['tokens']:,} tokens in "
            f"{start['seconds']:.1f} s, peak RSS {start['peak_rss_mib']:.0f} MiB "
            f"({start['rss_added_mib']:.0f} above the start)"
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
        "first_start": starts["first"],
        "cached_start": starts["cached"],
    }


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=100_000, help="pairs of the memory figure")
    parser.add_argument("--timed", type=int, default=TIMED, help="pairs of the speed figures")
    parser.add_argument("--words", type=int, default=50, help="most words of a text")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    if options.one:
        folder, source, cache, workers = json.loads(options.one)
        print(json.dumps(measure_start(Path(folder), Path(source), cache, workers)))
        return
    with tempfile.TemporaryDirectory(prefix="smorm-bench-") as name:
        content = measure(options.pairs, options.timed, options.words, Path(name))
    if options.json:
        files.write_json(options.json, content)


if __name__ == "__main__":
    main()
