"""Small made-up files of exactly the schemas that the public data sets publish."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smorm.data.census import Census, Defect, DropReason, Reason
from smorm.data.formats.helpsteer2 import ATTRIBUTES as HELPSTEER2
from smorm.data.formats.ultrafeedback import ASPECTS as ULTRAFEEDBACK
from smorm.data.formats.unified_feedback import SUMMARIZE
from smorm.data.scaling import attribute_names
from smorm.errors import DataError
from tests.data.sources import A, U, jsonl, law, raw, records, say, turns

RATINGS = {"helpfulness": 3, "correctness": 4, "coherence": 4, "complexity": 2, "verbosity": 1}
CLEAN = st.text(max_size=20).filter(lambda text: text.strip() == text and text)
# a turn marker inside a turn cannot be told from a turn, in either format
PLAIN = CLEAN.filter(lambda text: "extra_id" not in text and "Human:" not in text)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "d.jsonl"


def helpsteer_row(prompt, **changes):
    return {"prompt": prompt, "response": "r", **RATINGS, **changes}


def test_helpsteer2_has_five_ratings_and_a_plain_prompt(path):
    jsonl(path, [helpsteer_row("What is it?\n", verbosity=None)])
    (record,) = records(path, format="helpsteer2")
    assert record.prompt == turns((U, "What is it?\n"))
    assert record.scores == {**RATINGS, "verbosity": None}
    assert attribute_names([record]) == list(HELPSTEER2)


def test_helpsteer2_turns_become_messages(path):
    prompt = "one\n<extra_id_1>Assistant\ntwo\n\nlines\n<extra_id_1>User\nthree"
    jsonl(path, [helpsteer_row(prompt), helpsteer_row(prompt + "\n<extra_id_1>Assistant\n")])
    first, second = records(path, format="helpsteer2")
    assert first.prompt == turns((U, "one"), (A, "two\n\nlines"), (U, "three"))
    assert second.prompt == first.prompt


def test_helpsteer2_leaves_a_marker_inside_a_line_alone(path):
    jsonl(path, [helpsteer_row("what does <extra_id_1>User mean?")])
    (record,) = records(path, format="helpsteer2")
    assert record.prompt == turns((U, "what does <extra_id_1>User mean?"))


@law
@given(st.lists(PLAIN, min_size=1, max_size=7).filter(lambda given: len(given) % 2))
def test_helpsteer2_turns_come_back_as_they_were_joined(tmp_path_factory, given):
    prompt = given[0] + "".join(
        f"\n<extra_id_1>{'Assistant' if at % 2 else 'User'}\n{turn}"
        for at, turn in enumerate(given)
        if at
    )
    path = jsonl(tmp_path_factory.mktemp("law") / "d.jsonl", [helpsteer_row(prompt)])
    (record,) = records(path, format="helpsteer2")
    assert [message.content for message in record.prompt] == given
    assert [message.role for message in record.prompt] == ([U, A] * 4)[: len(given)]


@pytest.mark.parametrize(
    ("row", "line"),
    [
        ({"prompt": "p", "response": "r"}, "helpfulness: missing, expected a number or null"),
        (helpsteer_row("p", helpfulness="3"), "helpfulness: text '3', expected a number"),
        (helpsteer_row("p\n<extra_id_1>Assistant\nhi"), "prompt: ends with the assistant's turn"),
        (helpsteer_row(""), "prompt: empty, expected some text"),
        (helpsteer_row(say((U, "p"))), "prompt: a list of 1, expected text"),
        ({"prompt": "p", "response_1": "a", "response_2": "b", **RATINGS}, "response: missing"),
    ],
)
def test_helpsteer2_names_what_is_wrong(path, row, line):
    with pytest.raises(DataError) as caught:
        records(jsonl(path, [row]), format="helpsteer2")
    assert str(caught.value).startswith(f"{path}:1: {line}")


def aspects(*ratings):
    return {
        name: {"Rating": rating, "Rationale": "because"}
        for name, rating in zip(ULTRAFEEDBACK, ratings, strict=True)
    }


def completion(response, annotations):
    return {"model": "m", "principle": "p", "response": response, "annotations": annotations,
            "overall_score": 7.5, "critique": "c"}  # fmt: skip


def test_ultrafeedback_gives_a_record_for_each_completion_and_missing_is_never_zero(path):
    row = {
        "source": "evol_instruct",
        "instruction": "Do it.",
        "models": ["m"] * 4,
        "completions": [
            completion("one", aspects("5", "4", "3", "2")),
            completion("two", aspects("5", "N/A", "unknown", None)),
            completion("three", {"helpfulness": {"Rating": "1"}}),
            completion("four", {}),
        ],
    }
    census = Census()
    found = records(jsonl(path, [row]), format="ultrafeedback", census=census)
    assert [record.response[0].content for record in found] == ["one", "two", "three"]
    assert {record.prompt for record in found} == {turns((U, "Do it."))}
    assert found[0].scores == dict(zip(ULTRAFEEDBACK, (5.0, 4.0, 3.0, 2.0), strict=True))
    assert list(found[1].scores.values()) == [5.0, None, None, None]
    assert found[2].scores["helpfulness"] == 1.0
    assert census[DropReason.RATING_UNREADABLE] == 1
    assert census[DropReason.RATING_ABSENT] == 2 + 3 + 4
    assert census[DropReason.NO_RATING] == 1


def test_ultrafeedback_skips_a_bad_completion_and_keeps_its_siblings(path):
    full = aspects("5", "4", "3", "2")
    row = {"instruction": "Do it.", "completions": [completion("", full), completion("b", full), 7]}
    jsonl(path, [row])
    with pytest.raises(DataError, match=r"d\.jsonl:1: completions\[0\]\.response: empty"):
        records(path, format="ultrafeedback")
    census = Census()
    (record,) = records(path, format="ultrafeedback", on_bad_record="skip", census=census)
    assert record.response[0].content == "b"
    assert census.count(Reason(DropReason.BAD_RECORD, Defect.EMPTY_RESPONSE)) == 1
    assert census.count(Reason(DropReason.BAD_RECORD, Defect.WRONG_TYPE)) == 1


def unified(a, b, rating_a, rating_b, source="berkeley-nest/Nectar"):
    return {"id": "x1", "source": source, "conv_A": say((U, " q "), (A, a)),
            "conv_B": say((U, " q "), (A, b)), "conv_A_rating": rating_a,
            "conv_B_rating": rating_b}  # fmt: skip


def test_unified_feedback_prefers_the_higher_rating_and_drops_ties(path):
    census = Census()
    jsonl(path, [unified("a", "b", 1.0, 3.5), unified("a", "b", 2, 2.0), unified("a", "b", 1, 0)])
    first, second = records(path, format="unified_feedback", census=census)
    assert (first.chosen, first.rejected, first.margin) == (turns((A, "b")), turns((A, "a")), 2.5)
    assert (second.chosen, second.margin, second.id) == (turns((A, "a")), 1.0, "x1")
    assert first.prompt == turns((U, " q "))
    assert census[DropReason.EQUAL_RATINGS] == 1


def test_unified_feedback_gives_posts_to_summarize_their_instruction(path):
    row = unified("a", "b", 1, 0, "openai/summarize_from_feedback(comparisons)")
    (pair,) = records(jsonl(path, [row]), format="unified_feedback")
    assert pair.prompt == turns((U, SUMMARIZE + "q"))


def test_unified_feedbacks_stride_is_counted_after_its_ties(path):
    tie, kept = unified("a", "b", 1, 1), [unified(f"a{n}", "b", 1, 0) for n in range(6)]
    jsonl(path, [tie, kept[0], tie, tie, *kept[1:], tie])
    census = Census()
    found = records(path, format="unified_feedback", stride=2, census=census)
    assert [pair.chosen[0].content for pair in found] == ["a0", "a2", "a4"]
    assert census[DropReason.EQUAL_RATINGS] == 4
    assert census[DropReason.STRIDE] == 3


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"conv_A_rating": None}, "conv_A_rating: null"),
        ({"conv_A_rating": "1", "conv_B_rating": "1"}, "conv_A_rating: text '1', expected a num"),
        ({"conv_A": None}, "conv_A: null"),
        ({"conv_A": "text"}, "conv_A: text 'text', expected a list of messages"),
        ({"conv_A": []}, "conv_A: an empty list"),
        ({"conv_B": say((U, "q"), (A, " "))}, "conv_B: empty"),
    ],
)
def test_unified_feedback_names_what_is_wrong(path, changes, line):
    jsonl(path, [{**unified("a", "b", 1, 0), **changes}])
    with pytest.raises(DataError) as caught:
        records(path, format="unified_feedback")
    assert str(caught.value).startswith(f"{path}:1: {line}")


def test_skywork_pairs_are_whole_conversations(path):
    row = {
        "chosen": say((U, "q"), (A, "a")),
        "rejected": say((U, "q"), (A, "b")),
        "source": "magpie_ultra",
    }
    (pair,) = records(jsonl(path, [row]), format="skywork")
    assert (pair.prompt, pair.chosen, pair.source) == (
        turns((U, "q")),
        turns((A, "a")),
        "magpie_ultra",
    )
    with pytest.raises(DataError, match="chosen: text 'a', expected a list of messages"):
        records(jsonl(path, [{"chosen": "a", "rejected": "b"}]), format="skywork")


def test_hh_transcripts_are_cut_into_turns_and_the_common_ones_are_the_prompt(path):
    start = "\n\nHuman: hi: there\n\nAssistant: hello\n\nsecond line\n\nHuman: go on"
    row = {"chosen": start + "\n\nAssistant: sure", "rejected": start + "\n\nAssistant: no"}
    (pair,) = records(jsonl(path, [row]), format="hh_rlhf")
    assert pair.prompt == turns((U, "hi: there"), (A, "hello\n\nsecond line"), (U, "go on"))
    assert (pair.chosen, pair.rejected) == (turns((A, "sure")), turns((A, "no")))


@law
@given(st.lists(PLAIN, min_size=1, max_size=5).filter(lambda given: len(given) % 2), PLAIN, PLAIN)
def test_hh_transcripts_come_back_as_they_were_joined(tmp_path_factory, given, good, bad):
    start = "".join(
        f"\n\n{'Assistant' if at % 2 else 'Human'}: {turn}" for at, turn in enumerate(given)
    )
    rows = [
        {"chosen": f"{start}\n\nAssistant: {good}", "rejected": f"{start}\n\nAssistant: {bad}."}
    ]
    path = jsonl(tmp_path_factory.mktemp("law") / "d.jsonl", [*rows, rows[0]])
    if good == f"{bad}.":
        return
    for pair in records(path, format="hh_rlhf"):
        assert [message.content for message in pair.prompt] == given
        assert (pair.chosen[0].content, pair.rejected[0].content) == (good, f"{bad}.")


@pytest.mark.parametrize(
    ("chosen", "problem"),
    [
        ("", "empty, expected a transcript"),
        ("just text", "expected a transcript that begins with 'Human:'"),
        ("\n\nAssistant: hi", "begins with 'Assistant:'"),
        ("\n\nHuman: q\n\nAssistant:", "empty, expected some text"),
        ("\n\nHuman: q", "its last message is of 'user'"),
        (7, "7, expected text"),
    ],
)
def test_hh_names_what_is_wrong(path, chosen, problem):
    row = {"chosen": chosen, "rejected": "\n\nHuman: q\n\nAssistant: a"}
    with pytest.raises(DataError) as caught:
        records(jsonl(path, [row]), format="hh_rlhf")
    assert str(caught.value).startswith(f"{path}:1: chosen: {problem}")


def bench_row(**changes):
    return {"id": 12, "prompt": "p", "chosen": ["c1", "c2", "c3"], "rejected": ["r1", "r2", "r3"],
            "domain": "chat", **changes}  # fmt: skip


def test_rm_bench_gives_six_candidates_chosen_first(tmp_path):
    path = raw(
        tmp_path / "total_dataset.json", json.dumps([bench_row(), bench_row(id="b")]).encode()
    )
    first, second = records(path, format="rm_bench")
    contents = [response[0].content for response in first.responses]
    assert contents == ["c1", "c2", "c3", "r1", "r2", "r3"]
    assert (first.id, first.source, second.id) == (12, "chat", "b")
    assert first.prompt == turns((U, "p"))


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"chosen": ["a", "b"]}, "chosen: a list of 2, expected a list of 3 texts"),
        ({"rejected": "abc"}, "rejected: text 'abc', expected a list of 3 texts"),
        ({"rejected": ["a", "b", None]}, "rejected[2]: null, expected text"),
        ({"domain": None}, "domain: null"),
        ({"prompt": ""}, "prompt: empty"),
    ],
)
def test_rm_bench_names_what_is_wrong(path, changes, line):
    with pytest.raises(DataError) as caught:
        records(jsonl(path, [bench_row(**changes)]), format="rm_bench")
    assert str(caught.value).startswith(f"{path}:1: {line}")
