"""A run that was stopped, killed or damaged goes on to the same bits as one that was not."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from smorm.config import Config
from smorm.errors import CheckpointError, ConfigError, Interrupted
from smorm.files import verify_folder
from smorm.model.heads import ScoreHead
from smorm.model.run_folder import list_checkpoints
from smorm.stopping import SIGNALS
from smorm.training.loop import train
from tests.training.runs import LAB, LORA, bits, config_of, jsonl, metrics, prepared, rows_of

RUNS: dict[str, dict[str, Any]] = {
    "joint, learned noise": {"objective": {"weighting": "learned"}},
    "joint, extra pairs": {"data": {"augment": {"share": 0.5}}},
    "LoRA with dropout": {"model": LORA, "training": {"max_batch_tokens": 120}},
    "joint, diagnosed": {"training": {"diagnose_every": 2, "evaluate_every": 2}},
    "bf16, checkpointed activations": {
        "training": {"precision": "bf16", "gradient_checkpointing": True}
    },
}


@contextlib.contextmanager
def stopping_in(micro_batch: int, number: int = signal.SIGTERM) -> Iterator[list[int]]:
    """Send this process a real signal while the n-th training micro-batch (from 1) is computed.

    torch calls the hook behind every head in training mode. Yields the count so far.
    """
    seen: list[int] = []

    def count(module: Any, *_: Any) -> None:
        if isinstance(module, ScoreHead) and module.training:
            seen.append(1)
            if len(seen) == micro_batch:
                os.kill(os.getpid(), number)

    handle = torch.nn.modules.module.register_module_forward_hook(count)
    try:
        yield seen
    finally:
        handle.remove()


def stopped_by_line(beginning: str) -> contextlib.AbstractContextManager[None]:
    """Send this process Ctrl-C when a line that begins so is logged."""
    return at_each_line(beginning, lambda: os.kill(os.getpid(), signal.SIGINT))


@contextlib.contextmanager
def at_each_line(beginning: str, act: Callable[[], None]) -> Iterator[None]:
    """Do something whenever a line that begins so is logged."""
    log = logging.getLogger("smorm")

    class Act(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage().startswith(beginning):
                act()

    handler, level = Act(), log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


class _Audit:
    """Sends this process the signals of a list while files of a checkpoint are opened to write."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        sys.addaudithook(self)  # for good: Python has no way to remove one

    def __call__(self, event: str, details: tuple[Any, ...]) -> None:
        if self.numbers and event == "open" and "step-" in str(details[0]):
            os.kill(os.getpid(), self.numbers.pop())


audit = _Audit()


def first_of(step: int) -> int:
    """The number (from 1) of the first micro-batch of a step (from 0) of the plain run."""
    batches = prepared().batches
    return 1 + sum(len(list(batches(earlier))) for earlier in range(step))


def run(config: Config, *stops: int) -> int:
    """Train, stopped in each of these micro-batches and resumed; returns the micro-batches of the
    last part."""
    for index, stop in enumerate(stops):
        with stopping_in(stop), pytest.raises(Interrupted, match="go on with --resume"):
            train(config, resume=index > 0)
    with stopping_in(0) as seen:
        train(config, resume=bool(stops))
    return len(seen)


