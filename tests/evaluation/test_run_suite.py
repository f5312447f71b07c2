"""Suites on a real, small model: records to results."""

from __future__ import annotations

import numpy as np
import orjson
import pytest

from smorm import RewardModel
from smorm.data.reading import Source
from smorm.errors import ConfigError, DataError
from smorm.evaluation.suites import Suite, display_names, parse_suite, run_suite
from tests.tiny import trained, world


@pytest.fixture(scope="module")
def model() -> RewardModel:
    return RewardModel.load(trained())


def test_a_pairs_suite_gives_one_result_a_view_that_the_scores_bear_out(model):
    path = world()["eval-pairs-ID"]
    results = run_suite(model, Suite("pairs/ID", Source(path)), ["F", "L", "M"], name="x", seed=3)
    assert [(r.model, r.view) for r in results] == [("x", "F"), ("x", "L"), ("x", "M")]
    rows = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    for result in results:
        scores = model.score(rows, result.view).view().reshape(-1, 2)
        assert result.metrics["accuracy"].value == np.mean(scores[:, 0] > scores[:, 1])
        items = [item["scores"] for item in result.items]
        np.testing.assert_allclose(items, scores, atol=1e-5)
        assert result.fingerprint["seed"] == 3
        assert result.fingerprint["model"] == model.card.hashes


def test_the_length_only_rule_counts_words(model):
    path = world()["eval-pairs-ID"]
    rows = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    gaps = [len(row["chosen"].split()) - len(row["rejected"].split()) for row in rows]
    expected = np.mean([0.5 if gap == 0 else float(gap > 0) for gap in gaps])
    (result,) = run_suite(model, Suite("pairs", Source(path)))
    assert result.metrics["length_only_accuracy"].value == pytest.approx(expected)


def test_swapped_labels_give_one_minus_the_accuracy(model, tmp_path):
    rows = [orjson.loads(line) for line in world()["eval-pairs-ID"].read_bytes().splitlines()]
    for row in rows:
        row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
    (tmp_path / "swapped.jsonl").write_bytes(b"\n".join(map(orjson.dumps, rows)))
    (plain,) = run_suite(model, Suite("pairs", Source(world()["eval-pairs-ID"])))
    (swapped,) = run_suite(model, Suite("pairs", Source(tmp_path / "swapped.jsonl")))
    total = plain.metrics["accuracy"].value + swapped.metrics["accuracy"].value
    assert total == pytest.approx(1.0)


def test_a_rated_suite_compares_on_the_ratings_own_scale(model):
    path = world()["eval-rated-ID"]
    rows = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    (result,) = run_suite(model, Suite("rated", Source(path)))
    predicted = model.score(rows).attributes
    for column, name in enumerate(model.attributes):
        truth = np.array([row["scores"][name] for row in rows])
        expected = np.mean((predicted[:, column] - truth) ** 2)
        assert result.metrics[f"mse/{name}"].value == pytest.approx(expected, rel=1e-4)
        mean = model.card.means[name]
        baseline = np.mean((truth - mean) ** 2)
        assert result.metrics[f"mse_of_mean/{name}"].value == pytest.approx(baseline)


def test_rm_bench_scores_the_published_schema(model, tmp_path):
    domains = ("chat", "code", "math", "safety-refuse", "safety-response")
    rows = [
        {
            "id": f"{domain}-{i}", "prompt": f"question {i}", "domain": domain,
            "chosen": [f"good {i}", f"good, longer {i}", f"**good** {i} *"],
            "rejected": [f"bad {i}", f"bad, longer {i}", f"**bad** {i} *"],
        }
        for domain in domains for i in range(3)
    ]  # fmt: skip
    (tmp_path / "total_dataset.json").write_bytes(orjson.dumps(rows))
    suite = parse_suite(f"rm-bench={tmp_path / 'total_dataset.json'}")
    (result,) = run_suite(model, suite, ["F"])
    wins = []
    for row in rows:
        chosen = model.score([(row["prompt"], text) for text in row["chosen"]], "F").view()
        rejected = model.score([(row["prompt"], text) for text in row["rejected"]], "F").view()
        wins.append(chosen[:, None] > rejected[None, :])
    chat = np.mean(wins[:3], axis=0)
    hard = (chat[0, 1] + chat[0, 2] + chat[1, 2]) / 3
    assert result.metrics["chat/hard"].value == pytest.approx(hard)
    assert result.metrics["chat/normal"].value == pytest.approx(np.trace(chat) / 3)


def test_records_that_do_not_fit_stop_the_suite_or_are_counted(model, tmp_path):
    rows = [
        {"prompt": "word " * 500, "chosen": "a", "rejected": "b"},
        *({"prompt": f"p{i}", "chosen": "a", "rejected": "b"} for i in range(3)),
    ]
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(map(orjson.dumps, rows)))
    suite = Suite("pairs", Source(tmp_path / "in.jsonl"))
    with pytest.raises(DataError, match=r"in\.jsonl:1: "):
        run_suite(model, suite)
    (dropped,) = run_suite(model, suite, overlong="drop")
    assert dropped.metrics["accuracy"].n == 3
    assert "dropped: longer than the limit: 1 (such as " in dropped.notes[-1]
    (shortened,) = run_suite(model, suite, overlong="truncate_prompt")
    assert shortened.metrics["accuracy"].n == 4
    assert any("shortened" in note for note in shortened.notes)


@pytest.mark.parametrize("text", ["pairs", "=x", "pairs=", "bench=x", "paris=x"])
def test_a_suite_that_is_not_named_well_is_refused(text):
    with pytest.raises(ConfigError, match="suite"):
        parse_suite(text)


def test_subsets_of_ones_own_are_told_the_suite_that_measures_them(model, tmp_path):
    path = tmp_path / "mine.jsonl"
    rows = [{"prompt": "q", "chosen": f"a {i}", "rejected": "b", "subset": "x"} for i in range(3)]
    path.write_bytes(b"\n".join(map(orjson.dumps, rows)))
    for name in ("rewardbench", "rewardbench-2", "prior-sets"):
        with pytest.raises(DataError, match="suite best-of-k measures rows of any subset"):
            run_suite(model, parse_suite(f"{name}={path}"))
    (result,) = run_suite(model, parse_suite(f"best-of-k={path}"))
    assert result.metrics["subset/x"].n == 3


def test_a_rated_suite_needs_attribute_rows():
    single = RewardModel.load(trained("preference"))
    with pytest.raises(ConfigError, match="no attribute rows"):
        run_suite(single, Suite("rated", Source(world()["eval-rated-ID"])))


def test_models_that_would_be_called_the_same_keep_their_paths():
    assert display_names(["runs/a/model", "runs/b"]) == ["a", "b"]
    assert display_names(["x/a/model", "y/a"]) == ["x/a/model", "y/a"]
    assert display_names(["model"]) == ["model"]
    assert display_names(["."]) == ["."]
