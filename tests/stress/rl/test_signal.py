"""Rewards as the policy gets them: normalised, held by a multiplier, and missing ones missing."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smorm.data.census import DropReason
from smorm.errors import DataError
from smorm.rewards.protocol import ScoringOptions
from smorm.stress.config import ProxySection
from smorm.stress.proxies import open_proxy
from smorm.stress.rl.actor import TokenisedPrompt
from smorm.stress.rl.reward_signal import Multiplier, Normaliser, Proxy
from smorm.text.chat import Message
from tests.stress.rl.made_up import signal
from tests.tiny import trained

ONE, TWO = (TokenisedPrompt((Message("user", text),), f"file:{at}", [1]) for at, text in
            enumerate(["metals full tin iron", "birds brief owl swan"]))  # fmt: skip
numbers = st.lists(st.floats(-100, 100), min_size=2, max_size=8)


def test_the_first_batch_decides_or_all_so_far_or_none():
    first, second = np.array([1.0, 3.0]), np.array([7.0, 9.0])
    kinds = {kind: Normaliser(kind) for kind in ("first", "running", "none")}
    for one in kinds.values():
        one(first)
    assert kinds["first"](second).tolist() == [5.0, 7.0]
    assert kinds["none"](second).tolist() == [7.0, 9.0]
    expected = (second - 5) / np.std([1, 3, 7, 9])
    np.testing.assert_allclose(kinds["running"](second), expected)


@settings(max_examples=40, deadline=None)
@given(st.lists(numbers, min_size=1, max_size=4))
def test_running_moments_are_those_of_everything(batches):
    normaliser = Normaliser("running")
    for batch in batches:
        normaliser.add(np.array(batch))
    whole = np.concatenate(batches)
    assert normaliser.mean == pytest.approx(whole.mean(), abs=1e-9)
    assert normaliser.std == pytest.approx(whole.std(), abs=1e-6)


def test_a_missing_reward_stays_missing_and_moves_nothing():
    normaliser = Normaliser("first")
    found = normaliser(np.array([1.0, math.nan, 3.0]))
    assert math.isnan(found[1])
    assert found[[0, 2]].tolist() == [-1.0, 1.0]


def test_a_reward_that_is_always_the_same_is_told():
    source = signal("same")
    with pytest.raises(DataError, match="the same reward"):
        source([ONE, ONE], ["tin soft .", "iron grey ."])
    assert signal("same", kind="none")([ONE, ONE], ["a", "b"]).tolist() == [1.0, 1.0]


def test_the_multiplier_falls_above_the_threshold_and_rises_below_within_its_bounds():
    held = Multiplier(threshold=2.0, rate=0.5, damping=0.0)
    held.update(np.array([0.0, 2.0]))
    assert held.value == 1.0  # below, and at its bound
    held.update(np.array([3.0, math.nan]))
    assert held.value == pytest.approx(0.5)
    for _ in range(9):
        held.update(np.array([3.0]))
    assert held.value == -1.0
    held.update(np.array([1.0]))
    assert held.value == pytest.approx(-0.5)


def test_damping_answers_to_the_present_gap_alone():
    held = Multiplier(threshold=2.0, rate=0.1, damping=0.5)
    held.update(np.array([1.0, 3.0]))
    assert held.value == 1.0
    held.update(np.array([3.0]))
    assert held.value == pytest.approx(1 - 0.1 - 0.5)
    held.update(np.array([2.0]))
    assert held.value == pytest.approx(1 - 0.1)


def test_scores_are_the_models_in_the_order_of_the_answers_and_an_overlong_one_is_left_out():
    section = ProxySection.model_validate({"model": str(trained()), "views": ["F", "L"]})
    reward = open_proxy(section, "x", ScoringOptions(overlong="drop"))
    proxy = Proxy(reward, 1)
    texts = ["tin soft .", "tin " * 400, "owl calm .", "iron grey ."]
    found = proxy.score_answers([ONE, ONE, TWO, ONE], texts)
    assert np.isnan(found).tolist() == [False, True, False, False]
    assert proxy.census[DropReason.UNSCORED_SAMPLE] == 1
    for asked, at in ((ONE, 0), (TWO, 2), (ONE, 3)):
        (alone,) = Proxy(reward, 1).values([asked.item([texts[at]])])
        assert found[at] == pytest.approx(alone[0], abs=1e-5)
    with pytest.raises(DataError, match="scores none of the 1"):
        proxy.score_answers([ONE], [texts[1]])
