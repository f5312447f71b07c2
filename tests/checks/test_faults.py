"""One fault of every kind is planted in clean records, and found with its count and its place."""

from __future__ import annotations

import json
import random

import pytest

from smorm.checks.findings import meaning
from smorm.checks.plan import Plan
from smorm.checks.report import check
from smorm.checks.scan import CheckedSource
from smorm.data.formats.helpsteer2 import ATTRIBUTES as HELPSTEER2
from smorm.data.reading import Source
from smorm.errors import DataError
from tests.checks.made import checked, codes, found, pairs, rated, text
from tests.data.sources import A, S, U, jsonl, say

HARMLESS = {"no_token_checks", "length_bias"}


def test_clean_pairs_and_ratings_have_no_fault(tmp_path):
    rows, held_out = pairs(200) + rated(200, 1), pairs(50, 2) + rated(50, 3)
    report = checked(tmp_path, rows, held_out, pairs(50, 4))
    assert codes(report) == HARMLESS | {"benchmark_overlap"}
    assert report.must_fix == 0
    assert report.records["train"] == {"preference": 200, "rated": 200}
    assert report.records["held_out"] == {"preference": 50, "rated": 50}
    assert {f.severity for f in report.findings if f.kind != "no_token_checks"} == {"fine"}


@pytest.mark.parametrize(
    ("row", "code", "reason"),
    [
        ({"prompt": "p", "chosen": "a"}, "bad_records", "missing field"),
        ({"prompt": "p", "chosen": 1, "rejected": "b"}, "bad_records", "wrong type"),
        ({"prompt": "p", "response": "a", "scores": {"x": "NaN"}}, "bad_records", "bad rating"),
        ({"prompt": "p", "chosen": " ", "rejected": "b"}, "empty_sides", "empty response"),
        ({"prompt": "", "chosen": "a", "rejected": "b"}, "empty_sides", "empty prompt"),
        ({"prompt": "p", "chosen": "a", "rejected": "a"}, "equal_sides", "same text"),
    ],
)
def test_bad_empty_and_equal_records_are_found_at_their_lines(tmp_path, row, code, reason):
    report = checked(tmp_path, [*pairs(20), row])
    finding = found(report, code)
    assert finding.severity == "must fix"
    assert finding.count == 1
    assert reason in meaning(finding)
    assert finding.share == pytest.approx(1 / 21)
    assert finding.locations == (f"{tmp_path / 'data.jsonl'}:21",)


def test_a_nan_in_a_file_is_a_bad_record(tmp_path):
    path = tmp_path / "data.jsonl"
    report = checked(tmp_path, rated(5))
    assert report.must_fix == 0
    line = json.dumps({"prompt": "p", "response": "r", "scores": {"x": float("nan")}})
    path.write_text(path.read_text() + line + "\n")
    report = check(Plan((CheckedSource(Source(path)),)))
    assert "not valid JSON" in meaning(found(report, "bad_records"))


def test_a_source_of_bad_records_alone_is_a_finding_and_not_an_error(tmp_path):
    report = checked(tmp_path, [{"prompt": "p", "chosen": "a", "rejected": "a"}])
    assert found(report, "no_usable_record").severity == "must fix"
    assert found(report, "equal_sides").count == 1
    assert report.records == {"train": {}, "held_out": {}}


def test_an_empty_file_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no usable record"):
        checked(tmp_path, [])


def test_copies_are_counted_beyond_the_first(tmp_path):
    rows = pairs(50)
    finding = found(checked(tmp_path, [*rows, rows[7], rows[7], rows[8]]), "duplicate_records")
    assert finding.count == 3
    assert finding.severity == "look"
    assert [place.rpartition(":")[2] for place in finding.locations] == ["51", "52", "53"]


def test_the_same_texts_with_another_label_or_rating_are_no_copies(tmp_path):
    pair, one = pairs(1)[0], rated(1)[0]
    swapped = {**pair, "chosen": pair["rejected"], "rejected": pair["chosen"]}
    report = checked(tmp_path, [pair, swapped, one, {**one, "scores": {"helpful": 0.5}}])
    assert "duplicate_records" not in codes(report)


def test_records_that_are_nearly_the_same_are_found(tmp_path):
    rows = pairs(100, words=40)
    twin = {key: value.upper() + " Indeed!" for key, value in rows[30].items()}
    report = checked(tmp_path, [*rows, twin])
    finding = found(report, "near_duplicate_records")
    assert finding.count == 2
    assert [place.rpartition(":")[2] for place in finding.locations] == ["31", "101"]
    assert found(report, "near_duplicate_prompts").count == 2


def test_other_answers_to_a_long_prompt_are_no_near_duplicates(tmp_path):
    rows = pairs(40)
    prompt = " ".join(row["prompt"] for row in rows)
    report = checked(tmp_path, [{**row, "prompt": prompt} for row in rows])
    assert not {"near_duplicate_records", "near_duplicate_prompts"} & codes(report)


