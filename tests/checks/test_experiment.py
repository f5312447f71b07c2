"""The experiment that checks every set of a data folder, on a folder made here."""

from __future__ import annotations

import json

from experiments.check_data import main
from tests.checks.made import pairs, rated
from tests.data.sources import jsonl


def test_every_set_is_checked_as_its_run_would_see_it(tmp_path, capsys):
    data, output = tmp_path / "data", tmp_path / "results"
    rows = pairs(30)
    jsonl(data / "both" / "train.jsonl.gz", rows)
    jsonl(data / "both" / "dev.jsonl.gz", [rows[0], *pairs(5, 1)])
    jsonl(data / "both" / "train_scores.jsonl.gz", rated(20, 2))
    jsonl(data / "ratings" / "train.jsonl.gz", rated(20, 3))
    jsonl(
        data / "eval" / "bench" / "test.jsonl.gz", [{**pairs(1, 9)[0], "prompt": rows[1]["prompt"]}]
    )
    (data / "notes").mkdir()
    assert main(["--data", str(data), "--output", str(output)]) == 0
    both = json.loads((output / "both.json").read_text())
    assert both["records"] == {
        "train": {"preference": 30, "rated": 20}, "held_out": {"preference": 6},
    }  # fmt: skip
    assert both["unit"] == "tokens"
    codes = {one["code"]: one for one in both["findings"]}
    assert codes["prompt_leakage"]["places"] == ["both/dev.jsonl.gz:1"]
    assert codes["benchmark_overlap"]["severity"] == "must fix"
    assert json.loads((output / "bench.json").read_text())["unit"] == "words"
    page = (output / "README.md").read_text()
    assert "| both | 30 preference, 20 rated | 6 preference | 2 |" in page
    assert "`prompt_leakage`" in page
    assert str(tmp_path) not in page + json.dumps(both)
    assert "ratings: 0 must fix" in capsys.readouterr().out


def test_without_the_data_folder_it_says_so(tmp_path, capsys):
    assert main(["--data", str(tmp_path / "none"), "--output", str(tmp_path / "out")]) == 0
    assert "skipped: no data folder" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
