"""Training by several processes is training by one: gradients, curves, stops, resumption."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import yaml
from safetensors.torch import load_file, save_file

from smorm.config import load_config
from smorm.errors import Interrupted
from smorm.files import verify_folder
from smorm.model.heads import ScoreHead
from smorm.model.run_folder import steps_of
from smorm.training.distributed.ranks import Ranks
from smorm.training.distributed.sharded import shard
from smorm.training.distributed.tensors import gathered
from smorm.training.loop import train as train_alone
from smorm.training.methods import make_method
from tests.training.ranks import in_ranks, train
from tests.training.runs import LAB, LORA, bits, config_of, metrics, prepared, world
from tests.training.test_resume import stopping_in
from tests.training.test_step import WHOLE, gradients

CASES: dict[str, dict[str, Any]] = {
    "joint": {},
    "learned noise": {"objective": {"weighting": "learned"}},
    "BSR": {"objective": {"bsr": 0.1, "positive_regularisation": 0.1}},
    "ODIN": {"objective": {"kind": "odin"}},
    "GRM": {
        "model": LAB,
        "objective": {"kind": "grm", "grm": {"regulariser": "dpo"}},
        "training": {"max_batch_tokens": 120},
    },
    "LoRA with dropout": {"model": LORA, "training": {"max_batch_tokens": 120}},
    "bf16": {"training": {"precision": "bf16"}},
    "diagnosed": {},
    "recomputed activations": {"training": {"gradient_checkpointing": True}},
    # One micro-batch: all ranks but one have no work.
    "empty shares": {"objective": {"bsr": 0.1}, "training": {"max_batch_tokens": WHOLE}},
    "no ratings": {"objective": {"kind": "preference"}},
    "no pairs": {"objective": {"kind": "regression"}},
}
TOLERANCE = 1e-6


# Gathered weights go through other kernels than those that stay where they are.
SHARDED_TOLERANCE = 3e-6
SHARDED = {
    "joint": SHARDED_TOLERANCE,
    "learned noise": SHARDED_TOLERANCE,
    "ODIN": SHARDED_TOLERANCE,
    "LoRA with dropout": SHARDED_TOLERANCE,
    "empty shares": SHARDED_TOLERANCE,
    "recomputed activations": SHARDED_TOLERANCE,
    # Weights are rounded too, not activations alone.
    "bf16": 0.1,
}


def step_of(name: str, ranks: Ranks) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """The values and gradients of a step."""
    ready = replace(prepared(**CASES[name]), ranks=ranks)
    with torch.no_grad():
        for parameter_name, parameter in ready.network.named_parameters():
            if "lora_B" in parameter_name:
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
    method = make_method(ready)
    if ranks.sharded:
        shard(ready.network, ranks.world, half=ready.config.training.precision == "bf16")
    result, found = gradients(ready, method, diagnose=name == "diagnosed")
    found = {parameter_name: gathered(gradient) for parameter_name, gradient in found.items()}
    values = {**result.values, "tokens": result.tokens, "reference": method.reference_tokens}
    return values, found


def write_steps(names: list[str], folder: Path, sharded: bool = False) -> None:
    """The steps of this rank, as files."""
    rank, size = dist.get_rank(), dist.get_world_size()
    for name in names:
        values, found = step_of(name, Ranks(rank, size, rank, size, sharded))
        target = folder / f"{name}-{size}-{rank}"
        save_file(found, target.with_suffix(".safetensors"))
        target.with_suffix(".json").write_text(json.dumps(values))


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every case by two processes, and some by four."""
    folder = tmp_path_factory.mktemp("steps")
    assert in_ranks(2, write_steps, folder, list(CASES), folder) == [0, 0], printed(folder)
    some = ["joint", "ODIN", "empty shares"]
    assert in_ranks(4, write_steps, folder, some, folder) == [0] * 4, printed(folder)
    return folder


@pytest.fixture(scope="module")
def sharded_steps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sharded")
    codes = in_ranks(2, write_steps, folder, list(SHARDED), folder, True)
    assert codes == [0, 0], printed(folder)
    return folder


def printed(folder: Path) -> str:
    return "\n".join(path.read_text() for path in sorted(folder.glob("rank-*.txt")))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size"),
    [*((name, 2) for name in CASES), ("joint", 4), ("ODIN", 4), ("empty shares", 4)],
)
def test_losses_and_gradients_are_those_of_one_process(steps: Path, name: str, size: int) -> None:
    assert_same_step(steps, name, size, TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHARDED)
def test_so_they_are_where_each_rank_has_a_part_of_the_weights(
    sharded_steps: Path, name: str
) -> None:
    assert_same_step(sharded_steps, name, 2, SHARDED[name])


