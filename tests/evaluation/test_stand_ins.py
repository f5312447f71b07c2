"""The stand-ins of the benchmarks, and the real sets at hand, read as their suites read them."""

import pytest

from experiments.stand_ins import MARK, write_stand_in
from smorm.data.census import UNREAD_KINDS, Census, DropReason
from smorm.data.reading import read_records
from smorm.evaluation.benchmarks import BENCHMARKS
from tests.data.sources import records

SUBSETS = {"rewardbench": 23, "prior-sets": 4, "rewardbench-2": 6, "rm-bench": 5, "judgebench": 5,
           "ppe": 1, "ppe-correctness": 5, "rmb": 48, "hhh": 4, "llmbar": 5, "mt-bench": 2,
           "best-of-k": 4}  # fmt: skip


@pytest.mark.parametrize("name", BENCHMARKS.names())
def test_every_stand_in_is_read_as_its_benchmark_with_the_good_ones_first(tmp_path, name):
    place = write_stand_in(name, tmp_path)
    subsets, census = set(), Census()
    for label, source in BENCHMARKS[name].sources(str(place)):
        for record in read_records(source, "candidates", census):
            subsets.add(record.source or label)
            marked = [any(MARK in m.content for m in r) for r in record.responses]
            good = record.chosen or 0
            assert marked == [True] * good + [False] * (len(marked) - good)
            assert 0 < good < len(marked)
            assert not any(MARK in message.content for message in record.prompt)
    assert len(subsets) == SUBSETS[name]
    kinds = {reason.kind for reason in census.totals()}
    assert kinds <= {DropReason.JUDGED_TIE, *UNREAD_KINDS}


def test_a_stand_in_is_the_same_every_time(tmp_path):
    one, two = (write_stand_in("rewardbench-2", tmp_path / name) for name in "ab")
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.data
@pytest.mark.parametrize(("form", "name"), [("llmbar", "llmbar"), ("hhh", "hhh_alignment")])
def test_the_real_sets_are_read_whole(data_folder, form, name):
    census = Census()
    path = data_folder / "eval" / name / "test.jsonl.gz"
    found = records(path, format=form, census=census)
    assert len(found) == {"llmbar": 419, "hhh": 221}[form]
    assert {record.chosen for record in found} == {1}
    assert len({record.source for record in found}) == {"llmbar": 5, "hhh": 4}[form]
    assert sum(len(record.prompt) > 1 for record in found) == {"llmbar": 0, "hhh": 41}[form]
