"""Wrong rows of the reward-model benchmarks are named by line and field."""

import re

import pytest

from smorm.data.census import Census
from smorm.data.reading import Source, read_each
from smorm.errors import DataError
from tests.data.benchmark_rows import GOOD
from tests.data.sources import A, U, jsonl, records, say


@pytest.fixture
def path(tmp_path):
    return tmp_path / "d.jsonl"


WRONG = [
    ("best_of_k", {"chosen": []}, "chosen: a list of 0, expected text, a message list, or a list"),
    ("best_of_k", {"chosen": None}, "chosen: null, expected a value"),
    ("best_of_k", {"rejected": ["r", 5]}, "rejected[1]: 5, expected text or a list of messages"),
    ("best_of_k", {"rejected": say((A, "a"), (U, "b"))}, "rejected: its last message is of 'user'"),
    ("best_of_k", {"prompt": " "}, "prompt: empty, expected some text"),
    ("best_of_k", {"prompt": 4}, "prompt: 4, expected text or a list of messages"),
    ("best_of_k", {"id": ["x"]}, "id: a list of 1, expected text"),
    ("best_of_k", {"responses": ["a", "b"]}, "correct: missing"),
    ("best_of_k", {"responses": ["a", "b"], "correct": [True]}, "correct: 1 for 2 responses"),
    ("best_of_k", {"responses": ["a"], "correct": ["yes"]}, "correct[0]: text 'yes', expected tr"),
    ("best_of_k", {"responses": ["a"], "correct": [0.5]}, "correct[0]: 0.5, expected true or fal"),
    ("rewardbench", {"rejected": None}, "rejected: null"),
    ("pref_sets", {"prompt": [7]}, "prompt[0]: 7, expected a message"),
    ("rewardbench2", {"num_correct": 1}, "num_correct: 1, expected 2, as many as are listed"),
    ("rewardbench2", {"num_incorrect": 9}, "num_incorrect: 9, expected 1"),
    ("rewardbench2", {"total_completions": "3"}, "total_completions: text '3', expected 3"),
    ("rewardbench2", {"id": "4"}, "id: text '4', expected \"ref:N\" or \"tied:N\" in Ties"),
    ("rewardbench2", {"rejected": []}, "rejected: a list of 0"),
    ("rmb", {"conversation_input": []}, "conversation_input: an empty list"),
    ("rmb", {"conversation_input": "q"}, "conversation_input: text 'q', expected a list"),
    ("rmb", {"chosen": "a"}, "chosen: text 'a', expected an object {llm_name, answer}"),
    ("rmb", {"reject": None}, "reject: null"),
    ("rmb", {"chosen": {"llm_name": "m"}}, "chosen.answer: missing"),
    ("rmb", {"bon_best": {"answer": "a"}}, "loser_list: missing"),
    ("rmb", {"bon_best": {"answer": "a"}, "loser_list": []}, "loser_list: a list of 0"),
    ("rmb", {"bon_best": {"answer": "a"}, "loser_list": [{}]}, "loser_list[0].answer: missing"),
    ("judgebench", {"label": "A=B"}, "label: text 'A=B', expected 'A>B' or 'B>A'"),
    ("judgebench", {"question": ""}, "question: empty"),
    ("judgebench", {"response_B": 3}, "response_B: 3, expected text"),
    ("llmbar", {"label": 0}, "label: 0, expected 1 or 2"),
    ("llmbar", {"label": True}, "label: true, expected 1 or 2"),
    ("llmbar", {"output_2": None}, "output_2: null"),
    ("hhh", {"targets": ["a"]}, "targets: a list of 1, expected an object {choices, labels}"),
    ("hhh", {"targets": {"choices": ["a"]}}, "targets.labels: missing"),
    ("hhh", {"targets": {"choices": "a", "labels": [1]}}, "targets.choices: text 'a', expected a"),
    ("hhh", {"targets": {"choices": ["a", 1], "labels": [1, 0]}}, "targets.choices[1]: 1, expect"),
    ("hhh", {"targets": {"choices": ["a", "b"], "labels": [1]}}, "targets.labels: 1 for 2 respon"),
    ("hhh", {"targets": {"choices": ["a"], "labels": [2]}}, "targets.labels[0]: 2, expected true"),
    ("hhh", {"input": " "}, "input: empty"),
    ("hhh", {"input": "q\n\nAssistant: a"}, "targets.choices[0]: its first message is of 'assist"),
    ("ppe_human", {"winner": "A"}, "winner: text 'A', expected 'model_a', 'model_b' or a tie"),
    ("ppe_human", {"winner": None}, "winner: null"),
    ("ppe_human", {"response_2": 4}, "response_2: 4, expected text"),
    ("ppe_correctness", {"scores": None}, "scores: null"),
    ("ppe_correctness", {"scores": [True, False]}, "scores: 2 scores, but the row has response_3"),
    ("ppe_correctness", {"scores": [1, 0, 1, 0]}, "response_4: missing"),
    ("ppe_correctness", {"scores": [1, 0, 0.5]}, "scores[2]: 0.5, expected true or false"),
    ("mt_bench", {"turn": 0}, "turn: 0, expected a whole number from 1"),
    ("mt_bench", {"turn": "1"}, "turn: text '1', expected a whole number"),
    ("mt_bench", {"turn": 3}, "conversation_a: 4 messages, expected at least 6 for turn 3"),
    ("mt_bench", {"winner": "model_c"}, "winner: text 'model_c', expected 'model_a'"),
    ("mt_bench", {"conversation_b": None}, "conversation_b: null"),
    ("mt_bench", {"conversation_b": say((U, "z"), (A, "b"))}, "conversation_b: its first message"),
    ("mt_bench", {"conversation_a": say((A, "z"), (U, "b"))}, "conversation_b: its first message"),
]  # fmt: skip


