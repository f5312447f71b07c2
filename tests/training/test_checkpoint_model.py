"""Checkpoints as models, and models of LoRA runs as what another run starts from."""

from __future__ import annotations

import json
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from smorm.cli.main import run_verb
from smorm.errors import ConfigError, Interrupted, ModelError
from smorm.model.inference import score_units
from smorm.model.store import load_model
from smorm.training.checkpoint_model import model_at
from smorm.training.loop import train
from tests.training.runs import LORA, SCRATCH, config_of, prepared, world
from tests.training.test_resume import first_of, stopping_in

RUNS: dict[str, dict[str, Any]] = {
    "joint from scratch, learned noise": {"objective": {"weighting": "learned"}},
    "odin": {"objective": {"kind": "odin"}},
    "LoRA": {"model": LORA},
}


def scores_of(folder: Path) -> list[np.ndarray[Any, Any]]:
    network, _, _ = load_model(folder)
    units = [[pair.chosen, pair.rejected] for pair in prepared().train.pairs[:4]]
    most = network.backbone.get_input_embeddings().weight.shape[0] - 1
    units = [[np.minimum(tokens, most) for tokens in unit] for unit in units]
    return [np.asarray(rows) for rows in score_units(network, units, 4096)]


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_step_of_a_run_is_the_model_of_a_run_that_ends_there(tmp_path: Path, name: str) -> None:
    """Under a constant rate the length of a run does not change its steps."""
    changes, constant = RUNS[name], {"schedule": "constant", "warmup": 0.0}
    often = {**constant, "save_every": 1, "keep_checkpoints": 9}
    train(config_of(tmp_path / "long", **changes, training={**often, "max_steps": 3}))
    train(config_of(tmp_path / "short", **changes, training={**constant, "max_steps": 2}))
    folder = model_at(tmp_path / "long", 2)
    for ours, theirs in zip(scores_of(folder), scores_of(tmp_path / "short"), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    # The last step is the finished model, and what is there is not made again.
    last = model_at(tmp_path / "long" / "model", 3)
    before = (last / "manifest.json").stat().st_mtime_ns
    assert model_at(tmp_path / "long", 3) == last
    assert (last / "manifest.json").stat().st_mtime_ns == before
    for ours, theirs in zip(scores_of(last), scores_of(tmp_path / "long"), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(ConfigError, match=r"--step 7: .*there are 1, 2, 3$"):
        model_at(tmp_path / "long", 7)


def test_a_run_of_an_older_version_gives_its_steps_from_its_data(tmp_path: Path) -> None:
    train(config_of(tmp_path / "run", model=SCRATCH, training={"max_steps": 2}))
    shutil.rmtree(tmp_path / "run" / "beginning")
    folder = model_at(tmp_path / "run", 2)
    for ours, theirs in zip(scores_of(folder), scores_of(tmp_path / "run"), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def smorm(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr("sys.argv", ["smorm", *map(str, words)])
    with pytest.raises(SystemExit) as left:
        sys.exit(run_verb())
    return int(left.value.code or 0)


@pytest.mark.slow
def test_verbs_take_a_step_of_an_unfinished_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, pairs = tmp_path / "run", world()["eval-pairs-ID"]
    with stopping_in(first_of(3)), pytest.raises(Interrupted):
        train(config_of(run))
    scored = ("score", run, "--input", pairs, "--output", tmp_path / "s.jsonl")
    assert smorm(monkeypatch, *scored) == 2
    assert "came to step 3 of 5" in capsys.readouterr().err
    assert smorm(monkeypatch, *scored, "--step", 3) == 0
    suite = f"pairs={pairs}"
    output = ("--output", tmp_path / "r.json")
    assert smorm(monkeypatch, "eval", run, "--step", 3, "--suite", suite, *output) == 0
    result = json.loads((tmp_path / "r.json").read_text())
    assert "checkpoint" in json.dumps(result)
    plain = ("--view", "F", "--output", tmp_path / "plain")
    assert smorm(monkeypatch, "export", run, "--step", 3, *plain) == 0
    assert (tmp_path / "plain" / "model.safetensors").is_file()
    assert smorm(monkeypatch, "score", "field:x", *scored[2:], "--step", 3) == 2
    assert "--step 3: for a run's folder" in capsys.readouterr().err


# Adapters to start from


@pytest.mark.slow
def test_adapters_are_merged_into_their_base_to_start_from(tmp_path: Path) -> None:
    train(config_of(tmp_path / "first", model=LORA, training={"learning_rate": 0.05}))
    before = scores_of(tmp_path / "first")
    still = {"max_steps": 1, "learning_rate": 1e-12}
    for name in ("first", "first/model"):
        model = {"backbone": str(tmp_path / name), "lora": {"rank": 4, "dropout": 0.0}}
        folder = tmp_path / name.replace("/", "-") / "second"
        train(config_of(folder, model=model, training=still))
        for ours, theirs in zip(scores_of(folder), before, strict=True):
            np.testing.assert_allclose(ours[:, 0], theirs[:, 0], atol=1e-5)
    whole = {"backbone": str(tmp_path / "first")}
    train(config_of(tmp_path / "third", model=whole, training=still))
    for ours, theirs in zip(scores_of(tmp_path / "third"), before, strict=True):
        np.testing.assert_allclose(ours[:, 0], theirs[:, 0], atol=1e-5)


def test_adapters_without_a_head_are_refused_with_the_next_step(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    network, tokenizer, _ = load_model(train(config_of(tmp_path / "base")))
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        settings = peft.LoraConfig(target_modules="all-linear")
        adapted = peft.get_peft_model(network.backbone, settings)
        adapted.save_pretrained(tmp_path / "adapters", save_embedding_layers=False)
    tokenizer.save_pretrained(tmp_path / "adapters")
    with pytest.raises(ModelError, match=r"merge them first \(peft: merge_and_unload"):
        train(config_of(tmp_path / "run", model={"backbone": str(tmp_path / "adapters")}))
