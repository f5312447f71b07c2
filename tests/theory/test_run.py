"""A whole diagnosis of a small model: sections, planted relations, and what does not apply."""

from __future__ import annotations

import numpy as np
import orjson
import pytest
import torch

from smorm import RewardModel
from smorm.data.reading import Source
from smorm.evaluation.result import read_results
from smorm.theory.run import DiagnosisInputs, diagnose
from tests.tiny import trained, world


def question(**changes):
    files = world()
    values = {
        "preference": Source(files["eval-pairs-ID"]),
        "rated": Source(files["eval-rated-ID"]),
        "ood": {"far": Source(files["eval-pairs-far"])},
        "gold": str(files["eval-pairs-ID"]),
    }
    return DiagnosisInputs(**{**values, **changes})


@pytest.fixture(scope="module")
def found():
    return diagnose(RewardModel.load(trained()), question())


def test_every_section_is_measured_and_the_result_survives_its_file(found, tmp_path):
    names = {name.partition("/")[0] for name in found.result.metrics}
    assert names == {
        "spectrum", "preference", "alpha", "alpha_accuracy", "alpha_total", "c", "epsilon",
        "within_prompt", "ood", "probe", "rows", "probe_minus_rows", "weight", "gradient", "lemma",
        "view",
    }  # fmt: skip
    found.result.write(tmp_path / "r.json")
    (again,) = read_results(tmp_path / "r.json")
    assert again.kind == "diagnose"
    assert again.metrics["c/projection"] == found.result.metrics["c/projection"]
    assert again.notes[-len(found.advice) :] == found.advice
    assert all(metric.n > 0 for metric in found.result.metrics.values())


def test_alarms_are_measured_on_the_pairs_and_out_of_distribution(found):
    alarms = {(alarm.prompts, alarm.kind.value) for alarm in found.result.alarms}
    assert alarms == {
        ("preference", "closing_word"), ("preference", "near_empty"), ("ood/far", "closing_word"),
        ("ood/far", "near_empty"), ("ood/far", "score_drift"),
    }  # fmt: skip
    (line,) = [note for note in found.result.notes if note.startswith("alarms not measured")]
    assert "16 answers" in line


def test_the_inequality_has_no_violation_and_the_lemmas_safe_readings_hold(found):
    for name, metric in found.result.metrics.items():
        if name.endswith("/violations") or name in (
            "lemma/fails/quarter_gap",
            "lemma/fails/pair_sum",
        ):
            assert metric.value == 0, name


def test_alpha_and_accuracy_are_those_of_the_scores(found):
    model = RewardModel.load(trained())
    rows = [orjson.loads(line) for line in world()["eval-pairs-ID"].read_bytes().splitlines()]
    scores = model.score(rows)
    gaps = scores.attributes[0::2] - scores.attributes[1::2]
    for column, name in enumerate(model.attributes):
        alpha = found.result.metrics[f"alpha/{name}"]
        assert alpha.value == pytest.approx(gaps[:, column].mean(), abs=1e-5)
    wins = scores.preference[0::2] > scores.preference[1::2]
    assert found.result.metrics["preference/accuracy"].value == np.mean(wins)


def oriented(model, folder):
    """The pairs with the labels that the model itself would give."""
    rows = [orjson.loads(line) for line in world()["eval-pairs-ID"].read_bytes().splitlines()]
    scores = model.score(rows).preference.reshape(-1, 2)
    for row, (chosen, rejected) in zip(rows, scores, strict=True):
        if chosen < rejected:
            row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
    path = folder / "oriented.jsonl"
    path.write_bytes(b"\n".join(map(orjson.dumps, rows)))
    return Source(path)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_an_attribute_planted_with_or_against_preference_is_named(tmp_path, sign):
    model = RewardModel.load(trained())
    weight = model.network.head.weight.data
    weight[1:] = sign * weight[0]
    asked = question(preference=oriented(model, tmp_path), rated=None, gold=None)
    metrics = (found := diagnose(model, asked)).result.metrics
    assert metrics["c/projection"].value * sign > 0
    assert metrics["within_prompt/spearman"].value == pytest.approx(sign)
    assert metrics["ood/far/spearman"].value == pytest.approx(sign)
    assert metrics["epsilon/projection/largest_within_prompt"].value == pytest.approx(0, abs=1e-6)
    word = "goes with preference" if sign > 0 else "conflicts with preference"
    for name in model.attributes:
        assert metrics[f"alpha/{name}"].value * sign > 0
        assert any(line.startswith(f"{name}: {word}") for line in found.advice)


def test_a_one_row_model_gets_what_applies_and_is_told_the_rest():
    found = diagnose(RewardModel.load(trained("preference")), question())
    names = {name.partition("/")[0] for name in found.result.metrics}
    assert names == {"spectrum", "preference", "probe", "weight", "lemma"}
    assert "One row:" in " ".join(found.result.notes)
    assert "probe/spearman/mean" in found.result.metrics
    assert found.view is None


def test_a_model_of_ratings_alone_gets_what_applies_and_is_told_the_rest():
    found = diagnose(RewardModel.load(trained("regression")), question())
    names = {name.partition("/")[0] for name in found.result.metrics}
    assert {"alpha", "spectrum", "probe", "weight"} <= names
    assert not names & {"c", "epsilon", "lemma", "gradient", "view", "preference", "ood"}
    assert "Trained on ratings alone" in " ".join(found.result.notes)


def test_the_weight_counts_what_the_run_trained_on(found):
    said = [line for line in found.advice if "Regression weight" in line]
    assert "for 120 pairs and 60 rated responses (the run's data.json)" in said[0]
    weight = found.result.metrics["weight/mean"]
    assert f"objective.weight={weight.value:.3g}" in said[0]


@pytest.mark.slow
@pytest.mark.data
def test_a_model_that_was_not_trained_here_is_diagnosed_as_it_is(data_folder, tmp_path):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    source = data_folder / "stories260k" / "hf"
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_pretrained(
        source,
        id2label={0: "preference", 1: "LABEL_1", 2: "LABEL_2"},
        pad_token_id=0,
        problem_type="regression",
    ).save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(source).save_pretrained(tmp_path / "model")
    found = diagnose(RewardModel.load(tmp_path / "model"), question(gold=None))
    metrics = found.result.metrics
    assert metrics["spectrum/dimensions"].value == 64
    assert metrics["epsilon/projection/violations"].value == 0
    assert "alpha/LABEL_1" in metrics
    assert "probe/spearman/coverage" in metrics
    assert any("the model's rows LABEL_1" in note for note in found.result.notes)
    assert any("as in the files given here" in line for line in found.advice)


def test_ratings_of_other_attributes_than_the_models_are_probed_and_told(tmp_path):
    rows = [orjson.loads(line) for line in world()["eval-rated-ID"].read_bytes().splitlines()]
    for row in rows:
        row["scores"] = {"words": float(len(row["response"].split()))}
    (tmp_path / "rated.jsonl").write_bytes(b"\n".join(map(orjson.dumps, rows)))
    asked = question(rated=Source(tmp_path / "rated.jsonl"), ood={}, gold=None)
    found = diagnose(RewardModel.load(trained()), asked)
    assert found.result.metrics["probe/spearman/words"].low > 0
    assert "gradient/cosine" not in found.result.metrics
    assert any("the model's rows correctness" in note for note in found.result.notes)
