"""Ranks against one process: the same losses, and bytes that fall with their number."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.ranks import compare


@pytest.mark.slow
def test_ranks_lose_the_same_and_hold_their_part() -> None:
    content = compare("tiny", 2, 2, Path("/nowhere"), limit=60)
    assert content["loss_gap"] < 1e-5
    assert content["ratios"].keys() == {"replicated", "sharded"}
    assert all(ratio["n"] == 2 and ratio["value"] > 0 for ratio in content["ratios"].values())
    for share in content["bytes"].values():
        assert share["ideal"] <= share["of_one"] < 1.1 * share["ideal"]
