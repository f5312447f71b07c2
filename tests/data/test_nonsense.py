"""Ratings, margins and names without sense: refused in one short line that says the limit."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

from smorm.config import parse_config
from smorm.data.census import BadRecord, Census, Defect, DropReason
from smorm.data.reading import Source, parse_row, read_records
from smorm.data.scaling import AttributeScale
from smorm.errors import ConfigError, DataError
from smorm.model.card import ModelCard
from smorm.model.views import parse_view
from smorm.printing import brief, cut
from smorm.rewards.model import read_view
from tests.data.sources import jsonl, raw

RATED = {"prompt": "p", "response": "r"}
PAIR = {"prompt": "p", "chosen": "a", "rejected": "b"}


def told(row: dict[str, Any]) -> str:
    with pytest.raises(BadRecord) as caught:
        parse_row(row, "f:1", Census())
    message = str(caught.value)
    assert message.startswith("f:1: ")
    assert len(message) < 900
    assert len(message.splitlines()) == 1
    return message


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1e30, "scores.a: 1e+30, over the limit of 1,000,000,000 a rating; SMORM_LIMIT_RATING"),
        (-(10**10), "scores.a: -10000000000, over the limit of 1,000,000,000 a rating"),
        (10**400, "over the limit of 1,000,000,000 a rating"),
        (math.nan, "scores.a: nan, expected a finite number"),
        (math.inf, "scores.a: inf, expected a finite number"),
        (True, "scores.a: true, expected a number"),
        ([1, 1e30], "scores.a[1]: 1e+30, over the limit"),
        ([1, False], "scores.a[1]: false, expected a number"),
        ("1" * 20_000, "text of 20,000 characters, expected a number"),
    ],
    ids=range(9),
)
def test_a_rating_without_sense_is_refused(value: Any, expected: str) -> None:
    assert expected in told({**RATED, "scores": {"a": value}})


def test_large_ratings_are_read_up_to_the_limit() -> None:
    scores = {"a": 1e9, "b": -1e9, "c": 2_000_000, "d": 0}
    (record,) = parse_row({**RATED, "scores": scores}, "f:1", Census())
    assert record.scores == scores


def test_the_limit_of_a_rating_is_raised_by_its_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMORM_LIMIT_RATING", "1000000000000")
    (record,) = parse_row({**RATED, "scores": {"a": 1e12}}, "f:1", Census())
    assert record.scores == {"a": 1e12}


@pytest.mark.parametrize(
    ("margin", "expected"),
    [
        (math.inf, "margin: inf, expected a finite number"),
        (1e30, "margin: 1e+30, over the limit of 1,000,000,000 a rating"),
        (-0.5, "margin: -0.5, expected at least 0"),
    ],
)
def test_a_margin_without_sense_is_refused(margin: float, expected: str) -> None:
    assert expected in told({**PAIR, "margin": margin})


NAMES = [
    ("preference", "'preference' cannot be the name of an attribute"),
    ("", "'' cannot be the name of an attribute"),
    (" \t", "cannot be the name of an attribute"),
    ("a\nb", r"'a\\nb' cannot be the name of an attribute: it holds control characters"),
    ("\x1b]0;x\x07", "it holds control characters"),
    ("a\u202eb", "it holds control characters"),
    ("x" * 201, "201 characters, over the limit of 200 characters a name; SMORM_LIMIT_NAME"),
]


@pytest.mark.parametrize(("name", "expected"), NAMES)
def test_a_name_that_no_attribute_can_have_is_refused(name: str, expected: str) -> None:
    expected = expected.replace("\\\\", "\\")
    assert expected in told({**RATED, "scores": {name: 1.0}})
    with pytest.raises(ConfigError, match="attributes: ") as caught:
        Source("f", attributes=[name])
    assert expected in str(caught.value)
    for data in ({"attributes": [name]}, {"rated": {"path": "r", "attributes": {name: "c"}}}):
        with pytest.raises(ConfigError) as caught:
            parse_config(
                {"model": {"backbone": "b"}, "data": {"preference": "p", "rated": "r", **data},
                 "output": {"folder": "o"}}
            )  # fmt: skip
        assert expected in str(caught.value)


@pytest.mark.parametrize("name", ["می\u200cخواهم", "helpful\u00a0answer", "🧑\u200d🏫"])
def test_names_in_any_script_are_allowed(name: str) -> None:
    (record,) = parse_row({**RATED, "scores": {name: 1.0}}, "f:1", Census())
    assert record.scores == {name: 1.0}
    assert Source("f", attributes=[name]).attributes
    assert ModelCard((name,), (AttributeScale(name, 0.0, 1.0),)).attributes == (name,)


def test_an_attribute_that_is_named_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="the attribute 'a' is named twice"):
        Source("f", attributes=["a", "b", "a"])
    with pytest.raises(ConfigError, match="the attribute 'a' is named twice"):
        Source("f", columns={"scores": ["a", "a"]})


@pytest.mark.parametrize(
    "settings",
    [
        {"columns": {"prompt": ""}},
        {"columns": {"prompt": []}},
        {"columns": {"prompt": ["a", " "]}},
        {"ignore": [""]},
        {"ignore": ["a", " "]},
    ],
)
def test_an_empty_name_of_a_column_or_field_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"(columns: prompt|ignore): expected"):
        Source("f", **settings)


def test_attributes_have_a_limit_over_all_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{**RATED, "scores": {f"a{n}": 1, f"b{n}": 2}} for n in range(600)]
    path = jsonl(tmp_path / "r.jsonl", rows)
    with pytest.raises(DataError, match=r"r\.jsonl:501: scores: 1,002 attributes, over the limit"):
        list(read_records(Source(path), None, Census()))
    monkeypatch.setenv("SMORM_LIMIT_ATTRIBUTES", "1200")
    assert len(list(read_records(Source(path), None, Census()))) == 600


def test_ranked_answers_make_no_more_pairs_than_the_limit() -> None:
    answers = [{"response": f"r{n}", "score": n} for n in range(500)]
    expected = "responses: 124,750 pairs, over the limit of 100,000 pairs a row"
    source = Source("f", format="ranked")
    with pytest.raises(BadRecord, match=expected):
        parse_row({"prompt": "p", "responses": answers}, "f:1", Census(), source)


def test_a_conversation_has_a_limit_of_messages() -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}] * 5001
    expected = "chosen: 10,002 messages, over the limit of 10,000 messages a conversation; SMORM"
    assert expected in told({"chosen": turns, "rejected": turns})


@pytest.mark.slow
def test_a_line_of_30_mb_takes_little_memory(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "p.jsonl", [{**PAIR, "chosen": "x " * (15 << 20)}])
    code = (
        "import resource, sys\n"
        "from smorm.data.census import Census\n"
        "from smorm.data.reading import Source, read_records\n"
        "from smorm.errors import OverLimitError\n"
        "from smorm.text.chat import Renderer\n"
        "from smorm.text.limits import fit\n"
        "from smorm.text.tokenizers import train_bpe\n"
        "renderer = Renderer(train_bpe(['some text'] * 9, 300))\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "(record,) = read_records(Source(sys.argv[1]), None, Census())\n"
        "try:\n"
        "    fit(renderer, record.prompt, record.item.responses, 1000, 'error')\n"
        "except OverLimitError as error:\n"
        "    print(error)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    command = [sys.executable, "-c", code, str(path)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    said, kilobytes = run.stdout.splitlines()
    assert "over the limit of 4 MiB a conversation" in said
    assert int(kilobytes) < 400_000


def test_fields_of_ever_new_names_are_counted_together(tmp_path: Path) -> None:
    rows = [{**PAIR, f"field {n}": "a text"} for n in range(5000)]
    census = Census()
    list(read_records(Source(jsonl(tmp_path / "p.jsonl", rows)), None, census))
    assert len(census.counts) < 2100
    assert census[DropReason.CONTENT_NOT_READ] == 5000
    (line,) = census.lines()
    assert len(line) < 2000
    assert "and 1,961 other fields" in line


@pytest.mark.parametrize(
    "row",
    [
        {**PAIR, "chosen": [{"role": "x" * 20_000, "content": "a"}]},
        {**PAIR, "chosen": [{"role": "user", "y" * 20_000: "a"}]},
        {**PAIR, "chosen": [{"role": "user", "content": [{"type": "z" * 20_000}]}]},
        {"k" * 20_000: 1, "l" * 20_000: 2},
        {**RATED, "scores": {"s" * 20_000: "x"}},
        {**PAIR, "id": {"a": 1}, "margin": "m" * 20_000},
        {"chosen": "a", "rejected": "b", "f" * 20_000: "a text " * 30},
    ],
    ids=range(7),
)
def test_a_message_echoes_little_of_a_row(row: dict[str, Any]) -> None:
    told(row)


def test_what_is_shortened_keeps_both_ends() -> None:
    text = "begin " + "x" * 1000 + " end"
    assert len(cut(text, 600)) <= 600
    assert cut(text, 600).startswith("begin x")
    assert cut(text, 600).endswith("x end")
    assert cut("short", 600) == "short"
    assert brief("y" * 1000).startswith("'yyy")
    assert len(brief("y" * 1000)) <= 120


def test_a_deep_row_goes_into_the_quarantine_as_its_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = '{"meta": ' + "[" * 899 + "]" * 899 + "}"
    path = raw(tmp_path / "d.jsonl", f"{deep}\n{json.dumps(PAIR)}\n".encode())
    for levels, defect in ("100", Defect.TOO_DEEP), ("1000", Defect.UNKNOWN_SHAPE):
        monkeypatch.setenv("SMORM_LIMIT_DEPTH", levels)
        census, bad = Census(), tmp_path / f"{levels}.jsonl"
        assert len(list(read_records(Source(path), None, census, "skip", bad))) == 1
        assert census[DropReason.BAD_RECORD] == 1
        assert [reason.detail for reason in census.counts] == [defect]
        (line,) = bad.read_bytes().splitlines()
        assert orjson.loads(line)["row"]


@pytest.mark.parametrize(
    ("tools", "expected"),
    [
        ("[" * 5000 + "]" * 5000, "not valid JSON: nested deeper: over the limit of 100 levels"),
        ("[" * 120 + "]" * 120, "not valid JSON: nested deeper: over the limit of 100 levels"),
        ("[" + "9" * 5000 + "]", "5,000 digits, over the limit of 400 digits a number; SMORM_LIM"),
        ("[" + "{}," * 400_000 + "{}]", "800,002 values, over the limit of 500,000 values a row"),
    ],
    ids=range(4),
)
def test_json_that_stands_as_text_has_the_limits_of_a_row(
    monkeypatch: pytest.MonkeyPatch, tools: str, expected: str
) -> None:
    monkeypatch.setenv("SMORM_LIMIT_ROW_VALUES", "500000")
    assert expected in told({**PAIR, "tools": tools})


def test_a_text_that_only_looks_like_messages_stays_text() -> None:
    text = "[" * 200 + "]" * 200
    (record,) = parse_row({**PAIR, "prompt": text}, "f:1", Census())
    assert record.prompt[0].content == text


@pytest.mark.parametrize("levels", [101, 900, 5000])
@pytest.mark.parametrize("name", ["tools", "chat_template_kwargs", "scores"])
def test_json_text_of_many_levels_is_refused(name: str, levels: int) -> None:
    row = {"prompt": "p", "response": "r", "scores": {"a": 1}}
    text = "[" * levels + "]" * levels
    told({**row, name: f'{{"a": {text}}}'})


@pytest.mark.parametrize("levels", [101, 5000])
def test_a_view_of_many_levels_is_refused(levels: int) -> None:
    with pytest.raises(ConfigError):
        parse_view(read_view('{"a": ' * levels + "1" + "}" * levels), ["a"])


def test_a_conversation_of_too_many_messages_is_refused() -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}] * 5001
    message = told({"messages": turns})
    assert "10,002 messages, over the limit of 10,000 messages a conversation" in message
