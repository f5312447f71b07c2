"""Peak memory is measured in fresh processes, at equal losses."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.memory import compared

NOWHERE = Path("/nowhere")


@pytest.mark.slow
def test_both_sides_step_in_processes_of_their_own_and_lose_the_same() -> None:
    found = compared("tiny", NOWHERE, 1, ("ours", "trl"))
    assert list(found["ratios"]) == ["peak_memory_vs_trl"]
    assert found["ratios"]["peak_memory_vs_trl"]["n"] == 1
    assert found["equality"]["peak_memory_vs_trl"] < 1e-5
    (run,) = found["detail"]["runs"]
    for side in run.values():
        assert side["peak"] > side["before"] > 1e8  # an interpreter with torch holds that much
    assert run["trl"]["tokens"] > run["ours"]["tokens"]
