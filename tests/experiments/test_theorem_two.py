"""The matched grid's page: what its marks and sentences follow from."""

from __future__ import annotations

from experiments.theorem_two import (
    ARMS,
    arm_run,
    page,
    regime_table,
    verdict_of,
    verdict_table,
)
from smorm.evaluation.metrics import Metric
from smorm.theory.matched import read_run
from smorm.world import write_dataset

BETTER, WORSE, OPEN = (
    Metric(value, 100, value - 0.01, value + 0.01) for value in (-0.02, 0.02, 0.0)
)


def made_up(gap, seeds):
    name = "F/mse/SMORM paper"
    return {
        "F/mse/Single": Metric(0.05, 100, 0.04, 0.06),
        name: Metric(0.03, 100, 0.02, 0.04),
        f"{name} − Single": gap,
        f"{name} − Single over seeds": seeds,
    }


def test_a_verdict_needs_prompts_and_seeds():
    assert verdict_of(BETTER, BETTER) == "better"
    assert verdict_of(WORSE, WORSE) == "worse"
    assert verdict_of(BETTER, OPEN) == verdict_of(OPEN, BETTER) == "undecided"
    assert verdict_of(BETTER, WORSE) == verdict_of(OPEN, OPEN) == "undecided"


def test_marks_and_sentences_follow_the_intervals():
    assert "-0.0200 [-0.0300, -0.0100]*† |" in regime_table(made_up(BETTER, BETTER))
    assert "-0.0200 [-0.0300, -0.0100]* |" in regime_table(made_up(BETTER, OPEN))
    verdicts = verdict_table({"ID": made_up(WORSE, WORSE)})
    assert "| ID | F against Single | none | SMORM paper | none |" in verdicts
    assert len(regime_table({}).splitlines()) == 2 + len(ARMS)
    results = {
        "version": "0", "sizes": {"num_pairs": 1, "num_rated": 1}, "seeds": 1, "steps": 1,
        "not_matched": ["x differ in training.epochs."], "weight_mean": OPEN.as_dict(),
        "metrics": {"ID": {}},
    }  # fmt: skip
    assert "differ in training.epochs" in page(results)


def test_a_run_of_the_grid_is_trained_once_and_is_its_arm(tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.theorem_two.STEPS", 2)
    files = write_dataset(
        tmp_path / "data", seed=0, num_pairs=40, num_rated=20, num_eval_pairs=2, num_eval_rated=2
    )
    folder = arm_run("SMORM paper", 0, files, tmp_path / "runs")
    before = (folder / "model" / "manifest.json").stat().st_mtime_ns
    assert arm_run("SMORM paper", 0, files, tmp_path / "runs") == folder
    assert (folder / "model" / "manifest.json").stat().st_mtime_ns == before
    assert (read_run(str(folder)).arm, read_run(str(folder)).seed) == ("SMORM paper", 0)