@pytest.mark.parametrize(("form", "changes", "line"), WRONG)
def test_a_wrong_row_is_named_by_line_and_field_and_can_be_skipped(path, form, changes, line):
    jsonl(path, [GOOD[form], {**GOOD[form], **changes}])
    with pytest.raises(DataError) as caught:
        records(path, format=form)
    assert str(caught.value).startswith(f"{path}:2: {line}")
    assert len(records(path, format=form, on_bad_record="skip")) == 1


@pytest.mark.parametrize(
    "form", [name for name in GOOD if name not in ("best_of_k", "rewardbench")]
)
def test_a_row_without_its_fields_is_told_what_is_missing(path, form):
    with pytest.raises(DataError, match=r"d\.jsonl:1: \w+: missing; the row has: text"):
        records(jsonl(path, [{"text": "x"}]), format=form)


def hinted(message: str) -> list[str]:
    """The formats that an error names."""
    named = re.search(r"format ('[^:]+'): name it", message)
    return re.findall(r"'(\w+)'", named[1]) if named else []


@pytest.mark.parametrize("kind", ["preference", "rated", "candidates"])
def test_following_a_hint_that_names_a_format_reads_the_file(path, kind):
    """Whole rows, and rows that lack one field each: what a hint names is read."""
    followed = set()
    for good in GOOD.values():
        for without in ("", *good):
            jsonl(path, [{name: value for name, value in good.items() if name != without}])
            try:
                records(path, kind)
            except DataError as error:
                for name in hinted(str(error)):
                    followed.add(name)
                    census = Census()
                    assert records(path, kind, census, format=name) or census.lines()
    assert kind != "candidates" or {"judgebench", "llmbar", "hhh", "mt_bench"} <= followed


@pytest.mark.parametrize("form", ["judgebench", "llmbar", "hhh", "ppe_human", "ppe_correctness",
                                  "mt_bench"])  # fmt: skip
def test_a_file_read_without_its_format_is_recognised(path, form):
    ((_, _, bad),) = read_each(Source(jsonl(path, [GOOD[form]])), Census())
    assert f"it looks like format '{form}'" in str(bad)
    with pytest.raises(DataError) as caught:  # a pair is wanted: a benchmark's format is no help
        records(path, "preference")
    assert form not in str(caught.value)
