"""`model.head_start`: what the head's rows are before the first step, and what that cost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from smorm.config import METHODS, parse_config
from smorm.errors import ConfigError
from smorm.model.heads import START_STD, ScoreHead
from smorm.training.head_start import FILE, start_rows
from smorm.training.loop import train
from smorm.training.plan import plan
from smorm.training.setup import prepare
from smorm.world import ATTRIBUTES
from tests.training.ranks import in_ranks
from tests.training.ranks import train as train_in_rank
from tests.training.runs import LAB, bits, config_of, jsonl, metrics, rows_of
from tests.training.test_ranks import printed, write_config
from tests.training.test_resume import run
from tests.training.test_step import WHOLE

STARTS = ("random", "zero", "probe", "trl", "openrlhf")
PROBE = {**LAB, "head_start": "probe"}
WITH_ADAPTERS = {**LAB, "lora": {"rank": 4, "alpha": 8}, "head_start": "probe"}
# One step over all pairs and as many ratings, each once.
ALL = {"max_steps": 1, "batch_size": 24, "max_batch_tokens": WHOLE}
MIXING = {"mixing": {"rated_per_pair": 14 / 24}}


def cost_of(folder: Path) -> dict[str, Any]:
    """What `cost.json` says."""
    cost: dict[str, Any] = json.loads((folder / "cost.json").read_text())
    return cost


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A joint run of five steps from the probe."""
    folder = tmp_path_factory.mktemp("probed") / "run"
    train(config_of(folder, model=PROBE))
    return folder


# What training begins with


@pytest.mark.parametrize("name", ["random", "zero", "trl", "openrlhf"])
def test_random_starts_differ_in_size_alone(tmp_path: Path, name: str) -> None:
    weights = {}
    for start in ("random", name):
        run = prepare(config_of(tmp_path, model={**LAB, "head_start": start}))
        weights[start] = run.network.head.weight.detach()
    width = weights[name].shape[1]
    scale = {"random": 1.0, "zero": 0.0, "trl": 0.02 * (width + 1) ** 0.5}
    expected = weights["random"] * scale.get(name, (width + 1) ** -0.5)
    assert torch.allclose(weights[name], expected, rtol=1e-6)
    std = START_STD[name](width)
    assert float(weights[name].std()) == pytest.approx(std, rel=0.2)


@pytest.mark.parametrize(
    ("model", "objective"),
    [
        (PROBE, {}),
        (PROBE, {"label_smoothing": 0.2}),
        pytest.param(WITH_ADAPTERS, {}, marks=pytest.mark.slow),
        pytest.param({**PROBE, "layout": "padded"}, {}, marks=pytest.mark.slow),
    ],
    ids=["joint", "smoothed labels", "adapters", "padded"],
)
def test_training_begins_at_the_loss_of_the_probe(
    tmp_path: Path, model: dict[str, Any], objective: dict[str, Any]
) -> None:
    folder = tmp_path / "run"
    train(config_of(folder, model=model, objective=objective, training=ALL, data=MIXING))
    rows, first = cost_of(folder)["head_start"]["rows"], metrics(folder)[1]
    assert first["loss/preference"] == pytest.approx(rows["preference"]["loss"], rel=1e-4)
    mean = np.mean([rows[name]["loss"] for name in ATTRIBUTES])
    assert first["loss/regression"] == pytest.approx(mean, rel=1e-4)
    # That of a random start is some ten times as large, and a row of zeros has log 2 and 1.
    assert first["loss/preference"] < np.log(2)
    assert mean < 1


@pytest.mark.slow
def test_a_probe_starts_below_all_other_starts(tmp_path: Path) -> None:
    losses = {}
    for start in STARTS:
        folder = tmp_path / start
        train(config_of(folder, model={**LAB, "head_start": start}, training=ALL, data=MIXING))
        losses[start] = metrics(folder)[1]["loss"]
    assert min(losses, key=losses.get) == "probe"
    assert max(losses, key=losses.get) == "random"
    assert losses["zero"] < losses["trl"]


