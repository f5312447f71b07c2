"""Scores written as rated records, that training reads as one more attribute."""

from __future__ import annotations

import pytest

from smorm.data.census import Census
from smorm.data.reading import Source, read_records
from smorm.data.records import Rated
from tests.stress.made_up import read_lines, write_rows
from tests.tiny import trained

LENGTH = "tests.stress.made_up:half_length"
ROWS = [
    {"id": "a", "prompt": "p1", "responses": ["a b c", None, "", "a b"]},
    {"id": 2, "prompt": [{"role": "user", "content": "p2"}], "responses": ["x y"]},
    {"id": 3, "prompt": "p3"},
    {"id": 4, "prompt": "p4", "chosen": "x", "rejected": "y y"},
]
RATED = [
    {"id": "a", "prompt": "p1", "response": "a b c", "scores": {"teacher": 1.5}},
    {"id": "a", "prompt": "p1", "response": "a b", "scores": {"teacher": 1.0}},
    {
        "id": 2,
        "prompt": [{"role": "user", "content": "p2"}],
        "response": [{"role": "assistant", "content": "x y"}],
        "scores": {"teacher": 1.0},
    },
    {"id": 4, "prompt": "p4", "response": "x", "scores": {"teacher": 0.5}},
    {"id": 4, "prompt": "p4", "response": "y y", "scores": {"teacher": 1.0}},
]


@pytest.fixture
def source(tmp_path):
    return write_rows(tmp_path / "in.jsonl", ROWS)


def test_answers_with_a_score_become_rated_records_that_are_read(smorm, source, tmp_path):
    output = tmp_path / "out.jsonl"
    words = ("--input", source, "--output", output, "--as-rated", "teacher", "--skip-bad")
    code, said, err = smorm("score", LENGTH, *words)
    assert code == 0, err
    assert "5 answers rated as teacher" in said
    assert "empty answer, not rated: 1" in err
    assert "answer without a score, not rated: bad record: 2" in err
    assert read_lines(output) == RATED
    records = list(read_records(Source(str(output)), None, Census(), "stop"))
    assert all(isinstance(record, Rated) for record in records)
    assert [record.scores for record in records] == [row["scores"] for row in RATED]


def test_joined_shards_give_the_same_records(smorm, source, tmp_path):
    output, scores = tmp_path / "out.jsonl", tmp_path / "scores.jsonl"
    words = ("score", LENGTH, "--input", source, "--skip-bad", "--output", scores)
    code, _, err = smorm(*words, "--as-rated", "teacher", "--shards", "1/2")
    assert code == 2
    assert "smorm pick SCORES --as-rated" in err
    assert err.count("\n") == 1
    for shard in ("1/2", "2/2"):
        assert smorm(*words, "--shards", shard)[0] == 0
    assert smorm("join", scores)[0] == 0
    words = ("pick", scores, "--input", source, "--output", output, "--as-rated", "teacher")
    code, said, err = smorm(*words)
    assert code == 0, err
    assert "5 answers rated as teacher" in said
    assert read_lines(output) == RATED


def test_an_ensemble_is_standardised_over_its_input(smorm, tmp_path):
    rows = [{"prompt": f"p{i}", "responses": ["x " * (i + 1), "y"]} for i in range(12)]
    source, output = write_rows(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    words = ("--combine", "mean", "--input", source, "--output", output, "--as-rated", "teacher")
    code, said, err = smorm("score", trained(), LENGTH, *words)
    assert code == 0, err
    assert "each reward is standardised over it" in said
    values = [row["scores"]["teacher"] for row in read_lines(output)]
    assert len(values) == 24
    assert sum(values) == pytest.approx(0, abs=1e-6)
    code, _, err = smorm("score", LENGTH, trained(), *words, "--columns", "prompt=prompt")
    assert code == 2
    assert "--standardise" in err


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("--as-rated", "preference"), "name of the other head"),
        (("--as-rated", "teacher", "--keep", "id"), "--keep"),
    ],
)
def test_what_cannot_be_rated_is_refused(smorm, source, tmp_path, words, problem):
    words = ("--input", source, "--output", tmp_path / "out", *words)
    code, _, err = smorm("score", LENGTH, *words)
    assert code == 2
    assert problem in err
    assert not (tmp_path / "out").exists()


def test_an_interrupted_run_without_the_option_is_gone_on_from(smorm, source, tmp_path):
    output = tmp_path / "out.jsonl"
    # A line that cannot be scored stops it, in the second chunk of 512.
    rows = [{"prompt": f"p{i}", "response": "x y"} for i in range(513)]
    rows[512].pop("response")
    write_rows(source, rows)
    words = ("score", LENGTH, "--input", source, "--output", output)
    assert smorm(*words)[0] == 3
    assert (tmp_path / "out.jsonl.part").exists()
    code, said, err = smorm(*words, "--resume", "--skip-bad", "--as-rated", "teacher")
    assert code == 0, err
    assert "512 answers rated as teacher" in said


def test_no_rated_answer_is_refused(smorm, tmp_path):
    source = write_rows(tmp_path / "in.jsonl", [{"prompt": "p", "responses": ["", " "]}])
    words = ("--input", source, "--output", tmp_path / "out", "--as-rated", "teacher")
    code, _, err = smorm("score", LENGTH, *words)
    assert code == 3
    assert "no answer to rate (empty answer, not rated 2)" in err
    assert not (tmp_path / "out").exists()
