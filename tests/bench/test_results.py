"""The JSON that others read, the table and plot of it, and the floors' exit code."""

from __future__ import annotations

import contextlib
import io
import json
import math
from pathlib import Path

import pytest

from bench.floors import FLOORS, main
from bench.measure import Ratio, Timing
from bench.results import LABELS, Figures, Measurement, arm_facts, load, plot, table


def write(path: Path, median: float, gap: float = 1e-6) -> Path:
    ratio = Ratio(median, median - 0.2, median + 0.3, 5, median, median)
    figures = Figures({"cpu": "a processor", "threads": 1}, {"anything": [1, 2]})
    figures.add("score_bon16_vs_padded", Measurement(ratio, gap))
    figures.add("gemm_share_fp32", Measurement(Ratio(0.7, 0.6, 0.8, 5, 0.7, 1)))
    figures.save(path)
    return path


def check(*arguments: str) -> tuple[int, str]:
    """The exit code, and what the command prints."""
    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        return main(arguments), told.getvalue()


def floors_file(path: Path) -> Path:
    name = "score_bon16_vs_padded"
    path.write_text(json.dumps({"ratios": {name: 3.2}, "equality": {name: 1e-5}}))
    return path


def test_the_file_has_the_names_that_readers_take(tmp_path: Path) -> None:
    content = json.loads(write(tmp_path / "new" / "a.json", 4.0).read_text())
    assert content["ratios"]["score_bon16_vs_padded"] == {
        "median": 4.0, "low": 3.8, "high": 4.3, "n": 5,
    }  # fmt: skip
    assert content["equality"] == {"score_bon16_vs_padded": 1e-6}
    assert content["machine"]["cpu"] == "a processor"


def test_a_ratio_above_its_floor_passes(tmp_path: Path) -> None:
    floors = str(floors_file(tmp_path / "floors.json"))
    code, told = check(str(write(tmp_path / "a.json", 3.3)), "--floors", floors, "--all")
    assert code == 0, told


@pytest.mark.parametrize(("median", "gap"), [(3.1, 1e-6), (math.nan, 1e-6), (4.0, 2e-5)])
def test_a_ratio_below_its_floor_or_other_numbers_exit_with_1_and_are_named(
    tmp_path: Path, median: float, gap: float
) -> None:
    floors = str(floors_file(tmp_path / "floors.json"))
    code, told = check(str(write(tmp_path / "a.json", median, gap)), "--floors", floors)
    assert code == 1, told
    assert "score_bon16_vs_padded" in told


def test_a_floor_that_nothing_measures_fails_only_with_all(tmp_path: Path) -> None:
    file = str(write(tmp_path / "a.json", 50.0))
    assert check(file)[0] == 0
    code, told = check(file, "--all")
    assert code == 1
    assert "train_vs_trl_default: not measured" in told


def test_a_file_that_is_not_there_exits_with_1(tmp_path: Path) -> None:
    assert check(str(tmp_path / "none.json"))[0] == 1


def test_every_floor_has_a_label() -> None:
    floors = json.loads(FLOORS.read_text(encoding="utf-8"))
    assert {*floors["ratios"], *floors["equality"]} <= set(LABELS)


def test_table_and_plot_show_what_was_measured(tmp_path: Path) -> None:
    results = load([write(tmp_path / "a.json", 4.321)])
    text = table(results)
    assert "| scoring, best-of-16 | padded loop, batch 8 | 4.32 |" in text
    assert "70 %" in text
    drawn = plot(results, tmp_path)
    svg = drawn[0].read_text(encoding="utf-8")
    assert all(path.stat().st_size > 1000 for path in drawn)
    assert svg.startswith("<?xml")
    before = drawn[0].read_bytes()
    plot(results, tmp_path)
    assert drawn[0].read_bytes() == before


def test_an_arms_figures_are_rates_over_its_rounds() -> None:
    timing = Timing(cpu=[2.0, 2.0], wall=[4.0, 4.0], tokens=[300, 300], units=[10, 10])
    facts = arm_facts(timing, flops=1e9, peak=1e9)
    assert facts["units_per_cpu_second"] == 5.0
    assert facts["units_per_wall_second"] == 2.5
    assert facts["tokens_per_unit"] == 30.0
    assert facts["peak_share"] == 0.5
