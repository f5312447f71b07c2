"""`smorm diagnose` as a user meets it."""

from __future__ import annotations

import json

import pytest

from tests.tiny import trained, world


@pytest.mark.slow
def test_it_prints_a_page_that_ends_in_advice_and_writes_result_and_view(smorm, tmp_path):
    files = world()
    code, out, err = smorm(
        "diagnose", trained(), "--preference", files["eval-pairs-ID"], "--rated",
        files["eval-rated-ID"], "--ood", f"far={files['eval-pairs-far']}", "--gold",
        files["eval-pairs-ID"], "--compare", trained().parent, "--compare",
        trained("preference").parent, "--compare", trained("regression").parent, "--output",
        tmp_path / "r.json", "--suggest", tmp_path / "view.json",
    )  # fmt: skip
    assert code == 0
    assert "Advice" in out
    assert "Theorem 2: matched runs" in out
    assert "Theorem 1 ..." in err
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["kind"] == "diagnose"
    assert set(result["metrics"]["c/projection"]) == {"value", "n", "low", "high"}
    assert any(line in out.replace("\n", " ") for line in result["notes"][-1:])
    code, _, _ = smorm(
        "score", trained(), "--input", files["eval-pairs-ID"], "--output", tmp_path / "s.jsonl",
        "--view", tmp_path / "view.json",
    )  # fmt: skip
    assert code == 0
    code, _, _ = smorm("report", tmp_path / "r.json", "--output", tmp_path / "page.html")
    assert code == 0


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (["--preference", "none.jsonl"], 3, "none.jsonl: no such file"),
        (["--preference", "PAIRS", "--ood", "far"], 2, "--ood far: expected NAME=FILE"),
        (["--preference", "PAIRS", "--ood", "a/b=x.jsonl"], 2, "expected NAME=FILE"),
        (["--preference", "PAIRS", "--compare", "."], 2, "expected a run's folder"),
        (["--preference", "PAIRS", "--gold", "none.jsonl"], 3, "none.jsonl: no such file"),
        (["--preference", "PAIRS", "--gold", "RATED"], 3, "no reward in it"),
        (["--preference", "PAIRS", "--rated", "PAIRS"], 3, "eval-pairs-ID.jsonl:1"),
        (["--preference", "RATED"], 3, "eval-rated-ID.jsonl:1"),
        (["--preference", "PAIRS", "--limit", "0"], 2, "--limit 0"),
        (["--preference", "PAIRS", "--overlong", "cut"], 2, "--overlong cut"),
    ],
)
def test_nonsense_is_one_clear_line(smorm, options, code, says):
    files = {"PAIRS": str(world()["eval-pairs-ID"]), "RATED": str(world()["eval-rated-ID"])}
    found, _, err = smorm("diagnose", trained(), *(files.get(one, one) for one in options))
    assert found == code
    assert says in err
    assert "Traceback" not in err


def test_a_missing_model_and_a_view_of_one_row_are_refused(smorm, tmp_path):
    pairs = world()["eval-pairs-ID"]
    code, _, err = smorm("diagnose", tmp_path / "none", "--preference", pairs)
    assert code == 2
    assert "error: " in err
    code, _, err = smorm(
        "diagnose", trained("preference"), "--preference", pairs, "--suggest", tmp_path / "v.json"
    )
    assert code == 2
    assert "there is no choice" in err


def test_too_few_pairs_for_a_view_are_told_after_the_page(smorm, tmp_path):
    code, out, err = smorm(
        "diagnose", trained(), "--preference", world()["eval-pairs-ID"], "--limit", 5,
        "--suggest", tmp_path / "v.json",
    )  # fmt: skip
    assert code == 3
    assert "no view suggested: 5 prompts are too few" in out.replace("\n", " ")
    assert "--suggest: no view could be suggested" in err
    assert not (tmp_path / "v.json").exists()
