"""Scoring a file: a line for each line, in order, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from smorm import RewardModel
from smorm.data.census import Census, DropReason
from smorm.data.reading import Source
from smorm.errors import DataError
from smorm.rewards.model import ModelReward
from smorm.rewards.protocol import ScoringOptions
from smorm.rewards.scores_file import JobReport, score_file
from tests.tiny import trained, world


@pytest.fixture(scope="module")
def model() -> RewardModel:
    return RewardModel.load(trained())


def write(path: Path, rows: list) -> Path:
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return path


def lines_of(path: Path) -> list[dict]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def counts(report: JobReport) -> Census:
    """What was counted of a reward that is no ensemble."""
    (census,) = report.counted.values()
    return census


def test_each_line_gives_a_line_with_the_fields_of_the_contract(model, tmp_path):
    rows = [{"id": f"r{i}", "prompt": f"p{i}", "response": "word " * (i + 1)} for i in range(7)]
    report = score_file(
        ModelReward(model), Source(write(tmp_path / "in.jsonl", rows)), tmp_path / "out.jsonl"
    )
    found = lines_of(tmp_path / "out.jsonl")
    assert [line["id"] for line in found] == [row["id"] for row in rows]
    assert all(
        set(line) == {"id", "preference", "attributes", "view", "tokens", "truncated"}
        for line in found
    )
    assert set(found[0]["attributes"]) == set(model.attributes)
    assert (report.lines, report.responses, report.errors) == (7, 7, 0)
    expected = model.score([(row["prompt"], row["response"]) for row in rows]).view()
    assert [line["view"] for line in found] == pytest.approx(expected.tolist(), abs=1e-6)


def test_lines_with_several_responses_list_them_in_order(model, tmp_path):
    rows = [
        {"prompt": "p", "responses": ["a", "b", "c"]},
        {"prompt": "p", "chosen": "x", "rejected": "y"},
        {"prompt": "p", "chosen": "same", "rejected": "same"},
        {"prompt": "p", "response": "z", "scores": {"style": 1}},
    ]
    score_file(
        ModelReward(model), Source(write(tmp_path / "in.jsonl", rows)), tmp_path / "out", view="F"
    )
    found = lines_of(tmp_path / "out")
    assert [len(line.get("responses", [0])) for line in found] == [3, 2, 2, 1]
    expected = model.score([("p", "x"), ("p", "y")], "F").view().tolist()
    assert [r["view"] for r in found[1]["responses"]] == pytest.approx(expected, abs=1e-6)


def test_a_bad_line_stops_and_leaves_the_older_output_as_it_was(model, tmp_path):
    source = write(tmp_path / "in.jsonl", [{"prompt": "p", "response": "r"}, {"prompt": "p"}])
    (tmp_path / "out").write_text("older")
    with pytest.raises(DataError, match=r"in\.jsonl:2: "):
        score_file(ModelReward(model), Source(source), tmp_path / "out")
    assert (tmp_path / "out").read_text() == "older"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.jsonl", "out"]


def test_under_skip_a_bad_line_gets_an_error_object_in_its_place(model, tmp_path):
    good = {"prompt": "p", "response": "r"}
    source = tmp_path / "in.jsonl"
    source.write_bytes(
        orjson.dumps(good) + b"\n{broken\n" + orjson.dumps({"prompt": 3, "response": "r"}) + b"\n"
        + orjson.dumps({"prompt": "word " * 500, "response": "r"}) + b"\n" + orjson.dumps(good)
    )  # fmt: skip
    report = score_file(ModelReward(model), Source(source), tmp_path / "out", on_bad_record="skip")
    found = lines_of(tmp_path / "out")
    assert ["error" in line for line in found] == [False, True, True, True, False]
    assert "in.jsonl:2" in found[1]["error"]
    assert "tokens and the limit" in found[3]["error"]
    assert (report.errors, counts(report)[DropReason.UNSCORED_LINE]) == (3, 3)


def test_a_shortened_prompt_is_told_in_its_line_and_counted(model, tmp_path):
    source = write(tmp_path / "in.jsonl", [{"prompt": "word " * 500, "response": "r"}])
    report = score_file(
        ModelReward(model, options=ScoringOptions(overlong="truncate_prompt")), Source(source),
        tmp_path / "out",
    )  # fmt: skip
    assert lines_of(tmp_path / "out")[0]["truncated"] is True
    assert counts(report)[DropReason.SHORTENED] == 1


def test_more_lines_than_a_chunk_keep_their_order(model, tmp_path, monkeypatch):
    monkeypatch.setattr("smorm.rewards.chunks.CHUNK", 3)
    rows = [{"id": str(i), "prompt": "p", "response": f"answer {i}"} for i in range(10)]
    done: list[tuple[int, int]] = []
    score_file(
        ModelReward(model),
        Source(write(tmp_path / "in.jsonl", rows)),
        tmp_path / "out",
        progress=lambda count, total: done.append((count, total)),
    )
    assert [line["id"] for line in lines_of(tmp_path / "out")] == [str(i) for i in range(10)]
    assert {3, 6, 9, 10} <= {count for count, _ in done}
    assert done == sorted(done)
    assert {total for _, total in done} == {10}


def test_pairs_of_the_world_score_like_the_python_interface(model, tmp_path):
    score_file(ModelReward(model), Source(world()["eval-pairs-ID"]), tmp_path / "out", view="M")
    rows = [orjson.loads(line) for line in world()["eval-pairs-ID"].read_bytes().splitlines()]
    expected = model.score(rows, "M").view().reshape(-1, 2)
    found = [[r["view"] for r in line["responses"]] for line in lines_of(tmp_path / "out")]
    assert found == [pytest.approx(row.tolist(), abs=1e-6) for row in expected]
