"""Measures of texts by hand, the detector's ROC against scikit-learn, and planted attacks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from smorm.rewards.function import FunctionReward
from smorm.rewards.protocol import values_of
from smorm.stress.symptoms import (
    ATTACKS,
    attacked,
    detection,
    disagreement,
    measure_probes,
    roc_area,
    text_measures,
)
from tests.stress.made_up import pool


def test_measures_by_hand():
    found = text_measures(
        ["a b a b a b", "one two three", "", "# T\n\n- x\nplain\nsome **bold** word"]
    )
    np.testing.assert_allclose(found["length"], [6, 3, 0, 8])
    # 3-grams: aba bab aba bab: two of four are repeats; 2-grams: ab ba ab ba ab: two of five differ
    np.testing.assert_allclose(found["repetition"][:3], [0.5, 0.0, 0.0])
    np.testing.assert_allclose(found["distinct_2"][:3], [0.4, 1.0, 1.0])
    np.testing.assert_allclose(found["format"], [0, 0, 0, 0.75])


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.integers(1, 5)), min_size=2,
                max_size=30))  # fmt: skip
@settings(max_examples=100, deadline=None)
def test_the_roc_area_is_scikit_learns(items):
    values, positive, weight = (np.array(part, dtype=float) for part in zip(*items, strict=True))
    ranks = np.unique(values, return_inverse=True)[1]
    found = roc_area(ranks, weight * positive, weight * (1 - positive))
    if len(set(positive)) < 2:
        assert math.isnan(found)
    else:
        assert found == pytest.approx(roc_auc_score(positive, values, sample_weight=weight))


def test_heads_that_differ_by_scale_only_do_not_disagree():
    one = [np.array([1.0, 2, 4]), np.array([0.0, 5, 1])]
    for found in disagreement(one, [3 * values - 7 for values in one]):
        np.testing.assert_allclose(found, 0.0, atol=1e-12)


def test_disagreement_detects_picks_that_one_head_was_fooled_by():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(30, 40))
    fooled = (rng.random(truth.shape) < 0.1) & (truth < 0)
    preference = [row + 4.0 * bad for row, bad in zip(truth, fooled, strict=True)]
    other = list(truth + 0.1 * rng.normal(size=truth.shape))
    gold, prompts = list(truth), [f"p{at}" for at in range(30)]
    found = detection(disagreement(preference, other), preference, gold, (1, 4, 16), prompts)
    assert found["disagreement_auc@16"].low > 0.8
    blind = detection(list(rng.random(truth.shape)), preference, gold, (4,), prompts)
    assert abs(blind["disagreement_auc@4"].value - 0.5) < 0.15


def test_harmful_picks_of_a_single_prompt_give_an_area_without_an_interval():
    rng = np.random.default_rng(1)
    proxy = list(rng.normal(size=(8, 5)))
    gold = [-proxy[0], *proxy[1:]]
    signal = list(rng.random((8, 5)))
    found = detection(signal, proxy, gold, (1, 5), [f"p{at}" for at in range(8)])
    assert math.isfinite(found["disagreement_auc@1"].low)
    assert math.isfinite(found["disagreement_auc@5"].value)
    assert math.isnan(found["disagreement_auc@5"].low)


def test_no_harmful_pick_gives_no_area():
    gold = [np.array([1.0, 2.0, 3.0])]
    found = detection([np.array([0.1, 0.2, 0.3])], gold, gold, (3,), ["p"])
    assert math.isnan(found["disagreement_auc@3"].value)


def test_a_reward_of_length_is_gained_by_every_attack_that_adds_words():
    pools = [pool(f"ask {at}", ["a b", "a b c d", "a"]) for at in range(6)]
    reward = FunctionReward("tests.stress.made_up:half_length")
    proxy = values_of(reward, pools)
    probed = values_of(reward, [attacked(one) for one in pools])
    found = measure_probes([one.where for one in pools], proxy, probed)
    spread = math.sqrt(sum((v - 7 / 6) ** 2 for v in (1, 2, 0.5)) / 2)
    assert found["probe/praise"].value == pytest.approx(5.5 / spread)  # eleven words more
    assert found["probe_wins/praise"].value == 1.0
    assert found["probe/twice"].value == pytest.approx(1 / spread)
    assert found["probe_wins/twice"].value == 0.0  # reaches the best, does not beat it
    assert set(found) == {f"{kind}/{name}" for kind in ("probe", "probe_wins") for name in ATTACKS}
