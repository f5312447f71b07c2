"""The calibration of alarms, on rows whose areas and shares are known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from experiments.lab.alarms import (
    FALLS,
    ID,
    UNSEEN,
    Half,
    PromptRow,
    Run,
    Start,
    account,
    area,
    chosen_threshold,
    fires,
    points_of_prompts,
    points_of_runs,
    read_rows,
    write_rows,
)
from smorm.evaluation.alarms import AlarmKind

PICKS, CLOSING = AlarmKind.PICKS_ON_ATTRIBUTES, AlarmKind.CLOSING_WORD
BELOW_RANDOM, BELOW_POOR = FALLS.values()


@pytest.fixture(scope="module")
def rows():
    """Ten data seeds: drifting starts fall, with picks low on the attributes; the closing word
    says nothing."""
    rng = np.random.default_rng(0)
    made = []
    for seed in range(10):
        for start in Start:
            run = Run(Half.REPORT if seed % 2 else Half.CHOICE, start, seed, seed)
            for regime in (ID, *UNSEEN):
                falls = start is Start.DRIFTING and regime != ID
                made += [
                    PromptRow(
                        run, regime, prompt, picks_on_attributes=0.5 if falls else 0.95,
                        score_drift=rng.normal(), closing_word=rng.uniform(), near_empty=0.0,
                        gold=0.4 if falls else 0.7, random_gold=0.55,
                    )
                    for prompt in range(6)
                ]  # fmt: skip
    return made


def test_a_point_is_a_run_on_an_unseen_set_and_means_its_prompts(rows):
    points = points_of_runs(rows)
    assert len(points) == 10 * 3 * 2
    assert len(points_of_prompts(rows)) == 6 * len(points)
    first = [row.closing_word for row in rows if row.run == points[0].run and row.regime == "far"]
    assert points[1].values[CLOSING] == pytest.approx(np.mean(first))


def test_areas_are_1_for_what_separates_and_a_half_for_what_does_not(rows):
    points = points_of_prompts(rows)
    perfect = area(points, PICKS, BELOW_RANDOM)
    assert (perfect.value, perfect.low, perfect.high) == (1.0, 1.0, 1.0)
    chance = area(points, CLOSING, BELOW_POOR)
    assert chance.low < 0.5 < chance.high
    assert area(points, AlarmKind.NEAR_EMPTY, BELOW_RANDOM).value == 0.5  # all alike
    usual = [point for point in points if point.run.start is Start.USUAL]
    assert math.isnan(area(usual, PICKS, BELOW_RANDOM).value)  # none fell


def test_the_chosen_threshold_has_few_false_alarms_and_points_the_right_way(rows):
    points = points_of_prompts(rows)
    sound = [point for point in points if not BELOW_POOR(point)]
    for kind in (PICKS, CLOSING):
        assert fires(sound, kind, chosen_threshold(points, kind)).mean() <= 0.05
    fallen = [point for point in points if BELOW_POOR(point)]
    assert fires(fallen, PICKS, chosen_threshold(points, PICKS)).all()


def test_the_page_is_of_the_half_that_reports_and_follows_from_the_file(rows, tmp_path):
    write_rows(tmp_path / "prompts.csv", rows)
    again = read_rows(tmp_path / "prompts.csv")
    assert [(row.run, row.regime, row.gold) for row in again] == [
        (row.run, row.regime, row.gold) for row in rows
    ]
    page = account(again)
    assert "30 models of SMORM" in page
    assert "10 of 10 of the poor points" in page
    assert "nan" not in page
