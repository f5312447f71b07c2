"""The whole comparison, by its command, on made-up data."""

import gzip
import json

import pytest

from experiments import real
from experiments.real_page import LABELS
from smorm.evaluation.result import read_results
from tests.experiments.made_up import make_data


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Two seeds of everything; the folder of results."""
    folder = tmp_path_factory.mktemp("real")
    data = make_data(folder / "data")
    command = ["--data", str(data), "--output", str(folder / "out"), "--work", str(folder / "work")]
    command += ["--seeds", "2", "--jobs", "1"]
    assert real.main(command) == 0
    return folder, command


@pytest.mark.slow
def test_the_command_writes_results_statistics_scores_and_pages(done):
    out = done[0] / "out"
    results = read_results(out / "results.json")
    # Single 1 view, Multi 1 view and ratings, SMORM 3 views and ratings: 7 results a task and seed
    assert len(results) == 2 * 2 * 7
    assert {result.suite for result in results} == {
        "pairs/truthfulqa-dev",
        "rated/truthfulqa-dev",
        "pairs/ukp-dev",
        "rated/ukp-dev",
    }
    assert {result.items for result in results} == {"scores.jsonl.gz"}
    lines = gzip.decompress((out / "scores.jsonl.gz").read_bytes()).splitlines()
    assert len(lines) == len(results)
    assert [len(json.loads(line)["scores"]) for line in lines[:2]] == [16, 16]
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "SMORM-F" in page
    assert "TruthfulQA 0.750, UKP 0.750" in page


@pytest.mark.slow
def test_the_readme_has_every_row_the_quoted_figures_and_a_reading(done):
    text = (done[0] / "out" / "README.md").read_text(encoding="utf-8")
    for label in LABELS:
        assert text.count(f"| {label} |") >= 2
    assert "| TF-IDF + length, README's | 0.750 |" in text
    assert "There are only 8 prompts here." in text
    assert "What was tried" in text
    assert str(done[0]) not in text


@pytest.mark.slow
def test_accuracies_of_the_summary_are_means_of_the_results(done):
    out = done[0] / "out"
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))["ukp"]
    values = {
        result.fingerprint["seed"]: result.metrics["accuracy"].value
        for result in read_results(out / "results.json")
        if (result.suite, result.model, result.view) == ("pairs/ukp-dev", "SMORM", "L")
    }
    row = summary["accuracy"]["SMORM-L"]
    assert row["seeds"] == pytest.approx([values[0], values[1]])
    assert row["value"] == pytest.approx((values[0] + values[1]) / 2)
    assert row["low"] <= row["value"] <= row["high"]


@pytest.mark.slow
def test_finished_runs_are_used_again_by_processes_of_their_own(done):
    folder, command = done
    command = [*command[:-1], "2"]
    models = {p: p.stat().st_mtime_ns for p in (folder / "work").rglob("model.safetensors")}
    before = (folder / "out" / "summary.json").read_bytes()
    assert real.main(command) == 0
    assert {p: p.stat().st_mtime_ns for p in (folder / "work").rglob("model.safetensors")} == models
    assert (folder / "out" / "summary.json").read_bytes() == before


def test_without_data_it_says_so_in_one_line_and_writes_nothing(tmp_path, capsys):
    asked = ["--data", str(tmp_path / "none"), "--output", str(tmp_path / "out")]
    assert real.main(asked) == 0
    told = capsys.readouterr().out.strip()
    assert told == f"skipped: no data folder at {tmp_path / 'none'} (name it with --data)"
    assert not (tmp_path / "out").exists()


def test_a_data_folder_that_lacks_a_file_is_an_error_that_names_it(tmp_path, capsys):
    (tmp_path / "data").mkdir()
    assert real.main(["--data", str(tmp_path / "data"), "--output", str(tmp_path / "out")]) == 3
    assert "truthfulqa_pairs/train.jsonl.gz: no such file" in capsys.readouterr().err
