"""`smorm pick`: the best, the worst, or pairs of both, by the scores of a file."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from smorm.data.census import Census
from smorm.data.reading import Source, read_preferences
from tests.stress.made_up import read_lines, write_rows
from tests.tiny import trained, world

ROWS = [
    {"id": "a", "prompt": "p1", "responses": ["abc", None, "a", "ab"]},
    {"id": 2, "prompt": "p2", "responses": ["xy", "zw"]},
    {"id": 3, "prompt": "p3", "responses": ["x", "xyz12"]},
    {"id": 4, "prompt": "p4", "response": "alone"},
    {"id": 5, "prompt": "p5"},
    {"id": 6, "prompt": "p6", "chosen": "x", "rejected": "yy"},
]
LENGTH = "tests.stress.made_up:half_length"


@pytest.fixture
def scored(smorm, tmp_path) -> tuple[Path, Path]:
    """An input and its scores: half the words of an answer."""
    rows = orjson.loads(orjson.dumps(ROWS))
    for row in rows:
        for name in ("chosen", "rejected", "response"):
            if name in row:
                row[name] = " ".join(row[name])
        if "responses" in row:
            row["responses"] = [text and " ".join(text) for text in row["responses"]]
    source = write_rows(tmp_path / "in.jsonl", rows)
    code, _, err = smorm(
        "score", LENGTH, "--input", source, "--output", tmp_path / "scores", "--skip-bad"
    )
    assert code == 0, err
    return source, tmp_path / "scores"


def test_best_and_worst_are_picked(smorm, scored, tmp_path):
    source, scores = scored
    code, said, err = smorm("pick", scores, "--best", "--input", source, "--output", tmp_path / "b")
    assert code == 0, err
    assert "5 of 6 lines give a row" in said
    assert read_lines(tmp_path / "b") == [
        {"id": "a", "prompt": "p1", "response": "a b c", "score": 1.5},
        {"id": 2, "prompt": "p2", "response": "x y", "score": 1.0},
        {"id": 3, "prompt": "p3", "response": "x y z 1 2", "score": 2.5},
        {"id": 4, "prompt": "p4", "response": "a l o n e", "score": 2.5},
        {"id": 6, "prompt": "p6", "response": "y y", "score": 1.0},
    ]
    assert "line without any score, left out: 1" in err
    assert "answer without a score, left out: 1" in err
    assert "score shared by several answers: the first of them is taken: 1" in err
    code, _, err = smorm("pick", scores, "--worst", "--input", source, "--output", tmp_path / "w")
    assert code == 0, err
    assert [row["response"] for row in read_lines(tmp_path / "w")][:3] == ["a", "x y", "x"]


def test_pairs_have_a_margin_and_are_preferences(smorm, scored, tmp_path):
    source, scores = scored
    words = ("pick", scores, "--pairs", "--input", source, "--output", tmp_path / "pairs.jsonl")
    code, _, err = smorm(*words)
    assert code == 0, err
    rows = read_lines(tmp_path / "pairs.jsonl")
    assert rows[0] == {
        "id": "a", "prompt": "p1", "chosen": "a b c", "rejected": "a", "margin": 1.0
    }  # fmt: skip
    assert [row["id"] for row in rows] == ["a", 3, 6]
    assert "line of equal scores: no pair: 1" in err
    assert "line with one scored answer: no pair: 1" in err
    pairs = list(read_preferences(Source(tmp_path / "pairs.jsonl"), Census()))
    assert [pair.margin for pair in pairs] == [1.0, 2.0, 0.5]
    code, _, err = smorm(*words, "--min-margin", "0.9")
    assert code == 0, err
    assert [row["id"] for row in read_lines(tmp_path / "pairs.jsonl")] == ["a", 3]
    assert "margin below --min-margin: no pair: 1" in err


def test_messages_tools_and_columns_stay_as_they_are(smorm, tmp_path):
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f"}}]}
    rows = [
        {"question": "p", "answers": ["a b", "a"]},
        {"question": [{"role": "user", "content": "p"}], "answers": ["a", "a b"]},
        {"question": "p", "answers": [[call], "a b"], "tools": [{"name": "f"}]},
    ]
    source = write_rows(tmp_path / "in.jsonl", rows)
    columns = ("--columns", "prompt=question,responses=answers")
    values = ((1, 0.5), (0, 1), (0, 1))
    scores = [{"id": None, "responses": [{"view": a}, {"view": b}]} for a, b in values]
    write_rows(tmp_path / "s", scores)
    code, _, err = smorm(
        "pick", tmp_path / "s", "--pairs", "--input", source, "--output", tmp_path / "o", *columns
    )
    assert code == 0, err
    text, messages, tools = read_lines(tmp_path / "o")
    assert text == {"prompt": "p", "chosen": "a b", "rejected": "a", "margin": 0.5}
    assert messages["prompt"] == [{"role": "user", "content": "p"}]
    assert messages["chosen"] == [{"role": "assistant", "content": "a b"}]
    assert tools["tools"] == [{"name": "f"}]
    assert tools["rejected"] == [call]
    assert tools["prompt"] == [{"role": "user", "content": "p"}]


def test_scores_of_another_file_are_refused(smorm, scored, tmp_path):
    source, scores = scored
    lines = source.read_bytes().splitlines(keepends=True)
    others = {
        "shorter": lines[:-1],
        "longer": [*lines, b'\n{"id": 7, "prompt": "p", "response": "r"}'],
        "another order": [lines[1], lines[0], *lines[2:]],
        "another number of answers": [lines[0].replace(b"null", b'"x", "y"'), *lines[1:]],
        "an answer less": [lines[0].replace(b'"a b"', b"null"), *lines[1:]],
    }
    for name, content in others.items():
        path = tmp_path / "other.jsonl"
        path.write_bytes(b"".join(content))
        code, _, err = smorm("pick", scores, "--best", "--input", path, "--output", tmp_path / "o")
        assert code == 3, name
        assert f"{scores}: are not the scores of {path}" in err, name
        assert not (tmp_path / "o").exists()


def test_what_is_asked_for_must_be_clear(smorm, scored, tmp_path):
    source, scores = scored
    words = ("pick", scores, "--input", source, "--output", tmp_path / "o")
    for more in ((), ("--best", "--pairs")):
        code, _, err = smorm(*words, *more)
        assert code == 2
        assert "one of --best, --worst, --pairs and --as-rated" in err
    assert smorm(*words, "--best", "--min-margin", "1")[0] == 2
    assert smorm(*words, "--pairs", "--min-margin", "-1")[0] == 2
    code, _, err = smorm("pick", source, "--best", "--input", source, "--output", tmp_path / "o")
    assert code == 3
    assert "view: None, expected a number as smorm score writes it" in err
    code, _, err = smorm(*words, "--pairs", "--min-margin", "50")
    assert code == 3
    assert "no line to pick from" in err


def test_pairs_of_a_model_prefer_what_it_prefers(smorm, tmp_path):
    pairs = world()["eval-pairs-ID"]
    code, _, err = smorm("score", trained(), "--input", pairs, "--output", tmp_path / "s")
    assert code == 0, err
    code, _, err = smorm(
        "pick", tmp_path / "s", "--pairs", "--input", pairs, "--output", tmp_path / "o"
    )
    assert code == 0, err
    rows = read_lines(tmp_path / "o")
    scores = [[one["view"] for one in line["responses"]] for line in read_lines(tmp_path / "s")]
    margins = [abs(first - second) for first, second in scores if first != second]
    assert [row["margin"] for row in rows] == pytest.approx(margins)
