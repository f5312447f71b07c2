"""The project's own record shapes, and what happens between a row and a record."""

import json

import datasets
import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from smorm.data.census import Census, Defect, DropReason, Reason
from smorm.data.formats.generic import split_common
from smorm.data.reading import (
    Source,
    read_preferences,
    read_rated,
    read_records,
)
from smorm.data.records import Candidates, Preference, Rated
from smorm.errors import ConfigError, DataError
from smorm.text.chat import INPUTS, Message
from tests.data.sources import A, S, U, jsonl, law, raw, records, say, turns

WORDS = st.text(min_size=1, max_size=12).filter(str.strip)
TURN = st.tuples(st.sampled_from([U, A]), WORDS)


def one(path, row, **settings):
    (record,) = records(jsonl(path, [row]), **settings)
    return record


@pytest.fixture
def path(tmp_path):
    return tmp_path / "d.jsonl"


def test_explicit_prompt_text_is_a_user_message_and_each_side_an_answer(path):
    row = {
        "prompt": "Why?",
        "chosen": "So.",
        "rejected": "No.",
        "margin": 2,
        "id": 7,
        "source": "s",
    }
    assert one(path, row) == Preference(
        turns((U, "Why?")),
        turns((A, "So.")),
        turns((A, "No.")),
        margin=2.0,
        id=7,
        source="s",
        where=f"{path}:1",
    )


def test_all_of_trls_conversational_shapes_give_the_same_pair(path):
    prompt, good, bad = say((S, "Be kind."), (U, "Why?")), say((A, "So.")), say((A, "No."))
    pairs = [
        one(path, row)
        for row in (
            {"prompt": prompt, "chosen": good, "rejected": bad},
            {"prompt": prompt, "chosen": "So.", "rejected": "No."},
            {"chosen": prompt + good, "rejected": prompt + bad},
            {"prompt": prompt, "chosen": prompt + good, "rejected": prompt + bad},
            {
                "prompt": "Human: Why?",
                "prompt_messages": prompt,
                "chosen": "So.",
                "rejected": "No.",
            },
        )
    ]
    assert pairs == [pairs[0]] * 5
    assert pairs[0].prompt == turns((S, "Be kind."), (U, "Why?"))


def test_whole_conversations_beside_a_text_prompt_take_the_prompt_once_and_say_so(path):
    census = Census()
    whole = {side: say((U, "Why?"), (A, side)) for side in ("chosen", "rejected")}
    pair = one(path, {"prompt": "Why?", **whole}, census=census)
    assert pair.prompt == turns((U, "Why?"))
    assert pair.chosen == turns((A, "chosen"))
    assert census[DropReason.REPEATED_PROMPT] == 1


def test_texts_without_a_prompt_are_raw_text(path):
    pair = one(path, {"chosen": "one whole text", "rejected": "another"})
    assert (pair.prompt, pair.chosen) == ((), turns(("text", "one whole text")))


def test_the_last_message_stays_a_response_when_one_conversation_begins_the_other(path):
    short = say((U, "q"), (A, "a"))
    pair = one(path, {"chosen": short, "rejected": short + say((U, "r"), (A, "b"))})
    assert pair.prompt == turns((U, "q"))
    assert pair.chosen == turns((A, "a"))
    assert pair.rejected == turns((A, "a"), (U, "r"), (A, "b"))


@law
@given(st.lists(TURN, max_size=4), st.lists(TURN, min_size=1), st.lists(TURN, min_size=1))
def test_splitting_loses_nothing_and_the_rests_begin_differently(common, left, right):
    chosen, rejected = turns(*common, *left), turns(*common, *right)
    prompt, good, bad = split_common(chosen, rejected)
    assert (prompt + good, prompt + bad) == (chosen, rejected)
    assert len(prompt) >= len(common)
    assert good[0] != bad[0] or min(len(good), len(bad)) == 1
    assert split_common(rejected, chosen) == (prompt, bad, good)