def assert_same_step(steps: Path, name: str, size: int, tolerance: float) -> None:
    expected_values, expected = step_of(name, Ranks())
    results = [load_file(steps / f"{name}-{size}-{rank}.safetensors") for rank in range(size)]
    for found in results:
        assert found.keys() == expected.keys()
        for parameter, gradient in expected.items():
            # The ranks have the same bits, and go on with the same weights.
            assert torch.equal(found[parameter], results[0][parameter])
            gap = float((found[parameter] - gradient).abs().max())
            assert gap <= tolerance * float(gradient.abs().max().clamp_min(1e-3)), parameter
    for rank in range(size):
        values = json.loads((steps / f"{name}-{size}-{rank}.json").read_text())
        skew = values.pop("imbalance")
        assert skew == pytest.approx(size - 1) if name == "empty shares" else 0 <= skew < size - 1
        assert values == pytest.approx(expected_values, rel=tolerance, abs=tolerance)


# Whole runs

CHANGES: dict[str, Any] = {
    "training": {"step_parts": 2, "save_every": 2, "evaluate_every": 2, "best": "dev"},
    "evaluation": {"preference": str(world()["dev-pairs"])},
}


def write_config(folder: Path, **changes: Any) -> str:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config_of(folder / "unset", **changes).as_dict()))
    return str(path)


def at_rank(rank: int, micro_batch: int, action: Any) -> None:
    """Call `action(scores)` behind the n-th training micro-batch (from 1) of one rank; what it
    returns takes the place of the scores."""
    seen = []

    def count(module: Any, _: Any, scores: torch.Tensor) -> Any:
        if isinstance(module, ScoreHead) and module.training and dist.get_rank() == rank:
            seen.append(1)
            if len(seen) == micro_batch:
                return action(scores)
        return None

    torch.nn.modules.module.register_module_forward_hook(count)


def train_stopped(rank: int, number: int, *words: str) -> None:
    at_rank(rank, 3, lambda _: os.kill(os.getpid(), number))
    train(*words)


def train_with_nan(rank: int, *words: str) -> None:
    at_rank(rank, 3, lambda scores: scores * torch.nan)
    train(*words)


