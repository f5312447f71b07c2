"""`smorm eval` as a user meets it: several models, benchmarks by name, differences, nonsense."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from experiments.stand_ins import write_stand_in
from tests.tiny import trained, world


@pytest.mark.slow
def test_two_models_are_compared_and_their_differences_stand_in_the_file(smorm, tmp_path):
    output = tmp_path / "r.json"
    code, out, _ = smorm(
        "eval", trained("preference"), trained(), "--suite", f"pairs/ID={world()['eval-pairs-ID']}",
        "--view", "F", "--output", output,
    )  # fmt: skip
    assert code == 0
    assert "paired differences" in out
    found = json.loads(output.read_text())
    assert [one["kind"] for one in found] == ["eval", "eval", "difference"]
    first, second, difference = (one["metrics"]["accuracy"]["value"] for one in found)
    assert difference == pytest.approx(second - first)
    page = tmp_path / "page.html"
    assert smorm("report", output, "--output", page)[0] == 0
    assert "pairs/ID: differences" in page.read_text()


def test_a_name_with_brackets_is_shown_as_it_is(smorm, tmp_path):
    model = tmp_path / "[bold]x"
    shutil.copytree(trained(), model)
    suite = f"pairs/[/dim]={world()['eval-pairs-ID']}"
    code, out, err = smorm("eval", model, "--suite", suite, "--output", tmp_path / "r.json")
    assert (code, "Traceback" in err) == (0, False)
    assert "[bold]x" in out
    assert "[/dim]" in out


def test_a_benchmark_from_a_file_shows_its_sections_and_what_stands_beside(smorm, tmp_path):
    path = write_stand_in("rewardbench", tmp_path)
    code, out, _ = smorm(
        "eval", trained(), "--suite", f"rewardbench={path}", "--view", "M",
        "--overlong", "truncate_prompt", "--output", tmp_path / "r.json",
    )  # fmt: skip
    assert code == 0
    for heading in ("overall", "Chat Hard", "Reasoning", "longest", "shortest", "chance"):
        assert heading in out
    assert "math-prm as 984" in out


def test_a_benchmark_that_cannot_be_fetched_is_one_line_and_bad_data(smorm, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    code, _, err = smorm(
        "eval", trained(), "--suite", "rewardbench", "--output", tmp_path / "r.json"
    )
    assert code == 3
    assert "allenai/reward-bench" in err
    assert "Traceback" not in err
    assert not (tmp_path / "r.json").exists()


@pytest.mark.parametrize(
    ("suite", "said"),
    [("rewrdbench", "expected KIND"), ("rmb", "give NAME=PATH"), ("pairs", "expected NAME=PATH")],
)
def test_a_suite_that_is_no_suite_is_a_usage_error(smorm, tmp_path, suite, said):
    code, _, err = smorm("eval", trained(), "--suite", suite, "--output", tmp_path / "r.json")
    assert code == 2
    assert said in err


def test_sanity_tests_pass_on_a_trained_model_and_stand_in_the_file(smorm, tmp_path):
    output = tmp_path / "r.json"
    code, _, err = smorm(
        "eval", trained(), "--suite", f"pairs={world()['eval-pairs-ID']}", "--sanity",
        "--output", output,
    )  # fmt: skip
    assert code == 0, err
    assert [one["kind"] for one in json.loads(output.read_text())] == ["sanity", "eval"]


def test_sanity_tests_are_made_once_a_model_and_printed_with_what_was_expected(smorm, tmp_path):
    output = tmp_path / "r.json"
    files = world()
    code, out, err = smorm(
        "eval", trained(), "--suite", f"rated={files['eval-rated-ID']}",
        "--suite", f"pairs/ID={files['eval-pairs-ID']}",
        "--suite", f"pairs/far={files['eval-pairs-far']}", "--sanity", "--output", output,
    )  # fmt: skip
    assert code == 0, err
    kinds = [one["kind"] for one in json.loads(output.read_text())]
    assert kinds == ["sanity", "eval", "eval", "eval"]
    for part in ("expected", "observed", "at most 12% equal", "pass", "no winner kept"):
        assert part in out


def test_sanity_tests_of_ratings_are_refused(smorm, tmp_path):
    code, _, err = smorm(
        "eval", trained(), "--suite", f"rated={world()['eval-rated-ID']}", "--sanity",
        "--output", tmp_path / "r.json",
    )  # fmt: skip
    assert code == 2
    assert "compares nothing" in err


@pytest.mark.slow
def test_a_report_keeps_sanity_tests_and_differences_apart_from_what_was_measured(smorm, tmp_path):
    output, page = tmp_path / "r.json", tmp_path / "page.html"
    smorm(
        "eval", trained("preference"), trained(), "--suite", f"pairs={world()['eval-pairs-ID']}",
        "--view", "F", "--sanity", "--output", output,
    )  # fmt: skip
    assert smorm("report", output, "--output", page)[0] == 0
    headings = re.findall(r'<h2 id="suite-\d+">([^<]*?) <', page.read_text())
    assert headings == ["pairs: sanity tests", "pairs", "pairs: differences"]
