"""`smorm report`: a page with its figures beside it, from result files."""

from __future__ import annotations

import pytest

from smorm.evaluation.result import write_results
from tests.report.made_up import hacked, rising, runs


@pytest.fixture
def results(tmp_path):
    methods = {
        ("Single", "F"): {"ID": rising(0.7), "OODtopic": hacked(0.7, 0.6)},
        ("SMORM", "F"): {"ID": rising(0.7), "OODtopic": rising(0.8)},
    }
    write_results(tmp_path / "results.json", runs(methods, range(3)))
    return tmp_path / "results.json"


@pytest.mark.slow
def test_a_page_and_its_figures_lie_side_by_side(smorm, results, tmp_path):
    code, out, _ = smorm("report", results, "--output", tmp_path / "page.html")
    assert code == 0
    assert "page.html" in out
    assert "compared with Single: higher for SMORM" in (tmp_path / "page.html").read_text()
    names = {path.name for path in (tmp_path / "page-figures").iterdir()}
    assert names == {
        "best-of-n-gold-and-proxy-by-kl.svg",
        "best-of-n-gold-and-proxy-by-kl.png",
    }


@pytest.mark.slow
def test_figures_can_lie_elsewhere_or_be_left_out(smorm, results, tmp_path):
    page = tmp_path / "page.html"
    assert smorm("report", results, "-o", page, "--figures", tmp_path / "deep" / "f")[0] == 0
    assert len(list((tmp_path / "deep" / "f").iterdir())) == 2
    page.unlink()
    assert smorm("report", results, "-o", page, "--no-figures")[0] == 0
    assert page.exists()
    assert not (tmp_path / "page-figures").exists()


def test_a_baseline_that_is_not_there_is_an_error_before_anything_is_written(
    smorm, results, tmp_path
):
    code, _, err = smorm("report", results, "-o", tmp_path / "x.html", "--baseline", "Nobody")
    assert code == 2
    assert "Single, SMORM" in err
    assert not (tmp_path / "x.html").exists()
    both = ("--no-figures", "--figures", tmp_path)
    assert smorm("report", results, "-o", tmp_path / "x.html", *both)[0] == 2


@pytest.mark.parametrize("content", ["", "{}", "[", '[{"kind": "stress"}]'])
def test_a_file_that_holds_no_result_is_named(smorm, tmp_path, content):
    path = tmp_path / "bad.json"
    path.write_text(content)
    code, _, err = smorm("report", path, "-o", tmp_path / "x.html")
    assert code == 3
    assert "bad.json" in err


def test_a_missing_file_is_named(smorm, tmp_path):
    code, _, err = smorm("report", tmp_path / "no.json", "-o", tmp_path / "x.html")
    assert code == 3
    assert "no.json: no such file" in err
