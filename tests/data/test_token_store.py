"""What goes into a store comes out of it, whatever it is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smorm.data.census import Census, DropReason, Reason
from smorm.data.reading import read_preferences, read_rated
from smorm.data.records import prompt_hash
from smorm.data.token_store import StoreWriter, open_store, pairs_of, prompt_ids, rated_of
from smorm.errors import DataError
from tests.data.sources import jsonl, law
from tests.data.stores import encoder, pairs, ratings, stored, wanted, written

TOKENS = st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=9).map(
    lambda ids: np.array(ids, dtype=np.int32)
)
PLACE = st.tuples(st.sampled_from(["a", "b:c", "late"]), st.integers(1, 2**40))
SCORES = st.dictionaries(st.sampled_from("xyz"), st.none() | st.floats(-9, 9), min_size=1)
HASH = st.integers(0, 2**64 - 1)


@law
@given(st.lists(st.tuples(TOKENS, TOKENS, st.floats(-9, 9), HASH, PLACE), max_size=9))
def test_pairs_come_back_as_they_were_written(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("store")
    with StoreWriter(folder, "preference", ["a", "b:c"]) as writer:
        for chosen, rejected, margin, prompt, (name, line) in rows:
            writer.add_pair(chosen, rejected, margin, prompt, f"{name}:{line}")
        writer.finish(Census(), len(rows))
    store = open_store(folder)
    ids, _ = prompt_ids([store], [], np.empty(0, dtype=np.int64))
    found = list(pairs_of([store], ids))
    assert len(found) == len(store) == store.records == len(rows)
    for one, (chosen, rejected, margin, _, (name, line)) in zip(found, rows, strict=True):
        assert one.chosen.tolist() == chosen.tolist()
        assert one.rejected.tolist() == rejected.tolist()
        assert (one.margin, one.where) == (margin, f"{name}:{line}")
    seen = list(dict.fromkeys(row[3] for row in rows))
    assert [one.prompt for one in found] == [seen.index(row[3]) for row in rows]


@law
@given(st.lists(st.tuples(st.none() | TOKENS, SCORES, HASH), min_size=1, max_size=9))
def test_ratings_come_back_in_any_order_of_names(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("store")
    with StoreWriter(folder, "rated", ["f"]) as writer:
        for line, (tokens, scores, prompt) in enumerate(rows, start=1):
            sequences = [] if tokens is None else [tokens]
            writer.add_rated(sequences, scores, prompt, f"f:{line}")
        writer.finish(Census(), len(rows))
    store = open_store(folder)
    assert store.attributes == tuple(dict.fromkeys(n for _, scores, _ in rows for n in scores))
    names = ["z", "unknown", "x", "y"]
    expected = [[scores.get(name) for name in names] for _, scores, _ in rows]
    np.testing.assert_array_equal(store.ratings(names), np.array(expected, dtype=np.float64))
    kept = np.flatnonzero(store.lengths() > 0)
    assert kept.tolist() == [i for i, row in enumerate(rows) if row[0] is not None]
    _, ids = prompt_ids([], [store], kept)
    for one, index in zip(rated_of([store], kept, ids), kept.tolist(), strict=True):
        assert one.tokens.tolist() == rows[index][0].tolist()
        assert one.where == f"f:{index + 1}"


def test_a_store_holds_what_rendering_each_record_gives(tmp_path):
    want = wanted(pairs(tmp_path / "pairs.jsonl", 90))
    store = stored(want, None)
    used, number = encoder(), 0
    records = list(read_preferences(want.source, census=Census(), on_bad_record="skip"))
    for record in records:
        sides = used.encode(record.prompt, [record.chosen, record.rejected]).tokens
        if not sides or sides[0].tolist() == sides[1].tolist():
            continue
        assert store.sequence(2 * number).tolist() == sides[0].tolist()
        assert store.sequence(2 * number + 1).tolist() == sides[1].tolist()
        assert store.where(number) == record.where
        assert store.arrays["margins"][number] == (record.margin or 0.0)
        assert int(store.arrays["prompts"][number]) == prompt_hash(record.prompt)
        number += 1
    assert len(store) == number < len(records) == store.records
    for kind in (DropReason.TIE, DropReason.DROPPED, DropReason.SHORTENED):
        assert store.census[kind] > 0, store.census.lines()


def test_dropped_ratings_still_count_for_the_scales(tmp_path):
    want = wanted(ratings(tmp_path / "rated.jsonl", 40), "rated")
    store = stored(want, None)
    records = list(read_rated(want.source, census=Census()))
    expected = [[one.scores.get(name) for name in ("late", "wit")] for one in records]
    np.testing.assert_array_equal(store.ratings(["late", "wit"]), np.array(expected, np.float64))
    assert (store.lengths() == 0).sum() == store.census.count(
        Reason(DropReason.DROPPED, "response longer than the limit")
    )
    assert (store.lengths() == 0).sum() == 2


def test_a_prompt_has_one_id_for_pairs_and_ratings(tmp_path):
    rows = [{"prompt": p, "chosen": "tin", "rejected": "soft"} for p in ("x", "y", "x")]
    rated = [{"prompt": p, "response": "tin", "scores": {"n": 1}} for p in ("z", "y", "w", "z")]
    one = stored(wanted(jsonl(tmp_path / "p.jsonl", rows)), None)
    two = stored(wanted(jsonl(tmp_path / "r.jsonl", rated), "rated"), None)
    first, second = prompt_ids([one, one], [two], np.array([0, 1, 3]))
    assert first.tolist() == [0, 1, 0, 0, 1, 0]
    assert second.tolist() == [2, 1, 2]
    assert first.dtype == second.dtype == np.int32


@pytest.mark.slow
@law
@given(st.lists(st.integers(0, 9), max_size=30), st.lists(st.integers(0, 12), max_size=30))
def test_prompts_are_numbered_by_their_first_appearance(tmp_path_factory, paired, rated):
    """As `dict.fromkeys` numbers them, pairs before ratings, of which every second is used."""
    folder = tmp_path_factory.mktemp("law")
    stores = []
    none = np.zeros(1, dtype=np.int32)
    for kind, prompts in (("preference", paired), ("rated", rated)):
        (folder / kind).mkdir()
        with StoreWriter(folder / kind, kind, ["f"]) as writer:
            for prompt in prompts:
                number = prompt * 2**60 + 7  # a hash
                if kind == "preference":
                    writer.add_pair(none, none, 0.0, number, "f:1")
                else:
                    writer.add_rated([none], {"a": 1.0}, number, "f:1")
            writer.finish(Census(), len(prompts))
        stores.append(open_store(folder / kind))
    used = np.arange(0, len(rated), 2)
    ids = prompt_ids(stores[:1], stores[1:], used)
    both = [*paired, *rated[::2]]
    number_of = {prompt: number for number, prompt in enumerate(dict.fromkeys(both))}
    assert np.concatenate(ids).tolist() == [number_of[prompt] for prompt in both]
    assert [len(each) for each in ids] == [len(paired), len(used)]
    assert {each.dtype for each in ids} == {np.dtype(np.int32)}


@pytest.mark.parametrize(("kind", "processes"), [("preference", 3), ("rated", 2)])
def test_any_number_of_processes_writes_the_same_bytes(tmp_path, kind, processes):
    make = pairs if kind == "preference" else ratings
    path = make(tmp_path / "source.jsonl", 1100)
    found = [
        written(tmp_path / f"store-{n}", wanted(path, kind, tmp_path / str(n)), n)
        for n in (1, processes)
    ]
    assert found[0].keys() >= {"ids.bin", "store.json"}
    assert found[0] == found[1]
    if kind == "preference":
        assert len(found[0]["quarantine.jsonl"].splitlines()) > 50


def test_a_tokenising_process_imports_no_torch():
    code = (
        "import sys, smorm.data.encode as encode; from smorm.world import backbone_path;"
        "encode.load_tokenizer(str(backbone_path())); print('torch' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert done.stdout.split() == [b"False"]


def test_arrays_that_do_not_fit_together_are_refused(tmp_path):
    written(tmp_path / "store", wanted(pairs(tmp_path / "p.jsonl", 30)), 1)
    with (tmp_path / "store" / "ids.bin").open("ab") as stream:
        stream.write(bytes(4))
    with pytest.raises(DataError, match="do not fit together"):
        open_store(tmp_path / "store")


def test_two_stores_in_a_row_are_one_sequence(tmp_path):
    one = stored(wanted(pairs(tmp_path / "a.jsonl", 40, seed=1)), None)
    two = stored(wanted(pairs(tmp_path / "b.jsonl", 40, seed=2)), None)
    assert one.content != two.content
    ids, _ = prompt_ids([one, two], [], np.empty(0, dtype=np.int64))
    joined = pairs_of([one, two], ids)
    assert [pair.where for pair in joined] == [
        store.where(i) for store in (one, two) for i in range(len(store))
    ]
    assert joined[-1].where == two.where(len(two) - 1)
    assert joined[-1].prompt == ids[-1]
    assert [pair.where for pair in joined[3:6]] == [one.where(i) for i in (3, 4, 5)]
    with pytest.raises(IndexError):
        joined[len(joined)]
    assert Path(joined[0].where.rpartition(":")[0]) == tmp_path / "a.jsonl"
