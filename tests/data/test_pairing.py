"""Ratings as pairs: the rule by hand, its laws, and files that the readers take."""

from __future__ import annotations

import itertools

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.several_answers import lab_answers
from smorm.config import parse_config
from smorm.data.census import Census, DropReason
from smorm.data.pairing import Pairing, pair_ratings, write_paired
from smorm.data.reading import Source, read_preferences, read_rated
from smorm.data.records import Rated
from smorm.data.scaling import AttributeScale
from smorm.errors import ConfigError, DataError
from smorm.files import read_json
from smorm.text.chat import Message
from smorm.training.loop import train
from tests.data.sources import law
from tests.tiny import config_values, world


def rated(text: str, prompt: str = "p", identity: str | None = None, **scores: float | None):
    said = (Message("user", prompt),), (Message("assistant", text),)
    return Rated(*said, scores, id=identity, where=f"made.jsonl:{text}")


def made(records, rule=None):
    """(chosen, rejected) texts of all pairs, and the census."""
    census = Census()
    pairs = list(pair_ratings(records, rule, census=census))
    return [(p.chosen[0].content, p.rejected[0].content) for p in pairs], census


def test_every_two_responses_to_a_prompt_are_compared_by_their_mean_rating():
    records = [rated("a", x=1, y=5), rated("b", x=4, y=4), rated("c", x=2, y=0)]
    assert made(records)[0] == [("b", "a"), ("a", "c"), ("b", "c")]


def test_responses_to_different_prompts_are_never_compared():
    pairs, census = made([rated("a", "p", x=1), rated("b", "q", x=2), rated("c", "p", x=3)])
    assert pairs == [("c", "a")]
    assert census[DropReason.ONE_RESPONSE] == 1


def test_a_missing_rating_is_not_zero_and_speaks_for_neither():
    # By its own mean "a" would win (5 against 3), by zeros for what is missing "b" would lose.
    pairs, _ = made([rated("a", x=5, y=None), rated("b", x=6, y=0)])
    assert pairs == [("b", "a")]


def test_responses_without_a_common_attribute_make_no_pair():
    pairs, census = made([rated("a", x=5), rated("b", y=1), rated("c", x=None, y=None)])
    assert pairs == []
    assert census[DropReason.NO_COMMON_ATTRIBUTE] == 3


def test_ties_make_no_pair_and_are_counted():
    records = [rated("a", x=1, y=3), rated("b", x=2, y=2), rated("c", x=2, y=2.5)]
    pairs, census = made(records)
    assert pairs == [("c", "a"), ("c", "b")]
    assert census[DropReason.MEAN_TIE] == 1
    pairs, census = made(records, Pairing(gap=0.25))
    assert pairs == []
    assert census[DropReason.MEAN_TIE] == 3


def test_means_that_are_equal_but_for_rounding_are_a_tie():
    assert (0.1 - 0.3) + (0.2 - 0.0) != 0
    pairs, census = made([rated("a", x=0.1, y=0.2), rated("b", x=0.3, y=0.0)])
    assert pairs == []
    assert census[DropReason.MEAN_TIE] == 1


def test_a_text_that_is_rated_twice_is_one_response_with_the_mean():
    pairs, census = made([rated("a", x=1), rated("b", x=3), rated("a", x=6)])
    assert pairs == [("a", "b")]
    assert census[DropReason.RATED_AGAIN] == 1


def test_attributes_can_be_left_out_and_put_on_one_unit():
    records = [rated("a", good=1.0, verbosity=9.0), rated("b", good=2.0, verbosity=1.0)]
    assert made(records)[0] == [("a", "b")]
    assert made(records, Pairing(attributes=["good"]))[0] == [("b", "a")]
    scales = (AttributeScale("good", 0, 0.1), AttributeScale("verbosity", 0, 10))
    assert made(records, Pairing(scales=scales))[0] == [("b", "a")]


@pytest.mark.parametrize("values", [{"gap": -1}, {"gap": float("nan")}, {"attributes": []}])
def test_a_rule_that_cannot_be_is_told(values):
    with pytest.raises(ConfigError):
        Pairing(**values)


@pytest.mark.parametrize(
    "rule",
    [Pairing(attributes=["good", "verbosty"]), Pairing(scales=[AttributeScale("verbosty", 0, 2)])],
    ids=["attributes", "scales"],
)
def test_an_attribute_that_no_record_rates_is_named(rule):
    records = [rated("a", good=1.0, verbosity=9.0), rated("b", good=2.0, never=None)]
    with pytest.raises(ConfigError, match="no record rates verbosty; rated are good, verbosity"):
        made(records, rule)


RATING = st.none() | st.integers(-8, 8).map(lambda number: number / 4)
RECORDS = st.lists(
    st.tuples(st.sampled_from("pq"), st.fixed_dictionaries({"x": RATING, "y": RATING})),
    min_size=1, max_size=7,
).map(lambda rows: [rated(f"r{i}", p, **scores) for i, (p, scores) in enumerate(rows)])  # fmt: skip