def test_a_preference_row_that_is_given_stays(tmp_path: Path, probed: Path) -> None:
    config = config_of(tmp_path, model={"backbone": str(probed / "model"), "head_start": "probe"})
    run = prepare(config)
    given = run.network.head.weight[0].detach().clone()
    report = start_rows(run, resume=False)
    assert report["rows"].keys() == {*ATTRIBUTES}
    assert torch.equal(run.network.head.weight[0], given)


def test_at_most_so_many_records_are_read(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("smorm.training.head_start.RECORDS", 10)
    run = prepare(config_of(tmp_path, model=PROBE))
    report = start_rows(run, resume=False)
    assert (report["pairs"], report["rated"]) == (10, 10)
    assert start_rows(run, resume=False)["rows"] == report["rows"]


# Every method


@pytest.mark.slow
@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("kind", list(METHODS))
def test_every_method_trains_from_every_start_or_refuses_it(
    tmp_path: Path, kind: str, start: str
) -> None:
    changes = {"model": {**LAB, "head_start": start}, "objective": {"kind": kind}}
    refused = {("odin", "zero"), *(("armo", name) for name in STARTS if name != "random")}
    if (kind, start) in refused:
        with pytest.raises(ConfigError, match=f"head_start: {start} goes with kind .*, not {kind}"):
            config_of(tmp_path / "run", **changes)
        return
    if kind == "armo":  # always fitted, and slow
        config_of(tmp_path / "run", **changes)
        return
    folder = tmp_path / "run"
    train(config_of(folder, training={"max_steps": 1}, **changes))
    assert np.isfinite(metrics(folder)[1]["loss"])
    if start == "probe":
        rows = set(cost_of(folder)["head_start"]["rows"])
        assert rows == {
            "odin": {"preference", "length"},
            "joint": {"preference", *ATTRIBUTES},
            "regression": {*ATTRIBUTES},
        }.get(kind, {"preference"})


def test_a_head_that_is_not_linear_starts_as_it_is(tmp_path: Path) -> None:
    mlp = {"model": {**LAB, "head": "mlp"}, "objective": {"kind": "preference"}}
    assert config_of(tmp_path, **mlp).head_start == "random"
    mlp["model"]["head_start"] = "probe"
    with pytest.raises(ConfigError, match="head linear, not mlp: leave it out"):
        config_of(tmp_path, **mlp)


def test_a_start_of_zeros_has_no_direction_to_compare(tmp_path: Path) -> None:
    model = {**LAB, "head_start": "zero"}
    train(config_of(tmp_path / "run", model=model, training={"diagnose_every": 1, "max_steps": 2}))
    steps = metrics(tmp_path / "run")
    assert "gradient/cosine" not in steps[1]
    assert -1 <= steps[2]["gradient/cosine"] <= 1


def test_without_a_second_prompt_there_is_no_probe(tmp_path: Path) -> None:
    pairs = [row | {"prompt": "the same"} for row in rows_of("train-pairs")]
    data = {"preference": jsonl(tmp_path / "pairs.jsonl", pairs), "rated": []}
    changes = {"objective": {"kind": "preference"}, "data": data}
    with pytest.raises(ConfigError, match="head_start: probe: all pairs have one prompt"):
        train(config_of(tmp_path / "run", model=PROBE, **changes))


# What is written down


def test_a_configuration_without_a_start_keeps_its_hash(tmp_path: Path) -> None:
    plain, named = (
        config_of(tmp_path, model=model) for model in (LAB, {**LAB, "head_start": "random"})
    )
    assert plain.hash == named.hash
    assert "head_start" not in plain.as_dict()["model"]
    probe = config_of(tmp_path, model=PROBE)
    assert probe.hash != plain.hash
    assert parse_config(probe.as_dict()).head_start == "probe"


def test_the_cost_is_written_down_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="smorm"):
        train(config_of(tmp_path / "run", model=PROBE, training={"max_steps": 1}))
    cost = cost_of(tmp_path / "run")
    report = cost["head_start"]
    assert (report["kind"], report["pairs"], report["rated"]) == ("probe", 24, 14)
    assert cost["tokens"]["head_start"] == report["tokens"] > 0
    # One pass without a gradient is less than the steps of an epoch.
    assert 0 < report["seconds"] < 60
    (line,) = [text for text in caplog.messages if text.startswith("head start:")]
    assert f"24 pairs and 14 rated responses, {report['tokens']} tokens" in line
    assert f"preference {report['rows']['preference']['loss']:.4f}" in line