@pytest.fixture(scope="module", params=RUNS)
def straight(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run that nobody stopped: its settings, folder and micro-batches, and how many of them had
    been computed when each step was told."""
    changes = RUNS[request.param]
    folder = tmp_path_factory.mktemp("straight") / "run"
    ends: list[int] = []
    with stopping_in(0) as seen, at_each_line("step ", lambda: ends.append(len(seen))):
        train(config_of(folder, **changes))
    assert len(ends) == 5
    return changes, folder, len(seen), ends


def assert_same(folder: Path, straight: Path) -> None:
    assert bits(folder) == bits(straight)
    assert len(bits(folder)) >= 3
    assert metrics(folder) == metrics(straight)


def test_the_same_run_twice_has_the_same_bits(straight: Any, tmp_path: Path) -> None:
    changes, folder, count, _ = straight
    assert count >= 10, "steps must have several micro-batches for the rest to mean anything"
    run(config_of(tmp_path / "run", **changes))
    assert_same(tmp_path / "run", folder)


def test_stopped_anywhere_and_resumed_it_has_the_same_bits(straight: Any, tmp_path: Path) -> None:
    """The places fall into the first step, between steps and in the middle of accumulation."""
    changes, folder, count, ends = straight
    config = config_of(tmp_path / "run", **changes)
    stops, done = [], 0
    for place in (0.0, 0.3, 0.55, 0.95):
        number = 1 + int(place * (count - 2))
        stops.append(number - done)
        # A stop gives up the step that it is in.
        done = max(end for end in (0, *ends) if end < number)
    assert run(config, *stops) == count - done
    assert_same(tmp_path / "run", folder)


@pytest.mark.slow
def test_stopped_again_and_again_it_has_the_same_bits(straight: Any, tmp_path: Path) -> None:
    changes, folder, *_ = straight
    run(config_of(tmp_path / "run", **changes), 5, 4, 1, 1, 6)
    assert_same(tmp_path / "run", folder)


def test_stopped_in_its_very_last_micro_batch_it_is_simply_done(
    straight: Any, tmp_path: Path
) -> None:
    changes, folder, count, _ = straight
    with stopping_in(count):
        train(config_of(tmp_path / "run", **changes))
    assert_same(tmp_path / "run", folder)


def test_stopped_right_behind_a_step_it_has_the_same_bits(straight: Any, tmp_path: Path) -> None:
    """The signal comes while the step is told, before and after the periodic save."""
    changes, folder, *_ = straight
    config = config_of(tmp_path / "run", **{**changes, "training": {
        **changes.get("training", {}), "save_every": 1}})  # fmt: skip
    for step in (1, 4):
        stop = pytest.raises(Interrupted, match=f"stopped after step {step} of 5;")
        with stopped_by_line(f"step {step}/"), stop:
            train(config, resume=step > 1)
    train(config, resume=True)
    assert_same(tmp_path / "run", folder)


# What a stop leaves


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_writes_a_checkpoint_and_gives_the_signals_back(
    tmp_path: Path, number: int
) -> None:
    before = [signal.getsignal(n) for n in SIGNALS]
    with stopping_in(first_of(1), number), pytest.raises(Interrupted) as caught:
        train(config_of(tmp_path / "run"))
    assert caught.value.exit_code == 130
    assert "stopped after step 1" in str(caught.value)
    (checkpoint,) = list_checkpoints(tmp_path / "run" / "checkpoints")
    assert checkpoint.name == "step-00000001"
    verify_folder(checkpoint)
    assert not (tmp_path / "run" / "model").exists()
    assert [signal.getsignal(n) for n in SIGNALS] == before


def test_further_signals_lose_nothing(straight: Any, tmp_path: Path) -> None:
    """Five, while the step is computed and while the checkpoint is written."""
    changes, folder, count, _ = straight
    config = config_of(tmp_path / "run", **changes)
    with stopping_in(count // 2, signal.SIGINT), stopping_in(count // 2, signal.SIGHUP):
        audit.numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGINT]
        with pytest.raises(Interrupted, match="go on with --resume"):
            train(config)
    assert audit.numbers == []
    (checkpoint,) = list_checkpoints(tmp_path / "run" / "checkpoints")
    verify_folder(checkpoint)
    train(config, resume=True)
    assert_same(tmp_path / "run", folder)


def test_a_stop_before_the_first_step_leaves_nothing(tmp_path: Path) -> None:
    with stopped_by_line("tokens: "), pytest.raises(Interrupted, match="before there was a step"):
        train(config_of(tmp_path / "run"))
    assert list(tmp_path.iterdir()) == []


def test_a_stop_while_a_run_is_prepared_again_says_where_it_goes_on(
    stopped: Any, tmp_path: Path
) -> None:
    config, _, saved = stopped
    with stopped_by_line("tokens: "), pytest.raises(Interrupted, match="goes on from step 3 of 5"):
        train(config, resume=True)
    assert list_checkpoints(tmp_path / "run" / "checkpoints") == saved


def test_signals_while_the_model_is_proven_come_too_late(straight: Any, tmp_path: Path) -> None:
    changes, folder, *_ = straight
    run = tmp_path / "run"
    received = []

    def stop(module: Any, *_: Any) -> None:
        if isinstance(module, ScoreHead) and (run / "cost.json").exists() and len(received) < 5:
            received.append(module)
            os.kill(os.getpid(), signal.SIGINT)

    handle = torch.nn.modules.module.register_module_forward_hook(stop)
    try:
        train(config_of(run, **changes))
    finally:
        handle.remove()
    assert received
    assert_same(run, folder)


def test_a_finished_run_can_be_resumed_and_stays_as_it_is(tmp_path: Path) -> None:
    config = config_of(tmp_path / "run")
    train(config)
    before = bits(tmp_path / "run")
    train(config, resume=True)
    assert bits(tmp_path / "run") == before


def test_resuming_where_nothing_was_saved_starts_at_the_beginning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="smorm"):
        train(config_of(tmp_path / "run"), resume=True)
    assert "starting from the beginning" in caplog.text
    assert "resumed" not in caplog.text


# Damage


SAVED = {"save_every": 1, "keep_checkpoints": 3}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of default settings that nobody stopped."""
    folder = tmp_path_factory.mktemp("plain") / "run"
    train(config_of(folder))
    return folder


@pytest.fixture(scope="module")
def stopped_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stopped") / "run"
    with stopping_in(first_of(3)), pytest.raises(Interrupted):
        train(config_of(folder, training=SAVED))
    return folder


@pytest.fixture
def stopped(stopped_once: Path, tmp_path: Path) -> tuple[Config, Path, list[Path]]:
    """A run stopped in its fourth step, with the checkpoints of three steps."""
    folder = tmp_path / "run"
    shutil.copytree(stopped_once, folder)
    saved = list_checkpoints(folder / "checkpoints")
    assert len(saved) == 3
    return config_of(folder, training=SAVED), folder, saved


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["weights.safetensors", "state.json", "manifest.json"])
def test_a_damaged_newest_checkpoint_is_passed_over_and_told(
    stopped: Any, plain: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    config, folder, saved = stopped
    flip(saved[-1] / name)
    with caplog.at_level(logging.INFO, logger="smorm"):
        train(config, resume=True)
    told = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert any(str(saved[-1]) in line and "one before it" in line for line in told)
    assert f"resumed after step 2 from {saved[-2]}" in caplog.text
    assert bits(folder) == bits(plain)


def test_where_all_checkpoints_are_damaged_the_run_says_so(stopped: Any) -> None:
    config, _, saved = stopped
    for checkpoint in saved:
        flip(checkpoint / "optimizer.safetensors")
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* is whole.*Start anew"):
        train(config, resume=True)


# Another run


def test_a_folder_that_holds_a_run_is_refused(stopped: Any) -> None:
    config, folder, saved = stopped
    before = (folder / "metrics.jsonl").read_bytes()
    with pytest.raises(ConfigError, match="which came to step 3 of 5: add --resume"):
        train(config)
    assert (folder / "metrics.jsonl").read_bytes() == before
    assert list_checkpoints(folder / "checkpoints") == saved


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"training": {"learning_rate": 1e-4}}, "training.learning_rate"),
        ({"training": {"max_batch_tokens": 600}}, "training.max_batch_tokens"),
        (
            {"objective": {"weighting": "paper"}, "training": {"seed": 3}},
            "objective.weighting, training.seed",
        ),
    ],
)
def test_another_configuration_is_refused_by_the_names_of_its_keys(
    stopped: Any, changes: dict[str, Any], named: str
) -> None:
    _, folder, saved = stopped
    before = {p: p.read_bytes() for p in folder.iterdir() if p.is_file()}
    with pytest.raises(CheckpointError, match=f"was written with another {named}$"):
        train(config_of(folder, **changes), resume=True)
    assert {p: p.read_bytes() for p in folder.iterdir() if p.is_file()} == before
    assert list_checkpoints(folder / "checkpoints") == saved


