"""The scoring workloads' shapes, and the benchmark from end to end on a tiny model."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import scoring, workloads
from bench.texts import arena_answers, hh_pairs, texts_of, write_preferences
from bench.workloads import (
    best_of,
    by_pass,
    by_record,
    by_side,
    first_of,
    padded_positions,
    rm_bench,
    sample,
    token_counter,
)
from smorm.text.chat import Renderer
from smorm.text.tokenizers import train_bpe
from smorm.trees.forest import forest_rows, grow
from tests.conftest import DATA

NOWHERE = Path("/nowhere")


@functools.cache
def renderer(folder: Path = NOWHERE, every: int = 4) -> Renderer:
    """Trained on each `every`-th text: a quarter of them has nearly all of their words."""
    texts = [*texts_of(hh_pairs(folder).records), *texts_of(arena_answers(folder).records)]
    return Renderer(train_bpe(texts[::every], 16_000), max_tokens=4096)


def rm_shape(folder: Path) -> Any:
    source = arena_answers(folder)
    whole = renderer(folder, every=1)
    records = rm_bench(source, token_counter(whole.tokenizer))
    return sample("rm", records, 8, by_pass, whole, source.origin)


@pytest.mark.slow
@pytest.mark.parametrize(
    "folder", [NOWHERE, pytest.param(DATA, marks=pytest.mark.data)], ids=["generated", "real"]
)
def test_the_rm_bench_shape_has_rm_benchs_token_statistics(folder: Path) -> None:
    facts = rm_shape(folder).facts
    # 308 tokens, sharing 1.16 and padding 1.28 in its script's order (RM-Bench, chat)
    assert facts["tokens_per_response_of_whole_set"] == pytest.approx(308, rel=0.05)
    assert facts["sharing"] == pytest.approx(1.162, rel=0.03)
    assert facts["token_ratio_of_whole_set"] == pytest.approx(1.49, rel=0.05)
    assert facts["token_ratio"] == pytest.approx(facts["token_ratio_of_whole_set"], rel=0.03)


@pytest.mark.slow
@pytest.mark.parametrize(
    "folder", [NOWHERE, pytest.param(DATA, marks=pytest.mark.data)], ids=["generated", "real"]
)
def test_hh_pairs_share_what_hh_pairs_share(folder: Path) -> None:
    source = hh_pairs(folder)
    work = sample("pairs", workloads.pairs(source), 16, by_side, renderer(folder), source.origin)
    assert work.facts["sharing"] == pytest.approx(1.55, rel=0.06)
    assert work.facts["tokens_per_response_of_whole_set"] == pytest.approx(160, rel=0.1)
    ratio = work.facts["token_ratio"]
    assert ratio == pytest.approx(work.facts["token_ratio_of_whole_set"], rel=0.03)
    assert ("generated" in work.facts["texts"]) == (folder == NOWHERE)


@pytest.mark.slow
def test_messages_that_were_tokenised_once_are_the_renderers_tokens() -> None:
    source = first_of(hh_pairs(NOWHERE), 20)
    work = sample("bon", best_of(source, 4), 20, by_record, renderer(), source.origin)
    for record, unit in zip(work.records, work.units, strict=True):
        for response, ids in zip(record.responses, unit, strict=True):
            assert ids.tolist() == renderer().render(record.prompt + response)


def test_responses_are_drawn_without_repetition_and_from_the_seed() -> None:
    source = first_of(hh_pairs(NOWHERE), 40)
    once, again = best_of(source, 16), best_of(source, 16)
    assert once == again != best_of(source, 16, seed=1)
    assert all(len({id(side) for side in record.responses}) == 16 for record in once)


def test_a_set_smaller_than_best_of_n_draws_with_repetition() -> None:
    (record, _) = best_of(first_of(hh_pairs(NOWHERE), 2), 64)
    assert len(record.responses) == 64


def test_a_set_without_records_is_refused_by_its_name() -> None:
    with pytest.raises(ValueError, match="rm: no record has this shape"):
        sample("rm", [], 8, by_pass, renderer(), "nowhere")


@pytest.mark.parametrize("order", [by_record, by_pass])
def test_an_order_takes_every_response_once(order: Any) -> None:
    assert sorted(order(5, 6)) == list(range(30))


def positions(order: Any, responses: int) -> list[tuple[int, int]]:
    """Record and response of each number."""
    return [divmod(int(number), responses) for number in order]


def test_pairs_are_taken_rejected_first_as_in_rewardbench() -> None:
    assert positions(by_side(3, 2), 2) == [(0, 1), (1, 1), (2, 1), (0, 0), (1, 0), (2, 0)]


def test_rm_benchs_passes_are_styles_and_in_each_the_rejected_come_first() -> None:
    assert positions(by_pass(1, 6), 6) == [(0, 3), (0, 0), (0, 4), (0, 1), (0, 5), (0, 2)]
    assert positions(by_pass(2, 6), 6)[:4] == [(0, 3), (1, 3), (0, 0), (1, 0)]


def test_padding_is_counted_batch_by_batch() -> None:
    assert padded_positions([3, 5, 2, 7, 1], batch=2) == 10 + 14 + 1


@pytest.mark.parametrize("seed", range(20))
def test_forest_rows_are_what_a_forest_computes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    stem = rng.integers(0, 3, 12).astype(np.int32)
    unit = [
        np.concatenate([stem[: rng.integers(0, 13)], rng.integers(0, 3, rng.integers(1, 9))])
        .astype(np.int32)
        for _ in range(int(rng.integers(1, 7)))
    ]  # fmt: skip
    assert forest_rows(unit) == grow(unit).num_tokens


def test_the_pairs_file_is_read_by_the_product(tmp_path: Path) -> None:
    from smorm.data.census import Census
    from smorm.data.reading import Source, read_preferences

    records = hh_pairs(NOWHERE).records
    file = write_preferences(records, tmp_path / "pairs.jsonl")
    rows = read_preferences(Source(str(file)), census=Census())
    assert len(list(rows)) == len(records)


@pytest.mark.slow
def test_the_benchmark_runs_end_to_end_with_equal_scores(tmp_path: Path) -> None:
    file = tmp_path / "scoring.json"
    options = ["--json", str(file), "--rounds", "1", "--peak-repeats", "1"]
    options += ["--model", "tiny", "--limit", "40", "--data", str(NOWHERE)]
    assert scoring.main(options) == 0
    content = json.loads(file.read_text(encoding="utf-8"))
    assert set(content["ratios"]) == set(content["equality"])
    assert len(content["ratios"]) == 4
    for name, entry in content["ratios"].items():
        assert entry["n"] == 1
        assert 0 < entry["low"] <= entry["median"] <= entry["high"]
        assert content["equality"][name] < 1e-5
        detail = content["detail"][name]
        assert detail["score_spread"] > 1e-3
        arms = detail["arms"]
        # fewer positions: what the speed is made of
        computed = arms["padded"]["tokens_per_unit"] / arms["smorm"]["tokens_per_unit"]
        assert computed == pytest.approx(detail["token_ratio"], rel=0.05)
        assert 0 < arms["smorm"]["peak_share"] < 1.5
        assert "first 40 records" in detail["texts"]
