"""Every response gets its score or its reason in the file's order; ids and fields are kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import orjson
import pytest

from smorm.arrays import Floats
from smorm.data.census import Census, DropReason
from smorm.data.reading import Source, read_records
from smorm.data.records import Item
from smorm.errors import DataError
from smorm.evaluation.suites import Suite, run_suite
from smorm.rewards.field import FieldReward, FileReward
from smorm.rewards.model import ModelReward
from smorm.rewards.protocol import ScoringOptions, SingleReward
from smorm.rewards.scores_file import JobReport, score_file
from smorm.scoring.reward_model import RewardModel
from smorm.text.limits import Unscored, UnscoredReason
from tests.tiny import trained


class Length(SingleReward):
    """Characters of each answer; none of an item with an answer that says "refuse"."""

    def values(self, item: Item) -> Floats | Unscored:
        if any("refuse" in text for text in item.texts):
            return Unscored(UnscoredReason.REFUSED, "it says refuse")
        return np.array([float(len(text)) for text in item.texts])


def score(rows: list[dict], folder: Path, **options) -> tuple[list[dict], JobReport]:
    """The lines of rows by the length of their answers, bad ones skipped."""
    path, source_options = folder / "in.jsonl", options.pop("source", {})
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    reward = options.pop("reward", None) or Length()
    report = score_file(
        reward, Source(path, **source_options), folder / "out", on_bad_record="skip", **options
    )
    return [orjson.loads(line) for line in (folder / "out").read_bytes().splitlines()], report


def views(line: dict) -> list[float | None]:
    """The values of a line with several responses, None for one without a score."""
    return [response.get("view") for response in line["responses"]]


def test_a_response_that_is_not_usable_leaves_the_others(tmp_path):
    rows = [
        {"id": 1, "prompt": "p", "responses": ["abc", None, "a"]},
        {"id": 2, "prompt": "p", "responses": [None, {"response": "ab"}, {"error": "timeout"}]},
        {"id": 3, "prompt": "p", "responses": [[{"role": "user", "content": "x"}], "abcd"]},
        {"id": 4, "prompt": "p", "responses": ["", "abcd"]},
        {"id": 5, "prompt": "p", "responses": [None, None]},
        {"id": 6, "prompt": "p", "chosen": "ab", "rejected": None},
        {"id": 7, "prompt": "p", "chosen": "ab", "rejected": ["a", None, "abc"]},
        {"id": 8, "prompt": "p", "responses": ["a", {"role": "assistant", "content": "ab"}]},
    ]
    lines, report = score(rows, tmp_path)
    assert [line["id"] for line in lines] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert list(map(views, lines)) == [
        [3, None, 1], [None, 2, None], [None, 4], [0, 4], [None, None], [2, None], [2, 1, None, 3],
        [1, 2],
    ]  # fmt: skip
    assert set(lines[0]["responses"][1]) == {"error"}
    assert "in.jsonl:1: responses[1]: null, expected text" in lines[0]["responses"][1]["error"]
    assert "rejected[1]: null" in lines[6]["responses"][2]["error"]
    assert (report.lines, report.responses, report.errors, report.unscored) == (8, 12, 1, 6)


def test_a_response_that_the_reward_refuses_leaves_the_others(tmp_path):
    rows = [{"prompt": "p", "responses": ["abc", "I refuse.", None, "a"]}]
    (line,), report = score(rows, tmp_path)
    assert views(line) == [3, None, None, 1]
    assert line["responses"][1]["error"].endswith("in.jsonl:1: it says refuse")
    (census,) = report.counted.values()
    assert census[DropReason.UNSCORED_RESPONSE] == 2


@pytest.mark.parametrize("overlong", ["error", "drop", "truncate_prompt"])
def test_an_answer_over_the_limit_leaves_the_others(tmp_path, overlong):
    model = ModelReward(RewardModel.load(trained()), options=ScoringOptions(overlong=overlong))
    rows = [{"prompt": "p", "responses": ["yes", "word " * 500, "no"]}]
    (line,), _ = score(rows, tmp_path, reward=model)
    expected = model.score_records([("p", "yes"), ("p", "no")])
    found = views(line)
    assert found[1] is None
    assert [found[0], found[2]] == pytest.approx(expected.tolist(), abs=1e-6)


def test_a_bad_row_keeps_its_id_and_the_fields_that_are_kept(tmp_path):
    rows = [
        {"id": 0.5, "prompt": "p", "model": "m1"},
        {"id": True, "prompt": None, "response": "r", "model": "m2", "meta": {"lang": "en"}},
        {"id": "x", "prompt": "p", "response": "ab", "meta": {"lang": "fr", "n": [1, 2]}},
    ]
    lines, report = score(rows, tmp_path, keep=["model", "meta.lang", "meta"])
    assert [line["id"] for line in lines] == [0.5, True, "x"]
    assert [line["model"] for line in lines] == ["m1", "m2", None]
    assert [line["meta.lang"] for line in lines] == [None, "en", "fr"]
    assert lines[2]["meta"] == rows[2]["meta"]
    assert [line.get("view") for line in lines] == [None, None, 2]
    assert report.errors == 2


def test_the_id_of_another_column_is_kept_too(tmp_path):
    rows = [{"uid": "x-9", "prompt": "p", "response": "ab"}, {"uid": "x-10", "prompt": "p"}]
    lines, _ = score(rows, tmp_path, source={"columns": {"id": "uid"}})
    assert [line["id"] for line in lines] == ["x-9", "x-10"]


def test_by_default_the_first_bad_response_stops_and_names_the_way_on(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_bytes(orjson.dumps({"prompt": "p", "responses": ["a", None]}))
    with pytest.raises(DataError, match=r"in\.jsonl:1: responses\[1\]: null.*--skip-bad"):
        score_file(Length(), Source(path), tmp_path / "out")


def test_fields_that_no_row_has_or_that_are_computed_are_refused(tmp_path):
    rows = [{"prompt": "p", "response": "ab"}]
    with pytest.raises(DataError, match="--keep modle: no row has it"):
        score(rows, tmp_path, keep=["modle"])
    with pytest.raises(ValueError, match="--keep view: a scores file has a field of that name"):
        score(rows, tmp_path, keep=["view"])


def test_responses_stand_as_in_the_file_whatever_was_judged_of_them(tmp_path):
    judged = {"prompt": "p", "responses": ["a", "ab", "abc"], "correct": [False, True, True]}
    cases = [
        ("auto", {"prompt": "p", "chosen": ["abc"], "rejected": ["a", "ab"]}, [3, 1, 2]),
        ("rewardbench2", {"prompt": "p", "chosen": ["abc"], "rejected": ["a", "ab"]}, [3, 1, 2]),
        ("best_of_k", judged, [1, 2, 3]),
        ("best_of_k", {**judged, "correct": [True, True, True]}, [1, 2, 3]),
        ("ab", {"prompt": "p", "response_a": "a", "response_b": "ab", "label": "b"}, [1, 2]),
        ("ab", {"prompt": "p", "response_a": "ab", "response_b": "a", "label": "tie"}, [2, 1]),
        ("ranked", {"prompt": "p", "responses": ["abc", "a", "ab"], "ranks": [3, 1, 2]}, [3, 1, 2]),
        ("ranked", {"prompt": "p", "responses": [{"response": "a", "rank": 2}, {"rank": 1}]},
         [1, None]),
    ]  # fmt: skip
    for form, row, expected in cases:
        (line,), report = score([row], tmp_path, source={"format": form})
        assert views(line) == expected, form
        (census,) = report.counted.values()
        # What was judged is no content that is lost.
        assert form == "best_of_k" or not census[DropReason.CONTENT_NOT_READ], form


def test_items_of_a_benchmark_and_fields_beside_answers_follow_the_file(tmp_path):
    rows = [
        {"prompt": f"p{i}", "responses": ["a", "ab", "abc"], "correct": [False, False, True],
         "gold": [1.0, 2.0, 3.0]}
        for i in range(3)
    ]  # fmt: skip
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"\n".join(map(orjson.dumps, rows)))
    for reward in (Length(), FieldReward("gold")):
        (result,) = run_suite(reward, Suite("best-of-k", Source(path, "best_of_k")))
        assert [item["scores"] for item in result.items] == [[1, 2, 3]] * 3
        assert result.metrics["overall"].value == 1.0
    (record,) = list(read_records(Source(path, "best_of_k", limit=1), None, Census()))
    assert (record.chosen, record.places) == (1, (2, 0, 1))


def test_a_scores_file_with_errors_is_a_reward_without_those_lines(tmp_path):
    rows = [{"id": i, "prompt": "p", "responses": ["a", "ab"]} for i in range(3)]
    rows[1]["responses"][0] = None
    _, before = score(rows, tmp_path)
    (tmp_path / "out").rename(tmp_path / "scores.jsonl")
    lines, report = score(rows, tmp_path, reward=FileReward(str(tmp_path / "scores.jsonl")))
    assert [views(line) for line in lines] == [[1, 2], [None, None], [1, 2]]
    assert (before.errors, before.unscored, report.errors) == (0, 1, 1)
