"""What a run would refuse or never read is found, in the words of the run."""

from __future__ import annotations

import pytest

from smorm.checks.findings import meaning
from smorm.checks.markup import FAMILIES
from smorm.checks.plan import Plan
from smorm.checks.report import check
from smorm.checks.scan import CheckedSource
from smorm.data.census import Census
from smorm.data.reading import Source, read_records
from smorm.errors import DataError
from tests.checks.made import checked, codes, found, pairs, rated
from tests.data.sources import jsonl


def words_of_train(path) -> str:
    """The error with which a run stops at a file."""
    with pytest.raises(DataError) as stopped:
        list(read_records(Source(path), None, Census()))
    return str(stopped.value)


def test_each_kind_of_bad_record_is_told_in_the_words_of_the_run(tmp_path):
    answer = {"prompt": "p", "response": "a"}
    rows = [
        {**answer, "scores": {"x": "5"}},
        {**answer, "scores": {"x": "6"}},
        {**answer, "scores": {"y": True}},
        {"prompt": "p", "chosen": "a"},
        {"prompt": "p", "responses": ["a", 1]},
        {"prompt": "p", "responses": [2, "a"]},
    ]
    report = checked(tmp_path, [*pairs(10), *rows])
    bad = [finding for finding in report.findings if finding.kind == "bad_records"]
    assert [finding.count for finding in bad] == [2, 1, 1, 2]
    for finding, index in zip(bad, (0, 2, 3, 4), strict=True):
        alone = words_of_train(jsonl(tmp_path / "alone.jsonl", [rows[index]]))
        expected = alone.removeprefix(f"{tmp_path}/alone.jsonl:1")
        assert meaning(finding).startswith(f"{tmp_path}/data.jsonl:{11 + index}{expected}. ")


def test_a_pair_without_a_prompt_beside_text_must_be_fixed(tmp_path):
    rows = [{"instruction": "do it", "input": "this", "chosen": "a", "rejected": "b"}]
    finding = found(checked(tmp_path, rows), "bad_records")
    assert finding.severity == "must fix"
    assert words_of_train(tmp_path / "data.jsonl") in meaning(finding)
    assert "instruction, input: not read" in meaning(finding)


def test_fields_that_are_not_read_are_told_by_source_with_their_counts(tmp_path):
    rows, other = pairs(10), pairs(4, 1)
    for index, row in enumerate(rows):
        row |= {"score_chosen": 5, "batch": index}
        row["note"] = "a remark of some length" if index < 3 else ""
    other[2]["tools"] = []
    other[2]["judge_prompt"] = "which is better?"
    paths = jsonl(tmp_path / "a.jsonl", rows), jsonl(tmp_path / "b.jsonl", other)
    report = check(Plan(tuple(CheckedSource(Source(path)) for path in paths)))
    content = [finding for finding in report.findings if finding.kind == "unread_content"]
    assert [finding.severity for finding in content] == ["look", "look"]
    first, second = map(meaning, content)
    assert f"{paths[0]}: not read" in first
    assert "score_chosen (10), note (3)" in first
    assert "ignore: [score_chosen, note]" in first
    assert "judge_prompt (1)" in second
    assert content[1].locations == (f"{paths[1]}:3",)
    plain = found(report, "unread_fields")
    assert (plain.severity, plain.count) == ("fine", 10)
    ignored = Source(paths[0], ignore=["score_chosen", "note", "batch"])
    assert not {"unread_content", "unread_fields"} & codes(check(Plan((CheckedSource(ignored),))))


@pytest.mark.parametrize(
    ("columns", "example"),
    [
        ({"functions": [{"name": "add"}]}, "(columns: {tools: functions})"),
        ({"system_prompt": "Be kind to all."}, "(columns: {system: system_prompt})"),
        ({"note": "of some length", "score_chosen": 3, "score_rejected": 1},
         "(columns: {margin: score_chosen - score_rejected}, where"),
        ({"chosen-rating": 3, "rejected-rating": 1}, "chosen-rating - rejected-rating"),
        ({"ratings": [1, 2]}, "(format: ranked reads ranks and ratings"),
        ({"note": "of some length"}, "(columns: {system: COLUMN} or {margin: A - B})"),
    ],
)  # fmt: skip
def test_unread_fields_are_told_with_the_keys_that_would_read_them(tmp_path, columns, example):
    finding = found(checked(tmp_path, [row | columns for row in pairs(3)]), "unread_content")
    assert example in meaning(finding)