def train_lost(rank: int, *words: str) -> None:
    at_rank(rank, 4, lambda _: os.kill(os.getpid(), signal.SIGKILL))
    train(*words)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run by two ranks, and the same by one process: the folder of both."""
    folder = tmp_path_factory.mktemp("straight")
    config = write_config(folder, **CHANGES)
    run = f"output.folder={folder / 'two'}"
    assert in_ranks(2, train, folder, config, run) == [0, 0], printed(folder)
    train_alone(config_of(folder / "one", **CHANGES))
    return folder


def assert_same_curve(run: Path, expected: Path, tolerance: float = TOLERANCE) -> None:
    curve, other = metrics(run), metrics(expected)
    assert curve.keys() == other.keys()
    for step, values in curve.items():
        values.pop("imbalance", None)
        other[step].pop("imbalance", None)
        assert values == pytest.approx(other[step], rel=5e-6, abs=tolerance), step
        assert values["loss"] == pytest.approx(other[step]["loss"], rel=tolerance)


@pytest.mark.slow
def test_two_ranks_write_one_run_with_the_curve_of_one_process(straight: Path) -> None:
    assert_same_curve(straight / "two", straight / "one")
    names = {path.name for path in (straight / "two").iterdir()}
    assert names == {path.name for path in (straight / "one").iterdir()}
    costs = [json.loads((straight / run / "cost.json").read_text()) for run in ("one", "two")]
    assert costs[0] == costs[1]
    output = [(straight / f"rank-{rank}.txt").read_text() for rank in (0, 1)]
    assert output[0].count("model: ") == 1
    assert output[1] == ""


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "number"), [(1, signal.SIGTERM), (0, signal.SIGINT)])
def test_a_stop_of_one_rank_stops_all_and_the_run_goes_on_with_the_same_bits(
    straight: Path, tmp_path: Path, rank: int, number: int
) -> None:
    words = (write_config(tmp_path, **CHANGES), f"output.folder={tmp_path / 'run'}")
    codes = in_ranks(2, train_stopped, tmp_path / "stopped", rank, number, *words)
    output = printed(tmp_path / "stopped")
    assert codes == [130, 130], output
    assert output.count("go on with --resume") == 1
    (step,) = steps_of(tmp_path / "run")
    verify_folder(tmp_path / "run" / "checkpoints" / f"step-{step:08d}")
    assert not list((tmp_path / "run").rglob(".*"))
    assert in_ranks(2, train, tmp_path / "resumed", *words, "--resume") == [0, 0]
    assert bits(tmp_path / "run") == bits(straight / "two")
    assert metrics(tmp_path / "run") == metrics(straight / "two")


@pytest.mark.slow
def test_with_another_number_of_ranks_a_run_goes_on_with_the_same_curve(
    straight: Path, tmp_path: Path
) -> None:
    words = (write_config(tmp_path, **CHANGES), f"output.folder={tmp_path / 'run'}")
    assert in_ranks(2, train_stopped, tmp_path / "stopped", 1, signal.SIGTERM, *words) == [130, 130]
    config = config_of(tmp_path / "run", **CHANGES)
    assert train_alone(config, resume=True) == tmp_path / "run" / "model"
    assert_same_curve(tmp_path / "run", straight / "two")


@pytest.mark.slow
def test_a_loss_that_is_not_finite_on_one_rank_ends_all_with_one_message(tmp_path: Path) -> None:
    words = (write_config(tmp_path), f"output.folder={tmp_path / 'run'}")
    assert in_ranks(2, train_with_nan, tmp_path / "out", 1, *words) == [1, 1]
    output = printed(tmp_path / "out")
    assert output.count("error: ") == 1
    assert "error: rank 1: step 2: the " in output
    assert "Traceback" not in output


@pytest.mark.slow
def test_when_a_rank_is_killed_the_first_one_saves_and_says_so(
    straight: Path, tmp_path: Path
) -> None:
    words = (write_config(tmp_path, **CHANGES), f"output.folder={tmp_path / 'run'}")
    assert in_ranks(2, train_lost, tmp_path / "lost", 1, *words) == [1, -signal.SIGKILL]
    output = printed(tmp_path / "lost")
    assert output.count("error: another rank ended without a word") == 1
    assert "Traceback" not in output
    assert steps_of(tmp_path / "run")
    assert in_ranks(2, train, tmp_path / "resumed", *words, "--resume") == [0, 0]
    assert bits(tmp_path / "run") == bits(straight / "two")


@pytest.mark.slow
def test_a_method_without_steps_is_refused(tmp_path: Path) -> None:
    config = write_config(tmp_path, model=LAB, objective={"kind": "armo"})
    words = (config, f"output.folder={tmp_path / 'run'}")
    assert in_ranks(2, train, tmp_path / "out", *words) == [2, 2]
    assert "run it without torchrun" in printed(tmp_path / "out")


# Sharded

PARTS = {**CHANGES, "training": {**CHANGES["training"], "parallel": "sharded"}}


@pytest.mark.slow
def test_sharded_ranks_write_a_run_with_the_curve_of_one_process(
    straight: Path, tmp_path: Path
) -> None:
    """Stopped once: its checkpoint has the parts of both, and one process reads it too."""
    words = (write_config(tmp_path, **PARTS), f"output.folder={tmp_path / 'run'}")
    codes = in_ranks(2, train_stopped, tmp_path / "stopped", 1, signal.SIGTERM, *words)
    assert codes == [130, 130], printed(tmp_path / "stopped")
    (step,) = steps_of(tmp_path / "run")
    checkpoint = tmp_path / "run" / "checkpoints" / f"step-{step:08d}"
    verify_folder(checkpoint)
    assert len(list((checkpoint / "weights").glob("*.safetensors"))) == 2
    shutil.copytree(tmp_path / "run", tmp_path / "alone")
    assert in_ranks(2, train, tmp_path / "resumed", *words, "--resume") == [0, 0], printed(
        tmp_path / "resumed"
    )
    assert_same_curve(tmp_path / "run", straight / "one")
    whole = (words[0], f"output.folder={tmp_path / 'whole'}")
    assert in_ranks(2, train, tmp_path / "straight", *whole) == [0, 0]
    assert bits(tmp_path / "run") == bits(tmp_path / "whole")
    runs = (tmp_path / "run", straight / "one")
    found, expected = (load_file(run / "model" / "model.safetensors") for run in runs)
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        assert torch.allclose(found[name], weight, rtol=1e-4, atol=1e-5), name
    train_alone(config_of(tmp_path / "alone", **CHANGES), resume=True)
    assert_same_curve(tmp_path / "alone", straight / "one")


@pytest.mark.slow
def test_a_nan_on_one_sharded_rank_ends_all(tmp_path: Path) -> None:
    changes = {"training": {"parallel": "sharded", "step_parts": 2}}
    words = (write_config(tmp_path, **changes), f"output.folder={tmp_path / 'run'}")
    assert in_ranks(2, train_with_nan, tmp_path / "out", 1, *words) == [1, 1]
    output = printed(tmp_path / "out")
    assert output.count("error: ") == 1
    assert "error: rank 1: step 2: the " in output


def train_switching(path: str, folder: Path, parallel: str, then: str) -> None:
    """A run of which the first steps are computed in one way, and the others in another; logged."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stdout)
    config = load_config(Path(path))
    output = config.output.model_copy(update={"folder": folder})
    for way, resume in ((parallel, False), (then, True)):
        changes = {"parallel": way, "offload": way == "sharded"}
        training = config.training.model_copy(update=changes)
        config = config.model_copy(update={"training": training, "output": output})
        with stopping_in(0 if resume else 3), contextlib.suppress(Interrupted):
            train_alone(config, resume=resume)


@pytest.mark.slow
@pytest.mark.parametrize("ways", [("replicated", "sharded"), ("sharded", "replicated")])
def test_a_run_goes_on_sharded_or_replicated_with_the_same_curve(
    straight: Path, tmp_path: Path, ways: tuple[str, str]
) -> None:
    config = write_config(tmp_path, **CHANGES)
    codes = in_ranks(2, train_switching, tmp_path, config, tmp_path / "run", *ways)
    assert codes == [0, 0], printed(tmp_path)
    assert_same_curve(tmp_path / "run", straight / "one", SHARDED_TOLERANCE)
    warning = f"was computed by {ways[0]} ranks, now they are {ways[1]}: the last bits differ"
    assert printed(tmp_path).count(warning) == 1
