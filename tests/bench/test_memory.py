"""Peak memory is measured in fresh processes, at equal losses."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.memory import compare

NOWHERE = Path("/nowhere")


@pytest.mark.slow
def test_both_arms_step_in_processes_of_their_own_and_lose_the_same() -> None:
    content = compare("tiny", NOWHERE, 1, ("ours", "trl"), limit=200)
    assert list(content["ratios"]) == ["peak_memory_vs_trl"]
    assert content["ratios"]["peak_memory_vs_trl"]["n"] == 1
    assert content["equality"]["peak_memory_vs_trl"] < 1e-5
    (run,) = content["detail"]["runs"]
    for step in run.values():
        assert step["peak"] > step["before"] > 1e8  # an interpreter with torch holds that much
    assert run["trl"]["tokens"] > run["ours"]["tokens"]
