from hypothesis import given
from hypothesis import strategies as st

from smorm.data.census import EXAMPLES_KEPT, Census
from tests.data.sources import law

EVENTS = st.lists(
    st.tuples(st.sampled_from(["tie", "no rating", "over-long"]), st.sampled_from("abc")),
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
    assert Census()["tie"] == 0


def test_a_line_names_the_count_the_sources_and_a_few_places():
    census = Census()
    for line in range(1, 6):
        census.add("tie", f"a.jsonl:{line}")
    census.add("tie", "b.jsonl:9")
    assert census.lines() == [
        "tie: 6 (in a.jsonl 5, b.jsonl 1; such as a.jsonl:1, a.jsonl:2, a.jsonl:3)"
    ]


def test_a_windows_path_or_a_split_keeps_its_colons_before_the_number():
    census = Census()
    census.add("tie", "owner/name[train]:7")
    assert census.as_dict()["tie"]["by_source"] == {"owner/name[train]": 1}


def test_a_count_without_a_place_is_counted_too():
    census = Census()
    census.add("over-long", count=4)
    assert census.lines() == ["over-long: 4"]


@law
@given(EVENTS, EVENTS)
def test_merging_counts_what_counting_all_together_counts(first, second):
    merged = census_of(first)
    merged.merge(census_of(second))
    together = census_of(first + second)
    assert merged.totals() == together.totals()
    assert merged.counts == together.counts
    assert merged.total == len(first) + len(second)
    assert all(len(places) <= EXAMPLES_KEPT for places in merged.examples.values())


@law
@given(EVENTS)
def test_the_counts_by_source_add_up_to_the_count(events):
    for entry in census_of(events).as_dict().values():
        assert entry["count"] == sum(entry["by_source"].values())
