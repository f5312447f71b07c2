"""The numbers of a run, on snapshots whose numbers are known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from smorm.errors import DataError
from smorm.stress.rl.trace import QUANTITIES, STANDING, Snapshot, measure
from smorm.stress.symptoms import TEXT_MEASURES

PROMPTS = 12
SHIFTS = np.linspace(-0.1, 0.1, PROMPTS)


def snapshot(step, gold, proxy, nats, length, *, noise=0.0):
    """Two answers to each prompt, 0.2 of gold and 2 of proxy apart."""
    rng = np.random.default_rng(step)
    values = {
        "gold": [np.array([-0.1, 0.1]) + gold + at + noise * rng.normal() for at in SHIFTS],
        "raw_proxy": [np.array([-1.0, 1.0]) + proxy for _ in SHIFTS],
        "kl": [np.full(2, nats) for _ in SHIFTS],
        **{name: [np.full(2, 0.5)] * PROMPTS for name in TEXT_MEASURES},
        "length": [np.full(2, length) for _ in SHIFTS],
    }
    return Snapshot(step, values, 1.0)


def measured(snapshots):
    labels = [f"prompt {at}" for at in range(PROMPTS)]
    return measure(snapshots, labels, labels)


RUN = [
    snapshot(0, 0.5, 10.0, 0.0, 6.0), snapshot(5, 0.7, 12.0, 2.0, 8.0),
    snapshot(10, 0.6, 13.0, 4.0, 10.0), snapshot(15, 0.4, 16.0, 8.0, 14.0),
]  # fmt: skip


def test_peak_fall_and_onset():
    metrics = measured(RUN)[0].metrics
    expected = {
        "gold@first": 0.5, "gold@peak": 0.7, "gold@last": 0.4, "gain": -0.1, "fall": 0.3,
        "peak_step": 5, "onset_step": 10, "kl@last": 8, "kl@peak": 2, "raw_proxy@first": 10,
        "raw_proxy@peak": 12, "raw_proxy@last": 16, "length@last": 14,
    }  # fmt: skip
    for name, value in expected.items():
        assert metrics[name].value == pytest.approx(value), name
        assert metrics[name].n == PROMPTS
    assert metrics["fall"].low == pytest.approx(0.3)  # paired: every prompt falls by as much
    assert metrics["gold@last"].low < 0.4 < metrics["gold@last"].high


def test_the_proxy_is_a_gain_in_spreads_of_the_starting_policys_answers():
    spread = math.sqrt(2)  # of −1 and 1, around their mean, with one degree of freedom
    measurement, points = measured(RUN)
    assert measurement.metrics["proxy@last"].value == pytest.approx(6 / spread)
    assert [point["proxy"]["value"] for point in points] == pytest.approx(
        [0, 2 / spread, 3 / spread, 6 / spread]
    )
    gold_spread = math.sqrt(0.02)
    assert measurement.metrics["divergence"].value == pytest.approx(6 / spread + 0.1 / gold_spread)


def test_slopes_are_per_nat():
    metrics = measured(RUN)[0].metrics
    assert metrics["slope/length"].value == pytest.approx(1.0)
    assert metrics["slope/repetition"].value == pytest.approx(0.0)


def test_points_hold_every_quantity_with_its_interval():
    points = measured(RUN)[1]
    assert [point["step"] for point in points] == [0, 5, 10, 15]
    for point in points:
        assert {*QUANTITIES, "step", "multiplier"} == set(point)
        assert set(point["gold"]) == {"value", "n", "low", "high"}


def test_a_fall_within_chance_has_no_onset():
    flat = [snapshot(step, 0.5, 10.0 + step, step, 6.0, noise=0.2) for step in (0, 5, 10, 15)]
    metrics = measured(flat)[0].metrics
    assert metrics["fall"].value > 0
    assert math.isnan(metrics["onset_step"].value)


def test_at_the_peak_nothing_has_fallen():
    fall = measured(RUN[:2])[0].metrics["fall"]
    assert (fall.value, fall.low, fall.high) == (0, 0, 0)
    assert math.copysign(1, fall.low) == 1  # or it is shown as -0.000


def test_a_policy_that_does_not_move_has_no_slopes():
    still = [snapshot(step, 0.5, 10.0, 0.0, 6.0) for step in (0, 5)]
    metrics = measured(still)[0].metrics
    assert not any(name.startswith("slope/") for name in metrics)
    assert metrics["fall"].value == 0


def test_a_prompt_without_scores_at_a_step_is_missing_there_alone():
    run = [snapshot(0, 0.5, 10.0, 0.0, 6.0), snapshot(5, 0.7, 12.0, 2.0, 8.0)]
    run[1].values["gold"][0] = np.full(2, np.nan)
    metrics = measured(run)[0].metrics
    assert metrics["gold@first"].n == PROMPTS
    assert metrics["gold@last"].n == PROMPTS - 1
    assert metrics["gold@last"].value == pytest.approx(0.7 - SHIFTS[0] / (PROMPTS - 1))


def test_two_runs_are_compared_prompt_by_prompt():
    other = [snapshot(s.step, 0.5, 10.0 + s.step, 1.0, 6.0) for s in RUN]
    one, two = measured(RUN)[0], measured(other)[0]
    difference = two.outcomes.difference(one.outcomes)
    assert difference["gold@last"].value == pytest.approx(0.1)
    assert difference["gold@last"].low == pytest.approx(0.1)
    assert "gold@peak" not in difference  # of another step in each


def test_a_proxy_without_spread_is_told():
    run = [snapshot(0, 0.5, 10.0, 0.0, 6.0), snapshot(5, 0.7, 12.0, 2.0, 8.0)]
    run[0].values["raw_proxy"] = [np.ones(2)] * PROMPTS
    with pytest.raises(DataError, match="proxy: all answers of every pool have the same score"):
        measured(run)


def test_where_the_answers_stand_on_the_attributes_is_traced():
    def with_attributes(of_step, gain):
        values = [np.array([0.0, 1.0]) + gain for _ in SHIFTS]
        return replace(of_step, values={**of_step.values, "attributes": values})

    run = [with_attributes(of_step, gain) for of_step, gain in zip(RUN, (0, 2, 0, -2), strict=True)]
    points = measured(run)[1]
    assert [point[STANDING]["value"] for point in points] == [0.5, 1.0, 0.5, 0.0]
