"""`smorm view`: every kind is fitted, used by the other verbs, and nonsense is told in one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.tiny import trained, world

KINDS = ("learned", "calibrated", "min", "mean-minus-spread")
ATTRIBUTES = ["correctness", "coverage", "coherence", "conciseness", "style"]


@pytest.fixture
def fitted(smorm, tmp_path):
    """Fit a view of a kind on pairs; gives its file and what was printed."""

    def fit(kind: str, *words: object, model: object = None) -> tuple[Path, str]:
        path = tmp_path / f"{kind}.json"
        code, out, err = smorm(
            "view", model or trained(), "--data", world()["eval-pairs-ID"], "--kind", kind,
            "--output", path, *words,
        )  # fmt: skip
        assert code == 0, err
        return path, out

    return fit


def flat(text: str) -> str:
    return " ".join(text.split())


def expected_values(view: dict, scores: list[dict]) -> np.ndarray:
    """A view's values by its definition, from the rows that were written beside them."""
    rows = [{"preference": one["preference"], **one["attributes"]} for one in scores]
    if "weights" in view:
        found = [sum(w * row[k] for k, w in view["weights"].items()) for row in rows]
        return np.array(found) + view["offset"]
    centres, spreads = view["centres"], view["spreads"]
    standard = np.array(
        [[(row[k] - centres[k]) / spreads[k] for k in view["rows"]] for row in rows]
    )
    if view["kind"] == "min":
        return standard.min(axis=1)
    return standard.mean(axis=1) - view["kappa"] * standard.std(axis=1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_fitted_view_scores_as_its_file_says(smorm, fitted, tmp_path, kind):
    path, out = fitted(kind)
    view = json.loads(path.read_text())
    code, _, err = smorm(
        "score", trained(), "--input", world()["eval-pairs-far"], "--view", path, "--output",
        tmp_path / "scores.jsonl",
    )  # fmt: skip
    assert code == 0, err
    lines = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    scores = [one for line in lines for one in line["responses"]]
    values = np.array([one["view"] for one in scores])
    np.testing.assert_allclose(values, expected_values(view, scores), atol=1e-6)
    assert values.std() > 1e-3
    assert view["name"] == kind
    assert (view["fitted"]["responses"], view["fitted"]["prompts"]) == (120, 58)
    shown = flat(out)
    for name in ("accuracy on held-out folds", f"{kind} minus it", "Fitted on 60 pairs over 58"):
        assert name in shown
    assert "Few data: 58 prompts; 120 or more would be better" in shown
    metrics = view["fitted"]["metrics"]
    assert set(metrics[f"accuracy/{kind}"]) == {"value", "n", "low", "high"}
    gap = metrics["gain/M"]["value"]
    assert gap == pytest.approx(
        metrics[f"accuracy/{kind}"]["value"] - metrics["accuracy/M"]["value"]
    )
    assert all(flat(note) in shown for note in view["fitted"]["notes"])
    for name, metric in metrics.items():
        section, _, row = name.partition("/")
        if section in ("weight", "centre", "spread"):
            numbers = view["weights"] if section == "weight" else view[f"{section}s"]
            assert metric["value"] == numbers[row]
            assert metric["low"] <= metric["high"]


def test_eval_takes_fitted_views_beside_named_ones(smorm, fitted, tmp_path):
    paths = [fitted(kind)[0] for kind in ("learned", "min")]
    code, _, err = smorm(
        "eval", trained(), "--suite", f"pairs={world()['eval-pairs-ID']}", "--view", "M",
        "--view", paths[0], "--view", paths[1], "--output", tmp_path / "results.json",
    )  # fmt: skip
    assert code == 0, err
    results = json.loads((tmp_path / "results.json").read_text())
    assert {"M", "learned", "min"} <= {one["view"] for one in results}


def test_export_folds_a_learned_view_and_refuses_a_pessimistic_one_with_a_reason(
    smorm, fitted, tmp_path
):
    path, _ = fitted("learned")
    code, _, err = smorm("export", trained(), "--view", path, "--output", tmp_path / "plain")
    assert code == 0, err
    assert (tmp_path / "plain" / "model.safetensors").is_file()
    for kind in ("min", "mean-minus-spread"):
        path, _ = fitted(kind)
        out = tmp_path / f"out-{kind}"
        code, _, err = smorm("export", trained(), "--view", path, "--output", out)
        assert code == 2
        assert "is not linear: it cannot be folded into one row" in err
        assert "export --all-rows" in err
        assert not out.exists()


def test_rows_and_signs_are_those_asked_for(fitted):
    path, _ = fitted("learned", "--rows", "preference", "--rows", "style", "--free-sign", "style")
    assert list(json.loads(path.read_text())["weights"]) == ["preference", "style"]
    path, _ = fitted("calibrated", "--rows", "style")
    view = json.loads(path.read_text())
    assert list(view["weights"]) == ["preference", "style"]
    assert view["fitted"]["spread"] == "prompt"
    path, out = fitted("mean-minus-spread", "--rows", "preference", "--rows", "style")
    assert json.loads(path.read_text())["kappa"] == 1.0
    assert "can get a lower value" not in flat(out)


def test_a_kappa_that_punishes_improvement_is_told(fitted):
    path, out = fitted("mean-minus-spread", "--kappa", "1")
    assert json.loads(path.read_text())["kappa"] == 1.0
    assert "kappa is above 0.447" in flat(out)


def test_a_row_that_the_pairs_speak_against_is_named(smorm, tmp_path):
    lines = Path(world()["eval-pairs-ID"]).read_text().splitlines()
    swapped = []
    for line in lines:
        row = json.loads(line)
        row["chosen"], row["rejected"] = sorted(
            [row["chosen"], row["rejected"]], key=lambda text: len(str(text))
        )
        swapped.append(json.dumps(row))
    (tmp_path / "short.jsonl").write_text("\n".join(swapped))
    code, out, err = smorm(
        "view", trained(), "--data", tmp_path / "short.jsonl", "--kind", "min", "--output",
        tmp_path / "view.json",
    )  # fmt: skip
    assert code == 0, err
    assert "Chosen responses score lower than rejected ones on" in flat(out)
    assert "--free-sign" in flat(out)


def test_any_responses_will_do_for_a_standardising_kind(smorm, tmp_path):
    rated = world()["eval-rated-ID"]
    for kind in ("calibrated", "min"):
        code, out, err = smorm(
            "view", trained(), "--data", rated, "--kind", kind, "--output", tmp_path / "v.json"
        )
        assert code == 0, err
        assert "accuracy" not in out
        assert ("differences between prompts" in flat(out)) == (kind == "calibrated")
    code, _, err = smorm(
        "view", trained(), "--data", rated, "--kind", "learned", "--output", tmp_path / "w.json"
    )
    assert code == 3
    assert "looks like a rated record" in err
    assert not (tmp_path / "w.json").exists()


@pytest.mark.parametrize(
    ("model", "rows"), [("preference", ["preference"]), ("regression", ATTRIBUTES)]
)
def test_one_head_alone_gets_mean_0_and_spread_1_over_the_reference(smorm, tmp_path, model, rows):
    reference = world()["eval-pairs-ID"]
    code, out, err = smorm(
        "view", trained(model), "--data", reference, "--kind", "calibrated", "--output",
        tmp_path / "v.json",
    )  # fmt: skip
    assert code == 0, err
    assert "Mean 0 and standard deviation 1 over all responses" in flat(out)
    assert "differences between prompts" not in flat(out)
    view = json.loads((tmp_path / "v.json").read_text())
    assert list(view["weights"]) == rows
    assert view["fitted"]["spread"] == "all"
    for data in (reference, world()["eval-pairs-far"]):
        code, _, err = smorm(
            "score", trained(model), "--input", data, "--view", tmp_path / "v.json", "--output",
            tmp_path / "scores",
        )  # fmt: skip
        assert code == 0, err
        lines = [json.loads(line) for line in (tmp_path / "scores").read_text().splitlines()]
        scores = [one for line in lines for one in line["responses"]]
        values = np.array([one["view"] for one in scores])
        np.testing.assert_allclose(values, expected_values(view, scores), atol=1e-6)
        if data == reference:
            assert (values.mean(), values.std()) == pytest.approx((0, 1), abs=1e-6)


def test_a_model_of_ratings_alone_has_no_preference_in_its_minimum(smorm, tmp_path):
    words = ("view", trained("regression"), "--data", world()["eval-pairs-ID"], "--kind")
    code, out, err = smorm(*words, "min", "--output", tmp_path / "v.json")
    assert code == 0, err
    assert json.loads((tmp_path / "v.json").read_text())["rows"] == ATTRIBUTES
    assert " F " not in out


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--kind", "lerned"], 2, "--kind lerned: expected one of learned, calibrated"),
        (["--kind", "min", "--rows", "style"], 2, "needs at least two rows, got style"),
        (["--kind", "min", "--rows", "tone"], 2, "--rows tone: min can use preference, corr"),
        (["--kind", "calibrated", "--rows", "preference"], 2, "calibrated can use correctness"),
        (["--kind", "min", "--kappa", "1"], 2, "--kappa is for mean-minus-spread, not for min"),
        (["--kind", "mean-minus-spread", "--kappa", "-1"], 2, "expected 0 or more"),
        (["--kind", "mean-minus-spread", "--kappa", "nan"], 2, "expected 0 or more"),
        (["--kind", "min", "--free-sign", "style"], 2, "is for learned weights, not for min"),
        (
            ["--kind", "learned", "--rows", "style", "--free-sign", "coverage"],
            2,
            "--free-sign coverage: is not among --rows",
        ),
        (["--kind", "learned", "--data", "none.jsonl"], 3, "none.jsonl: no such file"),
    ],
)
def test_nonsense_is_told_in_one_line_and_writes_nothing(smorm, tmp_path, words, code, message):
    data = [] if "--data" in words else ["--data", world()["eval-pairs-ID"]]
    output = tmp_path / "view.json"
    found, _, err = smorm("view", trained(), *data, *words, "--output", output)
    assert "Traceback" not in err
    assert (found, message in err) == (code, True), err
    assert not output.exists()


def test_too_few_prompts_are_refused(smorm, tmp_path):
    lines = Path(world()["eval-pairs-ID"]).read_text().splitlines()[:5]
    (tmp_path / "few.jsonl").write_text("\n".join(lines))
    for kind in KINDS:
        code, _, err = smorm(
            "view", trained(), "--data", tmp_path / "few.jsonl", "--kind", kind, "--output",
            tmp_path / "view.json",
        )  # fmt: skip
        assert code == 3
        assert "5 prompts are too few to fit and check a view" in err


@pytest.mark.parametrize("content", ["[1, 2]", '"F"', '{"kind": "min"}', '{"weights": {}}'])
def test_a_file_that_is_no_view_is_told(smorm, tmp_path, content):
    (tmp_path / "view.json").write_text(content)
    code, _, err = smorm(
        "score", trained(), "--input", world()["eval-pairs-ID"], "--output", tmp_path / "s.jsonl",
        "--view", tmp_path / "view.json",
    )  # fmt: skip
    assert code == 2
    assert "error: " in err
    assert "view" in err
