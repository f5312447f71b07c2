"""Every spelling of a metric in result files is parsed, and formatted as it was."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from smorm.evaluation.metric_names import MetricName, SuiteName

SPELLINGS = {
    "accuracy": MetricName("accuracy"),
    "gold@32": MetricName("gold", n=32),
    "gold@last": MetricName("gold", point="last"),
    "distinct_2@last": MetricName("distinct_2", point="last"),
    "spearman/clarity": MetricName("spearman", subset="clarity"),
    "spearman/a@b": MetricName("spearman", subset="a@b"),
    "slope/length": MetricName("slope", subset="length"),
    "subset/hep-cpp": MetricName("subset", subset="hep-cpp"),
    "subset/best-of-n/Helpfulness/Chat": MetricName("subset", subset="best-of-n/Helpfulness/Chat"),
    "length_only_accuracy": MetricName("accuracy", over="length_only"),
    "length_only/overall": MetricName("overall", over="length_only"),
    "length_only/Ties/ref_accuracy": MetricName("Ties", subset="ref_accuracy", over="length_only"),
    "shortest_only_accuracy": MetricName("accuracy", over="shortest_only"),
    "shortest_only/overall": MetricName("overall", over="shortest_only"),
    "ties_half/chat": MetricName("chat", over="ties_half"),
    "overall_minus_length_only": MetricName("overall", base="length_only"),
    "accuracy_minus_length_only": MetricName("accuracy", base="length_only"),
    "probe_minus_rows/spearman/style": MetricName("probe", subset="spearman/style", base="rows"),
    "theorem_2/F/mse/SMORM − Single over seeds": MetricName(
        "theorem_2", subset="F/mse/SMORM", base="Single", over="seeds"
    ),
    "accuracy/learned − M": MetricName("accuracy", subset="learned", base="M"),
    "mse_of_mean/style": MetricName("mse_of_mean", subset="style"),
}


@pytest.mark.parametrize(("text", "parsed"), SPELLINGS.items())
def test_a_spelling_is_parsed_and_formatted_as_it_was(text, parsed):
    assert MetricName.parse(text) == parsed
    assert str(parsed) == text


@given(st.text(alphabet=st.sampled_from("ab/@_0 1−")) | st.text())
@example("gold@007")
@example("length_only/accuracy")
@example("a_minus_b_minus_rows/x − y over seeds")
def test_any_text_comes_back_unchanged(text):
    assert str(MetricName.parse(text)) == text


def test_parts_and_details():
    assert MetricName.parse("ood/far/spearman").parts == ("far", "spearman")
    assert MetricName.parse("length_only/overall").is_detail
    assert not MetricName.parse("overall_minus_length_only").is_detail


def test_a_suite_is_a_kind_and_a_label():
    assert SuiteName.parse("pairs/OODlong") == SuiteName("pairs", "OODlong")
    assert SuiteName.parse("mt-bench/human/2").label == "human/2"
    assert str(SuiteName.parse("rewardbench")) == SuiteName("rewardbench").shown == "rewardbench"
