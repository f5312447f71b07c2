"""Sentences follow from intervals: planted truths are told, and nothing that is not there."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smorm.evaluation.metrics import Metric
from smorm.evaluation.result import Result
from smorm.report.conclusions import conclusions
from smorm.report.curves import curves_of
from smorm.report.paired import paired_differences
from smorm.report.rows import rows_of
from tests.report.made_up import hacked, policy_result, rising, runs, stress_result


def told(results):
    return conclusions(rows_of(results), curves_of(results), paired_differences(results))


def about(results, *words):
    return [one for one in told(results) if all(word in one for word in words)]


def of_two(single, other, prompts="OODtopic", noise=0.003, seeds=range(6)):
    methods = {("Single", "F"): {prompts: single}, ("SMORM", "F"): {prompts: other}}
    return runs(methods, seeds, noise)


def test_a_planted_gain_is_told_with_its_interval_and_seeds():
    (one,) = about(of_two(rising(0.7), rising(0.73)), "gold out of 256")
    assert one.startswith(
        "On unseen topics (OODtopic), 6 seeds, SMORM picked answers of higher gold out of 256 "
        "than Single: +0.0"
    )
    assert " to 0.0" in one


def test_a_planted_loss_is_told_as_a_loss():
    (one,) = about(of_two(rising(0.73), rising(0.7)), "gold out of 256")
    assert "SMORM picked answers of lower gold out of 256 than Single: −0.0" in one


def test_noise_is_no_difference():
    (one,) = about(of_two(rising(0.7), rising(0.7), noise=0.02), "SMORM", "Single was found")
    assert "no difference in gold out of 256 from Single was found for SMORM: " in one
    assert "higher" not in one
    assert "lower" not in one


@settings(max_examples=30)
@given(
    st.lists(st.floats(-0.1, 0.1), min_size=2, max_size=7),
    st.floats(-0.1, 0.1),
)
def test_no_claim_is_made_that_its_interval_does_not_support(noise, gap):
    results = []
    for seed, luck in enumerate(noise):
        for model, value in (("Single", 0.5), ("SMORM", 0.5 + gap + luck)):
            metrics = {"gold@1": Metric(0.5, 9), "gold@16": Metric(value, 9)}
            results.append(Result("stress", "best-of-n/ID", model, "F", metrics, [],
                                  {"seed": seed}))  # fmt: skip
    (pair,) = paired_differences(results)
    text = " ".join(told(results))
    assert ("higher gold" in text) == (pair.difference.low > 0)
    assert ("lower gold" in text) == (pair.difference.high < 0)
    assert ("no difference" in text) == (pair.difference.low <= 0 <= pair.difference.high)


def test_a_planted_fall_is_told_with_its_peak_and_a_rise_is_none():
    found = about(of_two(hacked(0.7, 0.6), rising(0.8)), "falls after its peak")
    assert len(found) == 1
    assert "until n = 256: Single from n = 16 by 0.1" in found[0]
    assert found[0].endswith("No fall was found for SMORM.")
    (none,) = about(of_two(rising(0.7), rising(0.8)), "no fall after a peak")
    assert "for any method" in none


def test_one_seed_is_called_an_illustration():
    single = stress_result("Single", "F", "ID", 0, rising(0.7))
    other = stress_result("SMORM", "F", "ID", 0, rising(0.9))
    found = told([single, other])
    assert "one run of each method" in found[0]
    assert "illustration" in found[0]
    assert not any("higher gold" in one for one in found)  # no paired difference was measured
    assert "illustration" not in told(of_two(rising(0.7), rising(0.9)))[0]


def test_braces_in_names_are_names():
    methods = {("{0}", "F"): {"{x}": rising(0.7)}, ("{}", "F"): {"{x}": hacked(0.7, 0.6)}}
    (one,) = about(runs(methods), "lower gold")
    assert "On {x}, 6 seeds, {} picked answers of lower gold out of 256 than {0}: −0." in one


def test_several_seeds_here_do_not_hide_a_single_run_there():
    results = of_two(rising(0.7), rising(0.75))
    results += [policy_result("Single", "F", "ID", 0, [0.5, 0.7, 0.5])]
    (fall,) = about(results, "gold under ppo")
    assert "one run each (an illustration)" in fall


def test_views_of_one_model_are_compared_and_no_difference_is_said():
    methods = {
        ("Single", "F"): {"ID": rising(0.7)},
        ("SMORM", "F"): {"ID": rising(0.8)},
        ("SMORM", "M"): {"ID": rising(0.8)},
    }
    (one,) = about(runs(methods, noise=0.02), "from SMORM-F")
    assert "no difference in gold out of 256 from SMORM-F was found for SMORM-M" in one


def test_a_gain_that_is_larger_out_of_distribution_is_told_and_an_equal_one_is_not():
    methods = {
        ("Single", "F"): {"ID": rising(0.7), "OODtopic": rising(0.6)},
        ("SMORM", "F"): {"ID": rising(0.72), "OODtopic": rising(0.68)},
        ("GRM", "F"): {"ID": rising(0.75), "OODtopic": rising(0.65)},
    }
    (one,) = about(runs(methods, noise=0.004), "is larger than on ID")
    assert "On unseen topics (OODtopic), the gold gained over Single is larger than on ID" in one
    assert "SMORM +0.0" in one
    assert "GRM" not in one


def test_policies_are_told_by_their_algorithm():
    results = [
        policy_result(model, "F", "ID", seed, gold)
        for seed in range(4)
        for model, gold in (("Single", [0.5, 0.7, 0.5]), ("SMORM", [0.5, 0.7, 0.8]))
    ]
    (gain,) = about(results, "led ppo to higher gold than Single: +0.")
    assert gain.startswith("On prompts as in training (ID), 4 seeds, SMORM")
    (fall,) = about(results, "gold under ppo falls")
    assert "Single from step 5 by 0." in fall
    assert fall.endswith("No fall was found for SMORM.")


def test_how_many_comparisons_were_made_is_told():
    (one,) = about(of_two(rising(0.7), rising(0.73)), "comparisons")
    assert one.startswith("3 comparisons over seeds were made on this page")
    assert "Falls, and gains that differ between sets of prompts," in one
    kept = re.search(r"(\d+) of them (stays?) after", one)
    assert kept is not None
    assert (kept[1] == "1") == (kept[2] == "stays")
    fewer = [
        r for r in of_two(rising(0.7), rising(0.73)) if r.fingerprint["seed"] or r.model == "x"
    ]
    fewer = [r for r in fewer if r.model == "Single" or r.fingerprint["seed"] > 2]
    assert "up to 2 seeds of a pair are left out" in " ".join(told(fewer))


def test_the_same_results_give_the_same_sentences_and_none_give_none():
    results = of_two(hacked(0.7, 0.6), rising(0.73))
    assert told(results) == told(list(results))
    assert told([]) == []
    alone = [Result("eval", "pairs/ID", "a", "F", {"accuracy": Metric(0.5, 9)})]
    assert told(alone) == []


@pytest.mark.parametrize(("value", "word"), [(0.9, "higher accuracy"), (0.5, "lower accuracy")])
def test_accuracies_are_told_in_percentage_points(value, word):
    results = [
        Result("eval", "pairs/ID", model, "F", {"accuracy": Metric(a + 0.001 * seed, 9)}, [],
               {"seed": seed})
        for seed in range(3)
        for model, a in (("Single", 0.7), ("SMORM", value + 0.001 * seed))
    ]  # fmt: skip
    (one,) = about(results, word)
    assert "percentage points" in one
    assert "In pairs on prompts as in training (ID)" in one


def test_of_many_methods_those_without_a_difference_are_counted_not_listed():
    methods = {("Single", "F"): {"ID": rising(0.7)}}
    methods |= {(f"Same{place}", "F"): {"ID": rising(0.7)} for place in range(10)}
    methods |= {("Better", "F"): {"ID": rising(0.8)}, ("Fallen", "F"): {"ID": hacked(0.8, 0.6)}}
    (one,) = about(runs(methods, noise=0.0005), "gold out of 256 than Single")
    count = one.partition("No difference in gold out of 256 from Single was found for ")[2]
    assert "Better picked answers of higher gold" in one
    assert count in {f"{number} methods (see the tables)." for number in (9, 10)}