def test_what_only_keeps_the_books_may_change(stopped: Any, plain: Path) -> None:
    _, folder, _ = stopped
    train(config_of(folder, training={"keep_checkpoints": 1, "log_every": 4}), resume=True)
    assert bits(folder) == bits(plain)


def test_other_data_in_the_same_file_is_refused(tmp_path: Path) -> None:
    rows = rows_of("train-pairs")
    path = jsonl(tmp_path / "pairs.jsonl", rows)
    config = config_of(tmp_path / "run", model=LAB, data={"preference": path})
    with stopping_in(4), pytest.raises(Interrupted):
        train(config)
    rows[3]["chosen"], rows[3]["rejected"] = rows[3]["rejected"], rows[3]["chosen"]
    jsonl(tmp_path / "pairs.jsonl", rows)
    with pytest.raises(CheckpointError, match="was written with other data"):
        train(config, resume=True)


# SIGKILL

VICTIM = """
import json, os, random, signal, sys, time
from pathlib import Path
import torch
from smorm.config import parse_config
from smorm.training.loop import train
from smorm.training.setup import prepare

torch.set_num_threads(1)
config = parse_config(json.loads(sys.argv[1]))
folder, rng, survived = config.output.folder, random.Random(5), 0

prepare(config)  # so that the children, which are forked, need not load the libraries again

def newest():
    return max(folder.glob("checkpoints/step-*"), default=None)

def child():
    pid = os.fork()
    if pid == 0:
        train(config, resume=True)
        os._exit(0)
    return pid

for _ in range(int(sys.argv[2])):
    before, pid = newest(), child()
    ended = 0
    while newest() == before and not ended:
        time.sleep(0.002)
        ended, _ = os.waitpid(pid, os.WNOHANG)
    time.sleep(rng.uniform(0.0, 0.05))
    if not ended:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    survived += newest() is not None
train(config, resume=True)
print(json.dumps({"survived": survived}))
"""


@pytest.mark.slow
def test_killed_five_times_at_random_moments_it_has_the_same_bits(tmp_path: Path) -> None:
    """Each kill comes shortly after a new checkpoint: in a step, or in a save."""
    changes = {"training": {"max_steps": 24, "save_every": 1, "schedule": "constant"}}
    config = config_of(tmp_path / "killed", **changes)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", VICTIM, json.dumps(config.as_dict()), "5"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["survived"] == 5
    train(config_of(tmp_path / "straight", **changes))
    assert bits(tmp_path / "killed") == bits(tmp_path / "straight")
    assert metrics(tmp_path / "killed")[24] == metrics(tmp_path / "straight")[24]
    assert not list((tmp_path / "killed" / "checkpoints").glob(".*")), "no torn saves are left"
