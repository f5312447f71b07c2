"""`smorm card`: a README.md for the hub, from a model folder and result files."""

from __future__ import annotations

from huggingface_hub import ModelCard

from smorm.evaluation.result import write_results
from tests.report.made_up import rising, runs
from tests.tiny import trained


def test_a_card_is_written_from_files(smorm, tmp_path):
    results = tmp_path / "results.json"
    write_results(results, runs({("SMORM", "M"): {"ID": rising(0.8)}}, range(3)))
    readme = tmp_path / "README.md"
    wishes = ("--license", "mit", "--language", "en", "--repo", "me/reward")
    code, out, _ = smorm("card", trained(), results, "--output", readme, *wishes)
    assert code == 0
    assert "README.md" in out
    card = ModelCard.load(readme)
    assert (card.data.license, card.data.model_name) == ("mit", "me/reward")
    assert "RewardModel.load('me/reward')" in card.text


def test_results_are_optional_and_a_model_is_not(smorm, tmp_path):
    readme = tmp_path / "README.md"
    assert smorm("card", trained().parent, "-o", readme)[0] == 0
    assert "cannot say" in readme.read_text()
    code, _, err = smorm("card", tmp_path, "-o", tmp_path / "x.md")
    assert code == 2
    assert "no smorm.json" in err
    assert not (tmp_path / "x.md").exists()


def test_a_name_that_no_result_has_is_an_error(smorm, tmp_path):
    results = tmp_path / "results.json"
    write_results(results, runs({("SMORM", "M"): {"ID": rising(0.8)}}, range(2)))
    code, _, err = smorm("card", trained(), results, "-o", tmp_path / "x.md", "--name", "Nobody")
    assert code == 2
    assert "SMORM" in err
