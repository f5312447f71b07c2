"""`smorm score` and `smorm eval` with `--combine`, and `smorm merge`, as a user meets them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.tiny import trained, world


def single():
    return trained("preference")


def multi():
    return trained("regression")


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def test_two_models_score_a_file_as_one_by_their_own_views(smorm, out):
    pairs = world()["eval-pairs-ID"]
    code, said, err = smorm(
        "score", single(), multi(), "--combine", "mean", "--input", pairs, "--output", out
    )
    assert code == 0, err
    assert "view F" in said
    assert "view L" in said
    assert "cost: 2 forward passes a response" in said
    assert "120 responses in 60 lines" in said
    for line in lines_of(out):
        for one in line["responses"]:
            assert one["view"] == pytest.approx(np.mean(list(one["members"].values())))


def test_uwo_takes_its_price_and_members_their_views(smorm, out):
    code, said, err = smorm(
        "score", trained(), multi(), "--combine", "uwo", "--kappa", "2", "--view", "F", "--view",
        "L", "--standardise", world()["eval-pairs-ID"], "--input", world()["eval-pairs-far"],
        "--output", out,
    )  # fmt: skip
    assert code == 0, err
    assert "combined: uwo 2 of" in said
    assert said.count(", over ") == 2
    one = lines_of(out)[0]["responses"][0]
    values = np.array(list(one["members"].values()))
    assert one["view"] == pytest.approx(values.mean() - 2 * values.var())


def test_the_default_price_is_the_published_one(smorm, out):
    code, said, _ = smorm(
        "score", single(), multi(), "--combine", "uwo", "--input", world()["eval-pairs-ID"],
        "--output", out,
    )  # fmt: skip
    assert code == 0
    assert "uwo 0.5 of" in said


@pytest.mark.slow
def test_eval_measures_models_as_one_beside_its_members(smorm, out, tmp_path):
    code, said, err = smorm(
        "eval", single(), multi(), "--combine", "min", "--suite",
        f"pairs/ID={world()['eval-pairs-ID']}", "--suite", f"pairs/far={world()['eval-pairs-far']}",
        "--output", out,
    )  # fmt: skip
    assert code == 0, err
    found = json.loads(out.read_text())
    evals = [one for one in found if one["kind"] == "eval" and one["suite"] == "pairs/ID"]
    assert [one["view"] for one in evals] == ["min", "F", "L"]
    together, first, second = (np.array([i["scores"] for i in one["items"]]) for one in evals)
    np.testing.assert_allclose(together, np.minimum(first, second))
    accuracy = [one["metrics"]["accuracy"]["value"] for one in evals]
    gaps = [one for one in found if one["kind"] == "difference" and one["suite"] == "pairs/ID"]
    assert [gap["metrics"]["accuracy"]["value"] for gap in gaps] == pytest.approx(
        [accuracy[1] - accuracy[0], accuracy[2] - accuracy[0]]
    )
    assert evals[0]["fingerprint"]["rule"] == {"combine": "min", "kappa": 0.0}
    assert "cost: 2 forward passes a response" in said
    page = tmp_path / "page.html"
    assert smorm("report", out, "--output", page)[0] == 0
    assert evals[0]["model"] in page.read_text()


NONSENSE = [
    (["score", 2], "say how they become one"),
    (["score", 2, "--combine", "max"], "--combine max: expected one of mean, min, uwo"),
    (["score", 2, "--combine", "mean", "--kappa", "1"], "--kappa is for --combine uwo"),
    (["score", 2, "--combine", "uwo", "--kappa", "-1"], "expected 0 or more"),
    (["score", 1, "--kappa", "1"], "--kappa is for several rewards"),
    (["score", 1, "--standardise", "x.jsonl"], "--standardise is for several rewards"),
    (["score", 1, "--view", "F", "--view", "L"], "several views of one reward"),
    (["score", 2, "--combine", "mean", "--view", "F", "--view", "L", "--view", "M"],
     "3 given for 2 rewards"),
    (["score", 2, "--combine", "mean", "--view", "L"], "L needs attribute rows"),
    (["eval", 2, "--combine", "mean", "--sanity"], "run it without --combine"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "said"), NONSENSE)
def test_what_cannot_be_asked_is_a_usage_error(smorm, out, words, said):
    verb, count, *rest = words
    pairs = world()["eval-pairs-ID"]
    data = ["--input", pairs] if verb == "score" else ["--suite", f"pairs={pairs}"]
    models = [single(), multi()][:count]
    code, _, err = smorm(verb, *models, *rest, *data, "--output", out)
    assert code == 2
    assert said in err
    assert not out.exists()


def test_a_model_named_twice_is_no_ensemble(smorm, out):
    code, _, err = smorm(
        "score", single(), single(), "--combine", "mean", "--input", world()["eval-pairs-ID"],
        "--output", out,
    )  # fmt: skip
    assert code == 2
    assert "is named twice" in err


def test_a_model_that_is_not_there_is_told_before_any_is_scored(smorm, out, tmp_path):
    code, _, err = smorm(
        "score", single(), tmp_path / "none", "--combine", "mean", "--input", tmp_path / "no.jsonl",
        "--output", out,
    )  # fmt: skip
    assert code == 2
    assert "none: no such model folder" in err


def test_a_reference_of_too_few_prompts_is_bad_data(smorm, out, tmp_path):
    few = tmp_path / "few.jsonl"
    few.write_text("".join(json.dumps({"prompt": str(i), "response": "r"}) + "\n" for i in "abc"))
    code, _, err = smorm(
        "score", single(), multi(), "--combine", "mean", "--standardise", few, "--input",
        world()["eval-pairs-ID"], "--output", out,
    )  # fmt: skip
    assert code == 3
    assert "3 prompts are too few" in err
    assert not out.exists()


@pytest.mark.slow
def test_merged_models_are_an_ordinary_model(smorm, out, tmp_path):
    code, said, err = smorm(
        "merge", trained(), trained(), "--weight", "1", "--weight", "3", "--output", out
    )
    assert code == 0, err
    assert f"0.25 of {trained()}" in said
    assert "cosine to those before 1.0000" in said
    assert "cost: 1 forward pass a response" in said
    results = tmp_path / "r.json"
    suite = f"pairs={world()['eval-pairs-ID']}"
    code, _, err = smorm("eval", trained(), out, "--suite", suite, "--output", results)
    assert code == 0, err
    found = json.loads(results.read_text())
    assert found[0]["items"] == found[1]["items"]
    code, _, err = smorm("export", out, "--view", "M", "--output", tmp_path / "plain")
    assert code == 0, err


def test_a_merge_that_cannot_be_is_one_line(smorm, out):
    code, _, err = smorm("merge", trained(), single(), "--output", out)
    assert code == 2
    assert "have different rows" in err
    assert "Traceback" not in err
    out.mkdir()
    code, _, err = smorm("merge", trained(), trained(), "--output", out)
    assert code == 2
    assert "exists already" in err
