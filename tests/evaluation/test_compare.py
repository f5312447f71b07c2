"""Paired differences of real models on real files, and benchmarks from file to numbers."""

from __future__ import annotations

import numpy as np
import orjson
import pytest

from experiments.stand_ins import write_stand_in
from smorm import RewardModel
from smorm.data.readers import read_rows
from smorm.data.reading import Source
from smorm.errors import ConfigError
from smorm.evaluation.benchmarks import BENCHMARKS, benchmark_sources
from smorm.evaluation.metrics import Metric
from smorm.evaluation.result import differences, read_results, write_results
from smorm.evaluation.suites import Suite, parse_suite, run_suite
from tests.tiny import trained, world


@pytest.fixture(scope="module")
def joint() -> RewardModel:
    return RewardModel.load(trained())


@pytest.fixture(scope="module")
def single() -> RewardModel:
    return RewardModel.load(trained("preference"))


def test_a_model_is_compared_with_the_first_under_the_same_view_and_a_view_with_the_first(
    joint, single
):
    suite = Suite("pairs", Source(world()["eval-pairs-ID"]))
    results = run_suite(single, suite, ["F"], name="Single")
    results += run_suite(joint, suite, ["F", "L"], name="SMORM")
    found = differences(results)
    assert [(r.model, r.view) for r in found] == [
        ("SMORM − Single", "F"),
        ("SMORM − Single", "L − F"),
    ]
    for one, its in zip(found, results[1:], strict=True):
        gap = its.metrics["accuracy"].value - results[0].metrics["accuracy"].value
        assert one.metrics["accuracy"].value == pytest.approx(gap)
        assert one.metrics["accuracy"].low <= gap <= one.metrics["accuracy"].high
    views = differences(results[1:])
    assert [(r.model, r.view) for r in views] == [("SMORM", "L − F")]


def test_the_same_model_twice_differs_by_nothing(joint):
    suite = Suite("pairs", Source(world()["eval-pairs-ID"]))
    results = [r for name in "ab" for r in run_suite(joint, suite, ["M"], name=name)]
    (found,) = differences(results)
    assert {m.value for m in found.metrics.values() if not np.isnan(m.value)} == {0.0}
    assert not any(metric.excludes_zero for metric in found.metrics.values())


def test_rated_suites_compare_errors_and_rank_correlations(joint):
    suite = Suite("rated", Source(world()["eval-rated-ID"]))
    other = RewardModel.load(trained("regression"))
    results = run_suite(joint, suite, name="SMORM") + run_suite(other, suite, name="Multi")
    (found,) = differences(results)
    for name in ("mse", "spearman", f"mse/{joint.attributes[0]}"):
        gap = results[1].metrics[name].value - results[0].metrics[name].value
        assert found.metrics[name].value == pytest.approx(gap)


def test_a_difference_survives_its_file(joint, single, tmp_path):
    suite = Suite("pairs", Source(world()["eval-pairs-ID"]))
    results = run_suite(single, suite, ["F"], name="a") + run_suite(joint, suite, ["F"], name="b")
    found = differences(results)
    write_results(tmp_path / "r.json", found)
    (back,) = read_results(tmp_path / "r.json")
    assert (back.kind, back.metrics["accuracy"]) == ("difference", found[0].metrics["accuracy"])


def test_an_interval_without_zero_holds():
    assert Metric(0.2, 9, 0.1, 0.3).excludes_zero
    assert Metric(-0.2, 9, -0.3, -0.1).excludes_zero
    assert not Metric(0.2, 9, -0.1, 0.3).excludes_zero
    assert not Metric(0.2, 9).excludes_zero


@pytest.mark.parametrize("name", sorted(BENCHMARKS))
def test_every_benchmark_runs_from_its_published_schema(name, joint, tmp_path):
    path = write_stand_in(name, tmp_path)
    suite = parse_suite(f"{name}={path}")
    (result,) = run_suite(joint, suite, ["F"], overlong="truncate_prompt")
    numbers = result.metrics
    assert 0 <= numbers["overall"].value <= 1
    assert {"length_only/overall", "overall_minus_length_only", "length_correlation"} <= set(
        numbers
    )
    assert len(result.items) > 1
    for shown in BENCHMARKS[name].columns:
        assert shown in numbers, f"{name} has no {shown}"
    # the length-only rule is the same for every view
    (other,) = run_suite(joint, suite, ["L"], overlong="truncate_prompt")
    assert other.metrics["length_only/overall"] == numbers["length_only/overall"]


def test_no_batch_size_and_no_order_of_the_file_changes_a_result(joint, tmp_path):
    path = write_stand_in("rewardbench-2", tmp_path)
    rows = [row for _, row in read_rows(path, "test")]
    (plain,) = run_suite(joint, parse_suite(f"rewardbench-2={path}"), ["M"])
    (small,) = run_suite(joint, parse_suite(f"rewardbench-2={path}"), ["M"], max_batch_tokens=64)
    rows.reverse()
    (tmp_path / "back.jsonl").write_bytes(b"\n".join(map(orjson.dumps, rows)))
    (back,) = run_suite(joint, parse_suite(f"rewardbench-2={tmp_path / 'back.jsonl'}"), ["M"])
    for name, metric in plain.metrics.items():
        for other in (small, back):
            np.testing.assert_allclose(other.metrics[name].value, metric.value, atol=1e-5)
    assert [item["id"] for item in back.items] == [item["id"] for item in plain.items][::-1]


def test_a_folder_of_files_labels_items_by_their_path(joint, tmp_path):
    rows = [{"input": "q", "output_1": "a b", "output_2": "c", "label": 1}]
    for place in ("Natural", "Adversarial/GPTInst"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "dataset.json").write_bytes(orjson.dumps(rows))
    (result,) = run_suite(joint, parse_suite(f"llmbar={tmp_path}"), ["F"])
    assert {item["subset"] for item in result.items} == {"Natural", "Adversarial/GPTInst"}
    assert {"Natural", "Adversarial"} <= set(result.metrics)


def test_a_benchmark_without_a_path_is_the_hubs_and_one_that_is_not_there_asks_for_a_path():
    assert [str(source.path) for source in benchmark_sources("rewardbench")] == [
        "allenai/reward-bench"
    ]
    assert [s.split for s in benchmark_sources("judgebench")] == ["gpt", "claude"]
    # any data set of the hub may hold a benchmark that has none of its own
    (source,) = benchmark_sources("best-of-k", "someone/comparisons")
    assert (str(source.path), source.format) == ("someone/comparisons", "best_of_k")
    with pytest.raises(ConfigError, match="give NAME=PATH"):
        parse_suite("rmb")
    with pytest.raises(ConfigError, match="expected one of"):
        benchmark_sources("glue")
