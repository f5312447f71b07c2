"""The page of the head's starts says what the numbers say."""

from pathlib import Path

import pytest
import yaml

from experiments.lab.numbers import Numbers
from experiments.lab.start import (
    BEGINNINGS,
    REGIMES,
    STARTS,
    account,
    collapses,
    label_of,
    read_beginnings,
    study,
)
from smorm.lab.methods import arms_of, needed_arms, training_config

# Gold of best-of-64 of each start and regime, where a random answer has 0.5.
GOLD = {
    "random": (0.75, 0.70, 0.70),
    "zero": (0.75, 0.70, 0.69),
    "probe": (0.75, 0.75, 0.70),
    "trl": (0.75, 0.70, 0.40),
    "openrlhf": (0.75, 0.70, 0.70),
}
SEEDS = 6


@pytest.fixture
def folder(tmp_path):
    """Planted numbers of SMORM: `probe` is better OODtopic, `trl` collapses on far."""
    lines, beginnings = [], ["arm,seed,loss,tokens,probe_tokens,probe_seconds"]
    for start in STARTS:
        for seed in range(300, 300 + SEEDS):
            arm, noise = f"SMORM {start}", 0.001 * (seed % 3) * (start != "random")
            for view in "FLM":
                for regime, gold in zip(REGIMES, GOLD[start], strict=True):
                    head = f"stress,{regime},{arm},{view},{seed}"
                    picked = gold + 0.01 * (seed % 2) + noise
                    lines += [f"{head},gold@1,0.5", f"{head},gold@64,{picked}"]
            probe = "1000,2.5" if start == "probe" else "0,0.0"
            beginnings.append(f"{arm},{seed},{1.5 + seed % 2},5000,{probe}")
    header = "kind,set,model,view,seed,metric,value"
    (tmp_path / "numbers.csv").write_text("\n".join([header, *lines]), "utf-8")
    (tmp_path / BEGINNINGS).write_text("\n".join(beginnings), "utf-8")
    config = study(tmp_path, tmp_path, seeds=SEEDS, methods=["SMORM"], shipped=True)
    text = yaml.safe_dump(config.model_dump(mode="json"))
    (tmp_path / "config.yaml").write_text(text, "utf-8")
    return tmp_path


def test_the_page_counts_collapses_and_names_what_remains(folder):
    numbers = Numbers.read(folder / "numbers.csv")
    assert collapses(numbers, "SMORM-F", "trl") == SEEDS
    assert collapses(numbers, "SMORM-F", "random") == 0
    page = account(folder)
    total = 3 * SEEDS
    assert f"random 0, zero 0, probe 0, trl {total}, openrlhf 0" in page
    remaining = page.partition("Holm's correction: ")[2].splitlines()[0]
    assert "SMORM-F from probe, OODtopic (+0.051)" in remaining
    assert "SMORM-M from trl, far (-0.299)" in remaining
    assert "openrlhf" not in remaining
    assert "--seeds 6 --methods SMORM --shipped" in page
    # The worst seed of the start that collapses, and the probe's cost in thousands.
    assert "0.400" in page
    assert "| SMORM | probe | 2.00 ± 0.57 | 2.50 | 5 | 1 | 2.5 |" in page


def test_the_study_has_every_start_of_both_methods_and_can_be_run():
    config = study(Path("o"), Path("w"))
    assert needed_arms(config)
    assert config.seeds >= 16
    for method in ("Single", "SMORM"):
        for start in STARTS:
            values = training_config(arms_of(config)[f"{method} {start}"], config, 300)
            assert values["model"] == {"head_start": start}
    assert config.world.facts == 1


def test_a_label_is_that_of_the_numbers(folder):
    labels = Numbers.read(folder / "numbers.csv").labels("best-of-n/ID")
    expected = [label_of(f"SMORM-{view}", start) for start in STARTS for view in "FLM"]
    assert sorted(labels) == sorted(expected)
    assert label_of("Single", "zero") == "Single zero"
    assert read_beginnings(folder / BEGINNINGS).keys() == {f"SMORM {start}" for start in STARTS}