@law
@given(WORDS, WORDS, WORDS)
def test_implicit_and_explicit_prompts_are_the_same_pair(tmp_path_factory, prompt, good, bad):
    path = tmp_path_factory.mktemp("law") / "d.jsonl"
    implicit = {
        "chosen": say((U, prompt), (A, good)),
        "rejected": say((U, prompt), (A, bad)),
    }
    explicit = {"prompt": prompt, "chosen": good, "rejected": bad}
    census = Census()
    jsonl(path, [implicit, explicit, {**explicit, "chosen": bad, "rejected": good}, explicit])
    if good == bad:
        with pytest.raises(DataError, match="no usable record"):
            records(path, census=census)
        assert census[DropReason.TIE] == 4
    else:
        first, second, swapped, fourth = records(path, census=census)
        assert first.prompt == second.prompt == turns((U, prompt))
        assert (first.chosen, first.rejected) == (second.chosen, second.rejected)
        assert (swapped.chosen, swapped.rejected) == (second.rejected, second.chosen)
        assert fourth.swap().swap() == fourth


def test_margins_may_be_null_and_ids_absent(path):
    pair = one(path, {"prompt": "p", "chosen": "a", "rejected": "b", "margin": None, "id": None})
    assert (pair.margin, pair.id, pair.source) == (None, None, None)


def test_tools_come_first_in_the_prompt_whether_json_or_text(path):
    tools = [{"type": "function", "function": {"name": "f"}}]
    for written in (tools, json.dumps(tools)):
        pair = one(path, {"prompt": "p", "chosen": "a", "rejected": "b", "tools": written})
        carrier, question = pair.prompt
        assert (carrier.role, json.loads(carrier.content)) == (INPUTS, {"tools": tools})
        assert question == Message("user", "p")


def test_nested_scores_keep_null_as_not_rated(path):
    row = {"prompt": "p", "response": "r", "scores": {"kind": 3, "true": None, "short": 0}}
    record = one(path, row)
    assert isinstance(record, Rated)
    assert record.scores == {"kind": 3.0, "true": None, "short": 0.0}


def test_flat_columns_are_named_by_a_list_or_renamed_by_a_mapping(path):
    row = {"prompt": "p", "response": "r", "kind": 3, "true": None, "extra": "text"}
    assert one(path, row, attributes=["kind", "true"]).scores == {"kind": 3.0, "true": None}
    renamed = one(path, row, attributes={"kindness": "kind"})
    assert renamed.scores == {"kindness": 3.0}


def test_attributes_choose_within_nested_scores(path):
    row = {"prompt": "p", "response": "r", "scores": {"kind": 3, "true": 1}}
    assert one(path, row, attributes=["true"]).scores == {"true": 1.0}


def test_an_attribute_that_no_row_has_is_an_error_and_not_a_silent_gap(path):
    jsonl(path, [{"prompt": "p", "response": "r", "kind": 3}] * 3)
    with pytest.raises(DataError, match="no row has kindd; check the spelling"):
        records(path, attributes=["kind", "kindd"])


def test_an_attribute_that_some_rows_lack_is_missing_there(path):
    jsonl(
        path, [{"prompt": "p", "response": "r", "a": 1}, {"prompt": "p", "response": "r", "b": 2}]
    )
    first, second = records(path, attributes=["a", "b"])
    assert (first.scores, second.scores) == ({"a": 1.0, "b": None}, {"a": None, "b": 2.0})


def test_a_conversation_with_scores_is_rated_at_its_last_message(path):
    record = one(path, {"messages": say((U, "p"), (A, "r")), "scores": {"a": 1}})
    assert (record.prompt, record.response) == (turns((U, "p")), turns((A, "r")))


