"""Named held-out sets, the best step by one of them, early stopping, longer runs, trackers."""

from __future__ import annotations

import importlib.util
import json
import logging
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from smorm.config import Config, load_config, parse_config
from smorm.errors import CheckpointError, ConfigError, Interrupted
from smorm.model.run_folder import steps_of
from smorm.model.store import load_model
from smorm.training.loop import train
from smorm.world import ATTRIBUTES
from tests.training.runs import bits, config_of, metrics, world
from tests.training.test_resume import first_of, stopping_in

CHAT, CODE = str(world()["dev-pairs"]), str(world()["eval-pairs-ID"])
NAMED = {"chat": CHAT, "code": [{"path": CODE}]}
STEADY = {"schedule": "constant", "warmup": 0.0}


# Named sets


def test_a_configuration_without_the_new_keys_has_the_hash_that_it_had() -> None:
    values = {
        "model": {"backbone": "b"},
        "data": {"preference": "p.jsonl"},
        "objective": {"kind": "preference"},
        "evaluation": {"preference": ["d.jsonl", {"path": "e.jsonl"}]},
        "output": {"folder": "o"},
    }
    config = parse_config(values)
    assert config.hash == "ec326934653c497b"
    text = json.dumps(config.as_dict())
    assert not any(key in text for key in ('"name"', "best", "stop_after", "report_to"))


