"""`smorm check` at scale: how long a million pairs take, and how much memory.

    python -m bench.check --pairs 1000000 --words 8 --json results/bench/check.json

Pairs are generated as for `bench.tokens`. Another file of 1,000 pairs, of which half are in the
data, is both the held-out data and the benchmark. Seconds are of the wall clock; memory is the peak
of the resident set of a process of its own, also above what a check of 1,000 pairs takes.
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from smorm import files
from smorm.checks.plan import Plan
from smorm.checks.report import check
from smorm.checks.scan import CheckedSource
from smorm.data.reading import Source

MIB = 1 << 20
SMALL = 1000


def one_check(data: Path, held_out: Path) -> dict[str, Any]:
    """One check in this process: seconds, records, memory in MiB, findings by code."""
    readings = (CheckedSource(Source(data)), CheckedSource(Source(held_out), held_out=True))
    started = time.monotonic()
    report = check(Plan(readings, against=((held_out.name, (Source(held_out),)),)))
    return {
        "seconds": time.monotonic() - started,
        "pairs": report.records["train"]["preference"],
        "peak_rss_mib": _peak(),
        "findings": {finding.kind: finding.count for finding in report.findings},
    }


def _peak() -> float:
    """Peak resident memory in MiB."""
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage counts what the parent had when it started this process
        lines = status.read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / MIB if sys.platform == "darwin" else peak / 1024


def in_a_process(data: Path, held_out: Path) -> dict[str, Any]:
    """`one_check` in a process of its own, so that its peak is its own."""
    command = [sys.executable, "-m", "bench.check", "--one", str(data), str(held_out)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def write_held_out(path: Path, count: int, most: int) -> None:
    """Pairs of which the first half are in the data and the others are not."""
    from bench.tokens import generated_pairs  # it imports torch, which is not measured here

    known = islice(generated_pairs(count, most), count // 2)
    new = islice(generated_pairs(count, most, seed=1), count // 2)
    with path.open("wb") as stream:
        stream.writelines([*known, *new])


def measure(pairs: int, most: int, folder: Path) -> dict[str, Any]:
    """All figures; the files are written to `folder`."""
    from bench.machine import describe
    from bench.tokens import write_pairs

    small, large, held_out = (folder / f"{name}.jsonl" for name in ("small", "large", "held_out"))
    write_pairs(small, SMALL, most)
    write_pairs(large, pairs, most)
    write_held_out(held_out, SMALL, most)
    least, found = in_a_process(small, held_out), in_a_process(large, held_out)
    found["rss_added_mib"] = found["peak_rss_mib"] - least["peak_rss_mib"]
    print(
        f"{found['pairs']:,} pairs in {found['seconds']:.1f} s, peak RSS "
        f"{found['peak_rss_mib']:.0f} MiB ({found['rss_added_mib']:.0f} above {SMALL:,} pairs)"
    )
    sizes = {"text_mib": large.stat().st_size / MIB, "pairs": pairs, "words": most}
    return {"machine": describe(), "sizes": sizes, "check": found, "small": least}


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
        print(json.dumps(one_check(*options.one)))
        return 0
    with tempfile.TemporaryDirectory(prefix="smorm-bench-") as name:
        found = measure(options.pairs, options.words, Path(name))
    if options.json:
        files.write_json(options.json, found)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