def test_candidates_may_be_texts_messages_or_objects_and_other_fields_are_ignored(path):
    census = Census()
    answers = ["a", say((A, "b")), {"model": "m", "response": "c", "gold": 0.5}, ""]
    row = {"prompt": "p", "responses": answers, "anything": [1, {"x": None}]}
    found = one(path, row, census=census)
    assert isinstance(found, Candidates)
    assert [response[-1].content for response in found.responses] == ["a", "b", "c", ""]
    assert census[DropReason.EMPTY_RESPONSE] == 1


def test_plain_scoring_takes_a_prompt_with_one_response_or_a_conversation(path):
    jsonl(
        path,
        [
            {"prompt": "p", "response": "r"},
            {"messages": say((U, "p"), (A, "r"))},
            {"prompt": "p", "response": "r", "scores": {"a": 1}},
        ],
    )
    found = list(read_records(Source(path), "candidates", Census()))
    assert [(one.prompt, one.responses) for one in found] == [
        (turns((U, "p")), (turns((A, "r")),))
    ] * 3


def test_auto_takes_each_row_for_what_it_is(path):
    jsonl(
        path,
        [
            {"prompt": "p", "chosen": "a", "rejected": "b"},
            {"prompt": "p", "response": "a", "scores": {"x": 1}},
            {"prompt": "p", "responses": ["a", "b"]},
        ],
    )
    assert [type(record) for record in records(path)] == [Preference, Rated, Candidates]


def test_ties_and_unrated_records_are_dropped_and_counted_and_never_stop(path):
    census = Census()
    good = {"prompt": "p", "chosen": "a", "rejected": "b"}
    jsonl(path, [{**good, "chosen": "b"}, good, {**good, "rejected": "a"}])
    assert len(list(read_preferences(Source(path), census=census))) == 1
    assert census[DropReason.TIE] == 2
    assert census.examples[Reason(DropReason.TIE)] == [f"{path}:1", f"{path}:3"]
    rated = {"prompt": "p", "response": "r"}
    jsonl(
        path,
        [{**rated, "scores": {}}, {**rated, "scores": {"a": None}}, {**rated, "scores": {"a": 0}}],
    )
    assert len(list(read_rated(Source(path), census=census))) == 1
    assert census[DropReason.NO_RATING] == 2


def test_skipped_records_are_counted_and_kept_in_the_quarantine_file(tmp_path, path):
    census, quarantine = Census(), tmp_path / "out" / "bad.jsonl"
    good = {"prompt": "p", "chosen": "a", "rejected": "b"}
    lines = [json.dumps(good), '{"prompt": ', json.dumps({**good, "chosen": ""}), json.dumps(good)]
    raw(path, "\n".join(lines).encode())
    found = records(path, census=census, on_bad_record="skip", quarantine=quarantine)
    assert [record.where for record in found] == [f"{path}:1", f"{path}:4"]
    assert census.count(Reason(DropReason.BAD_RECORD, Defect.NOT_JSON)) == 1
    assert census.count(Reason(DropReason.BAD_RECORD, Defect.EMPTY_RESPONSE)) == 1
    broken, empty = (json.loads(line) for line in quarantine.read_text().splitlines())
    assert (broken["where"], broken["row"]) == (f"{path}:2", '{"prompt": ')
    assert empty["row"] == {**good, "chosen": ""}
    assert empty["reason"] == f"{path}:3: chosen: empty, expected some text"