@law
@given(RECORDS, st.randoms())
def test_the_order_of_records_has_no_influence_on_which_pairs_are_made(records, chance):
    shuffled = chance.sample(records, len(records))
    assert sorted(made(records)[0]) == sorted(made(shuffled)[0])


@law
@given(RECORDS)
def test_negated_ratings_swap_every_pair(records):
    negated = [
        Rated(r.prompt, r.response, {k: None if v is None else -v for k, v in r.scores.items()})
        for r in records
    ]
    assert sorted((b, a) for a, b in made(records)[0]) == sorted(made(negated)[0])


@law
@given(RECORDS)
def test_each_two_responses_to_a_prompt_are_a_pair_or_counted(records):
    pairs, census = made(records)
    by_prompt = [[r for r in records if r.prompt[0].content == p] for p in "pq"]
    combinations = sum(len(list(itertools.combinations(group, 2))) for group in by_prompt)
    left_out = census[DropReason.MEAN_TIE] + census[DropReason.NO_COMMON_ATTRIBUTE]
    assert len(pairs) + left_out == combinations


def write(path, rows):
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return Source(path)


def test_the_files_of_one_data_set_hold_the_same_responses(tmp_path):
    turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "p"}]
    source = write(tmp_path / "in.jsonl", [
        {"prompt": "p", "response": "a", "scores": {"x": 1, "y": None}, "id": "A"},
        {"prompt": "p", "response": "b", "scores": {"x": 2, "y": 3}, "id": "B"},
        {"prompt": "alone", "response": "c", "scores": {"x": 2}},
        {"prompt": turns, "response": "d", "scores": {"x": 1}},
        {"prompt": turns, "response": "e", "scores": {"x": 0}},
    ])  # fmt: skip
    found = write_paired(source, tmp_path / "same")
    pairs = list(read_preferences(Source(found.pairs), census=Census()))
    kept = list(read_rated(Source(found.rated), census=Census()))
    assert (found.num_pairs, found.num_rated) == (len(pairs), len(kept)) == (2, 4)
    assert [(p.id, p.source) for p in pairs] == [("B>A", "ratings"), (None, "ratings")]
    assert {p.chosen for p in pairs} | {p.rejected for p in pairs} == {r.response for r in kept}
    assert [r.prompt for r in kept][2:] == [pairs[1].prompt] * 2
    assert pairs[1].prompt[0].role == "system"
    assert kept[0].scores == {"x": 1, "y": None}
    assert found.census[DropReason.IN_NO_PAIR] == 1


def test_ratings_of_which_no_pair_can_be_made_are_told(tmp_path):
    rows = [{"prompt": str(i), "response": "r", "scores": {"x": 1}} for i in range(3)]
    with pytest.raises(DataError, match=r"no pair can be made .*one response to its prompt.*: 3"):
        write_paired(write(tmp_path / "in.jsonl", rows), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["preference", "regression", "joint"])
def test_every_method_trains_on_one_rated_set(tmp_path, kind):
    rows = [{"prompt": one.prompt, "response": text, "scores": scores}
            for one in lab_answers(12) for text, scores, _ in one.answers]  # fmt: skip
    made_of = write_paired(write(tmp_path / "in.jsonl", rows), tmp_path / "same")
    data = {"preference": str(made_of.pairs), "rated": str(made_of.rated)}
    steps = {"max_steps": 2, "batch_size": 4}
    values = config_values(tmp_path / "run", data=data, objective={"kind": kind}, training=steps)
    assert (train(parse_config(values)) / "model.safetensors").is_file()


def test_the_union_is_both_kinds_of_pairs(tmp_path):
    rows = [{"prompt": one.prompt, "response": text, "scores": scores}
            for one in lab_answers(12) for text, scores, _ in one.answers]  # fmt: skip
    made_of = write_paired(write(tmp_path / "in.jsonl", rows), tmp_path / "same")
    sources = [str(world()["train-pairs"]), str(made_of.pairs)]
    values = config_values(
        tmp_path / "run", data={"preference": sources}, objective={"kind": "preference"},
        training={"max_steps": 1, "batch_size": 4},
    )  # fmt: skip
    train(parse_config(values))
    assert read_json(tmp_path / "run" / "data.json")["pairs"] == 120 + made_of.num_pairs


@pytest.mark.data
def test_pairs_of_real_ratings_agree_with_the_ratings(data_folder, tmp_path):
    found = write_paired(Source(data_folder / "summeval_human" / "dev.jsonl.gz"), tmp_path)
    census = Census()
    means: dict = {}
    for record in read_rated(Source(found.rated), census=census):
        values = list(record.scores.values())
        means.setdefault((record.prompt, record.response), []).append(sum(values) / len(values))
    pairs = list(read_preferences(Source(found.pairs), census=census))
    assert len(pairs) == found.num_pairs > 400
    assert census.total == 0
    for pair in pairs:
        high, low = (means[pair.prompt, side] for side in (pair.chosen, pair.rejected))
        assert sum(high) / len(high) > sum(low) / len(low)
