from enum import StrEnum

from hypothesis import given
from hypothesis import strategies as st

from smorm.data.census import NUM_EXAMPLES, Census, Defect, DropReason, Reason
from tests.data.sources import law

EVENTS = st.lists(
    st.tuples(
        st.sampled_from([DropReason.TIE, DropReason.NO_RATING, DropReason.STRIDE]),
        st.sampled_from("abc"),
    ),
    max_size=30,
)


def census_of(events):
    census = Census()
    for line, (kind, file) in enumerate(events, start=1):
        census.add(kind, f"{file}.jsonl:{line}")
    return census


def test_an_empty_census_says_nothing():
    assert Census().lines() == []
    assert Census().as_dict() == {}
    assert Census()[DropReason.TIE] == 0


def test_a_line_names_the_count_the_sources_and_a_few_places():
    census = Census()
    for line in range(1, 6):
        census.add(DropReason.TIE, f"a.jsonl:{line}")
    census.add(DropReason.TIE, "b.jsonl:9")
    assert census.lines() == [
        f"{DropReason.TIE}: 6 (in a.jsonl 5, b.jsonl 1; such as a.jsonl:1, a.jsonl:2, a.jsonl:3)"
    ]


def test_a_windows_path_or_a_split_keeps_its_colons_before_the_number():
    census = Census()
    census.add(DropReason.TIE, "owner/name[train]:7")
    assert census.as_dict()["tie: chosen equals rejected"]["by_source"] == {"owner/name[train]": 1}


def test_a_count_without_a_place_is_counted_too():
    census = Census()
    census.add(DropReason.SAMPLED, count=4, detail="x.jsonl")
    assert census.lines() == ["prompts sampled into x.jsonl: 4"]


@law
@given(EVENTS, EVENTS)
def test_merging_counts_what_counting_all_together_counts(first, second):
    merged = census_of(first)
    merged.merge(census_of(second))
    together = census_of(first + second)
    assert merged.totals() == together.totals()
    assert merged.counts == together.counts
    assert merged.total == len(first) + len(second)
    assert all(len(places) <= NUM_EXAMPLES for places in merged.examples.values())


@law
@given(EVENTS)
def test_the_counts_by_source_add_up_to_the_count(events):
    for entry in census_of(events).as_dict().values():
        assert entry["count"] == sum(entry["by_source"].values())


class Toy(StrEnum):
    """Reasons of a data shape from outside."""

    ODD = "an odd row"


def test_a_reason_is_a_kind_and_a_detail_and_its_text_is_what_files_hold():
    census = Census()
    for defect in (Defect.EMPTY_PROMPT, Defect.WRONG_TYPE, Defect.EMPTY_PROMPT):
        census.add(DropReason.BAD_RECORD, "a.jsonl:1", detail=defect)
    assert census[DropReason.BAD_RECORD] == 3
    assert census.count(Reason(DropReason.BAD_RECORD, Defect.EMPTY_PROMPT)) == 2
    assert list(census.as_dict()) == [
        "bad record skipped: empty prompt",
        "bad record skipped: wrong type",
    ]


def test_a_census_comes_back_from_plain_values_under_the_sources_names_of_today():
    census = Census()
    census.add(DropReason.BAD_RECORD, "then.jsonl:1", detail=Defect.WRONG_TYPE)
    census.add(Toy.ODD, "other.jsonl:2")
    read = Census.from_plain(census.plain(), {"then.jsonl": "now.jsonl"})
    assert read.count(Reason(DropReason.BAD_RECORD, Defect.WRONG_TYPE)) == 1
    assert read.lines() == [
        "bad record skipped: wrong type: 1 (such as now.jsonl:1)",
        "an odd row: 1 (such as other.jsonl:2)",
    ]