def test_the_quarantine_file_takes_values_that_json_does_not_know(tmp_path):
    path, quarantine = tmp_path / "d.parquet", tmp_path / "bad.jsonl"
    rows = [{"prompt": b"\xff", "chosen": "a"}, {"prompt": b"x", "chosen": "a"}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    with pytest.raises(DataError, match=r"no usable record in it .*missing field 2"):
        records(path, "preference", on_bad_record="skip", quarantine=quarantine)
    assert json.loads(quarantine.read_text().splitlines()[0])["row"]["prompt"] == repr(b"\xff")


def test_stopping_leaves_no_quarantine_file(tmp_path, path):
    jsonl(path, [{"prompt": "p", "chosen": "", "rejected": "b"}])
    with pytest.raises(DataError):
        records(path, quarantine=tmp_path / "bad.jsonl")
    assert not (tmp_path / "bad.jsonl").exists()


def test_stride_and_limit_choose_records_and_are_counted(path):
    census = Census()
    jsonl(path, [{"prompt": str(n), "chosen": "a", "rejected": "b"} for n in range(20)])
    found = records(path, census=census, stride=3, limit=4)
    assert [record.prompt[0].content for record in found] == ["0", "3", "6", "9"]
    assert census[DropReason.STRIDE] == 6
    assert census[DropReason.LIMIT] == 1


@pytest.mark.parametrize("kind", ["preference", "rated", "candidates"])
def test_a_source_without_any_record_is_an_error(path, kind):
    with pytest.raises(DataError, match="no usable record in it"):
        records(raw(path, b"\n\n"), kind)


def test_nulls_that_tables_put_in_for_absent_fields_do_no_harm(tmp_path):
    rows = [
        {"prompt": "p", "chosen": "a", "rejected": "b", "margin": 1.5, "prompt_messages": None},
        {"prompt": None, "chosen": "a", "rejected": "b", "margin": None,
         "prompt_messages": say((U, "q"))},
    ]  # fmt: skip
    path = tmp_path / "d.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    first, second = records(path)
    assert (first.margin, second.margin) == (1.5, None)
    assert second.prompt == turns((U, "q"))


def test_records_are_the_same_from_every_kind_of_file(tmp_path):
    rows = [
        {
            "chosen": say((U, f"q{n}"), (A, "a")),
            "rejected": say((U, f"q{n}"), (A, "b")),
            "margin": n,
        }
        for n in range(5)
    ]
    jsonl(tmp_path / "d.jsonl", rows)
    jsonl(tmp_path / "d.jsonl.gz", rows)
    raw(tmp_path / "d.json", json.dumps(rows).encode())
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "d.parquet")
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "saved")
    kinds = [
        [(r.prompt, r.chosen, r.rejected, r.margin) for r in records(tmp_path / name)]
        for name in ("d.jsonl", "d.jsonl.gz", "d.json", "d.parquet", "saved")
    ]
    assert kinds == [kinds[0]] * 5


def test_a_source_is_checked_when_it_is_written_down(path):
    with pytest.raises(
        ConfigError, match=r"^format 'helpstear2': expected one of .*; did you mean 'helpsteer2'\?"
    ):
        Source(path, format="helpstear2")
    with pytest.raises(ConfigError, match="stride and limit must be at least 1"):
        Source(path, stride=0)
    with pytest.raises(ConfigError, match="stride and limit must be at least 1"):
        Source(path, limit=0)
    with pytest.raises(ConfigError, match="'preference' cannot be the name of an attribute"):
        Source(path, attributes=["preference"])


def test_a_format_of_another_kind_is_refused_before_anything_is_read(path):
    with pytest.raises(ConfigError, match="'helpsteer2' gives rated records where preference"):
        read_preferences(Source(path, format="helpsteer2"), census=Census())
    with pytest.raises(ConfigError, match="expected 'stop' or 'skip'"):
        read_records(Source(path), None, Census(), "ignore")


def test_a_transcript_is_no_raw_text_unless_its_source_says_so(path):
    row = {
        "chosen": "\n\nHuman: Why?\n\nAssistant: So.",
        "rejected": "\n\nHuman: Why?\n\nAssistant: No.",
    }
    jsonl(path, [row])
    with pytest.raises(DataError, match="format 'hh_rlhf'"):
        list(read_preferences(Source(path), Census()))
    (pair,) = read_preferences(Source(path, "hh_rlhf"), Census())
    assert pair.prompt == turns((U, "Why?"))
    (raw_pair,) = read_preferences(Source(path, "preference"), Census())
    assert raw_pair.chosen[0].role == "text"
