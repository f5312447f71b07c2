"""Every malformed row gives one line `file:line: field: what`, or a counted skip; nothing else."""

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from smorm.data.census import Census
from smorm.data.formats import FORMATS
from smorm.data.formats.helpsteer2 import ATTRIBUTES as HELPSTEER2
from smorm.errors import DataError
from tests.data.sources import A, S, U, jsonl, law, records, say

P = {"prompt": "p", "chosen": "a", "rejected": "b"}
R = {"prompt": "p", "response": "r", "scores": {"a": 1}}
C = {"prompt": "p", "responses": ["a", "b"]}
ASK = say((U, "q"))

PREFERENCE = [
    ({"prompt": "p", "rejected": "b"}, "chosen", "missing; the row has: prompt, rejected"),
    ({"prompt": "p", "chosen": "a"}, "rejected", "missing"),
    ({**P, "rejected": None}, "rejected", "null, expected a value"),
    ({**P, "prompt": None}, "prompt", "null, expected a value"),
    ({**P, "prompt": ""}, "prompt", "empty, expected some text"),
    ({**P, "prompt": " \n\t "}, "prompt", "empty, expected some text"),
    ({**P, "prompt": []}, "prompt", "an empty list"),
    ({**P, "prompt": 7}, "prompt", "7, expected text or a list of messages"),
    ({**P, "prompt": {"text": "p"}}, "prompt.role", "missing; the object has: text"),
    ({**P, "prompt": True}, "prompt", "true, expected text"),
    ({**P, "prompt": say((S, ""), (U, "  "))}, "prompt", "empty, expected some text"),
    ({**P, "chosen": ""}, "chosen", "empty, expected some text"),
    ({**P, "rejected": "  "}, "rejected", "empty, expected some text"),
    ({**P, "chosen": []}, "chosen", "an empty list"),
    ({**P, "chosen": 3.5}, "chosen", "3.5, expected text or a list of messages"),
    ({**P, "chosen": ["a", "c"]}, "chosen", "a list of 2, expected one answer"),
    ({**P, "chosen": [["a"]]}, "chosen[0][0]", "text 'a', expected a message {role, content}"),
    ({**P, "chosen": say((A, ""))}, "chosen", "empty, expected some text"),
    ({**P, "chosen": say((U, "a"))}, "chosen", "its first message is of 'user'"),
    ({**P, "chosen": say((A, "a"), (U, "b"))}, "chosen", "its last message is of 'user'"),
    ({**P, "chosen": say(("narrator", "a"))}, "chosen[0].role", "'narrator', expected one of ai,"),
    ({**P, "chosen": say(("text", "a"))}, "chosen[0].role", "'text', expected one of"),
    ({**P, "chosen": [{"role": A}]}, "chosen[0].content", "missing; the object has: role"),
    ({**P, "chosen": [{"role": A, "content": None}]}, "chosen[0].content", "null, expected"),
    ({**P, "chosen": [{"role": 1, "content": "a"}]}, "chosen[0].role", "1, expected text"),
    ({**P, "chosen": [{"speaker": "gpt", "value": "a"}]}, "chosen[0].role", "has: speaker"),
    ({**P, "chosen": [{"role": A, "content": [{"type": "image", "image": "x"}]}]},
     "chosen[0].content[0]", "a part of type 'image'; only text can be read"),
    ({**P, "chosen": [{"role": A, "content": [3]}]}, "chosen[0].content[0]", "3, expected a text"),
    ({**P, "chosen": [{"role": A, "content": None, "tool_calls": "no"}]},
     "chosen[0].tool_calls", "not valid JSON"),
    ({**P, "tools": {"name": "f"}}, "tools", "an object, expected a list of tools"),
    ({"instruction": "p", "chosen": "a", "rejected": "b"}, "instruction", "not read, and the pair"),
    ({**P, "prompt": say((U, "q"), (A, "r"))}, "chosen", "the prompt ends with 'assistant'"),
    ({**P, "prompt_messages": 7}, "prompt_messages", "7, expected text or a list"),
    ({**P, "margin": "1"}, "margin", "text '1', expected a number"),
    ({**P, "margin": True}, "margin", "true, expected a number"),
    ({**P, "margin": -0.5}, "margin", "-0.5, expected at least 0"),
    ({**P, "id": ["x"]}, "id", "a list of 1, expected text"),
    ({"chosen": "a", "rejected": say((A, "b"))}, "chosen", "text 'a', expected a list"),
    ({"chosen": say((U, " "), (A, "a")), "rejected": say((U, " "), (A, "b"))}, "prompt", "empty"),
    ({"chosen": say((U, "q"), (A, "a")), "rejected": ASK}, "rejected", "its last message is of"),
    # Read as that format it would be refused again: no hint.
    ({"conv_A": ASK, "conv_B": ASK}, "row", "the row has: conv_A, conv_B"),
    (R, "row", "it looks like a rated record"),
    ({"text": "a"}, "row", "expected {prompt?, chosen, rejected, margin?}; the row has: text"),
    ({}, "row", "unknown shape"),
]  # fmt: skip
RATED = [
    ({**R, "scores": {"a": "3"}}, "scores.a", "text '3', expected a number"),
    ({**R, "scores": {"a": True}}, "scores.a", "true, expected a number"),
    ({**R, "scores": {"a": [1, {}]}}, "scores.a[1]", "an object, expected a number"),
    ({**R, "scores": [1, 2]}, "scores", "a list of 2, expected an object"),
    ({**R, "scores": 3}, "scores", "3, expected an object"),
    ({**R, "scores": None}, "scores", "missing, expected {name: number or null}"),
    ({**R, "scores": {"preference": 1}}, "scores", "cannot be the name of an attribute"),
    ({**R, "scores": {"": 1}}, "scores", "'' cannot be the name of an attribute"),
    ({**R, "response": ""}, "response", "empty, expected some text"),
    ({**R, "response": None}, "response", "null, expected a value"),
    ({"prompt": "p", "scores": {"a": 1}, "messages": None}, "response", "missing"),
    ({"messages": say((A, "r")), "scores": {"a": 1}}, "messages", "one message"),
    ({"messages": say((U, "q"), (U, "r")), "scores": {"a": 1}}, "response", "its last message"),
    ({"prompt": "p", "response": "r"}, "row", "it looks like a candidates record"),
]
CANDIDATES = [
    ({**C, "responses": []}, "responses", "a list of 0, expected a list of at least one"),
    ({**C, "responses": "a"}, "responses", "text 'a', expected a list of at least one"),
    ({**C, "responses": ["a", None]}, "responses[1]", "null, expected text"),
    ({**C, "responses": ["a", {"txt": "b"}]}, "responses[1]", "no answer in it; the object"),
    ({"responses": ["a"]}, "prompt", "missing"),
    ({**C, "responses": ["a", say((A, "b"), (U, "c"))]}, "responses[1]", "its last message is of"),
    ({**P, "domain": "chat"}, "row", "it looks like a preference record"),
    (
        {"prompt": "p", "chosen": ["a"] * 3, "rejected": ["b"] * 3, "domain": "chat"},
        "row",
        "it looks like format 'rm_bench': name it as the source's format (format: rm_bench",
    ),
]
CASES = [
    (kind, *case)
    for kind, cases in (("preference", PREFERENCE), ("rated", RATED), ("candidates", CANDIDATES))
    for case in cases
]


