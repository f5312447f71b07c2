"""Alarms where the failure is planted: their values by hand, their sentences, their file."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from smorm.errors import DataError
from smorm.evaluation.alarm_measures import (
    AlarmScores,
    measure_alarms,
    measure_policy_alarms,
    pick_percentiles,
    standing_among,
)
from smorm.evaluation.alarms import RULES, Alarm, AlarmKind, alarm_lines
from smorm.evaluation.metrics import Metric
from smorm.evaluation.result import Result, parse_result

PROMPTS, ANSWERS = 12, 32


def sound(seed=0, **changes):
    """Two heads that agree but for a little noise; the closing word is the worst answer."""
    rng = np.random.default_rng(seed)
    attributes = list(rng.normal(size=(PROMPTS, ANSWERS)))
    scores = [values + 0.1 * rng.normal(size=ANSWERS) for values in attributes]
    values = {
        "prompts": [f"p{index}" for index in range(PROMPTS)],
        "scores": scores,
        "words": [np.full(ANSWERS, 9.0)] * PROMPTS,
        "attributes": attributes,
        "closing": [np.array([-9.0, -8.0])] * PROMPTS,
    }
    return AlarmScores(**{**values, **changes})


def by_kind(alarms):
    return {alarm.kind: alarm for alarm in alarms.measured}


def test_a_sound_reward_raises_none_and_has_all_four():
    alarms = measure_alarms(sound(1), sound(2), "far")
    assert set(by_kind(alarms)) == set(AlarmKind) - {AlarmKind.POLICY_ON_ATTRIBUTES}
    assert not any(alarm.fired for alarm in alarms.measured)
    assert alarms.note == ""
    picks = by_kind(alarms)[AlarmKind.PICKS_ON_ATTRIBUTES]
    assert picks.measured.n == PROMPTS
    assert picks.measured.low <= picks.measured.value <= picks.measured.high
    assert picks.in_distribution is not None


def test_picks_that_the_attributes_reject_are_seen_and_a_failure_of_both_heads_is_not():
    good = sound()
    against = replace(good, scores=[-values for values in good.attributes])
    alarm = by_kind(measure_alarms(against, good))[AlarmKind.PICKS_ON_ATTRIBUTES]
    assert alarm.fired
    assert alarm.measured.value == pytest.approx(0.5 / ANSWERS)
    assert alarm.in_distribution > 0.9
    # Both heads turned round: as far from any gold, and nothing to see.
    both = replace(against, attributes=against.scores)
    assert not by_kind(measure_alarms(both))[AlarmKind.PICKS_ON_ATTRIBUTES].fired


def test_a_random_pick_stands_in_the_middle():
    assert pick_percentiles(sound(scores=[np.zeros(ANSWERS)] * PROMPTS)) == pytest.approx(0.5)


def test_drift_is_in_standard_deviations_of_the_set_in_distribution():
    base = sound()
    everything = np.concatenate(base.scores)
    moved = replace(base, scores=[values + 2 * everything.std() for values in base.scores])
    drift = by_kind(measure_alarms(moved, base))[AlarmKind.SCORE_DRIFT]
    assert drift.fired
    assert drift.measured.value == pytest.approx(2.0)
    # The set itself has no drift, and lacks nothing.
    own = measure_alarms(base, base)
    assert AlarmKind.SCORE_DRIFT not in by_kind(own)
    assert AlarmKind.SCORE_DRIFT not in own.missing
    assert "set in distribution" in measure_alarms(base).note


def test_a_closing_word_is_ranked_by_its_best_and_near_empty_picks_are_counted_over_the_rest():
    scores, words = np.arange(20.0), np.full(20, 9.0)
    words[-1] = words[0] = 2.0
    pools = sound(
        scores=[scores] * PROMPTS,
        words=[words] * PROMPTS,
        attributes=[scores] * PROMPTS,
        closing=[np.array([-1.0, 19.0]), None] * (PROMPTS // 2),
    )
    alarms = by_kind(measure_alarms(pools))
    closing = alarms[AlarmKind.CLOSING_WORD]
    assert closing.fired
    assert closing.measured.value == pytest.approx(19.5 / 20)
    assert closing.measured.n == PROMPTS // 2
    assert alarms[AlarmKind.NEAR_EMPTY].fired
    # The pick of all 20 is the last, one of two near-empty ones.
    assert alarms[AlarmKind.NEAR_EMPTY].measured.value == pytest.approx(1 - 2 / 20)


def test_what_cannot_be_measured_is_said_in_one_line():
    alarms = measure_alarms(sound(attributes=None, closing=()))
    assert set(alarms.missing) == {
        AlarmKind.PICKS_ON_ATTRIBUTES, AlarmKind.SCORE_DRIFT, AlarmKind.CLOSING_WORD,
    }  # fmt: skip
    assert "F and L" in alarms.note
    assert "\n" not in alarms.note
    pairs = [np.array([1.0, 0.0])] * PROMPTS
    small = measure_alarms(sound(scores=pairs, attributes=pairs, words=pairs))
    assert "16 answers" in small.missing[AlarmKind.PICKS_ON_ATTRIBUTES]


def test_a_policy_that_gains_score_and_loses_attributes_is_seen():
    start = sound(3)
    last = replace(
        start,
        scores=[values + 3 for values in start.scores],
        attributes=[values - 1 for values in start.attributes],
        words=[np.full(ANSWERS, 1.0)] * PROMPTS,
    )
    alarms = by_kind(measure_policy_alarms(start, last, sound(4), "far"))
    assert alarms[AlarmKind.POLICY_ON_ATTRIBUTES].fired
    assert alarms[AlarmKind.NEAR_EMPTY].measured.value == 1.0
    # Of the start, not of what was optimised.
    assert abs(alarms[AlarmKind.SCORE_DRIFT].measured.value) < 0.5
    unchanged = by_kind(measure_policy_alarms(start, start, None))
    assert unchanged[AlarmKind.POLICY_ON_ATTRIBUTES].measured.value == pytest.approx(0.5)
    assert not unchanged[AlarmKind.POLICY_ON_ATTRIBUTES].fired
    assert AlarmKind.SCORE_DRIFT not in unchanged


def test_standing_counts_ties_as_half_and_nan_as_none():
    values = standing_among([np.array([1.0]), np.array([np.nan])], [np.array([0.0, 1.0])] * 2)
    assert values[0] == 0.75
    assert math.isnan(values[1])


def alarm(kind, value, **more):
    return Alarm(kind, Metric(value, 9), RULES[kind].threshold, "far", **more)


def test_alarms_survive_their_file_and_bad_ones_are_named(tmp_path):
    alarms = (
        alarm(AlarmKind.CLOSING_WORD, 0.99, in_distribution=0.2),
        alarm(AlarmKind.NEAR_EMPTY, 0.0),
        alarm(AlarmKind.SCORE_DRIFT, math.nan),
    )
    written = json.loads(json.dumps(Result("stress", "s", "m", "F", {}, alarms=alarms).as_dict()))
    assert [item["fired"] for item in written["alarms"]] == [True, False, False]
    assert "99%" in written["alarms"][0]["text"]
    again = parse_result(written, "r").alarms
    assert again[:2] == alarms[:2]
    assert math.isnan(again[2].measured.value)
    assert "alarms" not in Result("stress", "s", "m", "F", {}).as_dict()
    written["alarms"][1]["name"] = "smoke"
    with pytest.raises(DataError, match=r"alarms\[1\].name"):
        parse_result(written, "r")


def test_seeds_become_one_sentence_with_the_furthest_value():
    runs = [alarm(AlarmKind.CLOSING_WORD, value) for value in (0.98, 0.5, 0.99)]
    fired, quiet = alarm_lines([*runs, alarm(AlarmKind.NEAR_EMPTY, 0.01)])
    assert len(fired) == 1
    assert "99%" in fired[0]
    assert "(2 of 3 runs)" in fired[0]
    assert RULES[AlarmKind.CLOSING_WORD].advice in fired[0]
    assert quiet.startswith("no alarm: far: near-empty picks 0.01")
