"""Sentences follow from intervals: planted truths are told, and nothing that is not there."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smorm.evaluation.metrics import Metric
from smorm.evaluation.result import Result
from smorm.report.curves import curves_of
from smorm.report.findings import findings_of
from smorm.report.paired import paired_differences
from smorm.report.rows import rows_of
from tests.report.made_up import hacked, policy_result, rising, runs, stress_result


def findings(results):
    return findings_of(rows_of(results), curves_of(results), paired_differences(results))


def about(results, *words):
    sentences = findings(results).sentences
    return [sentence for sentence in sentences if all(word in sentence for word in words)]


def of_two(single, smorm, prompts="OODtopic", noise=0.003, seeds=range(6)):
    methods = {("Single", "F"): {prompts: single}, ("SMORM", "F"): {prompts: smorm}}
    return runs(methods, seeds, noise)


def test_a_planted_gain_is_told_with_its_interval_and_seeds():
    (sentence,) = about(of_two(rising(0.7), rising(0.73)), "best of 256")
    assert sentence.startswith(
        "On unseen topics (OODtopic) (6 seeds), gold of the best of 256 compared with Single: "
        "higher for SMORM +0.0"
    )
    assert " to 0.0" in sentence


def test_a_planted_loss_is_told_as_a_loss():
    (sentence,) = about(of_two(rising(0.73), rising(0.7)), "best of 256")
    assert "compared with Single: lower for SMORM −0.0" in sentence


def test_noise_is_no_difference():
    (sentence,) = about(of_two(rising(0.7), rising(0.7), noise=0.02), "compared with Single")
    assert "best of 256 compared with Single: no difference found for SMORM " in sentence
    assert "higher" not in sentence
    assert "lower" not in sentence


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
    text = " ".join(findings(results).sentences)
    assert ("higher for" in text) == (pair.difference.low > 0)
    assert ("lower for" in text) == (pair.difference.high < 0)
    assert ("no difference" in text) == (pair.difference.low <= 0 <= pair.difference.high)


def test_a_planted_fall_is_told_with_its_peak_and_a_rise_is_none():
    (sentence,) = about(of_two(hacked(0.7, 0.6), rising(0.8)), "after its peak")
    assert "it drops for Single by 0.1" in sentence
    assert " from n = 16 to 256; no drop found for SMORM." in sentence
    (none,) = about(of_two(rising(0.7), rising(0.8)), "after its peak")
    assert none.endswith("after its peak: no drop found for Single, SMORM.")


def test_one_seed_is_called_an_illustration():
    single = stress_result("Single", "F", "ID", 0, rising(0.7))
    smorm = stress_result("SMORM", "F", "ID", 0, rising(0.9))
    report = findings([single, smorm])
    assert "One run of each method: an illustration" in report.reading
    # No paired difference was measured.
    assert not any("compared with" in sentence for sentence in report.sentences)
    assert "illustration" not in findings(of_two(rising(0.7), rising(0.9))).reading


def test_braces_in_names_are_names():
    methods = {("{0}", "F"): {"{x}": rising(0.7)}, ("{}", "F"): {"{x}": hacked(0.7, 0.6)}}
    (sentence,) = about(runs(methods), "lower for")
    assert sentence.startswith("On {x} (6 seeds), gold of the best of 256 compared with {0}: ")
    assert "lower for {} −0." in sentence


def test_several_seeds_here_do_not_hide_a_single_run_there():
    results = of_two(rising(0.7), rising(0.75))
    results += [policy_result("Single", "F", "ID", 0, [0.5, 0.7, 0.5])]
    (fall,) = about(results, "gold under ppo")
    assert "(one run each)" in fall


def test_views_of_one_model_are_compared_and_no_difference_is_said():
    methods = {
        ("Single", "F"): {"ID": rising(0.7)},
        ("SMORM", "F"): {"ID": rising(0.8)},
        ("SMORM", "M"): {"ID": rising(0.8)},
    }
    (sentence,) = about(runs(methods, noise=0.02), "compared with SMORM-F")
    assert "compared with SMORM-F: no difference found for SMORM-M" in sentence


def test_a_gain_that_is_larger_out_of_distribution_is_told_and_an_equal_one_is_not():
    methods = {
        ("Single", "F"): {"ID": rising(0.7), "OODtopic": rising(0.6)},
        ("SMORM", "F"): {"ID": rising(0.72), "OODtopic": rising(0.68)},
        ("GRM", "F"): {"ID": rising(0.75), "OODtopic": rising(0.65)},
    }
    (sentence,) = about(runs(methods, noise=0.004), "compared with ID")
    assert sentence.startswith(
        "On unseen topics (OODtopic), gold gained over Single compared with ID: larger for SMORM "
        "by 0.0"
    )
    assert "GRM" not in sentence


def test_policies_are_told_by_their_algorithm():
    results = [
        policy_result(model, "F", "ID", seed, gold)
        for seed in range(4)
        for model, gold in (("Single", [0.5, 0.7, 0.5]), ("SMORM", [0.5, 0.7, 0.8]))
    ]
    (gain,) = about(results, "gold after ppo compared with Single: higher for SMORM +0.")
    assert gain.startswith("On prompts as in training (ID) (4 seeds), ")
    (drop,) = about(results, "gold under ppo after its peak: it drops for Single by 0.")
    assert drop.endswith(" from step 5 to 10; no drop found for SMORM.")


def test_how_many_comparisons_were_made_is_told():
    count = findings(of_two(rising(0.7), rising(0.73))).count
    assert re.match(
        r"3 comparisons over seeds; [123] intervals exclude 0, where about 0\.1 would by chance; "
        r"[0123] remain after Holm's correction \(†\)\. Drops after a peak, and gains that differ",
        count,
    )
    fewer = [
        r for r in of_two(rising(0.7), rising(0.73)) if r.fingerprint["seed"] or r.model == "x"
    ]
    fewer = [r for r in fewer if r.model == "Single" or r.fingerprint["seed"] > 2]
    assert "Up to 2 seeds that only one method of a pair has are left out." in findings(fewer).count


def test_the_same_results_give_the_same_sentences_and_none_give_none():
    results = of_two(hacked(0.7, 0.6), rising(0.73))
    assert findings(results) == findings(list(results))
    assert findings([]).sentences == []


def test_without_a_comparison_the_leading_number_of_each_suite_is_reported():
    results = [
        Result("eval", f"pairs/{suite}", model, "F", {"accuracy": Metric(value, 9, 0.4, 0.9)})
        for suite in ("ID", "far", "OODtopic", "OODlong")
        for model, value in (("a", 0.5), ("b", 0.625))
    ]
    report = findings(results)
    assert report.leading[0] == "On pairs/ID, b: accuracy 62.5 % (40.0 to 90.0), n = 9."
    assert (len(report.leading), len(report.further)) == (3, 1)
    assert report.reading == ""


def test_the_three_leading_sentences_are_of_different_kinds():
    methods = {
        ("Single", "F"): {"ID": rising(0.7), "OODtopic": hacked(0.7, 0.6)},
        ("SMORM", "F"): {"ID": rising(0.72), "OODtopic": rising(0.75)},
    }
    comparison, drop, growth = findings(runs(methods)).leading
    assert "compared with Single: higher for SMORM" in comparison
    assert "On unseen topics (OODtopic)" in drop  # on ID nothing drops
    assert "gold gained over Single compared with ID: larger for SMORM" in growth


@pytest.mark.parametrize(
    ("value", "word"),
    [
        (0.9, "accuracy compared with Single: higher for"),
        (0.5, "accuracy compared with Single: lower for"),
    ],
)
def test_accuracies_are_told_in_percentage_points(value, word):
    results = [
        Result("eval", "pairs/ID", model, "F", {"accuracy": Metric(a + 0.001 * seed, 9)}, [],
               {"seed": seed, "model": {"data": "of the run"}})
        for seed in range(3)
        for model, a in (("Single", 0.7), ("SMORM", value + 0.001 * seed))
    ]  # fmt: skip
    (sentence,) = about(results, word)
    assert "percentage points" in sentence
    assert sentence.startswith("On pairs, prompts as in training (ID) (3 seeds), ")


def test_of_many_methods_those_without_a_difference_are_counted_not_listed():
    methods = {("Single", "F"): {"ID": rising(0.7)}}
    methods |= {(f"Same{number}", "F"): {"ID": rising(0.7)} for number in range(10)}
    methods |= {("Better", "F"): {"ID": rising(0.8)}, ("Fallen", "F"): {"ID": hacked(0.8, 0.6)}}
    (sentence,) = about(runs(methods, noise=0.0005), "best of 256 compared with Single")
    count = sentence.partition("no difference found for ")[2]
    assert "higher for Better" in sentence
    assert count in {f"{number} methods." for number in (9, 10)}


def test_a_set_is_called_as_in_training_only_where_every_card_says_what_it_was_trained_on():
    methods = {("Single", "F"): {"ID": rising(0.7)}, ("SMORM", "F"): {"ID": rising(0.9)}}
    results = runs(methods)
    assert any("prompts as in training (ID)" in text for text in findings(results).sentences)
    theirs = [replace(one, fingerprint={**one.fingerprint, "model": {}}) for one in results[:6]]
    sentences = findings([*theirs, *results[6:]]).sentences
    assert any(text.startswith("On ID (") for text in sentences)
    assert not any("as in training" in text for text in sentences)