def test_conversations_that_begin_differently_are_found(tmp_path):
    def turns(question, answer):
        return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]

    rows = [{"chosen": turns("q", "a"), "rejected": turns("q", "b")},
            {"chosen": turns("q", "a"), "rejected": turns("other", "b")},
            {"chosen": "a whole text", "rejected": "another text"}]  # fmt: skip
    finding = found(checked(tmp_path, rows), "prompts_differ")
    assert (finding.severity, finding.count) == ("look", 1)
    assert finding.locations == (f"{tmp_path / 'data.jsonl'}:2",)


@pytest.mark.parametrize(
    ("text", "code", "remedy"),
    [
        ("\n\nHuman: why?\n\nAssistant: so", "hh_markers", "format: hh_rlhf"),
        ("<|im_start|>user\nwhy?<|im_end|>", "chat_markup", "ChatML"),
        ("[INST] why? [/INST] so", "chat_markup", "Llama 2 and Mistral"),
        ("<start_of_turn>user\nwhy?", "chat_markup", "Gemma"),
        ("<|start_header_id|>user<|end_header_id|>", "chat_markup", "Llama 3"),
        ("why? so</s>", "chat_markup", "the end of a text"),
        ("<｜User｜>why?<｜Assistant｜>", "chat_markup", "DeepSeek"),
        ("### Instruction:\nwhy?\n\n### Response:\nso", "chat_markup", "Alpaca"),
        ('{"role": "user", "content": "why?"}', "messages_as_text", "lists of messages"),
        ('[{"role": "user", "content": "why?"}] then?', "messages_as_text", "lists of messages"),
        ("[{'from': 'human', 'value': 'why?'}, ...]", "messages_as_text", "lists of messages"),
    ],
)
@pytest.mark.parametrize("side", ["prompt", "chosen"])
def test_texts_that_were_meant_in_another_shape_are_found(tmp_path, text, code, remedy, side):
    rows = pairs(20)
    rows[7][side] = text
    finding = found(checked(tmp_path, rows), code)
    assert (finding.severity, finding.count) == ("look", 1)
    assert finding.locations == (f"{tmp_path / 'data.jsonl'}:8",)
    assert remedy in meaning(finding)


def test_raw_texts_of_hh_are_found_and_read_by_the_format_that_is_named(tmp_path):
    begin = "\n\nHuman: why is it so?\n\nAssistant: "
    rows = [{"chosen": f"{begin}it is {n}", "rejected": f"{begin}no {n}"} for n in range(5)]
    refused = found(checked(tmp_path, rows), "bad_records")
    assert words_of_train(tmp_path / "data.jsonl") in meaning(refused)
    assert "format 'hh_rlhf'" in meaning(refused)
    for name, count in (("preference", 5), ("hh_rlhf", 0)):
        source = CheckedSource(Source(tmp_path / "data.jsonl", format=name))
        findings = check(Plan((source,))).findings
        assert sum(f.count for f in findings if f.kind == "hh_markers") == count


def test_a_prompt_that_both_sides_repeat_is_found(tmp_path):
    rows = pairs(20)
    for row in rows[:5]:
        row["chosen"] = f"{row['prompt']} {row['chosen']}"
    assert "prompt_repeated" not in codes(checked(tmp_path, rows))
    for row in rows[:5]:
        row["rejected"] = f" {row['prompt']}\n{row['rejected']}"
    finding = found(checked(tmp_path, rows), "prompt_repeated")
    assert (finding.severity, finding.count) == ("look", 5)
    few = found(checked(tmp_path, [rows[0], *pairs(200, 3)]), "prompt_repeated")
    assert few.severity == "fine"


def test_no_markup_is_passed_over_for_the_sake_of_speed(tmp_path):
    for family, markers in FAMILIES.items():
        for marker in markers:
            rows = [*pairs(2), {"prompt": "p", "chosen": f"so{marker}it", "rejected": "no"}]
            findings = [f for f in checked(tmp_path, rows).findings if f.kind == "chat_markup"]
            assert family in [finding.numbers["family"] for finding in findings]


def test_plain_records_have_no_such_finding(tmp_path):
    rows = [*pairs(20), *rated(20)]
    rows[0]["chosen"] = 'In JSON: {"role": "user"}, and a list [1] of <b>tags</b>. Human: yes.'
    kinds = {"unread_content", "unread_fields", "hh_markers", "chat_markup"}
    assert not (kinds | {"messages_as_text", "prompt_repeated"}) & codes(checked(tmp_path, rows))