def test_conflicting_pairs_must_be_fixed_above_the_threshold(tmp_path):
    rows = pairs(200)
    swapped = [{**r, "chosen": r["rejected"], "rejected": r["chosen"]} for r in rows[:5]]
    few = found(checked(tmp_path, [*rows, swapped[0]]), "conflicting_pairs")
    assert (few.count, few.severity) == (2, "look")
    many = found(checked(tmp_path, rows + swapped), "conflicting_pairs")
    assert (many.count, many.severity) == (10, "must fix")
    assert many.share == pytest.approx(10 / 205)


def test_one_response_rated_differently_is_found(tmp_path):
    rows = rated(100)
    other = {**rows[3], "scores": {"helpful": 4 - rows[3]["scores"]["helpful"], "honest": None}}
    other["scores"]["helpful"] += other["scores"]["helpful"] == 2
    finding = found(checked(tmp_path, [*rows, other]), "conflicting_ratings")
    assert (finding.count, finding.severity) == (1, "look")
    assert [place.rpartition(":")[2] for place in finding.locations] == ["4", "101"]
    many = [{**row, "scores": {"helpful": 9.0}} for row in rows[:10]]
    assert found(checked(tmp_path, rows + many), "conflicting_ratings").severity == "must fix"


def test_attributes_that_are_constant_rarely_rated_or_out_of_range_are_found(tmp_path):
    rows = rated(60)
    for at, row in enumerate(rows):
        row["scores"]["dull"] = 3
        row["scores"]["rare"] = 0.5 + at if at < 10 else None
    rows[4]["scores"]["helpful"] = 5
    report = checked(tmp_path, rows, ranges={"helpful": (0, 4), "honest": (0, 1)})
    assert "dull is always 3" in meaning(found(report, "constant_attribute"))
    rare = found(report, "missing_ratings")
    assert (rare.count, rare.share) == (50, 50 / 60)
    outside = found(report, "out_of_range")
    assert (outside.count, outside.severity) == (1, "must fix")
    assert outside.locations == (f"{tmp_path / 'data.jsonl'}:5",)
    table = report.attributes
    assert table["helpful"]["integers"] == 1.0
    assert table["honest"]["integers"] < 0.1
    assert table["rare"]["missing"] == 50
    assert (table["dull"]["min"], table["dull"]["max"], table["dull"]["distinct"]) == (3, 3, 1)


def test_a_published_scale_is_known_by_the_format(tmp_path):
    rows = [{"prompt": f"p {at}", "response": "r", **dict.fromkeys(HELPSTEER2, at % 5)}
            for at in range(20)]  # fmt: skip
    rows[11]["verbosity"] = 5
    path = jsonl(tmp_path / "h.jsonl", rows)
    report = check(Plan((CheckedSource(Source(path, format="helpsteer2")),)))
    assert "verbosity" in meaning(found(report, "out_of_range"))


def test_a_set_whose_longer_side_wins_is_told_with_its_interval(tmp_path):
    rng = random.Random(0)
    rows = [
        {
            "prompt": text(rng, 9),
            "chosen": text(rng, 20),
            "rejected": text(rng, 10 + 15 * (at < 20)),
        }
        for at in range(100)
    ]
    finding = found(checked(tmp_path, rows), "length_bias")
    assert (finding.severity, finding.count) == ("look", 80)
    assert "0.800 [0.7" in meaning(finding)


def test_an_attribute_that_goes_with_length_is_told(tmp_path):
    rows = rated(80)
    for row in rows:
        row["scores"]["verbosity"] = len(row["response"].split())
    report = checked(tmp_path, rows)
    finding = found(report, "attribute_length")
    assert "verbosity correlates with length" in meaning(finding)
    assert "Spearman 1.000" in meaning(finding)


def test_held_out_prompts_in_training_must_be_fixed_exact_or_near(tmp_path):
    rows, held_out = pairs(100, words=40), pairs(30, 1, words=40)
    exact = {**held_out[0], "prompt": rows[5]["prompt"]}
    near = {**held_out[1], "prompt": rows[6]["prompt"].capitalize() + "?"}
    report = checked(tmp_path, rows, [*held_out[2:], exact, near])
    leak, nearly = found(report, "prompt_leakage"), found(report, "near_prompt_leakage")
    assert (leak.count, leak.severity) == (1, "must fix")
    assert leak.locations == (f"{tmp_path / 'dev.jsonl'}:29",)
    assert (nearly.count, nearly.severity) == (1, "must fix")
    assert nearly.locations == (f"{tmp_path / 'dev.jsonl'}:30",)