def test_another_start_costs_nothing(tmp_path: Path) -> None:
    train(config_of(tmp_path / "run", training={"max_steps": 1}))
    assert "head_start" not in cost_of(tmp_path / "run")
    assert not (tmp_path / "run" / FILE).exists()


def test_a_plan_says_what_it_takes(tmp_path: Path) -> None:
    notes = plan(config_of(tmp_path, model=PROBE)).notes
    (note,) = [note for note in notes if note.startswith("head_start: probe")]
    assert "16,384 pairs and as many rated responses" in note


# Stopped and resumed


def test_stopped_and_resumed_it_has_the_same_bits(tmp_path: Path, probed: Path) -> None:
    folder = tmp_path / "run"
    run(config_of(folder, model=PROBE), 4, 3)
    assert bits(folder) == bits(probed)
    assert metrics(folder) == metrics(probed)
    reports = [cost_of(path)["head_start"] for path in (folder, probed)]
    for report in reports:
        del report["seconds"]
    assert reports[0] == reports[1]


@pytest.mark.slow
def test_a_run_that_goes_on_reads_its_rows_and_fits_them_again_where_they_are_gone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_of(tmp_path, model=PROBE)
    run = prepare(config)
    report = start_rows(run, resume=False)
    rows = run.network.head.weight.detach().clone()
    for damage in (None, b"", b"no safetensors", "other"):
        if damage == "other":
            other = config_of(tmp_path, model=PROBE, training={"seed": 5})
            start_rows(prepare(other), resume=False)
        elif damage is not None:
            (tmp_path / FILE).write_bytes(damage)
        run.network.head.weight.data.zero_()
        caplog.clear()
        with caplog.at_level("INFO", logger="smorm"):
            again = start_rows(run, resume=True)
        assert ("that this run began with" in caplog.text) == (damage is None)
        assert torch.equal(run.network.head.weight, rows)
        assert {**again, "seconds": 0} == {**report, "seconds": 0}
        # What is stored is what the head has.
        assert torch.equal(load_file(tmp_path / FILE)["score.weight"], rows)


# Ranks


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["replicated", "sharded"])
def test_ranks_fit_what_one_process_fits(tmp_path: Path, probed: Path, parallel: str) -> None:
    changes = {"model": PROBE, "training": {"parallel": parallel, "step_parts": 2}}
    words = (write_config(tmp_path, **changes), f"output.folder={tmp_path / 'run'}")
    assert in_ranks(2, train_in_rank, tmp_path / "out", *words) == [0, 0], printed(tmp_path / "out")
    stored = [load_file(folder / FILE)["score.weight"] for folder in (tmp_path / "run", probed)]
    assert torch.allclose(*stored, rtol=1e-4, atol=1e-5)
    reports = [cost_of(path)["head_start"] for path in (tmp_path / "run", probed)]
    assert reports[0]["tokens"] == reports[1]["tokens"]
    assert metrics(tmp_path / "run")[1]["loss"] == pytest.approx(
        metrics(probed)[1]["loss"], rel=1e-4
    )
    # A second run from its rows: all ranks have those of the first.
    shutil.copytree(tmp_path / "run", tmp_path / "again")
    shutil.rmtree(tmp_path / "again" / "model")
    again = (words[0], f"output.folder={tmp_path / 'again'}", "--resume")
    assert in_ranks(2, train_in_rank, tmp_path / "out", *again) == [0, 0], printed(tmp_path / "out")


def test_a_head_has_the_starts_that_a_configuration_can_name() -> None:
    assert {*STARTS} == {*START_STD, "probe"}
    head = ScoreHead(16, 3)
    head.scale("zero")
    assert not head.weight.any()