def test_each_named_set_has_metrics_of_its_own(tmp_path: Path) -> None:
    rated = {"chat": str(world()["eval-rated-ID"])}
    evaluation = {"preference": NAMED, "rated": rated, "limit": 5}
    config = config_of(tmp_path / "run", evaluation=evaluation, training={"evaluate_every": 2})
    assert [source.name for source in config.evaluation.preference] == ["chat", "code"]
    train(config)
    assert load_config(tmp_path / "run" / "config.yaml") == config
    last = metrics(tmp_path / "run")[5]
    names = {name for name in last if name.startswith("dev/")}
    pairs = {f"dev/{name}/{metric}" for name in NAMED for metric in ("accuracy", "preference_loss")}
    assert names == pairs | {f"dev/chat/mse/{name}" for name in ATTRIBUTES}
    # The same numbers as of the set alone, under its old name.
    alone = {"preference": CODE, "limit": 5}
    train(config_of(tmp_path / "alone", evaluation=alone))
    assert metrics(tmp_path / "alone")[5]["dev/accuracy"] == last["dev/code/accuracy"]


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"best": "chats"}, r"training\.best: chats: no held-out set .*; there are chat, code"),
        ({"best": "chat", "evaluate_every": None}, r"best: .*add training\.evaluate_every"),
        ({"stop_after": 2}, r"stop_after: .*add training\.best: NAME"),
        ({"report_to": "mlflow"}, r"training\.report_to"),
    ],
)
def test_what_cannot_be_measured_is_refused_at_once(
    tmp_path: Path, training: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        config_of(tmp_path, evaluation={"preference": NAMED},
                  training={"evaluate_every": 1, **training})  # fmt: skip


# The best step


def test_when_it_is_measured_decides_where_the_best_step_is_kept(tmp_path: Path) -> None:
    hashes = {best_run(tmp_path, evaluate_every=every).hash for every in (1, 2)}
    assert len(hashes) == 2
    plain = {best_run(tmp_path, best=None, evaluate_every=every).hash for every in (1, 2)}
    assert len(plain) == 1


def best_run(folder: Path, **training: Any) -> Config:
    evaluation = {"preference": NAMED}
    settings = {"evaluate_every": 1, "best": "code", "keep_checkpoints": 1, "max_steps": 8}
    settings |= {"learning_rate": 0.03, **training}
    return config_of(folder, evaluation=evaluation, training={**STEADY, **settings})


def best_of(folder: Path) -> int:
    """The first step with the highest accuracy, and of these the lowest log loss."""
    lines = metrics(folder)
    return max(
        lines,
        key=lambda step: (
            lines[step]["dev/code/accuracy"], -lines[step]["dev/code/preference_loss"], -step
        ),
    )  # fmt: skip


def test_the_model_is_that_of_the_best_step(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(best_run(run))
    best = best_of(run)
    assert best != 8, "the last step must not be the best for this to mean anything"
    assert json.loads((run / "best.json").read_text())["step"] == best
    assert steps_of(run) == [best, 8]
    network, _, _ = load_model(run)
    weights = load_file(run / "checkpoints" / f"step-{best:08d}" / "weights.safetensors")
    assert torch.equal(network.head.weight, weights["head.weight"])


@pytest.mark.slow
def test_stopped_and_resumed_it_has_the_same_best_and_the_same_bits(tmp_path: Path) -> None:
    train(best_run(tmp_path / "straight"))
    config = best_run(tmp_path / "run")
    with stopping_in(first_of(4)), pytest.raises(Interrupted):
        train(config)
    train(config, resume=True)
    assert bits(tmp_path / "run") == bits(tmp_path / "straight")
    assert metrics(tmp_path / "run") == metrics(tmp_path / "straight")
    train(config, resume=True)
    assert bits(tmp_path / "run") == bits(tmp_path / "straight")


@pytest.mark.slow
def test_a_run_stops_after_so_many_measurements_without_a_better_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    config = best_run(run, stop_after=2, max_steps=40)
    with caplog.at_level(logging.INFO, logger="smorm"):
        train(config)
    last = max(metrics(run))
    assert last < 40
    assert best_of(run) == last - 2
    assert "stopped early: code was not better in 2 measurements" in caplog.text
    before = bits(run)
    train(config, resume=True)
    assert (bits(run), max(metrics(run))) == (before, last)


# Longer runs


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [True, False])
def test_a_lengthened_run_is_the_longer_run(
    tmp_path: Path, stopped: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Under a constant rate; under another one the rest has the rates of the longer run."""
    run = tmp_path / "run"
    with stopping_in(first_of(3) if stopped else 0):
        try:
            train(config_of(run, training=STEADY))
        except Interrupted:
            assert stopped
    longer = config_of(run, training={**STEADY, "max_steps": None, "epochs": 2})
    with caplog.at_level(logging.INFO, logger="smorm"):
        train(longer, resume=True)
    assert "lengthened from 5 to 8 steps" in caplog.text
    train(config_of(tmp_path / "straight", training={**STEADY, "max_steps": 8}))
    assert bits(run) == bits(tmp_path / "straight")
    with pytest.raises(CheckpointError, match="was to have 8 steps, now 5: it can be lengthened"):
        train(config_of(run, training=STEADY), resume=True)


# Trackers


def test_a_tracker_that_is_not_installed_is_one_line_before_any_work(tmp_path: Path) -> None:
    missing = [name for name in ("wandb", "trackio") if importlib.util.find_spec(name) is None]
    if not missing:
        pytest.skip("all trackers are installed")
    with pytest.raises(ConfigError, match=f"report_to: {missing[0]} is not installed: pip install"):
        train(config_of(tmp_path / "run", training={"report_to": missing}))
    assert not (tmp_path / "run").exists()


def test_tensorboard_by_either_key_is_one_tracker(tmp_path: Path) -> None:
    training = {"report_to": "tensorboard", "tensorboard": True, "max_steps": 1}
    train(config_of(tmp_path / "run", training=training))
    assert len(list((tmp_path / "run" / "tensorboard").glob("events.out.tfevents.*"))) == 1


def test_wandb_offline_keeps_the_run_in_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    train(config_of(tmp_path / "run", training={"report_to": ["wandb"], "max_steps": 2}))
    (stored,) = (tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb")
    identity = json.loads((tmp_path / "run" / "tracked.json").read_text())["id"]
    assert stored.name == f"run-{identity}.wandb"
    assert stored.stat().st_size > 1000


def test_trackio_has_the_numbers_of_each_step_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its library reads this when it is imported.
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    trackio = pytest.importorskip("trackio")
    monkeypatch.setenv("TRACKIO_PROJECT", tmp_path.name)
    config = config_of(tmp_path / "run", training={"report_to": ["trackio"]})
    with stopping_in(first_of(3)), pytest.raises(Interrupted):
        train(config)
    train(config, resume=True)
    with sqlite3.connect(Path(trackio.utils.TRACKIO_DIR) / f"{tmp_path.name}.db") as stored:
        lines = stored.execute("select step, metrics from metrics order by step").fetchall()
    logged = [(step, json.loads(values)["loss"]) for step, values in lines]
    steps = metrics(tmp_path / "run")
    assert logged == [(step, values["loss"]) for step, values in steps.items()]
