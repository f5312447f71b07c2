"""The benchmark of docs/evaluation.md, in a package outside ours: measured and reported."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from smorm.data.formats import FORMATS, Format
from smorm.errors import ConfigError
from smorm.evaluation.benchmarks import BENCHMARKS, Benchmark
from smorm.evaluation.benchmarks.best_of_k import BEST_OF_K
from smorm.evaluation.result import read_results
from tests.cli.conftest import smorm  # noqa: F401  (a fixture)
from tests.tiny import trained

PAGE = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text()


def block(language: str, beginning: str) -> str:
    (text,) = re.findall(rf"```{language}\n({re.escape(beginning)}.*?)```", PAGE, re.S)
    return text


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """The package of the page, as pip would leave it."""
    (tmp_path / "smorm_quiz.py").write_text(block("python", "# smorm_quiz.py"))
    information = tmp_path / "smorm_quiz-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: smorm-quiz\nVersion: 1\n")
    group = '[project.entry-points."smorm.benchmarks"]'
    points = block("toml", group).replace(group, "[smorm.benchmarks]").replace('"', "")
    (information / "entry_points.txt").write_text(points)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "smorm_quiz", raising=False)
    monkeypatch.setattr(BENCHMARKS, "_installed", None)
    yield
    BENCHMARKS.remove("quiz")
    FORMATS.remove("quiz")
    monkeypatch.setattr(BENCHMARKS, "_installed", None)


@pytest.fixture
def quiz(tmp_path):
    rows = [
        {"ask": f"question {i}", "right": "yes", "wrong": f"no {i}", "topic": "ab"[i % 2]}
        for i in range(8)
    ]
    (tmp_path / "quiz.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "quiz.jsonl"


@pytest.mark.usefixtures("installed")
def test_an_installed_benchmark_is_measured_and_is_on_the_page(smorm, quiz, tmp_path):  # noqa: F811
    results, page = tmp_path / "results.json", tmp_path / "page.html"
    words = ("--suite", f"quiz={quiz}", "--suite", f"quiz/again={quiz}", "--output", results)
    code, out, err = smorm("eval", trained(), *words)
    assert (code, err) == (0, "")
    assert "overall" in out
    first, again = read_results(results)
    assert (first.suite, again.suite) == ("quiz", "quiz/again")
    assert {"overall", "subset/a", "subset/b", "length_only/overall"} <= first.metrics.keys()
    assert first.chance_levels == {"overall": 0.5, "subset/a": 0.5, "subset/b": 0.5}
    assert smorm("report", results, "--output", page)[0] == 0
    assert "quiz" in page.read_text()


@pytest.mark.usefixtures("installed")
def test_its_bad_rows_are_named_and_check_reads_it(smorm, quiz, tmp_path):  # noqa: F811
    quiz.write_text('{"ask": "a", "right": "b"}\n')
    words = ("--suite", f"quiz={quiz}", "--output", tmp_path / "results.json")
    code, _, err = smorm("eval", trained(), *words)
    assert code == 3
    assert "quiz.jsonl:1: wrong: missing" in err


def test_a_program_registers_one_and_a_format_of_the_same_name_is_refused(quiz):
    rows = Format("candidates", BEST_OF_K.rows.parse, "{a, b}")
    BENCHMARKS.register("best_of-k", Benchmark("best_of-k", "Clash", rows, BEST_OF_K.rule, ()))
    try:
        with pytest.raises(ConfigError, match="another format has the name 'best_of_k'"):
            BENCHMARKS["best_of-k"].sources(str(quiz))
    finally:
        BENCHMARKS.remove("best_of-k")
