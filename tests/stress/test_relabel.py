"""Relabelling by a gold: the law of its noise, and what it depends on."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smorm.data.census import Census, DropReason
from smorm.data.readers import read_rows
from smorm.data.reading import Source, read_preferences
from smorm.errors import ConfigError, DataError
from smorm.rewards.field import FieldReward, TruthReward
from smorm.rewards.function import FunctionReward
from smorm.stress.relabel import relabel_file
from tests.stress.made_up import read_lines, write_rows
from tests.tiny import world

GOLD = FieldReward("gold")


def rows_of(golds):
    return [
        {"prompt": f"ask {at}", "chosen": f"a{at}", "rejected": f"b{at}",
         "gold_chosen": one, "gold_rejected": two}
        for at, (one, two) in enumerate(golds)
    ]  # fmt: skip


def relabelled(tmp_path, rows, gold=GOLD, **options):
    path = write_rows(tmp_path / "in.jsonl", rows)
    report = relabel_file(Source(path), gold, tmp_path / "out.jsonl", **options)
    return report, read_lines(tmp_path / "out.jsonl")


def test_labels_follow_the_gold_and_everything_else_stays(tmp_path):
    row = {
        "id": 7, "prompt": "ask", "chosen": "worse", "rejected": "better", "margin": 2.0,
        "gold_chosen": 0.1, "gold_rejected": 0.9, "chosen_model": "x", "rejected_model": "y",
        "meta": {"score_chosen": 1, "score_rejected": 2, "chosen_by": "me"}, "tags": ["t"],
    }  # fmt: skip
    report, (new,) = relabelled(tmp_path, [row])
    assert new == {
        "id": 7, "prompt": "ask", "chosen": "better", "rejected": "worse", "gold_chosen": 0.9,
        "gold_rejected": 0.1, "chosen_model": "y", "rejected_model": "x", "tags": ["t"],
        "meta": {"score_chosen": 2, "score_rejected": 1, "chosen_by": "me"}, "swapped": True,
    }  # fmt: skip
    assert (report.pairs, report.swapped, report.ties) == (1, 1, 0)
    assert report.census[DropReason.SWAPPED_MARGIN] == 1


def test_a_label_that_the_gold_shares_is_left_alone_with_its_margin(tmp_path):
    row = {**rows_of([(2.0, 1.0)])[0], "margin": 1.5}
    report, (new,) = relabelled(tmp_path, [row])
    assert new == {**row, "swapped": False}
    assert report.swapped == 0


def test_ties_are_counted_and_left_out_or_kept(tmp_path):
    rows = rows_of([(1, 1), (1, 2)])
    report, new = relabelled(tmp_path, rows)
    assert (report.pairs, report.swapped, report.ties, len(new)) == (1, 1, 1, 1)
    report, new = relabelled(tmp_path, rows, ties="keep")
    assert [one["swapped"] for one in new] == [False, True]
    with pytest.raises(DataError, match=r"no pair to write \(.*ties left out: 1\)"):
        relabelled(tmp_path, rows[:1])


@given(st.lists(st.tuples(st.integers(-2, 2), st.integers(-2, 2)), min_size=1, max_size=8),
       st.integers(0, 3), st.sampled_from([None, 0.5, 2.0]))  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_neither_the_old_label_nor_the_order_of_the_file_decides(
    tmp_path_factory, golds, seed, heat
):
    folder = tmp_path_factory.mktemp("relabel")
    rows = [{"prompt": "p", "chosen": "x", "rejected": "y", "gold_chosen": 1, "gold_rejected": 0},
            *rows_of(golds)]  # fmt: skip
    turned = [
        {**row, "chosen": row["rejected"], "rejected": row["chosen"],
         "gold_chosen": row["gold_rejected"], "gold_rejected": row["gold_chosen"]}
        for row in reversed(rows)
    ]  # fmt: skip
    options = {"temperature": heat, "seed": seed}
    _, one = relabelled(folder, rows, **options)
    _, two = relabelled(folder, turned, **options)
    labels = [{row["prompt"]: row["chosen"] for row in found} for found in (one, two)]
    assert labels[0] == labels[1]


@pytest.mark.slow
def test_noise_is_bradley_terrys(tmp_path):
    gap, heat = 0.3, 0.15
    rows = rows_of([(0.0, gap), (gap, 0.0)] * 1500)
    report, new = relabelled(tmp_path, rows, temperature=heat, seed=3)
    right = np.mean([row["gold_chosen"] > row["gold_rejected"] for row in new])
    expected = 1 / (1 + math.exp(-gap / heat))
    assert abs(right - expected) < 4 * math.sqrt(expected * (1 - expected) / len(rows))
    assert report.overturned == pytest.approx((1 - right) * len(rows))
    _, again = relabelled(tmp_path, rows, temperature=heat, seed=3)
    assert again == new
    _, other = relabelled(tmp_path, rows, temperature=heat, seed=4)
    assert other != new


def test_little_noise_is_no_noise_and_a_tie_is_a_coin(tmp_path):
    rows = rows_of([(1.0, 2.0), (2.0, 1.0)] * 20)
    assert relabelled(tmp_path, rows, temperature=1e-6)[1] == relabelled(tmp_path, rows)[1]
    report, new = relabelled(tmp_path, rows_of([(1, 1)] * 400), temperature=1.0)
    assert (report.ties, report.overturned, len(new)) == (400, 0, 400)
    assert 140 < report.swapped < 260
    for heat in (0.0, -1.0, math.nan):
        with pytest.raises(ConfigError, match="above 0"):
            relabelled(tmp_path, rows, temperature=heat)


def test_the_labs_gold_gives_its_true_labels_to_noisy_pairs(tmp_path):
    report = relabel_file(Source(world()["train-pairs"]), TruthReward(), tmp_path / "out.jsonl")
    for row in read_lines(tmp_path / "out.jsonl"):
        assert row["gold_chosen"] > row["gold_rejected"]
        assert (row["meta"]["gold_chosen"], row["meta"]["gold_rejected"]) == pytest.approx(
            (row["gold_chosen"], row["gold_rejected"])
        )
    noisy = [row for _, row in read_rows(world()["train-pairs"])]
    wrong = sum(row["meta"]["gold_chosen"] < row["meta"]["gold_rejected"] for row in noisy)
    assert report.swapped == wrong > 0
    census = Census()
    kept = list(read_preferences(Source(tmp_path / "out.jsonl"), census=census))
    assert len(kept) == report.pairs
    # a second time nothing is left to swap
    again = relabel_file(Source(tmp_path / "out.jsonl"), TruthReward(), tmp_path / "again.jsonl")
    assert (again.pairs, again.swapped) == (report.pairs, 0)


def test_whole_conversations_are_exchanged_whole(tmp_path):
    start = [{"role": "user", "content": "ask"}]
    short = [*start, {"role": "assistant", "content": "a"}]
    long = [*start, {"role": "assistant", "content": "a b c"}]
    gold = FunctionReward("tests.stress.made_up:half_length")
    _, (new,) = relabelled(tmp_path, [{"chosen": short, "rejected": long}], gold)
    assert (new["chosen"], new["rejected"]) == (long, short)


def test_rows_that_are_no_pairs_and_pairs_without_gold_are_named(tmp_path):
    with pytest.raises(DataError, match=r"in.jsonl:1: row: not a pair"):
        relabelled(tmp_path, [{"prompt": "p", "response": "a"}])
    rows = rows_of([(1, 2), (1, 2)])
    del rows[1]["gold_rejected"]
    with pytest.raises(DataError, match=r"in.jsonl:2: no gold: answer 2: gold: missing"):
        relabelled(tmp_path, rows)
    assert not (tmp_path / "out.jsonl").exists()
    report, new = relabelled(tmp_path, rows, on_bad_record="skip")
    assert len(new) == 1
    assert report.census[DropReason.NO_REWARD] == 1
    broken = write_rows(tmp_path / "broken.jsonl", [*rows, {"prompt": "p", "chosen": "a"}])
    report = relabel_file(Source(broken), GOLD, tmp_path / "out.jsonl", on_bad_record="skip")
    assert (report.pairs, report.census[DropReason.NO_REWARD]) == (1, 1)
    with pytest.raises(ConfigError, match="is a folder"):
        relabel_file(Source(broken), GOLD, tmp_path)
