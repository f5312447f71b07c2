"""Advice follows from the intervals: what holds 0 is undecided."""

from __future__ import annotations

import math

import pytest

from smorm.evaluation.metrics import Metric
from smorm.theory.advice import SENTENCES, advise, sign_of

YES, NO, OPEN = Metric(0.5, 100, 0.4, 0.6), Metric(-0.5, 100, -0.6, -0.4), Metric(0.1, 9, -0.2, 0.4)


def test_an_interval_that_holds_0_or_is_missing_has_no_sign():
    assert [sign_of(one) for one in (YES, NO, OPEN, None, Metric(3.0, 5))] == [1, -1, 0, 0, 0]
    assert sign_of(Metric(0.0, 9, 0.0, 0.0)) == 0


@pytest.mark.parametrize(
    ("alpha", "says"),
    [(YES, "goes with preference"), (NO, "conflicts with preference"), (OPEN, "undecided")],
)
def test_an_attribute_is_told_by_its_alpha(alpha, says):
    (line, *_) = advise({"alpha/verbosity": alpha}, ["verbosity"])
    assert line.startswith("verbosity")
    assert says in line
    assert f"{alpha.low:.3g}" in line


def test_a_conflict_of_gradients_is_told_only_beyond_doubt():
    def said(cosine):
        metrics = {"gradient/cosine": cosine, "gradient/norm_ratio": YES}
        return " ".join(advise(metrics, []))

    assert "pull the trunk apart" in said(NO)
    assert "in one direction" in said(YES)
    assert "undecided" in said(OPEN)


def test_a_relation_that_weakens_out_of_distribution_is_told():
    def said(metric):
        return " ".join(advise({"within_prompt/spearman": YES, "ood/far/spearman": metric}, []))

    assert "On far they agree less" in said(OPEN if OPEN.high < YES.low else NO)
    assert "no difference is shown" in said(Metric(0.5, 50, 0.3, 0.7))


def test_a_gain_over_prompts_but_not_over_seeds_is_told_as_such():
    name = "theorem_2/F/mse/SMORM learned − Single"
    better = Metric(-0.1, 100, -0.2, -0.05)
    both = advise({name: better, f"{name} over seeds": Metric(-0.1, 3, -0.2, -0.01)}, [])
    assert "better" in both[0]
    assert "over prompts and over seeds" in both[0]
    one = advise({name: better, f"{name} over seeds": Metric(-0.1, 3, -0.3, 0.1)}, [])
    assert "over prompts but not over seeds" in one[0]
    accuracy = name.replace("mse", "accuracy")
    assert "worse" in advise({accuracy: better}, [])[0]


def test_every_verdict_has_its_sentence():
    for section in ("alpha", "alpha_total", "within_prompt", "gradient"):
        assert {f"{section}/{word}" for word in ("above", "below", "undecided")} <= set(SENTENCES)
    assert all(text.endswith(".") for text in SENTENCES.values())


def test_nothing_measured_gives_no_advice():
    assert advise({}, ["x"]) == []
    assert math.isnan(Metric(1.0, 3).low)


def test_a_metric_is_written_with_its_interval_where_it_has_one():
    assert f"{YES:.1f}" == "0.5 [0.4, 0.6]"
    assert f"{Metric(2.0, 3):.3g}" == "2"
