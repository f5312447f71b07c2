"""Memory is of hashes and not of texts."""

from __future__ import annotations

import pytest

from bench.check import measure_in_process, write_held_out
from bench.machine import MIB
from bench.tokens import write_pairs


@pytest.mark.slow
def test_long_pairs_take_less_memory_than_their_texts(tmp_path):
    small, large, held_out = (tmp_path / f"{name}.jsonl" for name in ("small", "large", "dev"))
    write_pairs(small, 500, 400)
    write_pairs(large, 20_000, 400)
    write_held_out(held_out, 100, 8)
    # One heap: how many the C library makes for threads depends on what else the machine does.
    one_heap = {"MALLOC_ARENA_MAX": "1"}
    least = measure_in_process(small, held_out, **one_heap)
    measured = measure_in_process(large, held_out, **one_heap)
    assert measured["pairs"] == 20_000
    added = (measured["peak_rss_mib"] - least["peak_rss_mib"]) * MIB
    # Freed arrays of fewer records stay in the heap, up to 60 MiB: of many they are given back.
    assert 0 < added < large.stat().st_size / 2
