"""`smorm check` at scale: how long a million pairs take, and how much memory.

    python -m bench.check --pairs 1000000 --words 8 --json results/bench/check.json

Pairs are generated as for `bench.tokens`. Another file of 1,000 pairs, of which half are in the
data, is both the held-out data and the benchmark. Seconds are of the wall clock; memory is the peak
of the resident set of a separate process, also above what a check of 1,000 pairs takes."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from bench.machine import MIB, describe, json_of_process, peak_rss
from smorm import files
from smorm.checks.plan import Plan
from smorm.checks.report import check
from smorm.checks.scan import CheckedSource
from smorm.data.reading import Source

SMALL = 1000


def measure_check(data: Path, held_out: Path) -> dict[str, Any]:
    """One check in this process: seconds, records, memory in MiB, findings by code."""
    sources = (CheckedSource(Source(data)), CheckedSource(Source(held_out), held_out=True))
    started = time.monotonic()
    report = check(Plan(sources, against=((held_out.name, (Source(held_out),)),)))
    return {
        "seconds": time.monotonic() - started,
        "pairs": report.records["train"]["preference"],
        "peak_rss_mib": peak_rss() / MIB,
        "findings": {finding.kind: finding.count for finding in report.findings},
    }


def measure_in_process(data: Path, held_out: Path, **environment: str) -> dict[str, Any]:
    """`measure_check` in a process of its own, so that its peak is its own."""
    return json_of_process("bench.check", "--one", str(data), str(held_out), **environment)


def write_held_out(path: Path, count: int, most: int) -> None:
    """Pairs of which the first half are in the data and the others are not."""
    from bench.tokens import generated_pairs  # it imports torch, which is not measured here

    # Overlap of one half: a check that finds nothing or everything could be faster.
    with path.open("wb") as stream:
        for seed in (0, 1):  # 0 is the data's
            stream.writelines(islice(generated_pairs(count, most, seed), count // 2))


def measure(pairs: int, most: int, folder: Path) -> dict[str, Any]:
    """All figures; the files are written to `folder`."""
    from bench.tokens import write_pairs

    small, large = folder / "small.jsonl", folder / "large.jsonl"
    held_out = folder / "held_out.jsonl"
    write_pairs(small, SMALL, most)
    write_pairs(large, pairs, most)
    write_held_out(held_out, SMALL, most)
    # A small check holds the interpreter and its libraries: the rest is what records cost.
    least, content = measure_in_process(small, held_out), measure_in_process(large, held_out)
    content["rss_added_mib"] = content["peak_rss_mib"] - least["peak_rss_mib"]
    print(
        f"{content['pairs']:,} pairs in {content['seconds']:.1f} s, peak RSS "
        f"{content['peak_rss_mib']:.0f} MiB "
        f"({content['rss_added_mib']:.0f} above {SMALL:,} pairs)"
    )
    sizes = {"text_mib": large.stat().st_size / MIB, "pairs": pairs, "words": most}
    return {"machine": describe(), "sizes": sizes, "check": content, "small": least}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench.check")
    parser.add_argument("--pairs", type=int, default=100_000)
    parser.add_argument("--words", type=int, default=8, help="most words of a text")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--one", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    if options.one:
        print(json.dumps(measure_check(*options.one)))
        return 0
    with tempfile.TemporaryDirectory(prefix="smorm-bench-") as name:
        content = measure(options.pairs, options.words, Path(name))
    if options.json:
        files.write_json(options.json, content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
