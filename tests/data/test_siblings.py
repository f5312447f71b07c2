"""Siblings of the inputs that others have: other names, nesting and spellings.

Each is read as it was meant, or refused with a sentence that says what the source could say; and
what that sentence says reads the row.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import pytest
import yaml

from smorm.data.census import BadRecord, Census, DropReason, Reason
from smorm.data.messages import Spelling
from smorm.data.reading import Source, parse_row, read_records
from smorm.data.records import Candidates, Preference, Rated
from smorm.errors import DataError
from tests.data.foreign_rows import CALL, TOOLS, spoken
from tests.data.sources import A, U, jsonl, say, turns

SIDES = {"chosen": "good", "rejected": "bad"}
NAMED = [
    # a row as others have it, and what its refusal proposes
    ({"Prompt": "q", "Chosen": "good", "Rejected": "bad"}, "preference"),
    ({" prompt": "q", "chosen ": "good", "rejected": "bad"}, "preference"),
    ({"prompt": "q", "win": "good", "lose": "bad"}, "preference"),
    ({"prompt": "q", "accepted": "good", "rejected": "bad"}, "preference"),
    ({"prompt": "q", "preferred": "good", "dispreferred": "bad"}, "preference"),
    ({"query": "q", "pos": ["good"], "neg": ["bad"]}, "preference"),
    ({"question": "q", "answer_chosen": "good", "answer-rejected": "bad"}, "preference"),
    ({"prompt": "q", "chosen": "good", "rejected_responses": ["bad", "worse"]}, "preference"),
    ({"prompt": None, "question": "q", **SIDES}, "preference"),
    ({"prompt": " ", "question": "q", **SIDES}, "preference"),
    ({"data": {"prompt": "q", **SIDES}}, "preference"),
    ({"row_idx": 3, "row": {"prompt": "q", **SIDES}}, "preference"),
    ({"Question Text": "q", "Good Answer": "good", "Bad Answer": "bad"}, "preference"),
    ({"data": {"input": {"messages": say((U, "q"))}, "outputs": SIDES}}, "preference"),
    ({"dialog": say((U, "q")), **SIDES}, "preference"),
    ({"turns": say((U, "q")), **SIDES}, "preference"),
    ({"prompt": {"text": "q"}, **SIDES}, "preference"),
    ({"instruction": "q", "output_1": "bad", "output_2": "good", "winner": "b"}, "preference"),
    ({"question": "q", "answer_a": "good", "answer_b": "bad", "winner": "model_a"}, "preference"),
    ({"prompt": "q", "response_a": "good", "response_b": "bad", "label": "A>>B"}, "preference"),
    ({"prompt": "q", "responses": ["bad", "good"], "ratings": [1, 2]}, "preference"),
    ({"prompt": "q", "generations": ["good", "bad"], "scores": [2, 1]}, "preference"),
    ({"query": "q", "answer": "good", "rating": 4}, "rated"),
    ({"query": "q", "answer": "good", "rating": "4"}, "rated"),
    ({"prompt": "q", "completion": "good", "reward": True}, "rated"),
    ({"prompt": "q", "completion": "good", "label": "True"}, "rated"),
    ({"text": "good", "label": 1}, "rated"),
    ({"conversation": say((U, "q"), (A, "good")), "score": 3}, "rated"),
    ({"instruction": "q", "input": "i", "output": ["good", "bad"]}, "candidates"),
    ({"instruction": "q", "candidates": ["good", "bad"]}, "candidates"),
    ({"prompt": "q", "completions": ["good"]}, "candidates"),
    ({"input": "q", "output": "good"}, "candidates"),
]  # fmt: skip
TYPES = {"preference": Preference, "rated": Rated, "candidates": Candidates}


def read(row: Any, census: Census | None = None, **settings: Any) -> list[Any]:
    return parse_row(row, "d:1", census or Census(), Source("d", **settings))


def proposed(problem: str) -> dict[str, Any]:
    """The keys of a source that a sentence names."""
    for start in ("it may be read with ", "Say which is the prompt (", "may be named ("):
        _, found, keys = problem.partition(start)
        if found:
            keys = keys if "read with" in start else keys.partition(")")[0]
            return dict(yaml.safe_load("{" + keys.partition(")")[0] + "}"))
    raise AssertionError(problem)


@pytest.mark.parametrize(("row", "kind"), NAMED)
def test_what_a_refusal_proposes_reads_the_row(tmp_path, row, kind):
    path = jsonl(tmp_path / "d.jsonl", [row])
    with pytest.raises(DataError) as caught:
        list(read_records(Source(path), kind, Census()))
    records = read(row, **proposed(str(caught.value)))
    assert isinstance(records[0], TYPES[kind])
    if kind == "preference":
        assert records[0].chosen[-1].content == "good"
    assert "q" in "".join(message.content for message in records[0].prompt) or "text" in row


IN_MEMORY = [
    *(row for row, _ in NAMED if "responses" not in row),
    {"prompt": "q"},
    {"text": "q"},
    {"id": [1], "prompt": "q", "response": "a"},
    {"prompt": {"text": "q"}, "response": "a"},
]


@pytest.mark.parametrize("row", IN_MEMORY)
def test_a_row_in_memory_is_refused_without_the_keys_of_a_file(row):
    with pytest.raises(DataError) as caught:
        parse_row(row, "record 1", Census())
    for key in ("columns", "ignore", "booleans", "numbers_in_text"):
        assert key not in str(caught.value)


READ = {
    "list of one answer": ({"prompt": "q", "chosen": ["good"], "rejected": ["bad"]}, ["good"]),
    "lists of one message": ({"messages": say((U, "q")), "chosen": say((A, "good")),
                              "rejected": say((A, "bad"))}, ["good"]),
    "rejected beside messages": ({"messages": say((U, "q"), (A, "good")), "rejected": "bad"},
                                 ["good"]),
    "a source that is no text": ({"prompt": "q", **SIDES, "source": ["a", "b"]}, ["good"]),
}  # fmt: skip


@pytest.mark.parametrize("name", list(READ))
def test_siblings_that_leave_no_doubt_are_read(name):
    row, chosen = READ[name]
    (pair,) = read(row)
    assert pair.prompt == turns((U, "q"))
    assert [message.content for message in pair.chosen] == chosen
    assert pair.rejected == turns((A, "bad"))


FUNCTION = CALL["function"]
CALLS = [
    [{"role": A, "content": None, "tool_calls": [CALL]}],
    [{"role": A, "tool_calls": [CALL]}],
    [{"role": A, "content": "", "tool_calls": json.dumps([CALL])}],
    [{"role": A, "content": "", "tool_calls": [json.dumps(CALL)]}],
    [{"role": A, "content": None, "function_call": FUNCTION}],
    [{"from": "function_call", "value": json.dumps(FUNCTION)}],
    [{"role": "tool_call", "content": json.dumps([FUNCTION])}],
]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("role", ["tool", "ipython", "observation", "function", "tool_response"])
def test_calls_and_their_results_are_the_same_in_every_spelling(call, role):
    prompt = [spoken(U, "Weather in Oslo?"), *call, spoken(role, "3")]
    (pair,) = read({"prompt": prompt, **SIDES})
    _, called, result = pair.prompt
    (found,) = called.as_dict()["tool_calls"]
    assert (called.role, found["function"]) == (A, FUNCTION)
    assert result == turns(("tool", "3"))[0]


@pytest.mark.parametrize("tools", [TOOLS, json.dumps(TOOLS), list(map(json.dumps, TOOLS))])
def test_tools_are_the_same_in_every_spelling(tools):
    census = Census()
    (pair,) = read({"prompt": say((U, "q")), **SIDES, "tools": tools}, census)
    assert json.loads(pair.prompt[0].content) == {"tools": TOOLS}
    assert census.count(Reason(Spelling.JSON_TEXT, "tools")) == (tools is not TOOLS)


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_comes_to_the_template_under_the_key_that_it_has(key):
    (pair,) = read({"prompt": "q", "chosen": [{**spoken(A, "x"), key: "hm"}], "rejected": "bad"})
    assert pair.chosen[0].as_dict()[key] == "hm"


@pytest.mark.parametrize(
    ("row", "settings", "problem"),
    [
        ({"prompt": "q", "chosen": ["a", "b"], "rejected": "c"}, {}, "format best_of_k"),
        ({"prompt": "q", **SIDES, "id": {"a": 1}}, {}, "(columns: {id: COLUMN} takes another)"),
        ({"prompt": "q", "chosen": {"text": "a", "score": 4}, "rejected": {"text": "b"}}, {},
         "(columns: {chosen: chosen.text})"),
        ({"prompt": [{"role": U, "content": [{"type": "image"}]}], **SIDES}, {}, "on_bad_record"),
        ({"prompt": [{"speaker": "user", "text": "q"}], **SIDES}, {}, "{role, content} or {from"),
        ({"prompt": "q", "response_a": "x", "response_b": "y", "label": "1"},
         {"format": "ab", "label": "number"}, "numbers_in_text: true"),
        ({"prompt": "q", "response": "r", "scores": {"h": "4/5"}}, {"numbers_in_text": True},
         "(na: [...] in the source"),
        ({"prompt": "q", "response": "r", "scores": {"h": "4,5"}}, {"numbers_in_text": True},
         "(with a decimal point: 0.5)"),
        ({"prompt": "q", "response": "r", "scores": {"h": "1_5"}}, {"numbers_in_text": True},
         "text '1_5', expected a number"),
        ({"prompt": "q", "response": "r", "scores": {"h": "nan"}}, {"numbers_in_text": True},
         "expected a finite number (na: [...] in the source"),
        ({"prompt": "q", **SIDES, "good": 1, "poor": 2}, {"columns": {"margin": "good - poor"}},
         "-1.0, expected at least 0: by it the rejected side is the better one"),
        ({"prompt": "q", "response_a": "x", "response_b": "y", "label": True},
         {"format": "ab", "label": "number"}, "label: true, not 1 or 2"),
        ({"id1": {"prompt": "q", **SIDES}, "id2": {"prompt": "p", **SIDES}}, {},
         "{id: .key} + .value"),
        ({"prompt": "q", "response_a": "x", "response_b": "y", "label": 1}, {},
         "label: HOW (signed, "),
    ],
)  # fmt: skip
def test_a_refusal_says_the_next_step(row, settings, problem):
    with pytest.raises(BadRecord) as caught:
        read(row, **settings)
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("extra", "names"),
    [
        ({"system": "Be kind."}, {"system"}),
        ({"system_prompt": "Be kind."}, {"system_prompt"}),
        ({"history": [["a", "b"]]}, {"history"}),
        ({"scores": {"chosen": 4, "rejected": 2}}, {"scores"}),
        ({"chosen_score": 4, "rejected_score": 2}, {"chosen_score", "rejected_score"}),
        ({"functions": [{"name": "f"}]}, {"functions"}),
        ({"images": ["a.png"]}, {"images"}),
        ({"chosen_reasoning": "because"}, {"chosen_reasoning"}),
        ({"documents": [{"title": "d", "text": "words of a document"}]}, {"documents"}),
    ],
)
def test_what_a_pair_with_a_prompt_leaves_unread_is_named_as_content(extra, names):
    census = Census()
    read({"prompt": "q", **SIDES, **extra}, census)
    kind = DropReason.CONTENT_NOT_READ
    assert {reason.detail for reason in census.totals() if reason.kind is kind} == names


def test_scores_as_json_text_are_read_and_counted():
    census = Census()
    (record,) = read({"prompt": "q", "response": "r", "scores": '{"h": 3}'}, census)
    assert record.scores == {"h": 3.0}
    assert census.count(Reason(Spelling.JSON_TEXT, "scores")) == 1


@pytest.mark.parametrize(
    "extra", [{"tools": [{"name": b"f"}]}, {"tools": [{"at": datetime(2020, 1, 1)}]}]
)
def test_what_json_does_not_know_is_refused_by_name(extra):
    with pytest.raises(BadRecord, match="tools: cannot be written as JSON"):
        read({"prompt": "q", **SIDES, **extra})


def test_messages_as_python_prints_them_are_read_and_counted():
    census = Census()
    (pair,) = read({"prompt": str(say((U, "it's \n so"))), **SIDES}, census)
    assert pair.prompt == turns((U, "it's \n so"))
    assert census[Spelling.JSON_TEXT] == 1
    for text in (
        "[{'role': open('x')}]",
        "[{'role': b'user', 'content': 'x'}]",
        "[{'role': 'user'}",
    ):
        (pair,) = read({"prompt": text, **SIDES})
        assert pair.prompt == turns((U, text))


ROW = {"prompt": "q", **SIDES}
TABLE = "prompt;chosen;rejected\nq;good;bad\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("semicolons.csv", TABLE),
        ("tabs.csv", TABLE.replace(";", "\t")),
        ("tabs.tsv", TABLE.replace(";", "\t")),
        ("commas.tsv", TABLE.replace(";", ",")),
        ("data.json", json.dumps({"data": [ROW]})),
        ("nested.json", json.dumps({"data": {"train": [ROW], "test": []}})),
        ("rows.json", json.dumps({"rows": [ROW]})),
    ],
)
def test_files_of_other_layouts_are_read(tmp_path, name, content):
    path = tmp_path / name
    path.write_text(content)
    (pair,) = read_records(Source(path), None, Census())
    assert (pair.prompt, pair.chosen) == (turns((U, "q")), turns((A, "good")))


def test_rows_inside_of_an_object_are_named_with_the_command_that_takes_them_out(tmp_path):
    path = tmp_path / "d.json"
    path.write_text(json.dumps({"features": [{"name": "prompt"}], "rows": [{"row": ROW}] * 2}))
    with pytest.raises(DataError) as caught:
        list(read_records(Source(path), None, Census()))
    assert """jq -c '.["rows"][]' FILE > rows.jsonl""" in str(caught.value)


@pytest.mark.parametrize(
    ("label", "better"),
    [("Model A", "x"), ("model-b", "y"), (" Answer A ", "x"), ("Assistant_B", "y"), ("[[B]]", "y"),
     ("Tie (both bad)", ""), ("draw", ""), ("Both Bad", "")],
)  # fmt: skip
def test_labels_are_read_in_every_spelling(label, better):
    row = {"prompt": "q", "response_a": "x", "response_b": "y", "label": label}
    census = Census()
    pairs = read(row, census, format="ab")
    assert [pair.chosen[0].content for pair in pairs] == [better] * bool(better)
    assert census[DropReason.JUDGED_TIE] == (not better)


def test_a_first_row_that_is_a_tie_gets_the_same_proposal():
    with pytest.raises(BadRecord, match=r"it may be read with format: ab$"):
        read({"prompt": "q", "response_a": "x", "response_b": "y", "label": "tie"})
