"""The result file: what is written is read, and anything else is named."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smorm.errors import DataError
from smorm.evaluation.metrics import Metric
from smorm.evaluation.result import (
    CauseKind,
    Failure,
    Result,
    parse_result,
    read_results,
    write_results,
)

RESULT = Result(
    kind="eval",
    suite="pairs/ID",
    model="SMORM",
    view="M",
    metrics={"accuracy": Metric(0.75, 400, 0.7, 0.8), "margin": Metric(1.5, 1)},
    items="scores.jsonl",
    fingerprint={"config": "0123456789abcdef", "seed": 3},
    notes=("2 pairs with equal scores count as half.",),
)


def changed(**fields):
    return {**RESULT.as_dict(), **fields}


def test_a_result_is_read_as_it_was_written(tmp_path):
    RESULT.write(tmp_path / "result.json")
    (again,) = read_results(tmp_path / "result.json")
    assert again.as_dict() == RESULT.as_dict()
    assert again.metrics["accuracy"] == RESULT.metrics["accuracy"]
    assert math.isnan(again.metrics["margin"].low)


def test_a_number_that_does_not_exist_is_null_in_the_file(tmp_path):
    RESULT.write(tmp_path / "result.json")
    written = json.loads((tmp_path / "result.json").read_text())
    assert written["metrics"]["margin"] == {"value": 1.5, "n": 1, "low": None, "high": None}
    assert list(written) == [
        "kind", "suite", "model", "view", "metrics", "items", "fingerprint", "notes",
    ]  # fmt: skip


def test_failures_are_written_and_read_and_old_notes_are_read_as_failures():
    failure = Failure("swapped", CauseKind.POOLING, "swapped: 3 of 9 keep their winner: pooling")
    written = replace(RESULT, failures=(failure,)).as_dict()
    assert written["failures"] == [
        {"test": "swapped", "cause": "pooling", "text": failure.text},
    ]
    assert parse_result(written, "here").failures == (failure,)
    old = parse_result(changed(notes=["failed: raw: activation", "9 pairs."]), "here")
    assert old.failures == (Failure("raw", CauseKind.UNKNOWN, "raw: activation"),)
    assert old.notes == ("9 pairs.",)
    later = {**written, "failures": [{"test": "new", "cause": "of later", "text": "new: ..."}]}
    assert parse_result(later, "here").failures[0].cause is CauseKind.UNKNOWN
    with pytest.raises(DataError, match=r"here: failures\[0\]: expected an object"):
        parse_result(changed(failures=["swapped"]), "here")


def test_chance_levels_are_written_and_read_and_may_be_missing():
    result = replace(RESULT, chance_levels={"accuracy": 0.5})
    assert result.as_dict()["chance"] == {"accuracy": 0.5}
    assert parse_result(result.as_dict(), "here").chance_levels == {"accuracy": 0.5}
    assert parse_result(changed(), "here").chance_levels == {}
    with pytest.raises(DataError, match=r"here: chance\.accuracy: expected a number"):
        parse_result(changed(chance={"accuracy": "half"}), "here")


def test_several_results_share_a_file(tmp_path):
    path = tmp_path / "result.json"
    other = parse_result(changed(view="F"), "here")
    write_results(path, [RESULT, other])
    assert [one.view for one in read_results(path)] == ["M", "F"]


def test_one_result_is_an_object_not_a_list(tmp_path):
    write_results(tmp_path / "result.json", [RESULT])
    assert json.loads((tmp_path / "result.json").read_text())["view"] == "M"


@given(
    st.dictionaries(
        st.text(max_size=8),
        st.builds(Metric, st.floats(-9, 9), st.integers(0, 99), st.just(-10.0), st.just(10.0)),
        max_size=4,
    ),
    st.lists(st.text(max_size=9), max_size=3),
)
def test_any_metrics_and_notes_survive_their_dictionary(metrics, notes):
    result = Result("eval", "s", "m", "v", metrics, [], {}, tuple(notes))
    assert parse_result(result.as_dict(), "here") == result


def test_notes_items_and_fingerprint_may_be_absent():
    value = RESULT.as_dict()
    for name in ("notes", "items", "fingerprint"):
        del value[name]
    assert parse_result(value, "here").notes == ()


METRIC = {"value": 0.5, "n": 3, "low": 0.1, "high": 0.9}
BAD = [
    ([], "expected an object"),
    ({"kind": "eval"}, "suite, model, view, metrics missing"),
    (changed(model=7), "model: expected text, got 7"),
    (changed(colour="red"), "colour: unknown field"),
    (changed(metrics=[1]), "metrics: expected an object"),
    (changed(metrics={"a": 0.5}), "metrics.a: expected an object, got 0.5"),
    (changed(metrics={"a": {"value": 1.0}}), "metrics.a.n: missing"),
    (changed(metrics={"a": {**METRIC, "n": -1}}), "metrics.a.n: expected a whole number"),
    (changed(metrics={"a": {**METRIC, "n": True}}), "metrics.a.n: expected a whole number"),
    (changed(metrics={"a": {**METRIC, "value": "0.5"}}), "metrics.a.value: expected a number"),
    (changed(metrics={"a": {**METRIC, "low": 2}}), "metrics.a: low 2 is above high 0.9"),
    (changed(items=3), "items: expected a path or a list"),
    (changed(fingerprint="abc"), "fingerprint: expected an object"),
    (changed(notes="one"), "notes: expected a list of texts"),
    (changed(notes=[1]), "notes: expected a list of texts"),
]


@pytest.mark.parametrize(("value", "message"), BAD)
def test_what_is_not_a_result_is_named_in_one_line(value, message):
    with pytest.raises(DataError, match=r"^run\.json: ") as caught:
        parse_result(value, "run.json")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_result_is_named_with_its_place(tmp_path):
    path = tmp_path / "list.json"
    path.write_text(json.dumps([RESULT.as_dict(), {"kind": "eval"}]))
    with pytest.raises(DataError, match=r"list.json\[1\]: not a result"):
        read_results(path)
    with pytest.raises(DataError, match="no such file"):
        read_results(tmp_path / "none.json")
