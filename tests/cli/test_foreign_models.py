"""Reward models that others made, on the command line."""

from __future__ import annotations

import json

import numpy as np
import pytest

from smorm import RewardModel
from tests.model.foreign_folders import PAIRS, classifier, load_plain, plain_logits


@pytest.fixture
def few(tmp_path):
    lines = [json.dumps({"prompt": prompt, "response": answer}) for prompt, answer in PAIRS]
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    return "--input", tmp_path / "in.jsonl", "--output", tmp_path / "out.jsonl"


@pytest.fixture
def judge(tmp_path):
    return classifier(tmp_path / "judge", labels=("bad", "good"))


def test_a_classifier_is_refused_and_the_way_that_is_named_works(smorm, tmp_path, judge, few):
    code, _, err = smorm("score", judge, *few)
    assert code == 2
    assert """say which one to read: --view '{"good": 1}'""" in " ".join(err.split())
    code, _, err = smorm("score", judge, *few, "--view", '{"good": 1}')
    assert (code, err) == (0, "")
    scored = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    expected = plain_logits(load_plain(judge))
    np.testing.assert_allclose([line["view"] for line in scored], expected[:, 1], atol=1e-5)
    assert [line["preference"] for line in scored] == [None] * len(PAIRS)
    labels = [[line["attributes"][name] for name in ("bad", "good")] for line in scored]
    np.testing.assert_allclose(labels, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("view", "message"), [("{good: 1}", "no valid JSON"), ('{"fine": 1}', "no row 'fine'")]
)
def test_a_view_that_is_no_json_or_names_no_row_is_told(smorm, judge, few, view, message):
    code, _, err = smorm("score", judge, *few, "--view", view)
    assert code == 2
    assert message in " ".join(err.split())


@pytest.mark.slow
def test_a_classifier_equals_itself_and_exports_one_label(smorm, tmp_path, judge):
    code, out, err = smorm("parity", judge, judge)
    assert code == 0, out + err
    folder = tmp_path / "good"
    code, _, err = smorm("export", judge, "--view", '{"good": 1}', "--output", folder)
    assert (code, err.strip()) == (0, "")
    expected = plain_logits(load_plain(judge))[:, 1]
    np.testing.assert_allclose(plain_logits(load_plain(folder))[:, 0], expected, atol=1e-5)
    np.testing.assert_allclose(RewardModel.load(folder).score(PAIRS).view(), expected, atol=1e-5)
    code, out, err = smorm("parity", judge, folder)
    assert code == 0, out + err


def test_precision_and_limit_are_options(smorm, tmp_path, judge, few):
    view = ("--view", '{"good": 1}')
    code, _, err = smorm("score", judge, *few, *view, "--dtype", "bfloat16")
    assert (code, err) == (0, "")
    first = json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0])
    expected = plain_logits(load_plain(judge))[0, 1]
    assert first["view"] != pytest.approx(expected, abs=1e-6)
    assert first["view"] == pytest.approx(expected, abs=0.3)
    code, _, err = smorm("score", judge, *few, *view, "--dtype", "int8")
    assert code == 2
    assert "--dtype int8: expected one of float32, bfloat16" in " ".join(err.split())
    code, _, err = smorm("score", judge, *few, *view, "--max-tokens", 20)
    assert code == 3
    code, _, err = smorm("score", judge, *few, *view, "--max-tokens", 2000)
    assert code == 2
    assert "--max-tokens 2000: expected 1 to 256" in " ".join(err.split())


@pytest.mark.slow
def test_rows_of_others_can_be_weighed_by_a_fit(smorm, tmp_path, judge):
    pair = {"prompt": "What is 2 + 2?", "chosen": "It is four.", "rejected": "Five"}
    lines = [json.dumps({**pair, "prompt": f"What is {n} + 2?"}) for n in range(12)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    command = ("view", judge, "--data", tmp_path / "pairs.jsonl", "--kind", "learned")
    code, out, err = smorm(*command, "-o", tmp_path / "w.json")
    assert code == 0, out + err
    command = ("eval", judge, "--suite", f"pairs={tmp_path / 'pairs.jsonl'}")
    command += ("-o", tmp_path / "r.json", "--max-tokens", 128)
    code, out, err = smorm(*command, "--view", tmp_path / "w.json", "--view", '{"good": 1}')
    assert code == 0, out + err
    code, _, err = smorm(*command)
    assert code == 2
    assert "is a classifier of bad, good" in " ".join(err.split())


def test_a_diagnosis_reads_the_rows_that_there_are(smorm, tmp_path, judge):
    pair = {"prompt": "What is 2 + 2?", "chosen": "It is four.", "rejected": "Five"}
    lines = [json.dumps({**pair, "prompt": f"What is {n} + 2?"}) for n in range(12)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    code, out, err = smorm("diagnose", judge, "--preference", tmp_path / "pairs.jsonl")
    assert code == 0, out + err