@pytest.mark.parametrize(("kind", "row", "field", "problem"), CASES)
def test_a_malformed_row_is_named_by_file_line_and_field(tmp_path, kind, row, field, problem):
    good = {"preference": P, "rated": R, "candidates": C}[kind]
    path = jsonl(tmp_path / "d.jsonl", [good, row, good])
    census = Census()
    if problem == "unknown shape":
        problem = "the row has: "
    with pytest.raises(DataError) as caught:
        records(path, kind, census)
    message = str(caught.value)
    assert message.startswith(f"{path}:2: {field}: ")
    assert problem in message
    assert "\n" not in message
    kept = records(path, kind, census, on_bad_record="skip")
    assert [record.where for record in kept] == [f"{path}:1", f"{path}:3"]
    assert census.total == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_rating_that_is_not_finite_is_named_by_its_attribute(tmp_path, value):
    path = tmp_path / "d.parquet"
    table = pyarrow.Table.from_pylist([{"prompt": "p", "response": "r", "scores": {"kind": value}}])
    parquet.write_table(table, path)
    with pytest.raises(DataError, match=r"d\.parquet:1: scores\.kind: -?(nan|inf), expected a fin"):
        records(path, "rated")


def test_a_flat_rating_that_is_text_is_named_by_its_column(tmp_path):
    path = jsonl(tmp_path / "d.jsonl", [{"prompt": "p", "response": "r", "kind": "4"}])
    with pytest.raises(DataError, match=r"d\.jsonl:1: kind: text '4', expected a number"):
        records(path, attributes={"kindness": "kind"})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["", "a", "user", "assistant", "4", "N/A", "\n\nHuman: x\n\nAssistant: y"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["role", "content", "response", "annotations", "Rating", "helpfulness"]),
        inner, max_size=3),
    max_leaves=10,
)  # fmt: skip
NAMES = st.sampled_from(
    ["prompt", "prompt_messages", "chosen", "rejected", "margin", "id", "source", "response",
     "responses", "messages", "scores", "conv_A", "conv_B", "conv_A_rating", "conv_B_rating",
     "instruction", "completions", "domain", "tools", *HELPSTEER2]
)  # fmt: skip


@law
@given(row=st.dictionaries(NAMES, JSON, max_size=8), name=st.sampled_from(["auto", *FORMATS]))
def test_any_json_object_gives_records_or_a_data_error_in_every_format(tmp_path_factory, row, name):
    path = jsonl(tmp_path_factory.mktemp("any") / "d.jsonl", [row])
    for on_bad in ("stop", "skip"):
        told = str(path)
        try:
            records(path, format=name, on_bad_record=on_bad)
        except DataError as error:
            told = str(error)
        assert told.startswith(str(path))