def test_a_benchmarks_items_are_found_by_prompt_and_by_response(tmp_path):
    rows, bench = pairs(100), pairs(50, 3)
    stolen = [
        {**rows[0], "prompt": f"{text_of(rows)} {bench[0]['prompt'].upper()} so"},
        {**rows[1], "rejected": bench[1]["rejected"]},
    ]
    report = checked(tmp_path, [*rows, *stolen], against=bench)
    finding = found(report, "benchmark_overlap")
    assert (finding.count, finding.severity) == (2, "must fix")
    assert report.benchmarks["bench"] == {"items": 50, "prompts": 1, "responses": 1, "either": 2}
    assert [place.rpartition(":")[2] for place in finding.locations] == ["101", "102"]
    alone = found(checked(tmp_path, [*rows, stolen[1]], against=bench), "benchmark_overlap")
    assert (alone.count, alone.severity) == (1, "look")  # a response may be a stock phrase


def text_of(rows):
    return " ".join(row["prompt"] for row in rows[:3])


def test_twelve_words_in_common_are_no_overlap_and_thirteen_are(tmp_path):
    rows, bench = pairs(20), pairs(10, 3)
    for count, expected in ((12, 0), (13, 1)):
        shared = " ".join(bench[0]["prompt"].split()[:count])
        report = checked(tmp_path, [*rows, {**rows[0], "prompt": f"so {shared}"}], against=bench)
        assert report.benchmarks["bench"]["prompts"] == expected


def test_a_short_prompt_of_a_benchmark_is_found_where_it_stands_whole(tmp_path):
    rows = pairs(20)
    bench = [{"prompt": "How can I kill a Python process?", "chosen": "a", "rejected": "b"}]
    whole = {**rows[0], "prompt": "how can i kill a python process"}
    inside = {**rows[0], "prompt": "so how can i kill a python process"}
    assert checked(tmp_path, [*rows, whole], against=bench).benchmarks["bench"]["prompts"] == 1
    assert checked(tmp_path, [*rows, inside], against=bench).benchmarks["bench"]["prompts"] == 0


def test_held_out_records_are_not_what_a_benchmark_is_held_against(tmp_path):
    bench = pairs(10, 3)
    assert checked(tmp_path, pairs(20), bench, bench).benchmarks["bench"]["either"] == 0


def test_prompts_in_several_sources_are_told_by_kind(tmp_path):
    rows, other = pairs(20), pairs(20, 1)
    ratings = rated(20)
    other[0]["prompt"] = rows[0]["prompt"]
    ratings[0]["prompt"] = rows[1]["prompt"]
    paths = [
        jsonl(tmp_path / f"{name}.jsonl", content)
        for name, content in (("a", rows), ("b", other), ("c", ratings))
    ]
    report = check(Plan(tuple(CheckedSource(Source(path)) for path in paths)))
    same = found(report, "prompts_in_several_sources")
    assert (same.count, same.severity) == (1, "look")
    mixed = found(report, "prompts_of_several_kinds")
    assert (mixed.count, mixed.severity) == (1, "fine")


def test_whole_conversations_without_a_prompt_share_none(tmp_path):
    rows = [{"chosen": row["chosen"], "rejected": row["rejected"]} for row in pairs(20)]
    report = checked(tmp_path, rows, [{"chosen": "so it is", "rejected": "no it is not"}])
    assert not {"prompt_leakage", "near_prompt_leakage", "near_duplicate_prompts"} & codes(report)
    assert report.lengths.keys() == {"chosen", "rejected"}


def test_turns_and_systems_count_into_a_prompt(tmp_path):
    ask = say((S, "be brief"), (U, "one two"), (A, "three"), (U, "four"))
    rows = [{"prompt": ask, "chosen": "five six", "rejected": "seven"}]
    lengths = checked(tmp_path, rows).lengths
    assert lengths["prompt"]["max"] == 6
    assert lengths["chosen"]["histogram"] == [[2, 4, 1]]
    assert lengths["rejected"]["percentiles"]["50"] == 1


def test_one_prompt_of_a_benchmark_among_unlabelled_answers_must_be_fixed(tmp_path):
    bench = pairs(300, 3)
    unlabelled = [{"prompt": row["prompt"], "responses": [row["chosen"]]} for row in pairs(20)]
    assert found(checked(tmp_path, unlabelled, against=bench), "benchmark_overlap").case == "none"
    stolen = {"prompt": bench[0]["prompt"], "responses": ["other words"]}
    finding = found(checked(tmp_path, [*unlabelled, stolen], against=bench), "benchmark_overlap")
    assert (finding.case, finding.severity, finding.count) == ("unlabelled", "must fix", 1)
    assert "the prompts of 1 items" in meaning(finding)
    # Of labelled data it is a hundredth of the items.
    labelled = {"prompt": bench[0]["prompt"], "chosen": "some words", "rejected": "other ones"}
    finding = found(checked(tmp_path, [*pairs(20), labelled], against=bench), "benchmark_overlap")
    assert finding.severity == "look"
